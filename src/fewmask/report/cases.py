"""Pictures of a few held-out images: where the result is good, usual and bad, and false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewmask.data.folder import read_target
from fewmask.io.images import read_image
from fewmask.report.figures import drawn_ids, strip_png
from fewmask.report.html import Case
from fewmask.training.evaluation import Evaluation
from fewmask.training.workspace import Workspace

Chosen = tuple[str, str, str]
"""Title, sample id, and a number in words."""


def draw_cases(works: Sequence[Workspace], evaluation: Evaluation, module: Any) -> list[Case]:
    """Strips of test images: image, truth if there is one, evidence, final prediction."""
    chosen = scored_cases(evaluation) if evaluation.ids else unscored_cases(works, evaluation)
    cases = []
    for title, sample_id, fact in chosen:
        work = next((w for w in works if sample_id in w.parts["test"]), works[0])
        row = [s.id for s in work.data.samples].index(sample_id)
        sample = work.data.samples[row]
        image = read_image(sample.image_path)
        predictor = module.predictor_of(work)
        final = predictor.mask_of_probs(image, predictor.probs(image))
        background = work.data.has_background
        panels: list[tuple[str, np.ndarray]] = [("image", image)]
        truth = read_target(sample, work.data)
        if truth is not None and evaluation.ids:
            panels.append(("truth", drawn_ids(truth, background)))
        panels += module.panels(work, row, image.shape[:2])
        panels.append(("final prediction", drawn_ids(final, background)))
        cases.append(Case(title, sample_id, fact, strip_png(panels)))
    return cases + module.pictures(works)


def scored_cases(evaluation: Evaluation) -> list[Chosen]:
    """Best, median and worst image with the object, and the worst false alarm without it."""
    if evaluation.result is None:
        return []
    scores = evaluation.image_scores(evaluation.result)
    matrices = evaluation.matrices[evaluation.result]
    measure = "IoU" if evaluation.has_background else "pixel accuracy"
    has_truth = matrices[:, 1:].sum((1, 2)) > 0
    ranked = sorted((s, i) for i, s in enumerate(scores) if s is not None and has_truth[i])
    chosen: list[Chosen] = [
        (title, evaluation.ids[i], f"{measure} {score:.3f}")
        for title, (score, i) in _spread(ranked, "best", "median", "worst")
    ]
    marked = matrices[:, 0, 1:].sum(1) / np.maximum(matrices.sum((1, 2)), 1)
    alarms = {evaluation.ids[i]: float(marked[i]) for i in np.flatnonzero(~has_truth)}
    return chosen + _worst_alarm(alarms)


def unscored_cases(works: Sequence[Workspace], evaluation: Evaluation) -> list[Chosen]:
    """Without masks: by the exported masks' confidence, and by what is marked without a tag."""
    confidence = {
        record["id"]: record["confidence"]
        for work in works
        for record in work.stages["export"].read_json("manifest.json")
        if record["part"] == "test" or not any(work.parts["test"] for work in works)
    }
    untagged = untagged_test_ids(works)
    ranked = sorted((value, name) for name, value in confidence.items() if name not in untagged)
    titles = ("most confident", "median confidence", "least confident")
    chosen: list[Chosen] = [
        (title, name, f"confidence {value:.3f}")
        for title, (value, name) in _spread(ranked, *titles)
    ]
    shares = evaluation.shares
    return chosen + _worst_alarm({name: shares[name] for name in shares if name in untagged})


def untagged_test_ids(works: Sequence[Workspace]) -> set[str]:
    """Held-out images that are known to be empty, as they have no tag where tags are given."""
    return {
        work.data.samples[row].id
        for work in works
        if work.data.has_tags
        for row in work.rows("test", tagged=False)
    }


def _spread(ranked: Sequence[Any], high: str, middle: str, low: str) -> list[tuple[str, Any]]:
    """Highest, middle and lowest of a rising list; no entry twice."""
    places = {high: len(ranked) - 1, low: 0, middle: len(ranked) // 2}
    taken: dict[int, str] = {}
    for title, place in places.items():
        if ranked:
            taken.setdefault(place, title)
    return [(taken[place], ranked[place]) for place in sorted(taken, reverse=True)]


def _worst_alarm(shares: dict[str, float]) -> list[Chosen]:
    """The empty image with the largest marked share, if any has one."""
    if not shares or max(shares.values()) <= 0:
        return []
    name = max(shares, key=lambda i: shares[i])
    return [("worst false alarm", name, f"{100 * shares[name]:.1f} % marked, nothing is there")]
