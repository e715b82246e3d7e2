"""Data folders: their images, what is wrong with them, a repaired copy, and what fits."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response

from fewmask.errors import UsageError
from fewmask.training.run_places import free_path
from fewmask.web.advice import advise
from fewmask.web.albums import VIEW_PX, small
from fewmask.web.jobs import Job

if TYPE_CHECKING:
    from fewmask.web.app import Desk

KEPT = {"cache-control": "private, max-age=3600"}


def folders(desk: Desk) -> list[dict[str, Any]]:
    """All data folders, and how many runs were made from each."""
    made = Counter(str(run.record.get("data")) for _, run in desk.library.runs())
    return [
        {"id": name, "name": path.name, "path": str(path), "runs": made[str(path)]}
        for name, path in desk.library.folders().items()
    ]


def facts(desk: Desk, name: str) -> dict[str, Any]:
    """The latest check and the latest repaired copy of a folder, and what it is good for.

    Returns:
        ``check`` and ``fix`` (None, or ``running``, ``result``, ``said``), ``advice``.
    """
    root = desk.library.folder(name)
    check, fix = (_outcome(desk.jobs.latest(root, kind)) for kind in ("check", "fix"))
    report = (check or {}).get("result") or {}
    others = len(desk.library.folders()) - 1
    runs = [run for _, run in desk.library.runs()]
    advice = advise(report, runs, other_folders=others) if "uses" in report else []
    return {
        "check": check,
        "fix": fix,
        "advice": [asdict(each) for each in advice],
        "counts": report.get("counts", {}),
        "problems": report.get("problems", []),
        "notes": report.get("notes", []),
        "repairs": report.get("repairs", []),
        "layout": report.get("layout", "plain folder"),
        "is_foreign": "layout" in report,
        "copy": _copy_of(desk, root),
    }


def _outcome(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    result = job.result
    if result is not None:
        result.pop("digests", None)
        result.get("copy", {}).pop("digests", None)
    said = job.log.strip().splitlines()[-6:] if not job.alive and result is None else []
    return {"job": job.id, "running": job.alive, "result": result, "said": said,
            "created": job.created}  # fmt: skip


def _copy_of(desk: Desk, root: Path) -> dict[str, str] | None:
    """The folder that the latest job has written, once it is there."""
    rows = desk.store.rows(
        "SELECT words FROM jobs WHERE about = ? AND kind = 'fix' ORDER BY created DESC LIMIT 1",
        str(root),
    )
    known = {str(path): name for name, path in desk.library.folders().items()}
    for row in rows:
        for path, name in known.items():
            if f'"{path}"' in row["words"] and path != str(root):
                return {"id": name, "name": Path(path).name}
    return None


def router(desk: Desk) -> APIRouter:
    """Pages and API."""
    routes = APIRouter(tags=["data"])

    @routes.get("/data", include_in_schema=False)
    def data_page() -> HTMLResponse:
        return desk.pages.page("data", folders=folders(desk))

    @routes.get("/data/{name}", include_in_schema=False)
    def folder_page(name: str) -> HTMLResponse:
        path = desk.library.folder(name)
        return desk.pages.page("folder", id=name, path=str(path), name=path.name,
                               **facts(desk, name))  # fmt: skip

    @routes.get("/data/{name}/live", include_in_schema=False)
    def folder_live(name: str) -> HTMLResponse:
        return desk.pages.page("folder_live", id=name, **facts(desk, name))

    @routes.get("/api/data")
    def list_folders() -> list[dict[str, Any]]:
        """All data folders."""
        return folders(desk)

    @routes.get("/api/data/{name}")
    def one_folder(name: str) -> dict[str, Any]:
        """The latest check, the latest repaired copy, and what the folder is good for."""
        return facts(desk, name)

    @routes.get("/api/data/{name}/images")
    def images(
        name: str,
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 200,
        show: str = "",
        text: Annotated[str, Query(max_length=200)] = "",
        again: bool = False,
    ) -> dict[str, Any]:
        """A part of the list of images, their tags, and whether they have a mask."""
        album = desk.albums.open(desk.library.folder(name), again=again)
        chosen = album.chosen(show, text)
        return {
            "total": len(chosen),
            "of": len(album.pictures),
            "class_names": album.class_names,
            "images": [
                {"id": p.id, "name": p.name, "tags": p.tags, "mask": p.mask is not None}
                for p in chosen[offset : offset + limit]
            ],
        }

    @routes.get("/api/data/{name}/images/{image}/thumb")
    def thumb(name: str, image: str) -> Response:
        """A small JPEG."""
        album = desk.albums.open(desk.library.folder(name))
        made = desk.albums.thumb(album.find(image))
        return Response(made, media_type="image/jpeg", headers=KEPT)

    @routes.get("/api/data/{name}/images/{image}/view")
    def view(name: str, image: str) -> Response:
        """A large JPEG with the mask over it."""
        album = desk.albums.open(desk.library.folder(name))
        drawn = small(album.drawn(album.find(image)), VIEW_PX)
        return Response(drawn, media_type="image/jpeg", headers=KEPT)

    @routes.post("/api/data/{name}/check")
    def check(name: str) -> dict[str, str]:
        """Check the folder in a process of its own."""
        root = desk.library.folder(name)
        _require_idle(desk, root)
        desk.albums.open(root, again=True)
        desk.jobs.start("check", root, ["check", root, "--json"])
        return {"next": f"/data/{name}"}

    @routes.post("/api/data/{name}/fix")
    def fix(name: str) -> dict[str, str]:
        """Write a repaired copy beside the folder, which stays as it is."""
        root = desk.library.folder(name)
        _require_idle(desk, root)
        copy = free_path(root.with_name(f"{root.name}-fixed"))
        desk.library.add_folder(copy)
        desk.jobs.start("fix", root, ["check", root, "--fix", copy, "--json"])
        return {"next": f"/data/{name}"}

    return routes


def _require_idle(desk: Desk, root: Path) -> None:
    job = desk.jobs.latest(root, "check", "fix")
    if job is not None and job.alive:
        raise UsageError.of("JOB-RUNS", where=root, found="a check at work",
                            expected="one at a time", fix="wait for it")  # fmt: skip
