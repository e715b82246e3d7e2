"""What the table says in one word: does the result stand above its strongest control?

A control that needs more masks than the result is no rival but a price: it is told beside the
verdict and does not decide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fewmask.metrics.paired import Comparison, compare_rows
from fewmask.report.headings import heading
from fewmask.report.table import headline_of
from fewmask.training.evaluation import Evaluation

State = Literal["beats", "does_not_beat", "too_close", "too_few", "not_compared", "not_measured"]

ENOUGH_GROUPS = 10
"""With fewer groups of test images the bootstrap interval is too narrow to judge by."""

NO_MASKS = "No masks: nothing is scored."

HEADLINES: dict[State, str] = {
    "beats": "Beats {control}",
    "does_not_beat": "Does not beat {control}",
    "too_close": "Too close to tell from {control}",
    "too_few": "Too few test images to tell",
    "not_compared": "Not compared with a control",
    "not_measured": "Not measured",
}


@dataclass(frozen=True)
class Verdict:
    """The result against its strongest control.

    Attributes:
        state: Decided by the paired interval, see :func:`state_of`.
        text: The numbers behind it, in a sentence.
        control: What the result was judged against, in words.
    """

    state: State
    text: str
    control: str = "its strongest control"

    @property
    def headline(self) -> str:
        """The state in words, the same in the report and on the terminal."""
        return HEADLINES[self.state].format(control=self.control)

    def __str__(self) -> str:
        return f"{self.headline}. {self.text}"


def verdict_of(evaluation: Evaluation, rows: Sequence[dict[str, Any]]) -> Verdict:
    """Compare the result with the strongest control, or raw evidence, that needs no more masks.

    References and oracles do not count; a control without a score is left out. Controls that
    need more masks than the result are told with their scores.

    Args:
        evaluation: Holds the confusion matrices.
        rows: From :func:`fewmask.report.table.summary_rows`, in the evaluation's order.
    """
    result, main = evaluation.result, headline_of(evaluation)[0]
    if not evaluation.ids:
        return Verdict("not_measured", NO_MASKS)
    if result is None:
        return Verdict("not_measured", "No stage that gives a result ran.")
    scores = [row["metrics"].get(main) for row in rows]
    score = scores[result]
    if score is None:
        return Verdict("not_measured", "The score is undefined on these test images.")
    words = f"{heading(main, evaluation.class_names)} {score:.3f}"
    masks = rows[result]["masks_used"]
    rivals, dearer = {}, []
    for i, row in enumerate(rows):
        if row["kind"] not in {"control", "evidence"} or scores[i] is None:
            continue
        if row["masks_used"] <= masks:
            rivals[i] = scores[i]
        else:
            dearer.append(f"“{row['name']}” {scores[i]:.3f}")
    more = f" With more masks: {', '.join(dearer)}." if dearer else ""
    if not rivals:
        return Verdict("not_compared", f"{words}; no control without more masks has a score.{more}")
    best = max(rivals, key=lambda i: rivals[i])
    found = compare_rows(
        evaluation.matrices[result], evaluation.matrices[best], groups=evaluation.groups
    )
    words += f", strongest control “{rows[best]['name']}” {scores[best]:.3f}: difference "
    words += f"{found['difference']:+.3f}"
    if found["ci95"] is not None:
        words += " [{:+.3f}, {:+.3f}]".format(*found["ci95"])
    state, count = state_of(found), found["n_groups"]
    few = f", fewer than {ENOUGH_GROUPS}" if state == "too_few" else ""
    many = "test images or groups" if count != 1 else "test image or group"
    control = "its strongest control" + (" without masks" if not masks else "")
    return Verdict(state, f"{words} ({count} {many}{few}; one seed).{more}", control)


def state_of(found: Comparison) -> State:
    """The verdict of a comparison: by its 95 % interval, if there are enough groups for one.

    >>> found = {"difference": 0.1, "p": 0.1, "exact": False, "n_groups": 40}
    >>> [state_of({**found, "ci95": ci}) for ci in ([0.02, 0.2], [-0.02, 0.2], [-0.2, -0.02])]
    ['beats', 'too_close', 'does_not_beat']
    >>> state_of({**found, "ci95": [0.02, 0.2], "n_groups": 9})
    'too_few'
    """
    if found["n_groups"] < ENOUGH_GROUPS or found["ci95"] is None:
        return "too_few"
    low, high = found["ci95"]
    if low > 0:
        return "beats"
    return "does_not_beat" if high < 0 else "too_close"
