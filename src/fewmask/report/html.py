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
from typing import Any, Literal

Kind = Literal["result", "control", "reference", "oracle"]

UNDEFINED = "–"


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
        title: Why it is shown: ``best``, ``median`` or ``worst``.
        sample_id: Which image it is.
        score: Its score, None where undefined.
        png: The picture, a whole PNG file; see :func:`fewmask.report.figures.strip_png`.
    """

    title: str
    sample_id: str
    score: float | None
    png: bytes


@dataclass(frozen=True)
class ReportData:
    """Everything that a report says, in the order of the page.

    Attributes:
        title: Name of the run.
        subtitle: Pipeline, preset and data in a line.
        verdict: A sentence. The badge above it ("beats its controls" or not) is not told but
            computed, see :func:`beats_controls`.
        facts: (key, value) pairs: images, seeds, minutes.
        headline_metrics: Names of metrics, the columns of the table; the first decides the badge.
        rows: The table.
        curves: (title, SVG) of the training curves.
        cases: Pictures of test images.
        bill: (what, labels, source): each label that was used, those of pretrained weights too.
        notes: Paragraphs.
        synthetic: True puts up the banner of synthetic demo data.
        run_yaml: The resolved settings.
        next_commands: Commands to go on with.
    """

    title: str
    subtitle: str
    verdict: str
    facts: Sequence[tuple[str, str]]
    headline_metrics: Sequence[str]
    rows: Sequence[Row]
    curves: Sequence[tuple[str, str]] = ()
    cases: Sequence[Case] = ()
    bill: Sequence[tuple[str, str, str]] = ()
    notes: Sequence[str] = ()
    synthetic: bool = False
    run_yaml: str = ""
    next_commands: Sequence[str] = ()


def beats_controls(rows: Sequence[Row], metric: str) -> bool | None:
    """Whether the best result is above every control in ``metric`` (higher is better).

    References and oracles do not count. A control whose score is undefined cannot be beaten or
    lost to and is left out.

    Returns:
        None if there is no defined result or no defined control.
    """
    scores = [(row.kind, _number(row, metric)) for row in rows]
    results = [score for kind, score in scores if kind == "result" and score is not None]
    controls = [score for kind, score in scores if kind == "control" and score is not None]
    return max(results) > max(controls) if results and controls else None


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
        beats=beats_controls(data.rows, first),
        columns=[metric.rpartition(".") for metric in data.headline_metrics],
        lines=[_line(row, data.headline_metrics) for row in data.rows],
        has_axis=_all_fractions(data.rows, first),
        curves=[(title, _data_uri("image/svg+xml", svg.encode())) for title, svg in data.curves],
        cases=[(case, _data_uri("image/png", case.png)) for case in data.cases],
        show=format_metric,
    )


def text_table(rows: Sequence[Row], headline_metrics: Sequence[str]) -> str:
    """The table of results for a terminal.

    Text columns are flush left, numbers flush right; the result is marked by ``>``.

    >>> row = Row("CAM", "result", {"miou": 0.5}, "label_free", "tags")
    >>> print(text_table([row], ["miou", "fwiou"]))
      row  kind     miou  fwiou  threshold   labels
    > CAM  result  0.500      –  label_free  tags
    """
    header = ["  row", "kind", *headline_metrics, "threshold", "labels"]
    cells = [header]
    for row in rows:
        mark = "> " if row.kind == "result" else "  "
        numbers = [format_metric(row.metrics.get(metric)) for metric in headline_metrics]
        cells.append([mark + row.name, row.kind, *numbers, row.threshold_choice, row.label_cost])
    cells = [[_printable(cell) for cell in line] for line in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = range(2, 2 + len(headline_metrics))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in numeric else cell.ljust(width)
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


def _printable(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)
