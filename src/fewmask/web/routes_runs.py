"""Runs: the list, one to watch, stop, resume; its curves, pictures and report."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from PIL import Image

from fewmask.training.run_folder import RunFolder
from fewmask.web import watching
from fewmask.web.jobs import stop_run
from fewmask.web.library import id_of, not_there

if TYPE_CHECKING:
    from fewmask.web.app import Desk

REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
)


def png(pixels: np.ndarray, *, keep_seconds: int = 0) -> Response:
    """Pixels as an answer.

    Args:
        pixels: uint8 (H, W), (H, W, 3) or (H, W, 4).
        keep_seconds: How long a browser may keep it.
    """
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    kept = {"cache-control": f"private, max-age={keep_seconds}"} if keep_seconds else {}
    return Response(stream.getvalue(), media_type="image/png", headers=kept)


def run_lines(desk: Desk) -> list[dict[str, Any]]:
    """The list of runs, newest first."""
    return [
        {
            **run.summary(),
            "id": name,
            "name": run.path.relative_to(desk.library.root).as_posix(),
            "created": str(run.record.get("created", ""))[:16].replace("T", " "),
            "data": str(run.record.get("data", "")).rpartition("/")[2],
            "data_id": id_of(str(run.record.get("data", ""))),
        }
        for name, run in desk.library.runs()
    ]


def state(desk: Desk, name: str) -> dict[str, Any]:
    """What the page of a run shows and that changes."""
    run = desk.library.run(name)
    found = watching.state_of(run, [other for _, other in desk.library.runs()])
    job = desk.jobs.latest(run.path, "resume", "run")
    resuming = job is not None and job.alive and found["state"] != "running"
    failed = job is not None and not job.alive and job.kind == "resume"
    said = job.log.strip().splitlines()[-8:] if job and failed else []
    return {**found, "resuming": resuming, "resume_said": said}


def router(desk: Desk) -> APIRouter:
    """Pages and API."""
    routes = APIRouter(tags=["runs"])

    @routes.get("/", include_in_schema=False)
    def start() -> RedirectResponse:
        return RedirectResponse("/runs", 303)

    @routes.get("/runs", include_in_schema=False)
    def runs_page() -> HTMLResponse:
        return desk.pages.page("runs", **_list(desk), root=str(desk.library.root))

    @routes.get("/runs/live", include_in_schema=False)
    def runs_live() -> HTMLResponse:
        return desk.pages.page("runs_live", **_list(desk))

    @routes.get("/runs/{name}", include_in_schema=False)
    def run_page(name: str) -> HTMLResponse:
        run = desk.library.run(name)
        return desk.pages.page("run", id=name, run=_head(desk, run), state=state(desk, name))

    @routes.get("/runs/{name}/live", include_in_schema=False)
    def run_live(name: str) -> HTMLResponse:
        run = desk.library.run(name)
        return desk.pages.page("run_live", id=name, run=_head(desk, run), state=state(desk, name))

    @routes.get("/runs/{name}/report", include_in_schema=False)
    def report(name: str) -> Response:
        path = desk.library.run(name).path / "report.html"
        if not path.is_file():
            raise not_there("report", name)
        return HTMLResponse(path.read_bytes(), headers={"content-security-policy": REPORT_POLICY})

    @routes.get("/api/runs")
    def list_runs() -> list[dict[str, Any]]:
        """All runs, newest first."""
        return run_lines(desk)

    @routes.get("/api/runs/{name}")
    def one_run(name: str) -> dict[str, Any]:
        """Stages, time left, the end of the log, names of pictures."""
        return state(desk, name)

    @routes.get("/api/runs/{name}/curves")
    def run_curves(name: str) -> list[dict[str, Any]]:
        """What the loops have recorded, at most 300 points a curve."""
        return watching.curves_of(desk.library.run(name))

    @routes.get("/api/runs/{name}/previews")
    def run_previews(name: str) -> dict[str, Any]:
        """Which pictures of finished stages there are."""
        return watching.previews(desk.library.run(name))

    @routes.get("/api/runs/{name}/previews/{row}/{kind}")
    def run_preview(name: str, row: int, kind: Literal["image", "evidence", "target"]) -> Response:
        """One of them, PNG."""
        return png(watching.preview(desk.library.run(name), row, kind), keep_seconds=60)

    @routes.get("/api/runs/{name}/samples/{picture:path}")
    def run_sample(name: str, picture: str) -> Response:
        """A picture of `samples/`, PNG."""
        path = watching.sample(desk.library.run(name), picture)
        return FileResponse(path, media_type="image/png")

    @routes.post("/api/runs/{name}/stop")
    def stop(name: str) -> dict[str, str]:
        """Ask the run to save and stop."""
        stop_run(desk.library.run(name))
        return {"next": f"/runs/{name}"}

    @routes.post("/api/runs/{name}/resume")
    def resume(name: str) -> dict[str, str]:
        """Go on with a run in a new process."""
        run = desk.library.run(name)
        with run.locked():
            pass  # refuses while a process works on it
        desk.jobs.start("resume", run.path, ["resume", run.path])
        return {"next": f"/runs/{name}"}

    @routes.post("/api/jobs/{name}/stop")
    def stop_job(name: str) -> dict[str, str]:
        """Ask a process that was started here to stop."""
        desk.jobs.stop(name)
        return {"next": "/runs"}

    @routes.post("/api/jobs/{name}/forget")
    def forget_job(name: str) -> dict[str, str]:
        """Strike a process that has ended off the list."""
        desk.jobs.forget(name)
        return {"next": "/runs"}

    return routes


def _list(desk: Desk) -> dict[str, Any]:
    beginning = [
        {
            "id": job.id, "name": job.about.rpartition("/")[2], "command": job.command,
            "alive": job.alive, "said": job.log.strip()[-1500:],
        }
        for job in desk.jobs.beginning()
    ]  # fmt: skip
    return {"runs": run_lines(desk), "beginning": beginning}


def _head(desk: Desk, run: RunFolder) -> dict[str, Any]:
    data = str(run.record.get("data", ""))
    data_id = id_of(data)
    return {
        "name": run.path.relative_to(desk.library.root).as_posix(),
        "path": str(run.path),
        "created": str(run.record.get("created", ""))[:16].replace("T", " "),
        "data": data,
        "data_id": data_id if data_id in desk.library.folders() else "",
        "device": str(run.record.get("device", "")),
        "images": watching.image_count(run),
        "command": str(run.record.get("command", "")),
    }
