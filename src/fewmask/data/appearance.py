"""Cheap translations: give an image the light of another domain, without any weights.

Each takes an image and a reference from the other domain and changes colours only, never what is
where; masks stay valid. They are the baselines that a trained translation has to beat in the
segmenter's score. All images are (H, W, 3) uint8; sizes may differ.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import norm


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
    return _to_bytes(_noisy(result * 256 - 0.5, noise_level(reference), rng))


def in_light_of(
    method: str, image: np.ndarray, reference: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A cheap translation in which the reference's noise is no light, but noise again.

    In the dark, noise is as large as the signal, and its negative half is cut off at black. A
    translation that gives an image the histogram of such a reference spreads its signal as far as
    the noise goes, and a network trained on it sees by night what no camera does. So the reference
    is taken without its noise, and the result gets the noise that it lacks.

    Args:
        method: One of :data:`TRANSLATIONS`.
        image: To be translated, at the size that it was taken at, or not much smaller: noise of
            neighbours is independent there.
        reference: From the other domain, likewise.
        rng: Draws the noise.

    Differs: A part of our baselines.
    """
    level = noise_level(reference)
    made = TRANSLATIONS[method](image, without_noise(reference, level), rng)
    return with_noise(made, level, rng)


def without_noise(image: np.ndarray, level: float, blur_px: float = 1.5) -> np.ndarray:
    """What an image would be without its noise: smoothed, and dark where noise cut off at 0 was.

    The mean of noisy values near 0 lies above the signal, as half of the noise is cut off. Here the
    signal x is found of which the mean of clip(x + noise, 0, 255) is the smoothed image.

    Args:
        image: (H, W, 3) uint8.
        level: Of its noise, in grey levels, see :func:`noise_level`.
        blur_px: Standard deviation of the smoothing.

    Returns:
        (H, W, 3) uint8; the image itself if its noise is below ``FAINT``.
    """
    if level < FAINT:
        return image
    smooth = gaussian_filter(image.astype(np.float64), (blur_px, blur_px, 0))
    signal = np.linspace(-3 * level, 255 + 3 * level, 1024)

    def above(limit: float) -> np.ndarray:
        """E[max(x + noise - limit, 0)]."""
        x = (signal - limit) / level
        return level * (x * norm.cdf(x) + norm.pdf(x))

    return _to_bytes(np.interp(smooth, above(0) - above(255), signal))


FAINT = 2.0
"""Noise below so many grey levels is passed over."""


def with_noise(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Add white noise until an image has that noise level; one that is noisier stays.

    A dark image lies within a few grey levels: without noise, translations into the dark have steps
    there that no camera makes, and a network learns to rely on them.

    Args:
        image: To be changed.
        level: In grey levels, see :func:`noise_level`.
        rng: Draws the noise.

    Differs: A part of our baselines.
    """
    return _to_bytes(_noisy(image.astype(np.float64), level, rng))


def _noisy(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    missing = np.sqrt(max(level**2 - noise_level(image) ** 2, 0.0))
    return image + missing * rng.standard_normal(image.shape)


def noise_level(image: np.ndarray) -> float:
    """Standard deviation of an image's noise, in grey levels; mean over the channels.

    Measured where the image is neither black nor white, as noise is cut off there.

    Args:
        image: (H, W, C) in 0..255, 2 px or more on each side; as float or uint8.

    Source: Donoho & Johnstone 1994, section 4.2: the median of |diagonal detail| / 0.6745, here of
        the Haar wavelet.
    Differs: In classes of brightness, of which those count that have next to no pixel at 0 or 255;
        the median of these, or the highest of all if there are none.
    """
    values = image.astype(np.float64)
    values = values[: len(values) // 2 * 2, : values.shape[1] // 2 * 2]
    corners = np.stack([values[i::2, j::2] for i in (0, 1) for j in (0, 1)])  # (4, H/2, W/2, C)
    detail = np.abs(corners[0] - corners[2] - corners[1] + corners[3]) / 2
    cut = (corners.min(0) <= 0) | (corners.max(0) >= 255)
    found = []
    for channel in range(values.shape[2]):
        order = np.argsort(corners[..., channel].mean(0), axis=None, kind="stable")
        classes = [part for part in np.array_split(order, BRIGHTNESSES) if len(part)]
        levels = [np.median(detail[..., channel].ravel()[part]) for part in classes]
        whole = [
            level
            for level, part in zip(levels, classes, strict=True)
            if cut[..., channel].ravel()[part].mean() < 0.02
        ]
        found.append(np.median(whole) if whole else max(levels))
    return float(np.mean(found) / 0.6745)


BRIGHTNESSES = 16
"""Classes in which noise is measured."""


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
