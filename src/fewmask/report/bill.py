"""The labels that nobody sees: those behind pretrained weights."""

from __future__ import annotations

from pathlib import PurePath

from fewmask.config import Settings

Line = tuple[str, str, str]
"""What, labels, source: one line of the supervision bill."""


def pretrained_labels(config: Settings) -> list[Line]:
    """The line of the bill for the encoder's weights; none for random ones.

    Args:
        config: Reads ``encoder_weights``. Of a weights file only its name is known.

    >>> from fewmask.pipelines.supervised_config import SupervisedConfig
    >>> pretrained_labels(SupervisedConfig(encoder_weights="none"))
    []
    >>> pretrained_labels(SupervisedConfig(encoder_weights="in/aerial.pt"))
    [('weights of the encoder', 'unknown', 'labels behind aerial.pt: not known to fewmask')]
    """
    return pretrained_weights("weights of the encoder", config.encoder_weights)


def pretrained_weights(what: str, weights: str) -> list[Line]:
    """The line for weights that a setting names; none for random ones."""
    if weights == "none":
        return []
    if weights in {"packaged", "imagenet"}:
        return [(what, "1.28 million image-level tags", "ImageNet-1k")]
    return [(what, "unknown", f"labels behind {PurePath(weights).name}: not known to fewmask")]
