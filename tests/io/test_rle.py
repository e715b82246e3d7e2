"""Run lengths of COCO and of Label Studio: hand-made streams, pycocotools, and hostile counts."""

import tracemalloc
from contextlib import suppress

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fewmask.errors import DataError, ResourceError
from fewmask.io.rle import (
    coco_mask,
    coco_rle,
    decode_brush,
    encode_brush,
    encode_coco,
    encode_coco_crop,
    overlapping,
)

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]


def packed(text):
    """Bits, spaces aside, as bytes, the last one filled with zeros."""
    bits = text.replace(" ", "")
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def head(count, word=8):
    """Number of bytes, word size, and run sizes of 3, 4, 8 and 16 bits."""
    return f"{count:032b} {word - 1:05b} 0010 0011 0111 1111 "


def refused(call, *arguments):
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return caught.value.problems[0]


class TestCoco:
    def test_uncompressed_counts_run_down_the_columns(self):
        rle = coco_rle({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3, "a")
        assert coco_mask(rle).tolist() == [[False, True, False], [True, False, False]]

    @given(MASKS)
    @settings(deadline=None, max_examples=60)
    def test_compressed_counts_are_those_of_pycocotools(self, mask):
        theirs = pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))
        ours = encode_coco(mask)
        assert ours == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
        assert np.array_equal(coco_mask(coco_rle(ours, *mask.shape, "a")), mask)

    @given(MASKS, st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))
    @settings(deadline=None, max_examples=60)
    def test_a_crop_is_encoded_as_the_whole_mask_would_be(self, crop, top, bottom, left, right):
        crop[0, 0] = True
        whole = np.pad(crop, ((top, bottom), (left, right)))
        assert encode_coco_crop(crop, top, left, *whole.shape) == encode_coco(whole)

    def test_long_runs_and_large_differences_survive(self):
        mask = np.zeros((3000, 1000), bool)
        mask[5:7, 3], mask[2000:, 500:] = True, True
        assert np.array_equal(coco_mask(coco_rle(encode_coco(mask), 3000, 1000, "a")), mask)

    def test_polygons_cover_what_pycocotools_covers(self):
        polygons = [[0.5, 0.5, 9.2, 1.0, 4.0, 8.7], [6, 6, 9, 6, 9, 9, 6, 9]]
        theirs = pycocotools.mask.merge(pycocotools.mask.frPyObjects(polygons, 10, 10))
        ours = coco_mask(coco_rle(polygons, 10, 10, "a"))
        assert np.array_equal(ours, pycocotools.mask.decode(theirs).astype(bool))
        assert ours[7, 7]  # of the second

    def test_a_square_of_two_by_two(self):
        assert np.argwhere(coco_mask(coco_rle([SQUARE], 4, 4, "a"))).tolist() == [
            [1, 1], [1, 2], [2, 1], [2, 2],
        ]  # fmt: skip

    def test_shapes_that_only_touch_do_not_overlap(self):
        boxes = [[x, 0, x + 2, 0, x + 2, 2, x, 2] for x in (0, 2, 3)]
        found = overlapping([coco_rle([box], 2, 6, "a") for box in boxes])
        assert found.tolist() == [[True, False, False], [False, True, True], [False, True, True]]

    @pytest.mark.parametrize(
        "polygons",
        [
            [], "1 2 3", None, 7, [SQUARE[:-1]], [[0, 0, 2, 2]], [[]], [["0"] * 6], [[True] * 6],
            [[0, 0, 1e9, 0, 0, 1]], [[0, 0, float("nan"), 0, 0, 1]], [[0, 0, 10**400, 0, 0, 1]],
            [[0, 0, float("inf"), 0, 0, 1]], [[0, 0, 8, 8] * 1000], [{}], [None],
        ],
    )  # fmt: skip
    def test_damaged_polygons_are_refused(self, polygons):
        problem = refused(coco_rle, polygons, 4, 4, "a.json, annotation 3")
        assert (problem.code, problem.where) == ("POLYGON", "a.json, annotation 3")

    @pytest.mark.parametrize(
        "rle",
        [
            {}, {"size": [4, 4]}, {"counts": [16]}, {"size": [4, 5], "counts": [20]},
            {"size": [4, 4], "counts": [15]}, {"size": [4, 4], "counts": [-1, 17]},
            {"size": [4, 4], "counts": [16.0]}, {"size": [4, 4], "counts": [2**40]},
            {"size": [4, 4], "counts": [10**4000]}, {"size": [4, 4], "counts": {}},
            {"size": [4, 4], "counts": ""}, {"size": [4, 4], "counts": "o"},
            {"size": [4, 4], "counts": "oooooooooooo0"}, {"size": [4, 4], "counts": "\u00e9"},
            {"size": [4, 4], "counts": "99999"}, {"size": [4, 4], "counts": "\0"},
        ],
    )  # fmt: skip
    def test_damaged_run_lengths_are_refused(self, rle):
        assert refused(coco_rle, rle, 4, 4, "a").code == "RLE"

    def test_without_pycocotools_the_fix_is_its_command(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pycocotools.mask", None)
        with pytest.raises(ResourceError, match=r'pip install "fewmask\[coco\]"'):
            encode_coco(np.ones((2, 2)))


class TestBrush:
    def test_a_hand_made_stream(self):
        stream = head(12) + "1 01 0011 00000000" + "0 00 111 " + " ".join(
            f"{value:08b}" for value in (9, 9, 9, 0, 7, 7, 7, 255)
        )  # fmt: skip
        # four zeros in one run; then eight bytes one by one: a clear pixel and an opaque one
        assert decode_brush(packed(stream), 1, 3, "a").tolist() == [[False, False, True]]

    def test_the_start_of_a_published_export(self):
        # 3332 x 2527 px, as https://huggingface.co/datasets/alkzar90/cell_benchmark begins;
        # its first two runs are 65,536 zeros each
        published = [2, 1, 233, 240, 57, 27, 255, 255, 255, 0, 255, 255, 224, 31]
        assert encode_brush(np.zeros((2527, 3332), bool))[:14] == published

    @given(MASKS)
    @settings(deadline=None, max_examples=80)
    def test_round_trip(self, mask):
        assert np.array_equal(decode_brush(encode_brush(mask), *mask.shape, "a"), mask)

    def test_round_trip_of_runs_longer_than_one_length_can_say(self):
        mask = np.zeros((300, 400), bool)
        mask[100:250] = True  # 240,000 bytes
        mask[299, 399] = True
        assert np.array_equal(decode_brush(encode_brush(mask), 300, 400, "a"), mask)

    @given(st.lists(st.integers(0, 255), max_size=60))
    @settings(deadline=None, max_examples=200)
    def test_noise_is_read_or_refused(self, noise):
        with suppress(DataError):
            assert decode_brush(packed(head(64)) + noise, 4, 4, "a").shape == (4, 4)

    @pytest.mark.parametrize(
        "data",
        [
            None, "rle", [], [1, 2], [256], [-1], [1.0], [True], packed(head(2**32 - 1)),
            packed(head(12, word=16)), packed(head(12)), packed(head(12) + "1 11" + "1" * 24),
            packed(head(12) + "0 10 00001011 00000001"), packed(head(8) + "1 01 0111 11111111"),
        ],
    )  # fmt: skip
    def test_damaged_streams_are_refused(self, data):
        assert refused(decode_brush, data, 1, 3, "a").code == "RLE"

    def test_a_forged_size_claims_no_memory(self):
        tracemalloc.start()
        try:
            refused(decode_brush, packed(head(4 * 60_000**2 % 2**32)), 60_000, 60_000, "a")
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()
