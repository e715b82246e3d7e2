"""The stages of a run: which to run, what each is made from, and the runner that calls them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fewmask import __version__
from fewmask.config import Settings
from fewmask.errors import CheckpointError, ResourceError, UsageError
from fewmask.training.checkpoint import sha256_file
from fewmask.training.device import peak_gigabytes
from fewmask.training.distributed import from_first, processes, wait_for_all
from fewmask.training.reuse import take_over
from fewmask.training.run_folder import Stage
from fewmask.training.signals import stop_if_asked
from fewmask.training.workspace import Workspace


@dataclass(frozen=True)
class StageSpec:
    """One line of a pipeline's table of stages.

    Attributes:
        name: Also the name, or the first word of the names, of settings that only this stage reads.
        function: Does the work inside the stage's folder.
        reads: Stages whose files it reads; it is made again when one of them is.
        settings: Names of further settings that it reads, or how these begin.
        shared: One for all folds.
        masks: It reads the user's true masks; it is made again when they change.
        outside: It writes to the run's own folders too, so it is not copied from another run.
        together: Its work is a training whose batches all processes of a run share; what it writes
            to is ``work.run`` and the stage. Others are made by the first process alone.
    """

    name: str
    function: Callable[[Workspace, Stage], None]
    reads: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    shared: bool = False
    masks: bool = False
    outside: bool = False
    together: bool = False

    def reads_setting(self, name: str) -> bool:
        """Whether a setting is one of its own: by its whole name, or by its first words."""
        return any(f"{name}_".startswith(f"{own}_") for own in (self.name, *self.settings))

    def folder(self, work: Workspace) -> str:
        """Sub-folder of the run in which the stage lies."""
        return "" if self.shared else work.folder


def selected_stages(
    specs: Sequence[StageSpec], wanted: Sequence[str], needs: Mapping[str, Sequence[str]]
) -> list[str]:
    """The stages wanted and all that they cannot do without, in running order.

    Args:
        specs: The pipeline's stages.
        wanted: Names of stages.
        needs: For a stage, those without which it cannot run; they may need others in turn.

    Raises:
        UsageError: a name that is no stage.
    """
    names = [spec.name for spec in specs]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise UsageError.of(
            "STAGE-UNKNOWN",
            where="--stages",
            found=", ".join(unknown),
            expected="some of " + " ".join(names),
            fix="correct the name",
        )
    selected, rest = set(), list(wanted)
    while rest:
        name = rest.pop()
        if name not in selected:
            selected.add(name)
            rest += needs.get(name, ())
    return [name for name in names if name in selected]


def run_stages(work: Workspace, specs: Sequence[StageSpec], selected: Sequence[str]) -> None:
    """Run the selected stages in order; finished ones with unchanged inputs are kept.

    Other processes of the run, if there are any, are in
    :func:`fewmask.training.following.follow_stages` meanwhile.

    Raises:
        UsageError: a file that a setting names is not there.
        KeyboardInterrupt: a signal has asked for a stop between two stages.
    """
    made_from = inputs_of_stages(work, specs, selected)
    reuse = work.config.reuse
    for number, spec in enumerate(specs, start=1):
        if spec.name not in made_from:
            continue
        inputs = made_from[spec.name]
        path = work.run.stage_path(number, spec.name, spec.folder(work))
        if reuse and not spec.outside and not path.exists():
            stop_if_asked()
            new = Stage(work.run, path, spec.name, inputs.key)
            if take_over(reuse, new):
                work.after_stage(new)
        stage = work.run.stage(number, spec.name, inputs.key, folder=spec.folder(work))
        work.stages[spec.name] = stage
        if from_first(stage.done):
            work.run.log(f"{stage.label}: done before")
            continue
        stop_if_asked()
        work.run.set_status("running", stage=stage.label)
        if spec.together:
            wait_for_all()  # until the others have copied what is there of it
        elif processes() > 1:
            work.run.log(f"{stage.label}: made by one process, the others wait")
        try:
            spec.function(work, stage)
        except BaseException:
            with suppress(OSError, ResourceError):  # what went wrong first is told
                stage.keep_seconds()
            raise
        seconds = stage.seconds
        peak = round(peak_gigabytes(work.device), 2)
        stage.finish(seconds=round(seconds, 1), peak_gb_so_far=peak, made_from=inputs.facts)
        work.run.log(f"{stage.label}: {seconds:.0f} s")
        work.after_stage(stage)
        wait_for_all()


class StageInputs(NamedTuple):
    """What a stage is made from.

    Attributes:
        key: Digest of all of it.
        facts: Settings, and digests of images and masks if it reads them, each by name: to tell
            what has changed where the key has.
    """

    key: str
    facts: dict[str, dict[str, Any]]


NOT_AN_INPUT = {
    "device", "threads", "workers", "tensorboard", "stages", "folds", "save_probs", "reuse",
    "saliency_cache",
}  # fmt: skip


def inputs_of_stages(
    work: Workspace, specs: Sequence[StageSpec], selected: Sequence[str]
) -> dict[str, StageInputs]:
    """The inputs of the selected stages, as settings and data are now.

    Raises:
        UsageError: a file that a setting names is not there.
    """
    everything = settings_by_content(work.config)
    settings = {name: value for name, value in everything.items() if name not in NOT_AN_INPUT}
    read_by = {name: [s.name for s in specs if s.reads_setting(name)] for name in settings}
    general = {name: value for name, value in settings.items() if not read_by[name]}
    files = input_files(work.config)
    found: dict[str, StageInputs] = {}
    for spec in specs:
        if spec.name not in selected:
            continue
        own = {name: value for name, value in settings.items() if spec.name in read_by[name]}
        images = work.image_facts if spec.name == "prepare" else None
        masks = work.mask_facts if spec.masks else None
        key = digest(
            {
                "stage": spec.name,
                "general": general,
                "own": own,
                "inputs": {name: found[name].key for name in spec.reads if name in found},
                "data": None if images is None else digest(images),
                "masks": None if masks is None else digest(masks),
                "fold": None if spec.shared else [work.fold, work.config.folds],
            }
        )
        read = {n: f"file {v[:12]}" if n in files else v for n, v in (general | own).items()}
        facts = {
            "settings": read,
            "images": {image[0]: digest(image) for image in images or ()},
            "masks": {name: mask for name, mask in masks or () if mask},
        }
        found[spec.name] = StageInputs(key, facts)
    return found


def input_files(config: Settings) -> dict[str, Path]:
    """The files that settings name, by setting."""
    folders = {*config.data_folders, *NOT_AN_INPUT}
    files = {n: value for n, value in config if isinstance(value, Path) and n not in folders}
    for name, value in config:
        if name.endswith("_weights") and value not in {"packaged", "imagenet", "none"}:
            files[name] = Path(value)
    return files


def settings_by_content(config: Settings) -> dict[str, Any]:
    """The settings as they enter stage keys: a file is what is in it, wherever it lies.

    Folders of images are left out: what is in them enters with the images.

    Raises:
        UsageError: a file is not there.
    """
    settings = config.model_dump(mode="json", exclude=set(config.data_folders))
    for name, path in input_files(config).items():
        if not path.is_file():
            raise UsageError.of(
                "FILE-MISSING",
                where=f"{name}: {path}",
                found="no such file",
                expected="the file that this setting names",
                fix="correct the path, or put the file back",
            )
        settings[name] = sha256_file(path)
    return settings


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_changed(work: Workspace, specs: Sequence[StageSpec], selected: Sequence[str]) -> None:
    """Refuse to go on with a run whose finished stages were made from other data or settings.

    Or by another version of fewmask, which makes its stages from something else.

    Raises:
        CheckpointError: names what has changed. A stage that is unfinished or damaged is no reason.
    """
    stages: list[str] = []
    recorded = True
    changes: dict[str, None] = {}
    made_from = inputs_of_stages(work, specs, selected)
    for number, spec in enumerate(specs, start=1):
        if spec.name not in made_from:
            continue
        inputs = made_from[spec.name]
        path = work.run.stage_path(number, spec.name, spec.folder(work))
        record = Stage(work.run, path, spec.name, inputs.key).done_record()
        if record and record["key"] != inputs.key:
            stages.append(spec.name)
            recorded &= "made_from" in record
            if "made_from" in record:
                changes.update(dict.fromkeys(changed(record["made_from"], inputs.facts)))
    if stages:
        raise CheckpointError.of(
            "RUN-CHANGED",
            where=work.run.path,
            found="; ".join([*changes, *_other_version(work, bool(changes), recorded)]),
            expected=f"what its finished stages ({', '.join(stages)}) were made from",
            fix="restore it, or start a new run with another -o; nothing was touched"
            + (", and predict, evaluate and report still work" * work.run.is_finished()),
        )


def _other_version(work: Workspace, changed: bool, recorded: bool) -> list[str]:
    """What to suspect beside, or in place of, changes that are known by name."""
    before = dict(work.run.record.get("versions") or {}).get("fewmask", __version__)
    if before not in (__version__, "not installed"):
        return [f"fewmask {__version__}, the run was made by fewmask {before}"]
    if changed:
        return []
    if not recorded:
        return ["other data or settings; which, is not recorded"]
    return ["the same data and settings, so another state of fewmask's own code made the run"]


def changed(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The differences between two :attr:`StageInputs.facts`, in words, with up to five names each.

    >>> changed({"images": {"a": 1, "b": 1}}, {"images": {"b": 2, "c": 1}})
    ['images added: c', 'images removed: a', 'images altered (file, tags or group): b']
    >>> changed({"settings": {"seed": 0}}, {"settings": {"seed": 1, "folds": 2}})
    ['folds 2, was not there', 'seed 1, was 0']
    """
    lines = []
    for kind, what in (("images", "file, tags or group"), ("masks", "file")):
        old, new = before.get(kind, {}), now.get(kind, {})
        for word, names in (
            ("added", new.keys() - old.keys()),
            ("removed", old.keys() - new.keys()),
            (f"altered ({what})", {n for n in old.keys() & new.keys() if old[n] != new[n]}),
        ):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                lines.append(f"{kind} {word}: {', '.join(sorted(names)[:5])}{more}")
    old, new = before.get("settings", {}), now.get("settings", {})
    differ = [n for n in sorted(old.keys() | new.keys()) if old.get(n, ...) != new.get(n, ...)]
    return lines + [f"{n} {new.get(n, 'gone')}, was {old.get(n, 'not there')}" for n in differ]
