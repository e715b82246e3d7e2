"""Which images the controls on true masks are trained on."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from fewmask.training.controls import balanced_rows, few_masked_rows, masked_rows


def folder(layout, *, empty_masks):
    """A workspace of 20 tagged images with masks and 20 without a tag; the last 10 are tested."""
    tags = np.array([[True]] * 20 + [[False]] * 20)
    masks = ["m.png"] * 20 + (["m.png"] if empty_masks else [None]) * 20
    learned = [*range(15), *range(20, 35)]

    def rows(*parts, tagged=None):
        assert parts == ("train", "val")
        return [r for r in learned if tagged is None or bool(tags[r].any()) == tagged]

    return SimpleNamespace(
        data=SimpleNamespace(
            has_tags=layout == "folders",
            samples=[SimpleNamespace(mask_path=mask) for mask in masks],
        ),
        tags=tags,
        rows=rows,
        fold=0,
        config=SimpleNamespace(seed=0),
    )


@pytest.mark.parametrize("empty_masks", [False, True])
def test_few_masks_are_of_tagged_images_and_all_negatives_are_used(empty_masks):
    work = folder("folders", empty_masks=empty_masks)
    chosen = few_masked_rows(work, 5)
    assert len(set(chosen)) == 5
    assert max(chosen) < 15
    counts = Counter(balanced_rows(work, chosen))
    assert {row: counts[row] for row in chosen} == dict.fromkeys(chosen, 3)  # 15 tagged images
    assert {row for row in counts if row >= 20} == set(range(20, 35))
    assert masked_rows(work) == list(range(15))


def test_without_tags_every_mask_counts_and_nothing_is_known_to_be_empty():
    work = folder("images", empty_masks=True)
    assert masked_rows(work) == work.rows("train", "val")
    assert set(balanced_rows(work, [0, 20])) == {0, 20}


def test_other_seeds_draw_other_masks():
    work = folder("folders", empty_masks=False)
    first = few_masked_rows(work, 5)
    work.config.seed = 1
    assert few_masked_rows(work, 5) != first
