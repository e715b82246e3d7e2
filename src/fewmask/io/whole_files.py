"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewmask.errors import ResourceError


def write_whole(path: Path, data: bytes) -> None:
    """Write bytes under a temporary name beside ``path``, then rename.

    Raises:
        ResourceError: the disk refuses.
    """
    temporary = temporary_name(path)
    with as_disk_error(path):
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, that takes its name when the block ends without an error.

    Raises:
        ResourceError: the disk refuses.
    """
    temporary = temporary_name(path)
    with as_disk_error(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def temporary_name(path: Path) -> Path:
    """A hidden name beside ``path`` that nothing has."""
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.tmp")


@contextmanager
def as_disk_error(path: Path) -> Iterator[None]:
    """What the operating system refuses, as one kind of error."""
    try:
        yield
    except OSError as error:
        raise ResourceError.of(
            "DISK-WRITE",
            where=path,
            found=error.strerror or error,
            expected="a folder that exists, may be written and has room",
            fix="free space or choose another folder",
        ) from error
