"""Reviews: masks of a finished run, sorted by uncertainty, corrected and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from fewmask.conventions import IGNORE_INDEX
from fewmask.errors import Problem, UsageError
from fewmask.io.images import image_size
from fewmask.report.figures import colours_like, drawn_ids, overlay
from fewmask.web import mask_runs, pixels
from fewmask.web.albums import THUMB_PX, small
from fewmask.web.retraining import retrain_words
from fewmask.web.reviews import FOLDER, Review
from fewmask.web.routes_runs import png
from fewmask.web.run_images import Item, RunImages

if TYPE_CHECKING:
    from fewmask.web.app import Desk

Number = Annotated[float, Query(allow_inf_nan=False)]


class SentReview(BaseModel):
    """A review as the browser sends it."""

    model_config = ConfigDict(extra="forbid")

    client_id: str = Field(pattern=r"^[0-9a-f-]{16,64}$")
    run: str
    image: str
    verdict: Literal["accepted", "edited", "rejected"]
    base_version: int = Field(ge=0)
    seconds: float = Field(0, ge=0, le=86_400, allow_inf_nan=False)
    mask: list[int] | None = Field(None, description="value, length, value, length, row by row")


class Retraining(BaseModel):
    """A new run that learns from reviewed masks."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=100)


def router(desk: Desk) -> APIRouter:
    """Pages and API."""
    routes = APIRouter(tags=["reviews"])

    def images_of(run: str) -> RunImages:
        images = desk.opened.open(desk.library.run(run))
        desk.reviews.follow(images)
        return images

    def both(run: str, image: str) -> tuple[RunImages, Item]:
        images = images_of(run)
        return images, images.find(image)

    def stored(images: RunImages, item: Item) -> np.ndarray:
        found: np.ndarray = images.keep(
            "stored", item, lambda: pixels.stored(images.image_path(item))
        )
        return found

    @routes.get("/review", include_in_schema=False)
    def review_page() -> HTMLResponse:
        found = []
        for name, run in desk.library.runs():
            if run.is_finished() and (run.path / "masks" / "manifest.csv").is_file():
                images = desk.opened.open(run)
                done = desk.reviews.state(images.run)
                verdicts = [each["verdict"] for each in done.values()]
                seconds = sum(each["seconds"] for each in done.values())
                found.append({
                    "id": name, "name": run.path.name, "images": len(images.items),
                    "done": len(done), "minutes": seconds / 60,
                    **{v: verdicts.count(v) for v in ("accepted", "edited", "rejected")},
                })  # fmt: skip
        return desk.pages.page("review", runs=found)

    @routes.get("/review/{run}", include_in_schema=False)
    def editor_page(run: str) -> HTMLResponse:
        images = images_of(run)
        return desk.pages.page("editor", id=run, name=images.run.path.name,
                               pipeline=images.run.record["pipeline"])  # fmt: skip

    @routes.get("/api/reviews/{run}")
    def list_items(run: str) -> dict[str, Any]:
        """All images of a run, the most uncertain first, with what was said of each."""
        images = images_of(run)
        done = desk.reviews.state(images.run)
        empty = {"version": 0, "verdict": "", "seconds": 0}
        return {
            "classes": images.classes,
            "background": images.has_background,
            "evidence": images.evidence_kinds,
            "items": [
                {"id": i.id, "name": i.name, "part": i.part, "tags": i.tags,
                 "confidence": i.confidence, **done.get(i.name, empty)}
                for i in images.items
            ],
        }  # fmt: skip

    @routes.get("/api/reviews/{run}/review.csv")
    def table(run: str) -> Response:
        """All reviews of a run."""
        path = images_of(run).run.path / FOLDER / "review.csv"
        if not path.is_file():
            raise UsageError.of("NOT-THERE", where="review.csv", found="no review yet",
                                expected="at least one", fix="review a mask")  # fmt: skip
        return FileResponse(path, media_type="text/csv", filename="review.csv")

    @routes.get("/api/reviews/{run}/{image}")
    def one_item(run: str, image: str) -> dict[str, Any]:
        """The mask as it is now, and facts of the image."""
        images, item = both(run, image)
        mask, version, verdict = desk.reviews.mask(images, item)
        return {
            "height": mask.shape[0], "width": mask.shape[1], "mask": mask_runs.encode(mask),
            "version": version, "verdict": verdict, **pixels.facts(stored(images, item)),
        }  # fmt: skip

    @routes.get("/api/reviews/{run}/{image}/image")
    def image_png(
        run: str, image: str, bands: str = "", low: Number | None = None, high: Number | None = None
    ) -> Response:
        """The image; of 16 bits in a window of values, of several bands a choice such as 4,3,2."""
        images, item = both(run, image)
        numbers = [int(each) for each in bands.split(",") if each.isdigit()]
        window = None if low is None or high is None else (low, high)
        return png(pixels.on_screen(stored(images, item), numbers, window), keep_seconds=300)

    @routes.get("/api/reviews/{run}/{image}/thumb")
    def thumb(run: str, image: str, version: int = 0) -> Response:  # noqa: ARG001 - for the cache
        """A small JPEG with the mask over it."""
        images, item = both(run, image)
        mask, _, _ = desk.reviews.mask(images, item)
        shown = pixels.on_screen(stored(images, item), (), None)
        shown = np.repeat(shown[..., None], 3, 2) if shown.ndim == 2 else shown
        colours = colours_like(images.card.get("class_colours", ()))
        drawn = overlay(shown, drawn_ids(mask, images.has_background), colours=colours)
        kept = {"cache-control": "private, max-age=3600"}
        return Response(small(drawn, THUMB_PX), media_type="image/jpeg", headers=kept)

    @routes.get("/api/reviews/{run}/{image}/evidence/{kind}/{number}")
    def evidence(run: str, image: str, kind: str, number: int) -> Response:
        """What speaks for a class, by its place from 0: grey PNG, 0 to 255 for 0 to 1, any size."""
        images, item = both(run, image)
        maps = images.evidence(item, kind)
        if not 0 <= number < len(maps):
            raise UsageError.of("NOT-THERE", where="class", found=number,
                                expected=f"0 to {len(maps) - 1}", fix="load the page anew"
                                )  # fmt: skip
        scaled = np.rint(np.clip(maps[number], 0, 1) * 255).astype(np.uint8)
        return png(scaled, keep_seconds=300)

    @routes.get("/api/reviews/{run}/{image}/superpixels")
    def superpixels(run: str, image: str, area: int = 250) -> Response:
        """Areas of one colour: PNG whose red, green, blue are the lowest digits of a number."""
        images, item = both(run, image)
        area = min(max(area, 30), 10_000)

        def make() -> np.ndarray:
            from skimage.segmentation import slic

            shown = pixels.on_screen(stored(images, item), (), None)
            shown = np.repeat(shown[..., None], 3, 2) if shown.ndim == 2 else shown
            count = max(2, shown.shape[0] * shown.shape[1] // area)
            found: np.ndarray = slic(shown, n_segments=count, compactness=12, start_label=0)
            return np.stack([found & 255, (found >> 8) & 255, found >> 16], 2).astype(np.uint8)

        return png(images.keep(f"superpixels {area}", item, make), keep_seconds=300)

    @routes.post("/api/reviews", responses={409: {"description": "another review was first"}})
    def save(sent: SentReview) -> JSONResponse:
        """Keep a review; the answer comes when it is on the disk. Sent twice, it counts once."""
        images, item = both(sent.run, sent.image)
        first = 1 if images.has_background else 0
        allowed = {0, IGNORE_INDEX, *range(first, first + len(images.class_names))}
        mask = None
        if sent.mask is not None:
            shape = image_size(images.image_path(item))
            mask = mask_runs.decode(sent.mask, shape, allowed)
        review = Review(sent.client_id, sent.verdict, sent.base_version, sent.seconds, mask)
        saved = desk.reviews.save(images, item, review)
        if not saved.conflict:
            return JSONResponse({"version": saved.version, "file": saved.file})
        kept = saved.file or "the database"
        problem = Problem(
            "REVIEW-CONFLICT", item.name,
            f"version {saved.version}, saved meanwhile; yours is kept in {kept}",
            f"version {sent.base_version}, which you have changed", "look at both, save one again",
        )  # fmt: skip
        return JSONResponse({"problems": [problem.as_dict()], "version": saved.version,
                             "file": saved.file}, 409)  # fmt: skip

    @routes.post("/api/reviews/{run}/retrain")
    def retrain(run: str, wanted: Retraining) -> dict[str, str]:
        """Start a run in which the reviewed masks are labels."""
        images = images_of(run)
        out, words = retrain_words(desk.library.root, images, wanted.name)
        job = desk.jobs.start("run", out, words)
        return {"next": "/runs", "job": job.id}

    return routes
