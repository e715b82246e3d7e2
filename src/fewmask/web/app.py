"""The app put together: pages, the JSON API beside them, and one form for every error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from fewmask import __version__
from fewmask.errors import (
    CheckpointError,
    DataError,
    FewmaskError,
    LeakError,
    Problem,
    ResourceError,
    SecurityError,
    UsageError,
)
from fewmask.shortages import resource_error
from fewmask.web import (
    routes_compare,
    routes_data,
    routes_new,
    routes_reviews,
    routes_runs,
    routes_tries,
)
from fewmask.web.albums import Albums
from fewmask.web.gate import Gate, Rules, TooLarge
from fewmask.web.jobs import Jobs
from fewmask.web.library import Library
from fewmask.web.pages import Pages
from fewmask.web.reviews import Reviews
from fewmask.web.run_images import Opened
from fewmask.web.store import Store
from fewmask.web.trying import Tries

STATUS = {
    UsageError: 400, DataError: 422, LeakError: 409, CheckpointError: 409, ResourceError: 507,
    SecurityError: 403,
}  # fmt: skip
STATUS_OF_CODE = {"NOT-THERE": 404, "REVIEW-CONFLICT": 409, "RUN-LOCKED": 409, "RUN-IDLE": 409}


ROUTES = (routes_data, routes_new, routes_reviews, routes_compare, routes_runs, routes_tries)
Found = tuple[int, Sequence[Problem]]
"""Status of the answer, and what is wrong."""


@dataclass(frozen=True)
class Desk:
    """What every route works with."""

    store: Store
    library: Library
    jobs: Jobs
    albums: Albums
    opened: Opened
    reviews: Reviews
    tries: Tries
    pages: Pages


def new_desk(root: Path, data: tuple[Path, ...] = ()) -> Desk:
    """A desk for a folder of runs.

    Raises:
        ResourceError: the disk refuses.
    """
    store = Store(root)
    jobs = Jobs(store)
    return Desk(
        store=store,
        library=Library(root, data, store),
        jobs=jobs,
        albums=Albums(store.folder),
        opened=Opened(),
        reviews=Reviews(store),
        tries=Tries(store, jobs),
        pages=Pages(),
    )


def create_app(desk: Desk, rules: Rules) -> Gate:
    """The app; its API is described at ``/openapi.json``."""
    app = FastAPI(title="fewmask", version=__version__, docs_url=None, redoc_url=None)
    app.mount("/static", Kept(packages=[("fewmask.web", "static")]))
    for routes in ROUTES:
        app.include_router(routes.router(desk))
    kinds: dict[type[Exception], Callable[[Exception], Found]] = {
        FewmaskError: _told,
        RequestValidationError: _misshapen,
        HTTPException: _refused,
        Exception: _short_or_broken,
    }
    for kind, problems_of in kinds.items():
        app.add_exception_handler(kind, _answering(desk.pages, problems_of))
    return Gate(app, rules)  # around everything, answers to bugs too


class Kept(StaticFiles):
    """Style and scripts: their addresses have a digest, so that browsers may keep them."""

    async def get_response(self, path: str, scope: Scope) -> Any:
        """The file."""
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "private, max-age=31536000, immutable"
        return response


def _answering(pages: Pages, found_in: Callable[[Exception], Found]) -> Any:
    """A handler: problems as JSON, or as a page where one was asked for."""

    def answer(request: Request, error: Exception) -> Response:
        status, problems = found_in(error)
        told = [problem.as_dict() for problem in problems]
        asks_for_page = "text/html" in request.headers.get("accept", "")
        if asks_for_page and not request.url.path.startswith("/api/"):
            page = pages.page("problem", problems=told, section="")
            page.status_code = status
            return page
        return JSONResponse({"problems": told}, status)

    return answer


def _told(error: Exception) -> Found:
    problems = error.problems if isinstance(error, FewmaskError) else ()
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    return next((STATUS_OF_CODE.get(each.code, status) for each in problems), status), problems


def _misshapen(error: Exception) -> Found:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    return 422, [
        Problem("REQUEST", ".".join(map(str, each["loc"])), repr(each.get("input"))[:80],
                str(each["msg"]), "see /openapi.json")
        for each in found[:20]
    ]  # fmt: skip


def _refused(error: Exception) -> Found:
    status, detail = getattr(error, "status_code", 500), getattr(error, "detail", "")
    if isinstance(error, TooLarge):
        return status, [error.problem]
    return status, [Problem(f"HTTP-{status}", "request", str(detail), "an address of a page",
                            "go back to the start page")]  # fmt: skip


def _short_or_broken(error: Exception) -> Found:
    shortage = resource_error(error)
    if shortage is not None:
        return _told(shortage)
    return 500, [Problem("BUG", "server", type(error).__name__, "no such error",
                         "report it with what the terminal shows")]  # fmt: skip
