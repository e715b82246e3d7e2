"""Try a run on a file: drop it, see the overlay, download the mask."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from fewmask.pipelines.finished import read_card
from fewmask.web import trying
from fewmask.web.gate import MAX_UPLOAD, MEGABYTE
from fewmask.web.library import not_there

if TYPE_CHECKING:
    from fewmask.web.app import Desk


def router(desk: Desk) -> APIRouter:
    """Page and API."""
    routes = APIRouter(tags=["try"])

    @routes.get("/try", include_in_schema=False)
    def try_page(run: str = "") -> HTMLResponse:
        runs = [{"id": name, "name": each.path.name} for name, each in desk.library.runs()
                if each.is_finished()]  # fmt: skip
        return desk.pages.page("try", runs=runs, chosen=run, kinds=list(trying.KINDS),
                               most_mb=MAX_UPLOAD // MEGABYTE)  # fmt: skip

    @routes.post("/api/tries", openapi_extra={"requestBody": {"content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}
    )  # fmt: skip
    async def new_try(
        request: Request, run: str, name: Annotated[str, Query(max_length=300)]
    ) -> dict[str, str]:
        """Predict a file; its bytes are the body, its name says which kind it is."""
        suffix = trying.kind_of(name)
        opened = await to_thread.run_sync(desk.library.run, run)
        read_card(opened)
        image = await to_thread.run_sync(desk.tries.new_place, suffix)
        try:
            with image.open("wb") as stream:
                head = b""
                async for part in request.stream():
                    if len(head) < 8:
                        head += part[:8]
                        if len(head) >= 8:
                            trying.require_kind(head, suffix, name)
                    await to_thread.run_sync(stream.write, part)
            trying.require_kind(head, suffix, name)
            return {"id": await to_thread.run_sync(desk.tries.start, opened.path, image)}
        except BaseException:
            desk.tries.discard(image)
            raise

    @routes.get("/api/tries/{name}")
    def one_try(name: str) -> dict[str, Any]:
        """Whether it is done, and what it said if it has failed."""
        found = desk.tries.find(name)
        state = "running" if found.job.alive else "finished" if found.mask else "failed"
        said = found.job.log.strip().splitlines()[-4:]
        return {"state": state, "said": said, "overlay": found.overlay is not None,
                "mask": found.mask.name if found.mask else ""}  # fmt: skip

    @routes.get("/api/tries/{name}/overlay")
    def overlay(name: str) -> Response:
        """The picture with the mask over it; of a volume the slices with most of it."""
        found = desk.tries.find(name)
        if found.overlay is None:
            raise not_there("overlay", name)
        kind = "image/jpeg" if found.overlay.suffix == ".jpg" else "image/png"
        return FileResponse(found.overlay, media_type=kind)

    @routes.get("/api/tries/{name}/mask")
    def mask(name: str, stem: Annotated[str, Query(max_length=100)] = "mask") -> Response:
        """The mask as a download: PNG, GeoTIFF on the scene's grid, or NIfTI on the volume's."""
        found = desk.tries.find(name)
        if found.mask is None:
            raise not_there("mask", name)
        stem = re.sub(r"[^\w-]+", "_", stem, flags=re.ASCII).strip("_") or "mask"
        file_name = stem + found.mask.name.removeprefix("image")
        return FileResponse(found.mask, filename=file_name, media_type="application/octet-stream")

    return routes
