"""Names of scores in plain words, and the words that a table of results needs explained."""

from __future__ import annotations

from collections.abc import Sequence

PLAIN = {
    "iou.pooled": ("IoU", "IoU"),
    "iou.per_image": ("IoU per image", "per image"),
    "miou": ("Mean IoU with background", "with bg"),
    "miou_foreground": ("Mean IoU", "mean IoU"),
    "fwiou": ("Frequency-weighted IoU", "FWIoU"),
    "pixel_accuracy": ("Pixel accuracy", "pixels"),
    "class_accuracy": ("Class accuracy", "classes"),
    "precision": ("Precision", "precision"),
    "recall": ("Recall", "recall"),
    "fpr_on_empty": ("Marked on empty images", "on empty"),
    "gap_closed": ("Gap closed", "gap closed"),
}
"""Heading of each score, in full and for a terminal; docs/metrics.md defines them."""

LEGEND = (
    ("this run", "what the run is for: the masks that it hands out."),
    ("control", "what can be had without the method: constants, brightness, or a few true masks."),
    ("evidence", "a control too: the raw maps, cut, without a segmenter trained on them."),
    ("reference", "for comparison only, such as full supervision, the ceiling."),
    ("oracle", "chosen or trained with masks that the result does not have, so never a result."),
    ("label-free", "no mask helped to choose the threshold."),
    (
        "gap closed",
        "0 at the best label-free control, 1 at full supervision; of adapt, from source only to "
        "the oracle.",
    ),
)


def split_metric(metric: str) -> tuple[str, str]:
    """Rule and class of a score's name.

    >>> split_metric("iou.pooled.scar.2"), split_metric("miou"), split_metric("other")
    (('iou.pooled', 'scar.2'), ('miou', ''), ('other', ''))
    """
    for rule in PLAIN:
        if metric.startswith(f"{rule}."):
            return rule, metric[len(rule) + 1 :]
    return metric, ""


def heading(metric: str, class_names: Sequence[str], *, short: bool = False) -> str:
    """A score's name in plain words; the class only where there are several.

    >>> heading("iou.pooled.scar", ["scar"]), heading("iou.pooled.scar", ["scar", "dent"])
    ('IoU', 'IoU scar')
    """
    rule, name = split_metric(metric)
    plain = PLAIN.get(rule, (rule, rule))[short]
    return f"{plain} {name}" if name and len(class_names) > 1 else plain
