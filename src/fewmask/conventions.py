"""Numbers that several packages must agree on."""

from __future__ import annotations

IGNORE_INDEX = 255
"""Pixels of a mask that count in no loss and no score; torch's ``ignore_index``."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R BT.601, as in the landslide study's difference."""
