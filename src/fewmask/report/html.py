"""The report of a run: one HTML file that needs nothing else, and its table as plain text.

Everything is inside the file (style, pictures as ``data:`` addresses); it runs no script and loads
nothing, which its content security policy also forbids. Every text is escaped, so file and class
names from the user's data cannot become markup.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from fewmask.report.figures import class_colour
from fewmask.report.headings import LEGEND, heading, split_metric

if TYPE_CHECKING:
    from fewmask.report.verdict import Verdict

Kind = Literal["result", "control", "reference", "oracle"]

UNDEFINED = "–"
TERMINAL_WIDTH = 120


@dataclass(frozen=True)
class Row:
    """One line of the table of results.

    Attributes:
        name: What was measured.
        kind: ``result`` (this run's claim, emphasised), ``control`` (what trivial means reach),
            ``reference`` (for comparison, for example full supervision) or ``oracle`` (chosen
            with the test masks: never a result, shown in grey).
        metrics: As :func:`fewmask.metrics.confusion.summarise` returns them.
        threshold_choice: ``label_free`` or for example ``30 masks``.
        label_cost: The labels that this row used, in words.
        note: A remark under the name.
    """

    name: str
    kind: Kind
    metrics: Mapping[str, Any]
    threshold_choice: str
    label_cost: str
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One image of the test set, drawn.

    Attributes:
        title: Why it is shown, for example ``best`` or ``worst false alarm``.
        sample_id: Which image it is.
        fact: A number in words, for example its IoU.
        png: The picture, a whole PNG file; see :func:`fewmask.report.figures.strip_png`.
    """

    title: str
    sample_id: str
    fact: str
    png: bytes


@dataclass(frozen=True)
class ReportData:
    """Everything that a report says, in the order of the page.

    Attributes:
        title: Name of the run.
        subtitle: Pipeline, preset and data in a line.
        verdict: From :func:`fewmask.report.verdict.verdict_of`: the badge is computed, not told.
        compared: Paired comparisons of the result, in words.
        facts: (key, value) pairs: images, seeds, minutes.
        class_names: The classes; with several, their colours are explained.
        headline_metrics: Names of metrics, the columns of the table.
        rows: The table.
        made: What was made where nothing is scored; it takes the table's place.
        curves: (title, SVG) of the training curves.
        cases: Pictures, of test images where ``cases_title`` says nothing else.
        bill: (what, labels, source): each label that was used, those of pretrained weights too.
        notes: Paragraphs.
        synthetic: True puts up the banner of synthetic demo data.
        run_yaml: The resolved settings.
        next_commands: Commands to go on with.
    """

    title: str
    subtitle: str
    verdict: Verdict
    facts: Sequence[tuple[str, str]]
    class_names: Sequence[str]
    headline_metrics: Sequence[str]
    rows: Sequence[Row]
    compared: Sequence[str] = ()
    made: Sequence[str] = ()
    curves: Sequence[tuple[str, str]] = ()
    cases: Sequence[Case] = ()
    cases_title: str = "Test images"
    bill: Sequence[tuple[str, str, str]] = ()
    notes: Sequence[str] = ()
    synthetic: bool = False
    run_yaml: str = ""
    next_commands: Sequence[str] = ()


def render_report(data: ReportData) -> str:
    """The whole report as one HTML document."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("fewmask.report").joinpath("report.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    first = data.headline_metrics[0] if data.headline_metrics else ""
    return environment.from_string(source).render(
        data=data,
        tint={"beats": "good", "does_not_beat": "bad"}.get(data.verdict.state, ""),
        columns=[
            (heading(metric, data.class_names), split_metric(metric)[0])
            for metric in data.headline_metrics
        ],
        colours=[
            (name, "rgb({}, {}, {})".format(*class_colour(i)))
            for i, name in enumerate(data.class_names, start=1)
        ],
        legend=LEGEND,
        lines=[_line(row, data.headline_metrics) for row in data.rows],
        has_axis=_all_fractions(data.rows, first),
        curves=[(title, _data_uri("image/svg+xml", svg.encode())) for title, svg in data.curves],
        cases=[(case, _data_uri("image/png", case.png)) for case in data.cases],
    )


def text_table(
    rows: Sequence[Row], headline_metrics: Sequence[str], class_names: Sequence[str] = ()
) -> str:
    """The table of results for a terminal, at most :data:`TERMINAL_WIDTH` characters wide.

    Text columns are flush left, numbers flush right; the result is marked by ``>``.

    >>> row = Row("CAM", "result", {"miou": 0.5}, "label_free", "tags")
    >>> print(text_table([row], ["miou", "precision.scar"]))
      row  kind    with bg  precision  threshold   labels
    > CAM  result    0.500          –  label-free  tags
    """
    names = [heading(metric, class_names, short=True) for metric in headline_metrics]
    cells = [["  row", "kind", *names, "threshold", "labels"]]
    for row in rows:
        mark = "> " if row.kind == "result" else "  "
        numbers = [format_metric(row.metrics.get(metric)) for metric in headline_metrics]
        words = [row.threshold_choice.replace("_", "-"), row.label_cost]
        cells.append([mark + row.name, row.kind, *numbers, *words])
    cells = [[_printable(cell) for cell in line] for line in cells]
    cells = [[line[0], *(_shortened(cell, 14) for cell in line[1:])] for line in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[0] = min(widths[0], TERMINAL_WIDTH - sum(w + 2 for w in widths[1:]))
    numeric = range(2, 2 + len(headline_metrics))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in numeric else _shortened(cell, width).ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def format_metric(value: float | int | None) -> str:
    """Three decimals for a fraction, digits for a count, a dash where undefined.

    >>> format_metric(0.6617647), format_metric(1234), format_metric(None)
    ('0.662', '1,234', '–')
    """
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _number(row: Row, metric: str) -> float | None:
    """The row's score, None where undefined."""
    value = row.metrics.get(metric)
    return None if value is None or not math.isfinite(value) else float(value)


def _interval(row: Row, metric: str) -> Sequence[float] | None:
    """The row's interval of ``metric``, if it has one."""
    interval: Sequence[float] | None = row.metrics.get(f"{metric}.ci95")
    return interval


def _line(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    """A row with its numbers written out, and the first of them in percent of the drawn axis."""
    numbers = []
    for metric in metrics:
        interval = _interval(row, metric)
        shown = "–".join(f"{bound:.3f}" for bound in interval) if interval else ""
        numbers.append((format_metric(row.metrics.get(metric)), shown))
    first = metrics[0] if metrics else ""
    low, high = _interval(row, first) or (None, None)
    span = {"at": _percent(_number(row, first)), "low": _percent(low), "high": _percent(high)}
    return {"row": row, "numbers": numbers, "span": span}


def _all_fractions(rows: Sequence[Row], metric: str) -> bool:
    """Whether the scores fit an axis from 0 to 1."""
    scores = [score for row in rows if (score := _number(row, metric)) is not None]
    return bool(scores) and min(scores) >= 0.0 and max(scores) <= 1.0


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100.0 * value, 2)


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _printable(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)
