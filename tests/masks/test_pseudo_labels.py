"""Scores to targets and masks: hand-made cases."""

import numpy as np

from fewmask.masks.pseudo_labels import (
    against_the_rest,
    class_ids,
    only_tagged,
    pseudo_target,
    refine_classes,
)

GREY = np.full((6, 6, 3), 128, np.uint8)
HERE = np.ones(1, bool)


def block(value: float = 1.0) -> np.ndarray:
    score = np.zeros((6, 6), np.float32)
    score[1:4, 1:4] = value
    return score


def test_target_is_the_cut_score_where_nothing_is_refined():
    target = pseudo_target(GREY, block()[None], HERE, method="none", cuts=[0.5])
    assert target.dtype == np.uint8
    assert np.array_equal(target, (block() > 0.5).astype(np.uint8))


def test_band_around_the_outline_is_ignored_and_the_core_is_kept():
    target = pseudo_target(GREY, block()[None], HERE, method="none", cuts=[0.5], band_px=1)
    assert target[2, 2] == 1
    assert target[0, 0] == 255  # one pixel from the mask's corner
    assert target[5, 5] == 0


def test_scores_near_the_cut_are_ignored():
    score = block()
    score[5, 5] = 0.45
    target = pseudo_target(GREY, score[None], HERE, method="none", cuts=[0.5], band=0.1)
    assert target[5, 5] == 255
    assert (target == 255).sum() == 1


def test_a_class_that_is_there_but_not_found_leaves_no_certain_background():
    target = pseudo_target(GREY, block(0.4)[None], HERE, method="none", cuts=[0.5])
    assert (target == 255).all()


def test_an_absent_class_leaves_certain_background():
    target = pseudo_target(GREY, block()[None], ~HERE, method="none", cuts=[0.5])
    assert (target == 0).all()


def test_a_class_that_is_there_without_any_evidence_is_not_trained_as_background():
    nothing = np.zeros((1, 6, 6), np.float32)
    target = pseudo_target(GREY, nothing, HERE, method="none", cuts=[0.5])
    assert (target == 255).all()


def test_an_image_on_which_a_class_was_lost_keeps_its_target_of_the_round_before():
    before = (block() > 0.5).astype(np.uint8)
    lost, found = block(0.4)[None], block(0.9)[None]
    settings = {"method": "none", "cuts": [0.5], "before": before * 7}
    assert np.array_equal(pseudo_target(GREY, lost, HERE, **settings), before * 7)
    assert np.array_equal(pseudo_target(GREY, found, HERE, **settings), before)


def test_each_class_has_its_own_cut():
    scores = np.stack([block(0.6), np.roll(block(0.6), 2, axis=1)])
    target = pseudo_target(GREY, scores, np.ones(2, bool), method="none", cuts=[0.5, 0.7])
    assert (target == 1).sum() == 9
    assert not (target == 2).any()


def test_lost_class_does_not_erase_the_class_that_was_found():
    scores = np.stack([block(), block(0.4)])
    target = pseudo_target(GREY, scores, np.ones(2, bool), method="none", cuts=[0.5, 0.5])
    assert (target[1:4, 1:4] == 1).all()
    assert (target[4:] == 255).all()


def test_the_stronger_class_wins_where_masks_meet():
    masks = np.ones((2, 1, 3), bool)
    scores = np.array([[[0.9, 0.2, 0.5]], [[0.1, 0.8, 0.5]]])
    assert class_ids(masks, scores).tolist() == [[1, 2, 1]]


def test_plain_arg_max_without_refinement():
    probs = np.array([[[0.5, 0.2]], [[0.3, 0.3]], [[0.2, 0.5]]])
    assert refine_classes(GREY[:1, :2], probs).tolist() == [[0, 2]]


def test_refining_a_clear_image_recovers_its_coloured_square():
    image = np.full((48, 48, 3), (40, 120, 40), np.uint8)
    image[12:32, 12:32] = (170, 120, 80)
    foreground = np.full((48, 48), 0.1, np.float32)
    foreground[10:34, 10:34] = 0.6  # too large on every side
    probs = np.stack([1 - foreground, foreground])
    truth = np.zeros((48, 48), np.uint8)
    truth[12:32, 12:32] = 1
    refined = refine_classes(image, probs, method="colour_model")
    union = ((refined == 1) | (truth == 1)).sum()
    assert (
        (refined == 1) & (truth == 1)
    ).sum() / union > 0.8  # plain: 400 / 576; the smoothing costs one pixel all round
    assert refine_classes(image, probs)[10:34, 10:34].all()


def test_of_many_classes_the_most_probable_wins_though_it_has_no_majority():
    probs = np.full((3, 24, 24), 0.25, np.float32)
    probs[1], probs[2] = 0.30, 0.45
    image = np.full((24, 24, 3), 128, np.uint8)
    for method in ("none", "colour_model", "superpixel_vote"):
        assert (refine_classes(image, probs, method=method) == 2).all(), method


def test_a_class_is_scored_against_its_strongest_rival():
    draw = np.random.default_rng(0).dirichlet(np.ones(5), size=(6, 7)).transpose(2, 0, 1)
    scores = against_the_rest(draw)
    for k in range(4):
        rival = np.delete(draw, k + 1, axis=0).max(0)
        np.testing.assert_allclose(scores[k], draw[k + 1] / (draw[k + 1] + rival), rtol=1e-5)
    assert np.array_equal(scores.max(0) > 0.5, draw.argmax(0) > 0)


def test_what_the_tags_deny_is_no_rival():
    probs = np.array([0.2, 0.3, 0.5]).reshape(3, 1, 1)
    kept = only_tagged(probs, np.array([True, False]))
    assert kept.ravel().tolist() == [0.2, 0.3, 0.0]
    np.testing.assert_allclose(against_the_rest(kept).ravel(), [0.6, 0.0], rtol=1e-6)
