import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewmask.errors import DataError, NumericalError, UsageError
from fewmask.masks.threshold import (
    THRESHOLDS,
    otsu_value,
    threshold_map,
)

AUTOMATIC = [name for name in THRESHOLDS if name != "manual"]
scores = hnp.arrays(np.float32, (9, 11), elements=st.floats(0, 1, width=32))


def between_class_variance(score, t):
    low, high = score[score <= t].astype(float), score[score > t].astype(float)
    if len(low) == 0 or len(high) == 0:
        return 0.0
    return len(low) * len(high) / score.size**2 * (low.mean() - high.mean()) ** 2


@pytest.mark.parametrize("seed", range(5))
def test_otsu_reaches_the_best_between_class_variance_of_all_256_cuts(seed):
    rng = np.random.default_rng(seed)
    grey = np.where(
        rng.random((20, 20)) < 0.3, rng.normal(180, 20, (20, 20)), rng.normal(80, 30, (20, 20))
    )
    grey = grey.clip(0, 255).round()
    grey.flat[:2] = 0, 255  # one grey level per histogram bin
    score = (grey / 255).astype(np.float32)
    best = max(between_class_variance(score, (level + 0.5) / 255) for level in range(255))
    assert between_class_variance(score, otsu_value(score)) == pytest.approx(best, rel=1e-6)


def test_otsu_separates_two_known_levels():
    score = np.array([[0.2, 0.2, 0.2], [0.2, 0.9, 0.9]], np.float32)
    assert threshold_map(score, "otsu").tolist() == [[False] * 3, [False, True, True]]


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("method", AUTOMATIC)
def test_a_constant_map_gives_an_empty_mask(method, level):
    score = np.full((30, 30), level, np.float32)
    assert not threshold_map(score, method).any()


def test_otsu_of_a_constant_map_is_the_constant():
    assert otsu_value(np.full((4, 4), 0.25, np.float32)) == 0.25


def test_manual_is_strictly_above_the_value():
    score = np.array([[0.25, 0.5, 0.75]], np.float32)
    assert threshold_map(score, "manual", value=0.5).tolist() == [[False, False, True]]


def test_each_map_of_a_stack_gets_its_own_otsu():
    a = np.array([[0.0, 0.1], [0.0, 0.1]], np.float32)
    b = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
    assert threshold_map(np.stack([a, b]), "otsu").tolist() == [[[False, True]] * 2] * 2


def test_niblack_and_sauvola_match_their_formulas_at_a_pixel():
    score = np.random.default_rng(3).random((15, 15)).astype(np.float32)
    window = score[4:11, 4:11].astype(float)  # 7 px around (7, 7)
    mean, deviation, centre = window.mean(), window.std(), score[7, 7]
    for k in (-2.0, 0.2, 0.9):
        niblack = threshold_map(score, "niblack", window_px=7, k=k)
        assert niblack[7, 7] == (centre > mean - k * deviation)
        sauvola = threshold_map(score, "sauvola", window_px=7, k=k)
        assert sauvola[7, 7] == (centre > mean * (1 + k * (deviation / 0.5 - 1)))


@settings(max_examples=40, deadline=None)
@given(scores, st.floats(0, 1), st.floats(0, 1))
def test_masks_shrink_as_the_threshold_rises(score, a, b):
    low, high = sorted((a, b))
    loose = threshold_map(score, "manual", value=low)
    tight = threshold_map(score, "manual", value=high)
    assert (tight <= loose).all()


@pytest.mark.parametrize(
    ("method", "options", "code"),
    [
        ("magic", {}, "THRESHOLD-METHOD"),
        ("manual", {}, "THRESHOLD-VALUE"),
        ("manual", {"value": 1.5}, "THRESHOLD-VALUE"),
        ("otsu", {"value": 0.5}, "THRESHOLD-VALUE"),
        ("niblack", {"window_px": 4}, "THRESHOLD-WINDOW"),
        ("sauvola", {"window_px": 1}, "THRESHOLD-WINDOW"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(method, options, code):
    with pytest.raises(UsageError, match=code):
        threshold_map(np.zeros((5, 5)), method, **options)


def test_bad_scores_are_refused():
    with pytest.raises(NumericalError, match="SCORE-NAN"):
        threshold_map(np.array([[0.1, np.nan]]), "otsu")
    with pytest.raises(DataError, match="SCORE-RANGE"):
        threshold_map(np.array([[0.0, 200.0]]), "otsu")
    with pytest.raises(DataError, match="SCORE-SHAPE"):
        threshold_map(np.zeros(5), "otsu")
