import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewmask.errors import DataError, UsageError
from fewmask.masks.fuse import METHODS, difference_map, fuse_soft, hysteresis

maps = hnp.arrays(np.float32, (6, 7), elements=st.floats(0, 1, width=32))


def test_soft_fusion_has_the_values_worked_out_by_hand():
    cam, difference = np.array([[0.9, 0.2]]), np.array([[0.4, 0.8]])
    expected = {
        "intersection": [0.4, 0.2],
        "union": [0.9, 0.8],
        "product": [0.36, 0.16],
        "mean": [0.65, 0.5],
        "geometric_mean": [0.6, 0.4],
    }
    for method, values in expected.items():
        assert fuse_soft(cam, difference, method)[0] == pytest.approx(values, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(maps, maps, st.sampled_from(METHODS))
def test_fusion_stays_in_the_unit_range_between_intersection_and_union(cam, difference, method):
    fused = fuse_soft(cam, difference, method)
    assert fused.shape == cam.shape
    assert fused.dtype == np.float32
    assert fused.min() >= 0
    assert (fused <= np.maximum(cam, difference) + 1e-6).all()
    if method in ("mean", "geometric_mean"):
        assert (fused >= np.minimum(cam, difference) - 1e-6).all()


@settings(max_examples=30, deadline=None)
@given(maps, maps, st.floats(0, 1))
def test_soft_intersection_and_union_threshold_to_the_logical_ones(cam, difference, t):
    t = np.float32(t)
    a, b = cam > t, difference > t
    assert ((fuse_soft(cam, difference, "intersection") > t) == (a & b)).all()
    assert ((fuse_soft(cam, difference, "union") > t) == (a | b)).all()


def test_hysteresis_keeps_parts_that_touch_a_seed_also_over_a_corner():
    grow = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
    seed = np.zeros((4, 4), bool)
    seed[0, 0] = True
    seed[2, 2] = True  # not in any part
    assert np.argwhere(hysteresis(seed, grow)).tolist() == [[0, 0], [1, 1]]


def test_hysteresis_does_not_leak_between_images_of_a_stack():
    grow = np.ones((2, 3, 3), bool)
    seed = np.zeros((2, 3, 3), bool)
    seed[0, 1, 1] = True
    assert hysteresis(seed, grow).sum(axis=(1, 2)).tolist() == [9, 0]


def test_soft_hysteresis_keeps_the_difference_of_seeded_parts_only():
    cam = np.array([[0.9, 0.1, 0.1, 0.1, 0.1]])
    difference = np.array([[0.6, 0.7, 0.0, 0.8, 0.9]])
    fused = fuse_soft(cam, difference, "hysteresis", seed_value=0.5, grow_value=0.5)
    assert fused[0] == pytest.approx([0.6, 0.7, 0, 0, 0])


def test_hysteresis_of_a_constant_map_is_empty():
    flat = np.full((4, 4), 0.5)
    assert not fuse_soft(flat, flat, "hysteresis").any()


def test_difference_is_the_luma_of_the_change_at_full_scale():
    image = np.zeros((1, 4, 3), np.uint8)
    translated = image.copy()
    translated[0, 0, 0], translated[0, 1, 1], translated[0, 2, 2] = 255, 255, 255
    grey = difference_map(image, translated)
    assert grey.shape == (1, 4)
    assert grey[0] == pytest.approx([0.299, 0.587, 0.114, 0], abs=1e-6)
    assert difference_map(translated, image)[0] == pytest.approx(grey[0])


def test_bytes_and_unit_floats_give_the_same_difference():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    same = difference_map(a, (b / 255).astype(np.float32))
    assert same == pytest.approx(difference_map(a, b), abs=1e-6)


def test_minmax_stretches_each_image_alone_and_leaves_no_change_at_zero():
    image = np.zeros((2, 1, 3, 3), np.uint8)
    translated = image.copy()
    translated[0, 0, 1], translated[0, 0, 2] = 10, 20
    stretched = difference_map(image, translated, scale="minmax")
    assert stretched[0, 0] == pytest.approx([0, 0.5, 1], abs=1e-5)
    assert not stretched[1].any()


def test_wrong_inputs_are_refused_by_name():
    unit, rgb = np.zeros((3, 3)), np.zeros((3, 3, 3))
    with pytest.raises(UsageError, match="FUSE-METHOD"):
        fuse_soft(unit, unit, "xor")
    with pytest.raises(DataError, match="FUSE-SHAPE"):
        fuse_soft(unit, np.zeros((3, 4)), "mean")
    with pytest.raises(DataError, match="FUSE-SHAPE"):
        hysteresis(np.zeros((2, 2), bool), np.zeros((1, 2), bool))
    with pytest.raises(UsageError, match="DIFFERENCE-SCALE"):
        difference_map(rgb, rgb, scale="log")
    with pytest.raises(DataError, match="IMAGE-RANGE"):
        difference_map(rgb - 1, rgb)
    with pytest.raises(DataError, match="IMAGE-SHAPE"):
        difference_map(unit, unit)
