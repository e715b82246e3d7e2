import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewmask.errors import DataError, UsageError
from fewmask.masks.pseudo_labels import combine_classes, from_refined, pseudo_mask

maps = hnp.arrays(np.float32, (5, 6), elements=st.floats(0, 1, width=32))
unit = st.floats(0, 1)


def test_two_thresholds_leave_the_band_between_them_undecided():
    score = np.array([[0.0, 0.3, 0.31, 0.6, 0.61, 1.0]])
    label = pseudo_mask(score, low=0.3, high=0.6)
    assert label.dtype == np.uint8
    assert label.tolist() == [[0, 0, 255, 255, 1, 1]]


def test_equal_thresholds_decide_every_pixel():
    score = np.linspace(0, 1, 11)[None]
    assert 255 not in pseudo_mask(score, low=0.5, high=0.5)


@settings(max_examples=40, deadline=None)
@given(maps, unit, unit, unit)
def test_labels_only_shrink_as_their_threshold_moves_away(score, a, b, c):
    low, middle, high = sorted((a, b, c))
    tight = pseudo_mask(score, low=low, high=high)
    assert set(np.argwhere(tight == 1).ravel()) <= set(
        np.argwhere(pseudo_mask(score, low=low, high=middle) == 1).ravel()
    )
    looser_high = pseudo_mask(score, low=low, high=middle)
    looser_low = pseudo_mask(score, low=middle, high=high)
    assert ((tight == 1) <= (looser_high == 1)).all()
    assert ((tight == 0) <= (looser_low == 0)).all()


def test_the_strongest_sure_class_wins_and_a_tie_is_undecided():
    scores = np.array(
        [
            [[0.9, 0.10, 0.4, 0.7, 0.70]],
            [[0.2, 0.95, 0.5, 0.7, 0.65]],
        ]
    )
    assert combine_classes(scores, low=0.3, high=0.6).tolist() == [[1, 2, 255, 255, 1]]
    assert combine_classes(scores, low=0.3, high=0.6, margin=0.1).tolist() == [
        [1, 2, 255, 255, 255]
    ]


@settings(max_examples=30, deadline=None)
@given(maps, unit, unit)
def test_one_class_combines_to_its_own_pseudo_mask(score, a, b):
    low, high = sorted((a, b))
    combined = combine_classes(score[None], low=low, high=high)
    assert (combined == pseudo_mask(score, low=low, high=high)).all()


def test_no_class_is_background():
    assert not combine_classes(np.zeros((3, 4, 4)), low=0.2, high=0.5).any()


def test_a_refined_mask_is_undecided_where_it_contradicts_the_evidence():
    mask = np.array([[True, True, False, False, True]])
    score = np.array([[0.9, 0.1, 0.1, 0.9, 0.4]])
    assert from_refined(mask, score, low=0.2, high=0.8).tolist() == [[1, 255, 0, 255, 1]]


def test_the_band_covers_both_sides_of_the_outline_and_not_the_frame():
    mask = np.zeros((1, 9), bool)
    mask[0, 5:] = True
    agreed = mask.astype(np.float32)
    label = from_refined(mask, agreed, low=0.2, high=0.8, band_px=2)
    assert label.tolist() == [[0, 0, 0, 255, 255, 255, 255, 1, 1]]


def test_the_bands_of_a_stack_do_not_mix():
    masks = np.stack([np.zeros((4, 4), bool), np.ones((4, 4), bool)])
    label = from_refined(masks, masks.astype(np.float32), low=0.2, high=0.8, band_px=1)
    assert (label == masks).all()


def test_wrong_inputs_are_refused_by_name():
    score = np.zeros((3, 3))
    with pytest.raises(UsageError, match="PSEUDO-THRESHOLDS"):
        pseudo_mask(score, low=0.6, high=0.5)
    with pytest.raises(DataError, match="PSEUDO-CLASSES"):
        combine_classes(score, low=0.3, high=0.5)
    with pytest.raises(DataError, match="PSEUDO-SHAPE"):
        from_refined(np.zeros((2, 2), bool), score, low=0.3, high=0.5)
    with pytest.raises(UsageError, match="PSEUDO-BAND"):
        from_refined(score > 0, score, low=0.3, high=0.5, band_px=-1)
