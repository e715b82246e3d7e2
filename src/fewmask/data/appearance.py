"""Cheap translations: give an image the light of another domain, without any weights.

Each takes an image and a reference from the other domain and changes colours only, never what is
where; masks stay valid. They are the baselines that a trained translation has to beat in the
segmenter's score. All images are (H, W, 3) uint8; sizes may differ.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np


def fourier_amplitude(
    image: np.ndarray,
    reference: np.ndarray,
    rng: np.random.Generator,  # noqa: ARG001
    share: float = 0.02,
) -> np.ndarray:
    """Swap the amplitudes of the lowest frequencies for the reference's; phases stay.

    Args:
        image: To be translated.
        reference: From the other domain; resized to the image if it has another size.
        rng: Not used; the result is a function of the two images.
        share: β: half the side of the swapped square of frequencies, as a fraction of the shorter
            side of the image. 0 swaps the mean alone.

    Source: Yang & Soatto 2020 ("FDA"), eq. 1 and 2.
    """
    from fewmask.data.transforms import resize_image

    height, width = image.shape[:2]
    other = resize_image(reference, height, width)
    spectrum = np.fft.fft2(image.astype(np.float64), axes=(0, 1))
    amplitude, phase = np.abs(spectrum), np.angle(spectrum)
    wanted = np.abs(np.fft.fft2(other.astype(np.float64), axes=(0, 1)))
    radius = int(share * min(height, width))
    rows, columns = (np.abs(np.fft.fftfreq(side, 1 / side)) <= radius for side in (height, width))
    low = (rows[:, None] & columns)[..., None]
    swapped = np.where(low, wanted, amplitude) * np.exp(1j * phase)
    return _to_bytes(np.fft.ifft2(swapped, axes=(0, 1)).real)


def lab_statistics(
    image: np.ndarray,
    reference: np.ndarray,
    rng: np.random.Generator,  # noqa: ARG001
) -> np.ndarray:
    """Give each channel of CIE Lab the reference's mean and standard deviation.

    Args:
        image: To be translated.
        reference: From the other domain.
        rng: Not used; the result is a function of the two images.

    Source: Reinhard et al. 2001, "Color Transfer between Images", section "Statistics and color
        correction".
    Differs: CIE Lab instead of lαβ.
    """
    from skimage.color import lab2rgb, rgb2lab

    lab, wanted = rgb2lab(image), rgb2lab(reference)
    mean, deviation = lab.mean((0, 1)), lab.std((0, 1))
    scale = wanted.std((0, 1)) / np.maximum(deviation, 1e-6)
    moved = (lab - mean) * scale + wanted.mean((0, 1))
    moved[..., 0] = moved[..., 0].clip(0, 100)
    with warnings.catch_warnings():  # colours that RGB does not have are clipped
        warnings.filterwarnings("ignore", "Conversion from CIE-LAB")
        return _to_bytes(lab2rgb(moved) * 255)


def histogram_match(
    image: np.ndarray,
    reference: np.ndarray,
    rng: np.random.Generator,  # noqa: ARG001
) -> np.ndarray:
    """Give each colour channel the reference's histogram, by quantiles.

    Args:
        image: To be translated.
        reference: From the other domain.
        rng: Not used; the result is a function of the two images.

    Source: Gonzalez & Woods, "Digital Image Processing", histogram specification.
    """
    from skimage.exposure import match_histograms

    return _to_bytes(match_histograms(image, reference, channel_axis=-1).astype(np.float64))


def gamma_noise(image: np.ndarray, reference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Darken or lighten each channel by a power and a gain, and add the noise that is missing.

    Power and gain are those that give a channel's median and 95 % quantile the reference's values,
    the power within 0.25 to 4, and 1 where the channel is flat (then the median alone fits); the
    noise brings the image to the noise level that is estimated on the reference.

    Args:
        image: To be translated.
        reference: From the other domain.
        rng: Draws the noise.

    Differs: A baseline of ours.
    """
    values = (image.astype(np.float64) + 0.5) / 256
    wanted = (reference.astype(np.float64) + 0.5) / 256
    result = np.empty_like(values)
    for channel in range(3):
        middle, high = np.log(np.quantile(values[..., channel], (0.5, 0.95)))
        to_middle, to_high = np.log(np.quantile(wanted[..., channel], (0.5, 0.95)))
        span = high - middle
        power = np.clip((to_high - to_middle) / span, 0.25, 4.0) if span > 1e-3 else 1.0
        result[..., channel] = np.exp(to_middle + power * (np.log(values[..., channel]) - middle))
    return _to_bytes(_noisy(result, noise_level(wanted), rng) * 256 - 0.5)


def with_noise_of(image: np.ndarray, reference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add white noise until the noise level is the reference's; one that is noisier stays.

    A dark image lies within a few grey levels: without noise, translations into the dark have steps
    there that no camera makes, and a network learns to rely on them.

    Args:
        image: To be changed.
        reference: From the other domain.
        rng: Draws the noise.

    Differs: A part of our baselines.
    """
    return _to_bytes(_noisy(image.astype(np.float64), noise_level(reference), rng))


def _noisy(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    missing = np.sqrt(max(level**2 - noise_level(image) ** 2, 0.0))
    return image + missing * rng.standard_normal(image.shape)


def noise_level(image: np.ndarray) -> float:
    """Standard deviation of an image's noise, in the image's unit; mean over the channels.

    Args:
        image: (H, W, C), 2 px or more on each side; as float or uint8.

    Source: Donoho & Johnstone 1994, section 4.2: the median of |diagonal detail| / 0.6745, here of
        the Haar wavelet.
    """
    values = image.astype(np.float64)
    values = values[: len(values) // 2 * 2, : values.shape[1] // 2 * 2]
    corners = values[::2, ::2] - values[1::2, ::2] - values[::2, 1::2] + values[1::2, 1::2]
    return float(np.median(np.abs(corners / 2), axis=(0, 1)).mean() / 0.6745)


Translate = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]

TRANSLATIONS: dict[str, Translate] = {
    "fourier": fourier_amplitude,
    "lab": lab_statistics,
    "histogram": histogram_match,
    "gamma": gamma_noise,
}
"""By the name that settings give them."""


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
