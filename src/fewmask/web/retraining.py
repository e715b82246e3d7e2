"""Train again with reviewed masks: the command, with the settings of the run they come from."""

from __future__ import annotations

import shutil
from pathlib import Path

from fewmask.cli_pipelines import as_flags
from fewmask.config import resolve
from fewmask.errors import UsageError
from fewmask.io.whole_files import as_disk_error
from fewmask.pipelines.tags_config import PRESETS, TagsConfig
from fewmask.training.run_places import free_path
from fewmask.web.forms import place_of
from fewmask.web.reviews import FOLDER
from fewmask.web.run_images import RunImages
from fewmask.web.store import FOLDER as FOLDER_OF_APP


def retrain_words(root: Path, images: RunImages, name: str) -> tuple[Path, list[str]]:
    """Where the new run goes, and the words of its command.

    The settings are those of the old run, and its stages up to the pseudo-masks are copied. The
    reviews are copied too, so that the new run stays what it was made from.

    Raises:
        UsageError: no run of `tags`, no review yet, or a name that is taken.
    """
    run = images.run
    if run.record["pipeline"] != "tags":
        raise UsageError.of(
            "RETRAIN", where=run.path, found=f"a run of {run.record['pipeline']}",
            expected="a run of tags, whose pseudo-masks the reviewed ones replace",
            fix=f"give {run.path / FOLDER / 'masks'} as masks to `fewmask train`",
        )  # fmt: skip
    table = run.path / FOLDER / "review.csv"
    if not table.is_file():
        raise UsageError.of("RETRAIN", where=run.path, found="no review yet",
                            expected="at least one", fix="review a mask")  # fmt: skip
    out, preset = place_of(root, name), str(run.record["preset"])
    before = resolve(TagsConfig, PRESETS, preset)
    now = resolve(TagsConfig, {"run": {}}, "run", overrides=run.record["settings"])
    kept = free_path(root / FOLDER_OF_APP / "reviewed" / name)
    ignore = shutil.ignore_patterns("conflicts")
    with as_disk_error(kept):  # reviewing may go on while the new run learns
        shutil.copytree(table.parent, kept, ignore=ignore)
    own = {"reuse": run.path, "review_file": kept / table.name}
    changed = {
        name: value
        for name, value in now
        if value != getattr(before, name) and value is not None and name not in own
    }
    flags = as_flags({**changed, **own})
    words = ["tags", run.record["data"], "-o", out, "--preset", preset, *flags]
    return out, [str(word) for word in words]
