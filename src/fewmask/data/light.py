"""How light an image is, in two numbers: to sort day from night, and to choose like from unlike."""

from __future__ import annotations

import numpy as np

NIGHT_BELOW_GREY = 65.0
"""An image whose mean grey level is lower counts as night.

Source: the translation data of the adapt pipeline (night: α < 65).
"""


def grey_level(image: np.ndarray) -> float:
    """Mean grey level of an image, 0 (black) to 255.

    Args:
        image: (H, W, 3) uint8.

    >>> grey_level(np.full((2, 2, 3), 65, np.uint8))
    65.0
    """
    red, green, blue = _channel_means(image)
    return round(0.299 * red + 0.587 * green + 0.114 * blue, 6)


def light_score(image: np.ndarray) -> float:
    """S = (0.5 R + G + B) / 2.5, mean over the pixels, 0 to 255.

    Red counts half: of a street by night it is said to be the colour of what sparkles.

    Args:
        image: (H, W, 3) uint8.

    Source: the histogram choice of the adapt pipeline, S = 0.5 R + G + B.
    Differs: The source gives no unit; here S is divided by the sum of its weights, so that it stays
        on the scale of the pixels.

    >>> light_score(np.full((2, 2, 3), 20, np.uint8))
    20.0
    """
    red, green, blue = _channel_means(image)
    return round((0.5 * red + green + blue) / 2.5, 6)


def _channel_means(image: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = image.reshape(-1, 3).mean(0, dtype=np.float64).tolist()
    return red, green, blue
