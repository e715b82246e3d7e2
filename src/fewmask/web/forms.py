"""A run set up in the browser: a form made from the settings' schema, and the command it means.

The form and the command line have the same settings, the same words and the same checks. Only
settings that name a file are left to the command line: no page takes a path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewmask.cli_pipelines import VERBS, as_flags
from fewmask.config import Settings, resolve
from fewmask.errors import Problem, UsageError, shell_command
from fewmask.pipelines import adapt_config, saliency_config, supervised_config, tags_config
from fewmask.training.run_folder import RunFolder

FORMS: dict[str, tuple[type[Settings], dict[str, dict[str, Any]]]] = {
    "tags": (tags_config.TagsConfig, tags_config.PRESETS),
    "train": (supervised_config.SupervisedConfig, supervised_config.PRESETS),
    "saliency": (saliency_config.SaliencyConfig, saliency_config.PRESETS),
    "adapt": (adapt_config.AdaptConfig, adapt_config.PRESETS),
}
"""Settings and presets of what can be started here."""

IN_SIGHT = ("class_name", "image_size", "seen_from_above", "segment_epochs", "seed")
"""Beside the preset; the rest is folded."""
FOLDERS = ("target", "test")
"""Settings that are chosen among the data folders."""
WORDS = ("class_name", "class_names", "group_pattern")
"""Texts that are never taken for a file's name."""
WEIGHTS = ("packaged", "imagenet", "none")
_LIKE_A_FILE = re.compile(r"[/\\]|^[.~-]|\.(safetensors|pth|pt|onnx|ya?ml|csv|txt)$")
_RUN_NAME = re.compile(r"[^\W_][\w .+=-]{0,79}")
_WORD = re.compile(r"[\s,;]+")


@dataclass(frozen=True)
class Field:
    """One setting in the form.

    Attributes:
        name: Of the setting.
        kind: ``yes-no``, ``choice``, ``number``, ``list`` or ``text``.
        help: What it is.
        choices: Of a choice.
        group: First word of the name where several settings share it.
        in_sight: Whether it is shown without unfolding.
    """

    name: str
    kind: str
    help: str
    choices: tuple[str, ...]
    group: str
    in_sight: bool


@dataclass(frozen=True)
class Choices:
    """What was chosen in a form.

    Attributes:
        pipeline: One of :data:`FORMS`.
        data: The data folder.
        out: Where the run will be.
        preset: Name of the preset.
        settings: By name, as typed; lists as text with spaces.
        folders: Of :data:`FOLDERS`, those that were chosen.
        reuse: A run whose finished stages may be copied.
        own_split: Whether to take the data folder's ``split.csv``.
    """

    pipeline: str
    data: Path
    out: Path
    preset: str
    settings: Mapping[str, Any]
    folders: Mapping[str, Path]
    reuse: Path | None = None
    own_split: bool = False


def fields_of(pipeline: str) -> list[Field]:
    """The settings of a pipeline that can be set here, in the order of its schema."""
    properties = FORMS[pipeline][0].model_json_schema()["properties"]
    plain = {name: facts for name, facts in properties.items() if "path" not in _formats(facts)}
    firsts = [name.partition("_")[0] for name in plain]
    return [
        Field(
            name, *_kind(name, facts), first if firsts.count(first) > 2 else "general",
            name in IN_SIGHT,
        )
        for (name, facts), first in zip(plain.items(), firsts, strict=True)
    ]  # fmt: skip


def _kind(name: str, facts: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """Kind, help and choices of a setting."""
    told = " ".join(str(facts.get("description", "")).split())
    types = {facts.get("type"), *(each.get("type") for each in facts.get("anyOf", ()))}
    if "array" in types:
        return "list", told, ()
    if name.endswith("_weights"):
        return "choice", told, WEIGHTS
    if choices := facts.get("enum"):
        return "choice", told, tuple(map(str, choices))
    if "boolean" in types:
        return "yes-no", told, ()
    return ("number" if types & {"integer", "number"} else "text"), told, ()


def _formats(facts: Mapping[str, Any]) -> set[str]:
    return {str(each.get("format")) for each in (facts, *facts.get("anyOf", ()))}


def preset_values(pipeline: str, preset: str) -> dict[str, str]:
    """Each setting of a preset as one would type it.

    Raises:
        UsageError: no such preset.
    """
    schema, presets = FORMS[pipeline]
    resolved = resolve(schema, presets, preset)
    return {field.name: _typed(getattr(resolved, field.name)) for field in fields_of(pipeline)}


def _typed(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def command_of(choices: Choices) -> list[str]:
    """The words of the command that a form stands for.

    Raises:
        UsageError: every setting that is wrong, each with its name in ``where``.
    """
    schema, presets = FORMS[choices.pipeline]
    fields = {field.name: field for field in fields_of(choices.pipeline)}
    asked = {name: value for name, value in choices.settings.items() if value not in ("", None)}
    problems = [
        Problem("SETTING-UNKNOWN", f"settings: {name}", "a setting that is not in the form",
                "one of the form's", "use the command line for settings that name a file")
        for name in asked if name not in fields
    ]  # fmt: skip
    given: dict[str, Any] = {}
    for name, value in asked.items():
        if name in fields:
            parts = [part for part in _WORD.split(str(value).strip()) if part]
            given[name] = parts if fields[name].kind == "list" else value
            texts = parts if fields[name].kind == "list" else [str(value)]
            problems += _like_a_file(name, fields[name], texts)
    if problems:
        raise UsageError(*problems)
    resolved = resolve(schema, presets, choices.preset, overrides={**given, **choices.folders})
    flags = as_flags({name: getattr(resolved, name) for name in given})
    for name, path in choices.folders.items():
        flags += [f"--{name}", path]
    if choices.reuse:
        flags += ["--reuse", choices.reuse]
    if choices.own_split:
        flags += ["--split-file", choices.data / "split.csv"]
    first = VERBS.get(choices.pipeline, [choices.pipeline])
    words = [*first, choices.data, "-o", choices.out, "--preset", choices.preset, *flags]
    return [str(word) for word in words]


def _like_a_file(name: str, field: Field, texts: list[str]) -> list[Problem]:
    """What would be taken for a file, or in a list for a flag."""
    wrong = [text for text in texts if field.kind == "list" and text.startswith("-")]
    if name not in WORDS and field.kind in {"text", "list"}:
        wrong += [text for text in texts if _LIKE_A_FILE.search(text)]
    if field.kind == "choice":
        wrong += [text for text in texts if text not in field.choices]
    expected = ", ".join(field.choices) or "a name or number, no file and no flag"
    return [
        Problem("SETTING-VALUE", f"settings: {name}", repr(text), expected,
                "use the command line for files" if not field.choices else field.help)
        for text in dict.fromkeys(wrong)
    ]  # fmt: skip


def place_of(root: Path, name: str) -> Path:
    """Where a run of that name goes.

    Raises:
        UsageError: the name would lead elsewhere, or something is there.
    """
    if not _RUN_NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise UsageError.of(
            "RUN-NAME", where="name", found=repr(name[:90]),
            expected="letters, digits, space and - _ . + =, beginning with a letter or digit",
            fix="choose another name",
        )  # fmt: skip
    RunFolder.require_free(root / name)
    return root / name


def shown(words: list[str]) -> str:
    """The command as one would type it."""
    return shell_command(*words)
