"""Cheap translations: the light of the reference, the content of the image."""

import cmath
import math

import numpy as np
import pytest
from skimage.color import rgb2lab

from fewmask.data.appearance import (
    TRANSLATIONS,
    fourier_amplitude,
    gamma_noise,
    histogram_match,
    in_light_of,
    lab_statistics,
    noise_level,
    with_noise,
    without_noise,
)


def draw():
    return np.random.default_rng(0)


def scene(level, contrast, size=(24, 32), seed=0):
    """Blocks of random colour, smooth noise on top."""
    rng = np.random.default_rng(seed)
    blocks = rng.normal(size=(size[0] // 4, size[1] // 4, 3)).repeat(4, 0).repeat(4, 1)
    image = level + contrast * blocks + rng.normal(0, 2, (*size, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


DAY, NIGHT = scene(140, 25), scene(40, 12, seed=1)


@pytest.mark.parametrize("name", TRANSLATIONS)
class TestEach:
    def test_has_the_image_s_size_and_the_reference_s_light(self, name):
        night = scene(40, 12, (20, 28), seed=2)
        out = TRANSLATIONS[name](DAY, night, draw())
        assert out.shape == DAY.shape
        assert out.dtype == np.uint8
        assert abs(out.mean() - night.mean()) < 0.2 * abs(DAY.mean() - night.mean())

    def test_keeps_what_is_where(self, name):
        out = TRANSLATIONS[name](DAY, NIGHT, draw())
        for channel in range(3):
            a, b = DAY[..., channel].ravel(), out[..., channel].ravel()
            assert np.corrcoef(a, b)[0, 1] > 0.7

    def test_to_itself_nearly_nothing_changes(self, name):
        out = TRANSLATIONS[name](DAY, DAY, draw())
        assert np.abs(out.astype(int) - DAY).max() <= 1

    def test_changes_neither_input(self, name):
        image, reference = DAY.copy(), NIGHT.copy()
        TRANSLATIONS[name](image, reference, draw())
        assert np.array_equal(image, DAY)
        assert np.array_equal(reference, NIGHT)

    def test_flat_and_black_images_are_no_error(self, name):
        for image in (np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)):
            assert np.isfinite(TRANSLATIONS[name](image, NIGHT, draw())).all()
            assert np.isfinite(TRANSLATIONS[name](DAY, image, draw())).all()


def naive_spectrum(channel):
    """The discrete Fourier transform, written out."""
    height, width = channel.shape
    return [
        [
            sum(
                float(channel[y, x]) * cmath.exp(-2j * math.pi * (v * y / height + u * x / width))
                for y in range(height)
                for x in range(width)
            )
            for u in range(width)
        ]
        for v in range(height)
    ]


def test_fourier_takes_low_amplitudes_from_the_reference_and_all_else_from_the_image():
    rng = draw()
    image = rng.integers(100, 140, (8, 8, 3)).astype(np.uint8)  # stays inside 0..255
    reference = rng.integers(80, 150, (8, 8, 3)).astype(np.uint8)
    out = fourier_amplitude(image, reference, draw(), share=0.125)  # radius 1
    for channel in range(3):
        of_image, of_reference, found = (
            naive_spectrum(x[..., channel]) for x in (image, reference, out)
        )
        for v in range(8):
            for u in range(8):
                low = min(v, 8 - v) <= 1 and min(u, 8 - u) <= 1
                wanted = abs((of_reference if low else of_image)[v][u])
                assert abs(found[v][u]) == pytest.approx(wanted, abs=8)  # rounding to bytes


def test_fourier_of_share_zero_swaps_the_mean():
    out = fourier_amplitude(scene(120, 5), scene(90, 5, seed=3), draw(), share=0)
    assert np.allclose(out.mean((0, 1)), scene(90, 5, seed=3).mean((0, 1)), atol=0.3)


def test_lab_means_and_deviations_are_the_reference_s():
    image, reference = scene(140, 12), scene(100, 8, seed=4)
    out = rgb2lab(lab_statistics(image, reference, draw()))
    wanted = rgb2lab(reference)
    assert np.allclose(out.mean((0, 1)), wanted.mean((0, 1)), atol=0.5)
    assert np.allclose(out.std((0, 1)), wanted.std((0, 1)), atol=0.5)


def test_histogram_match_gives_every_quantile():
    out = histogram_match(DAY, NIGHT, draw())
    for channel in range(3):
        quantiles = np.linspace(0.05, 0.95, 19)
        found, wanted = (np.quantile(x[..., channel], quantiles) for x in (out, NIGHT))
        assert np.abs(found - wanted).max() <= 2


def test_noise_level_is_that_of_the_noise_whatever_the_scene():
    smooth = np.linspace(60, 160, 64 * 64 * 3).reshape(64, 64, 3)
    blocks = np.kron(smooth[::8, ::8], np.ones((8, 8, 1)))
    for content in (smooth, blocks):
        noisy = content + draw().normal(0, 5, content.shape)
        assert noise_level(noisy) == pytest.approx(5, rel=0.1)
    assert noise_level(np.full((4, 4, 3), 7, np.uint8)) == 0


class TestGammaNoise:
    def test_finds_the_power_and_gain_that_made_the_reference(self):
        reference = 255 * 0.5 * (DAY / 255) ** 1.5
        out = gamma_noise(DAY, reference.astype(np.uint8), draw())
        assert np.abs(out - reference).mean() < 2

    def test_adds_the_noise_that_is_missing_and_no_more(self):
        smooth = np.linspace(60, 160, 64 * 64 * 3).reshape(64, 64, 3)
        noisy = np.clip(smooth + draw().normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        out = gamma_noise(smooth.astype(np.uint8), noisy, draw())
        assert (out - smooth).std() == pytest.approx(8, rel=0.35)
        again = gamma_noise(noisy, smooth.astype(np.uint8), draw())
        assert again.std() <= noisy.std() * 1.1

    def test_is_a_function_of_the_generator(self):
        smooth, noisy = np.full((32, 32, 3), 90, np.uint8), scene(90, 0)
        first, second = (gamma_noise(smooth, noisy, np.random.default_rng(s)) for s in (1, 1))
        assert np.array_equal(first, second)
        assert not np.array_equal(first, gamma_noise(smooth, noisy, np.random.default_rng(2)))


class TestNoise:
    def test_the_image_gets_the_noise_of_the_reference_and_keeps_its_light(self):
        rng = np.random.default_rng(3)
        smooth = np.full((64, 64, 3), 40, np.uint8)
        noisy = np.clip(90 + rng.normal(0, 5, (64, 64, 3)), 0, 255).astype(np.uint8)
        out = with_noise(smooth, noise_level(noisy), draw())
        assert noise_level(out) == pytest.approx(5, rel=0.1)
        assert out.mean() == pytest.approx(40, abs=0.2)

    def test_an_image_that_is_noisier_stays_as_it_is(self):
        rng = np.random.default_rng(3)
        noisy = np.clip(90 + rng.normal(0, 5, (64, 64, 3)), 0, 255).astype(np.uint8)
        assert np.array_equal(
            with_noise(noisy, noise_level(np.full((8, 8, 3), 7, np.uint8)), draw()), noisy
        )


class TestNight:
    """A day scene as a faint noisy camera sees it; noise below 0 is cut off."""

    def dark(self, day, seed=0):
        noise = np.random.default_rng(seed).normal(0, 5, day.shape)
        return np.clip(np.rint(day * 0.06 + noise), 0, 255).astype(np.uint8)

    def blocks(self):
        levels = np.random.default_rng(1).integers(0, 200, (12, 16, 3))
        return np.kron(levels, np.ones((16, 16, 1))).astype(np.uint8)

    def test_noise_is_measured_where_it_is_not_cut_off(self):
        day = self.blocks()
        day[:48] = 255  # a sky; the rest lies within 12 levels
        assert noise_level(self.dark(day)) == pytest.approx(5, rel=0.1)

    def test_a_signal_below_its_noise_is_found_on_average(self):
        day = np.full((128, 128, 3), 40, np.uint8)  # 2.4 after darkening
        day[:64] = 255
        night = self.dark(day)
        assert night[64:].mean() > 3.2  # half of the noise is cut off
        found = without_noise(night, noise_level(night))
        assert found[72:].mean() == pytest.approx(2.4, abs=0.3)
        assert found[:56].mean() == pytest.approx(15.3, abs=0.3)
        assert found[72:].std() < night[72:].std() / 2

    def test_an_image_without_noise_stays_as_it_is(self):
        image = self.blocks()
        assert np.array_equal(without_noise(image, noise_level(image)), image)

    @pytest.mark.parametrize(
        ("name", "within"), [("lab", 0.1), ("gamma", 0.1), ("histogram", 0.15)]
    )
    def test_the_signal_is_as_faint_as_the_target_s_and_the_noise_as_strong(self, name, within):
        """The night is another scene. Taking its noise for light, Lab makes a signal half as strong
        again, gamma a quarter."""
        day, other = self.blocks(), np.roll(self.blocks()[:, ::-1], 32, 0)
        day[:48] = other[:48] = 255
        night = self.dark(other)

        def strength(made):
            return np.polyfit(day[56:].ravel().astype(float), made[56:].ravel(), 1)[0]

        wanted = strength(self.dark(day, seed=7))
        made = in_light_of(name, day, night, draw())
        assert strength(made) == pytest.approx(wanted, rel=within)
        assert noise_level(made) == pytest.approx(5, rel=0.1)
        if name != "histogram":
            assert strength(TRANSLATIONS[name](day, night, draw())) > 1.2 * wanted
