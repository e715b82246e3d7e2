"""Scenes by windows: nothing is lost, doubled or shifted, and seams do not show."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional

from fewmask.data.transforms import resize_image, to_unit
from fewmask.models.blocks import crop_like, pad_to_multiple
from fewmask.models.segmenter import build_segmenter
from fewmask.training import windows
from fewmask.training.inference import predict_probs
from fewmask.training.windows import (
    Grid,
    enlarged,
    needed,
    probs_of_bands,
    ready,
    settled,
    spans,
    weights,
)

BILINEAR = Image.Resampling.BILINEAR


@pytest.fixture
def scene(request):
    """Smooth and noisy, 1,000 x 900 or as asked for."""
    size = getattr(request, "param", (1000, 900))
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, 36, 3)).astype(np.uint8)
    fine = rng.integers(0, 40, (*size, 3))
    return np.clip(resize_image(coarse, *size).astype(int) + fine, 0, 255).astype(np.uint8)


def reader(image):
    return lambda rows, columns: image[rows, columns]


def channels(image):
    """As a network without context: shares of red, green and blue."""
    return (image + 0.01).log().softmax(0)


def resized(image, cells):
    """Pillow's result without its rounding: each channel as a picture of floats."""
    planes = [
        Image.fromarray(image[..., c].astype(np.float32)).resize(cells[::-1], BILINEAR)
        for c in range(3)
    ]
    return torch.from_numpy(np.stack(planes)) / 255


def put_together(network, image, grid, begin=0):
    return list(probs_of_bands(network, reader(image), grid, begin=begin))


@given(st.integers(1, 5000))
def test_shares_add_up_and_windows_follow_the_stride(cells):
    found = spans(cells)
    total = torch.zeros(cells)
    for number, window in enumerate(found):
        total[window] += weights(found, number)
        assert window.start % windows.STRIDE == 0
        assert window.stop - window.start < windows.WINDOW + windows.STRIDE
    torch.testing.assert_close(total, torch.ones(cells))


@given(st.integers(1, 5000))
def test_no_later_window_has_a_share_in_settled_cells(cells):
    found = spans(cells)
    ends = [settled(found, number) for number in range(len(found))]
    assert ends == sorted(ends)
    assert ends[-1] == cells
    for number, end in enumerate(ends):
        for later in range(number + 1, len(found)):
            start = found[later].start
            assert not weights(found, later)[: max(end - start, 0)].any()


@pytest.mark.parametrize("cells", [(1000, 900), (640, 576), (333, 450), (1500, 1350)])
def test_without_context_windows_give_what_the_whole_gives(scene, cells):
    grid = Grid((1000, 900), cells)
    bands = put_together(channels, scene, grid)
    assert [top for _, top, _ in bands] == list(
        np.cumsum([0, *(probs.shape[1] for *_, probs in bands)])[:-1]
    )
    whole = channels(resized(scene, cells))
    torch.testing.assert_close(torch.cat([p for *_, p in bands], 1), whole, atol=1e-4, rtol=0)


def test_with_context_they_do_so_too(scene):
    """Three dilated convolutions, which look 28 px far: less than half of what is not shared."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=4, dilation=4, padding_mode="zeros"), nn.ReLU(),
              nn.Conv2d(8, 8, 3, padding=8, dilation=8), nn.ReLU(),
              nn.Conv2d(8, 2, 3, padding=16, dilation=16)]  # fmt: skip
    net = nn.Sequential(*layers)

    @torch.no_grad()
    def network(image):
        return net(image[None]).softmax(1)[0]

    grid = Grid((1000, 900), (1000, 900))
    found = torch.cat([p for *_, p in put_together(network, scene, grid)], 1)
    away = (slice(None), slice(0, 1000 - 28), slice(0, 900 - 28))  # from the scene's far borders
    torch.testing.assert_close(found[away], network(to_unit(scene))[away], atol=1e-4, rtol=0)


@pytest.mark.parametrize("scene", [(256, 1600)], indirect=True)
def test_with_a_margin_as_wide_as_a_real_network_looks_they_do_so_too(scene):
    torch.manual_seed(0)
    net = build_segmenter(num_classes=2, pretrained=True).eval()

    def network(image):
        return predict_probs(net, image[None])[0]

    whole = network(to_unit(scene))
    worst = {}
    for margin in (64, 448):
        grid = Grid((256, 1600), (256, 1600), margin)
        assert len(grid.windows[1]) > 1
        found = torch.cat([p for *_, p in put_together(network, scene, grid)], 1)
        worst[margin] = float((found - whole).abs().max())
    assert worst[448] < 1e-4 < worst[64]


def test_the_last_window_pools_the_same_cells_as_its_neighbour(scene):
    """Means of squares of 32 cells, as a network that fills up both sides of an image sees them."""

    def network(image):
        filled = pad_to_multiple(image[None], windows.STRIDE)
        mean = functional.avg_pool2d(filled, windows.STRIDE)
        spread = functional.interpolate(mean, scale_factor=windows.STRIDE)
        return crop_like(spread, image[None])[0]

    grid = Grid((1000, 900), (1000, 900))
    found = torch.cat([p for *_, p in put_together(network, scene, grid)], 1)
    inside = to_unit(scene)[:, : 31 * 32, : 28 * 32]  # whole squares
    mean = functional.avg_pool2d(inside, 32)
    expected = functional.interpolate(mean[None], scale_factor=32)[0]
    torch.testing.assert_close(found[:, : 31 * 32, : 28 * 32], expected, atol=1e-5, rtol=0)


def test_bands_can_be_begun_with(scene):
    grid = Grid((1000, 900), (1400, 700))
    whole = put_together(channels, scene, grid)
    assert len(whole) == 4
    for begin in range(1, 4):
        rest = put_together(channels, scene, grid, begin=begin)
        for (number, top, probs), (known, known_top, expected) in zip(
            rest, whole[begin:], strict=True
        ):
            assert (number, top) == (known, known_top)
            assert torch.equal(probs, expected)


@pytest.mark.parametrize(("pixels", "cells"), [(100, 64), (64, 100), (50, 50), (97, 31), (5, 1)])
def test_enlarged_rows_are_those_of_the_whole(pixels, cells):
    probs = torch.rand(3, cells, 40)
    grid = Grid((pixels, 70), (cells, 40))
    whole = functional.interpolate(probs[None], (pixels, 70), mode="bilinear", align_corners=False)[
        0
    ]
    first = 0
    for last in range(1, cells + 1):  # a row of cells more each time
        end = ready(last, grid)
        rows = slice(first, end)
        if end > first:
            begin = needed(first, grid)
            found = enlarged(probs[:, begin:last], begin, grid, rows, slice(10, 60))
            torch.testing.assert_close(found, whole[:, rows, 10:60], atol=1e-5, rtol=0)
        first = end
    assert first == pixels
