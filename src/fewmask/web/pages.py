"""Pages from templates; every text in them is escaped, and no page has a script or style inside."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from fewmask import __version__
from fewmask.report.headings import heading, split_metric


class Pages:
    """The templates of this package."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("fewmask.web"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._templates.globals["version"] = __version__
        self._templates.globals["build"] = _build()
        self._templates.filters["plain"] = plain

    def page(self, name: str, /, **values: Any) -> HTMLResponse:
        """``templates/<name>.html`` filled in."""
        return HTMLResponse(self._templates.get_template(f"{name}.html").render(values))


def plain(metric: str) -> str:
    """A score's name in plain words, with its class.

    >>> plain("iou.pooled.scar"), plain("miou_foreground")
    ('IoU scar', 'Mean IoU')
    """
    rule, name = split_metric(metric)
    return f"{heading(rule, ())} {name}".strip()


def _build() -> str:
    """A digest of style and scripts: browsers keep them as long as it is the same."""
    digest = hashlib.sha256()
    files = [f for f in resources.files("fewmask.web").joinpath("static").iterdir() if f.is_file()]
    for file in sorted(files, key=lambda each: each.name):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
