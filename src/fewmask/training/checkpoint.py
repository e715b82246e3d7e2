"""Checkpoints that survive a kill at any moment and never load anything but what was saved.

A checkpoint is a directory of parts and a ``MANIFEST.json`` with the SHA-256 of each. It is written
under a temporary name in the same folder, every file is flushed to disk, the manifest goes last,
and a rename makes it visible. Loading accepts complete, unaltered checkpoints only; torch's own
format does not notice a flipped bit.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import nn

from fewmask.errors import CheckpointError, NumericalError, ResourceError

SCHEMA = 1
MANIFEST = "MANIFEST.json"
KEPT = 2


class Stateful(Protocol):
    """Anything with the two methods of torch's modules and optimisers."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings and containers of them."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put a state back."""


class CheckpointStore:
    """The checkpoints of one training loop: ``<folder>/step-00000120/`` and older ones.

    Args:
        folder: Where they live; made when the first is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: Mapping[str, Stateful], meta: Mapping[str, Any]) -> Path:
        """Write a complete checkpoint, then delete those it replaces (the newest two stay).

        Args:
            step: Number of finished steps.
            state: Networks go to safetensors, everything else to torch's restricted format.
            meta: JSON-ready facts, kept in the manifest.

        Raises:
            NumericalError: a network holds a value that is not finite; nothing is written.
            ResourceError: the disk is full or read-only; the older checkpoints stay.
        """
        for name, item in state.items():
            if isinstance(item, nn.Module):
                _require_finite(name, item)
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".tmp-{final.name}-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.remove_temporary()
            temporary.mkdir()
            parts = {}
            for name, item in state.items():
                path = temporary / (
                    name + (".safetensors" if isinstance(item, nn.Module) else ".pt")
                )
                if isinstance(item, nn.Module):
                    save_weights(path, item)
                else:
                    content = io.BytesIO()
                    torch.save(item.state_dict(), content)
                    write_atomically(path, content.getbuffer())
                parts[name] = {"file": path.name, "sha256": sha256_file(path)}
            manifest = {"schema": SCHEMA, "step": step, "parts": parts, "meta": dict(meta)}
            write_atomically(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
            sync(temporary)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            sync(self.folder)
        except (OSError, ResourceError) as error:
            shutil.rmtree(temporary, ignore_errors=True)  # the disk may be full because of it
            if isinstance(error, OSError):
                raise disk_error(self.folder, error) from error
            raise
        complete = self.complete()
        kept = complete[: complete.index(final) + 1][-KEPT:]  # newer ones were damaged
        for old in complete:
            if old not in kept:
                shutil.rmtree(old, ignore_errors=True)
        return final

    def complete(self) -> list[Path]:
        """Finished checkpoints, oldest first; their hashes are compared at loading."""
        found = [
            path
            for path in self.folder.glob("step-*")
            if re.fullmatch(r"step-\d+", path.name) and (path / MANIFEST).is_file()
        ]
        return sorted(found)

    def load_latest(self, state: Mapping[str, Stateful]) -> tuple[int, dict[str, Any], list[str]]:
        """Restore the newest intact checkpoint into ``state``.

        Returns:
            ``(step, meta, warnings)``; step 0 and empty meta if there is no checkpoint at all.
            Each warning names a damaged checkpoint that was passed over.

        Raises:
            CheckpointError: checkpoints exist but none is intact, or an intact one lacks a key of
                ``state`` or has one too many.
        """
        self.remove_temporary()
        warnings: list[str] = []
        candidates = self.complete()
        for path in reversed(candidates):
            try:
                manifest = verified_manifest(path)
            except CheckpointError as error:
                warnings.append(str(error))
                continue
            self._restore(path, manifest, state)
            return int(manifest["step"]), dict(manifest["meta"]), warnings
        if candidates:
            raise CheckpointError.of(
                "CHECKPOINT-DAMAGED",
                where=self.folder,
                found="; ".join(warnings),
                expected="at least one intact checkpoint",
                fix="delete the folder to start this stage again, or restore it from a backup",
            )
        return 0, {}, warnings

    def _restore(self, path: Path, manifest: dict[str, Any], state: Mapping[str, Stateful]) -> None:
        parts = manifest["parts"]
        missing, extra = sorted(set(state) - set(parts)), sorted(set(parts) - set(state))
        if missing or extra:
            raise CheckpointError.of(
                "STATE-KEY",
                where=path,
                found=f"missing: {', '.join(missing) or '-'}; unknown: {', '.join(extra) or '-'}",
                expected="exactly the state of this stage: " + ", ".join(sorted(state)),
                fix="resume with the version of fewmask that wrote it, or start a new run",
            )
        for name, item in state.items():
            part = _part(path, parts[name]["file"])
            try:
                if isinstance(item, nn.Module):
                    item.load_state_dict(safetensors.torch.load_file(part))
                else:
                    item.load_state_dict(torch.load(part, weights_only=True, map_location="cpu"))
            except Exception as error:
                raise CheckpointError.of(
                    "STATE-MISMATCH",
                    where=part,
                    found=str(error).splitlines()[0][:300],
                    expected=f"the state of {name!r} with the settings of this run",
                    fix="resume with unchanged settings, or start a new run",
                ) from error

    def remove_temporary(self) -> None:
        """Clear what a killed writer of this store left behind."""
        for path in self.folder.glob(".tmp-step-*"):
            shutil.rmtree(path, ignore_errors=True)


def verified_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint directory after every part's SHA-256 was compared.

    Raises:
        CheckpointError: unreadable or unknown manifest, or a part that is missing or altered.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        parts = {name: (part["file"], part["sha256"]) for name, part in manifest["parts"].items()}
        schema, step = manifest["schema"], int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path / MANIFEST, f"unreadable ({type(error).__name__})") from None
    if schema != SCHEMA:
        raise _damaged(path / MANIFEST, f"schema {schema}")
    if path.name != f"step-{step:08d}":
        raise _damaged(path / MANIFEST, f"step {step}")
    for file, expected in parts.values():
        part = _part(path, file)
        if not part.is_file():
            raise _damaged(part, "no file")
        if sha256_file(part) != expected:
            raise _damaged(part, "another SHA-256 than the manifest's")
    return dict(manifest)


def _part(path: Path, file: object) -> Path:
    """A part's file; whatever a manifest calls it, inside the checkpoint."""
    return path / Path(str(file)).name


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError.of(
        "CHECKPOINT-DAMAGED",
        where=path,
        found=found,
        expected="the bytes that were saved",
        fix="the previous checkpoint is used if there is one",
    )


def _require_finite(name: str, network: nn.Module) -> None:
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NumericalError.of(
                "NOT-FINITE",
                where=f"{name}.{key}",
                found="NaN or infinity",
                expected="finite weights",
                fix="lower the learning rate; the last good checkpoint is kept",
            )


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's state as safetensors, on the CPU, shared tensors written once each."""
    tensors = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    write_atomically(path, safetensors.torch.save(tensors))


def load_weights(path: Path, network: nn.Module) -> None:
    """Read what :func:`save_weights` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or belongs to another network.
    """
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except Exception as error:
        raise CheckpointError.of(
            "WEIGHTS",
            where=path,
            found=(str(error).splitlines() or [type(error).__name__])[0][:300],
            expected=f"safetensors weights of {type(network).__name__}",
            fix="`fewmask resume RUN` makes the missing or damaged stage again",
        ) from None


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a file of weights, by name; none if it cannot be read as one.

    :func:`load_weights` says what is wrong with such a file.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):
        return {}


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace a file so that a reader sees the old bytes or the new ones, never a part."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def remove_temporaries(folder: Path) -> None:
    """Delete what writers that were killed left below a folder under their temporary names."""
    for path in [*folder.rglob(".tmp-*"), *folder.rglob(".*.tmp")]:
        if path.is_file():
            path.unlink(missing_ok=True)


def disk_error(path: Path, error: OSError) -> ResourceError:
    """A failed write as an error with a way out; what was saved before is untouched."""
    return ResourceError.of(
        "DISK",
        where=path,
        found=f"{error.strerror or error} (errno {error.errno})",
        expected="a writable disk with space left",
        fix="free some space, then `fewmask resume RUN`; earlier checkpoints are intact",
    )
