"""What a run of pipeline ``tags`` costs in labels, and how each of its thresholds was chosen."""

from __future__ import annotations

from collections.abc import Sequence

from fewmask.pipelines.tags_config import PRESETS, TagsConfig
from fewmask.pipelines.tags_reviewed import labels_of
from fewmask.report.bill import Line, pretrained_labels
from fewmask.training.workspace import Workspace

AT_CAM, AT_DIFFERENCE, AT_CUT = "cam_threshold", "difference_threshold", "pseudo_cut"
"""Settings whose value is a threshold; None is label-free."""


def threshold_choice(work: Workspace, *names: str) -> tuple[str, int]:
    """How a row's thresholds were chosen, and the masks that they cost.

    A value that the user gives was chosen somewhere: on ``threshold_masks`` masks if that says so,
    else nobody knows. The published values were chosen on the masks of a validation set whose size
    is not given: as many are billed as this run's validation part has.

    Args:
        work: Its settings, and the size of its validation part.
        *names: Of the settings that the row reads; None there means label-free.

    Returns:
        ``label_free``, ``given`` or ``n masks``; and n, or 0.
    """
    config: TagsConfig = work.config
    given = [name for name in names if getattr(config, name) is not None]
    if not given:
        return "label_free", 0
    masks = config.threshold_masks
    if not masks and all(getattr(config, n) == PRESETS["paper"].get(n) for n in given):
        masks = len(work.rows("val", tagged=True))
    return (f"{masks} masks" if masks else "given"), masks


def bill(works: Sequence[Workspace]) -> list[Line]:
    """Every label that went into the result or its rows: (what, labels, source)."""
    work = works[0]
    learned = len(work.rows("train")) + len(work.rows("val"))
    lines = [("image-level tags", f"{learned} images", "your data, training part of each fold")]
    if work.config.review_file is not None:
        reviewed = ", ".join(str(labels_of(each)) for each in works)
        source = f"{work.config.review_file}, training part of each fold"
        lines.append(("masks accepted or corrected by hand", reviewed, source))
    lines += pretrained_labels(work.config)
    lines.append(_threshold_bill(works))
    counts = [
        work.stages["controls"].read_json("controls.json")
        for work in works
        if "controls" in work.stages
    ]
    if counts:
        each = {name: [found[name] for found in counts if name in found] for name in counts[0]}
        text = ", ".join(str(max(found)) for found in each.values()) or "0"
        lines.append(
            ("masks for control and reference rows only", text, "your data, training part")
        )
    return lines


def _threshold_bill(works: Sequence[Workspace]) -> Line:
    """The masks behind thresholds, and what is known of them."""
    what, config = "masks behind thresholds", works[0].config
    names = [name for name in (AT_CAM, AT_DIFFERENCE, AT_CUT) if getattr(config, name) is not None]
    if not names:
        return what, str(config.threshold_masks), "all thresholds are label-free"
    values = ", ".join(f"{name} {getattr(config, name)}" for name in names)
    masks = max(threshold_choice(work, name)[1] for work in works for name in names)
    unknown = [n for n in names if any(threshold_choice(w, n)[0] == "given" for w in works)]
    if unknown:
        labels = f"{masks}, and unknown" if masks else "unknown"
        return what, labels, f"{values}: given; origin of {', '.join(unknown)} not stated"
    if config.threshold_masks:
        return what, str(masks), f"{values}: given, with threshold_masks"
    return what, str(masks), f"{values}: published; as many as the validation part has"
