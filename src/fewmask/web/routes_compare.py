"""Runs side by side, and where their masks differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response

from fewmask.io.images import read_image
from fewmask.report.figures import colours_like, drawn_ids, overlay
from fewmask.web import comparing
from fewmask.web.routes_runs import png

if TYPE_CHECKING:
    from fewmask.web.app import Desk


def router(desk: Desk) -> APIRouter:
    """Page and API."""
    routes = APIRouter(tags=["compare"])

    @routes.get("/compare", include_in_schema=False)
    def compare_page(run: Annotated[list[str], Query(max_length=50)] = []) -> HTMLResponse:  # noqa: B006
        finished = [(name, each) for name, each in desk.library.runs() if each.is_finished()]
        known = dict(finished)
        chosen = [name for name in dict.fromkeys(run) if name in known][: comparing.MOST_RUNS]
        chosen = chosen or [name for name, _ in finished[:2]]
        runs = [known[name] for name in chosen]
        columns, problems = comparing.columns_of(runs)
        for column, each in zip(columns, runs, strict=False):
            spent = sum(r["seconds"] for r in desk.reviews.state(each).values()) / 60
            column["review"] = f"{spent:.1f}" if spent else None
        titles = list(dict.fromkeys(title for each in columns for title in each["scores"]))
        return desk.pages.page(
            "compare", runs=[{"id": name, "name": each.path.name} for name, each in finished],
            chosen=chosen, columns=columns, problems=problems, titles=titles,
            settings=comparing.differing_settings(runs),
        )  # fmt: skip

    @routes.get("/api/compare")
    def compare(run: Annotated[list[str], Query(max_length=50)]) -> dict[str, Any]:
        """Scores, label cost and minutes of up to six finished runs, and settings that differ."""
        runs = [desk.library.run(name) for name in run]
        columns, problems = comparing.columns_of(runs)
        settings = comparing.differing_settings(runs)
        return {"runs": columns, "problems": problems, "settings": settings}

    @routes.get("/api/compare/{a}/{b}/images")
    def images(a: str, b: str) -> list[dict[str, Any]]:
        """Images that both runs have a mask of, those on which they differ most first."""
        first, second = (desk.opened.open(desk.library.run(name)) for name in (a, b))
        return comparing.shared_images(first, second)

    @routes.get("/api/runs/{name}/masks/{image}")
    def drawn(name: str, image: str) -> Response:
        """An image with the run's own mask over it, PNG."""
        images = desk.opened.open(desk.library.run(name))
        item = images.find(image)
        pixels, mask = read_image(images.image_path(item)), images.weak_mask(item)
        colours = colours_like(images.card.get("class_colours", ()))
        shown = drawn_ids(mask, images.has_background)
        return png(overlay(pixels, shown, colours=colours), keep_seconds=300)

    return routes
