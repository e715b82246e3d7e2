"""A new run: the form, the command beside it, the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from fewmask.errors import UsageError
from fewmask.training.run_places import free_path
from fewmask.web import forms
from fewmask.web.advice import time_of
from fewmask.web.library import not_there

if TYPE_CHECKING:
    from fewmask.web.app import Desk

Value = bool | int | float | Annotated[str, Field(max_length=500)] | None


class NewRun(BaseModel):
    """A form filled in."""

    model_config = ConfigDict(extra="forbid")

    data: str
    pipeline: Literal["tags", "train", "saliency", "adapt"]
    name: str = Field(max_length=100)
    preset: str = "fast"
    settings: dict[str, Value] = Field(default={}, max_length=200)
    folders: dict[Literal["target", "test"], str] = {}
    reuse: str = ""
    own_split: bool = False


def words_of(desk: Desk, new: NewRun) -> list[str]:
    """The command of a form.

    Raises:
        UsageError: what is wrong in it.
    """
    library = desk.library
    return forms.command_of(
        forms.Choices(
            pipeline=new.pipeline,
            data=library.folder(new.data),
            out=forms.place_of(library.root, new.name),
            preset=new.preset,
            settings=new.settings,
            folders={name: library.folder(each) for name, each in new.folders.items() if each},
            reuse=library.run(new.reuse).path if new.reuse else None,
            own_split=new.own_split,
        )
    )


def router(desk: Desk) -> APIRouter:
    """Page and API."""
    routes = APIRouter(tags=["new runs"])

    @routes.get("/new/{data}/{pipeline}", include_in_schema=False)
    def new_page(data: str, pipeline: str) -> HTMLResponse:
        if pipeline not in forms.FORMS:
            raise not_there("pipeline", pipeline)
        path = desk.library.folder(data)
        fields = forms.fields_of(pipeline)
        folded: dict[str, list[forms.Field]] = {"general": []}
        for field in fields:
            if not field.in_sight:
                folded.setdefault(field.group, []).append(field)
        runs = [(name, run) for name, run in desk.library.runs()
                if run.record.get("pipeline") == pipeline]  # fmt: skip
        pictures = desk.albums.open(path).pictures
        images, masks = len(pictures), sum(each.mask is not None for each in pictures)
        others = {n: p.name for n, p in desk.library.folders().items() if n != data}
        return desk.pages.page(
            "new", data=data, data_name=path.name, pipeline=pipeline, images=images,
            name=free_path(desk.library.root / f"{path.name}-{pipeline}").name,
            presets=list(forms.FORMS[pipeline][1]),
            in_sight=[field for field in fields if field.in_sight],
            groups=list(folded.items()),
            folders=others if pipeline == "adapt" else {}, wants=forms.FOLDERS,
            runs={name: run.path.name for name, run in runs},
            has_split=(path / "split.csv").is_file(),
            time=time_of(pipeline, images, masks, [run for _, run in runs]),
        )  # fmt: skip

    @routes.get("/api/presets/{pipeline}/{preset}")
    def preset_values(pipeline: str, preset: str) -> dict[str, str]:
        """Each setting of a preset as one would type it."""
        if pipeline not in forms.FORMS:
            raise not_there("pipeline", pipeline)
        return forms.preset_values(pipeline, preset)

    @routes.post("/api/command")
    def command(new: NewRun) -> dict[str, Any]:
        """The command line of a form, or what is wrong in it; starts nothing."""
        try:
            return {"command": forms.shown(words_of(desk, new)), "problems": []}
        except UsageError as error:
            return {"command": "", "problems": [each.as_dict() for each in error.problems]}

    @routes.post("/api/runs")
    def start(new: NewRun) -> dict[str, str]:
        """Start a run in a process of its own."""
        words = words_of(desk, new)
        job = desk.jobs.start("run", desk.library.root / new.name, words)
        return {"next": "/runs", "job": job.id}

    return routes
