"""The report loads nothing, runs nothing, lets no name become markup, and does not flatter."""

import base64
import dataclasses
import re
from html.parser import HTMLParser

import pytest

from fewmask.report.html import Case, ReportData, Row, render_report, text_table
from fewmask.report.verdict import HEADLINES, Verdict

HOSTILE = "\"><img src=x onerror=1></style></td><script>alert(1)</script>{{ 7*7 }}&'`"
PNG = b"\x89PNG\r\n\x1a\n"
SCORE = "iou.pooled.scar"


def row(kind="result", value=0.5, name="U-Net", **metrics):
    metrics = {SCORE: value, **metrics}
    return Row(name, kind, metrics, "label_free", "496 tags", note="")


def report(**changes) -> ReportData:
    control = row("control", 0.3, "Otsu", **{f"{SCORE}.ci95": [0.25, 0.35]})
    data = ReportData(
        title="run",
        subtitle="tags, fast",
        verdict=Verdict("beats", "It is above Otsu."),
        facts=[("Images", "124")],
        class_names=["scar"],
        headline_metrics=[SCORE, "miou", "n"],
        rows=[row(n=1240), control, row("oracle", 0.9, "best threshold")],
        curves=[("segmenter", "<svg xmlns='http://www.w3.org/2000/svg'></svg>")],
        cases=[Case("best", "a.png", "IoU 0.900", PNG), Case("worst", "b.png", "IoU –", PNG)],
        bill=[("tags", "496", "folders")],
        notes=["One seed."],
        run_yaml="seed: 0\n",
        next_commands=["fewmask predict RUN IMAGES"],
    )
    return dataclasses.replace(data, **changes)


class Page(HTMLParser):
    """All elements with their attributes, and the text of each table row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.rows: list[tuple[str, list[str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append((dict(attrs).get("class"), []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1][1]:
            self.rows[-1][1][-1] += data.strip()


def everything(text: str) -> ReportData:
    """A report in which each text is ``text``, and a metric of that name is undefined."""
    metrics = {text: 0.5, f"{text}.ci95": [0.4, 0.6]}
    return ReportData(
        title=text,
        subtitle=text,
        verdict=Verdict("beats", text),
        compared=[text],
        facts=[(text, text)],
        class_names=[text, text],
        headline_metrics=[text],
        rows=[
            Row(text, kind, metrics, text, text, note=text)
            for kind in ("result", "control", "reference", "oracle")
        ],
        curves=[(text, f"<svg>{text}</svg>")],
        cases=[Case(text, text, text, PNG)],
        bill=[(text, text, text)],
        notes=[text],
        synthetic=True,
        run_yaml=text,
        next_commands=[text],
    )


def test_hostile_names_add_no_element_and_no_attribute():
    def shape(page):
        return [(tag, sorted(attrs)) for tag, attrs in page.elements]

    harmless, hostile = (Page(render_report(everything(text))) for text in ("plain", HOSTILE))
    assert shape(hostile) == shape(harmless)
    assert hostile.text.count(HOSTILE) >= 20  # shown as it is, everywhere
    assert "49" not in re.findall(r"\b49\b", hostile.text)  # and not run as a template


def test_page_loads_nothing_and_forbids_it_too():
    page = Page(render_report(report(synthetic=True)))
    sources = [
        attrs[name] for _, attrs in page.elements for name in ("src", "href", "srcset", "data")
        if name in attrs
    ]  # fmt: skip
    assert len(sources) == 3
    assert all(source.startswith("data:image/") for source in sources)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script-src" not in policy
    assert not re.search(r"url\(|@import", render_report(report()))


def test_pictures_are_inside_the_file():
    html = render_report(report())
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" in html
    assert "data:image/svg+xml;base64,PHN2Zy" in html


def test_only_the_result_is_emphasised():
    html = render_report(report())
    classes = [kind for kind, _ in Page(html).rows if kind]
    assert classes == ["result", "control", "oracle"]
    style = html[html.index("<style>") : html.index("</style>")]
    oracle = re.findall(r"tr\.oracle[^{]*\{([^}]*)\}", style)
    assert "color: var(--faint); font-weight: 400;" in oracle[0]
    assert not any(word in rule for rule in oracle for word in ("background", "accent", "650"))


def test_numbers_intervals_and_undefined_stand_in_their_columns():
    rows = dict(Page(render_report(report())).rows)
    assert rows["result"][1:5] == ["0.500", "", "–", "1,240"]  # "": the drawn axis
    assert rows["control"][1] == "0.3000.250–0.350"
    assert rows["control"][3:5] == ["–", "–"]
    assert rows["result"][5:] == ["496 tagslabel-free"]


def test_undefined_and_not_finite_are_dashes_never_nan():
    html = render_report(report(rows=[row(value=None), row("control", float("nan"))]))
    assert Page(html).rows[1][1][1] == "–"
    assert Page(html).rows[2][1][1] == "–"
    assert not re.search(r"\bnan\b|None", Page(html).text)


def test_axis_is_drawn_only_for_fractions():
    assert 'class="dot"' in render_report(report())
    assert 'class="dot"' not in render_report(report(headline_metrics=["n"]))
    assert 'class="dot"' not in render_report(report(rows=[row(value=1.5)]))


@pytest.mark.parametrize("state", HEADLINES)
def test_badge_says_the_state_of_the_verdict_and_is_green_only_when_it_beats(state):
    html = render_report(report(verdict=Verdict(state, "Numbers.", "its rival")))
    told = {key: words.format(control="its rival") for key, words in HEADLINES.items()}
    assert [words for words in told.values() if words in html] == [told[state]]
    assert ('class="verdict good"' in html) == (state == "beats")
    assert ('class="verdict bad"' in html) == (state == "does_not_beat")


def test_headings_are_plain_words_above_the_name_of_the_score():
    page = Page(render_report(report()))
    assert page.rows[0][1][1] == "IoUiou.pooled"
    for word in ("control", "evidence", "reference", "oracle", "label-free", "gap closed"):
        assert f"<dt>{word}</dt>" in render_report(report())


def test_pictures_stand_before_the_curves_which_are_folded():
    html = render_report(report())
    assert html.index("Test images") < html.index("<details>") < html.index("Training curves")
    assert html.index("Training curves") < html.index("data:image/svg+xml")


def test_colours_are_explained_where_there_are_several_classes():
    several = render_report(report(class_names=["roof", "lake"]))
    assert 'fill="rgb(86, 180, 233)"/></svg>roof' in several
    assert 'fill="rgb(230, 159, 0)"/></svg>lake' in several
    assert "<rect" not in render_report(report())


def test_what_was_made_takes_the_place_of_a_table_of_dashes():
    page = Page(render_report(report(made=["tag accuracy: 0.9"], rows=[row(value=None)])))
    assert "tag accuracy: 0.9" in page.text
    assert not any(kind == "result" for kind, _ in page.rows)


def test_banner_stands_on_synthetic_data_only():
    banner = "Synthetic demo data: not a benchmark"
    assert banner in render_report(report(synthetic=True))
    assert banner not in render_report(report())


def test_empty_sections_leave_no_heading():
    html = render_report(
        report(facts=[], curves=[], cases=[], bill=[], notes=[], run_yaml="", next_commands=[])
    )
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == ["Results"]
    assert "<details>" not in html
    assert "Training curves" not in html
    assert "Results" in render_report(report(headline_metrics=[], rows=[]))


def test_same_report_same_bytes():
    assert render_report(report()) == render_report(report())


def test_text_table_is_aligned_and_marks_the_result():
    rows = [row(n=12), row("control", None, "Otsu of the grey image", n=1234)]
    lines = text_table(rows, [SCORE, "n"], ["scar"]).splitlines()
    assert lines == [
        "  row                     kind       IoU      n  threshold   labels",
        "> U-Net                   result   0.500     12  label-free  496 tags",
        "  Otsu of the grey image  control      –  1,234  label-free  496 tags",
    ]


def test_text_table_gives_the_terminal_no_control_characters():
    table = text_table([row(name="a\x1b[2Jb\nc")], [SCORE])
    assert "a?[2Jb?c" in table
    assert table.count("\n") == 1


def test_text_table_of_nothing_is_its_header():
    assert text_table([], ["miou"]).split() == ["row", "kind", "with", "bg", "threshold", "labels"]


def test_text_table_is_at_most_120_columns_wide():
    names = ["a very long class name", "b" * 60]
    metrics = [f"iou.pooled.{name}" for name in names]
    table = text_table([row(name="x" * 200, note="y")], ["miou_foreground", *metrics], names)
    assert max(map(len, table.splitlines())) == 120
    assert "…" in table
