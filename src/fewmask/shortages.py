"""What the machine refuses (memory, disk, rights) as an error with a fix."""

from __future__ import annotations

import errno

from fewmask.errors import ResourceError

SHORTAGES = (
    "out of memory",  # CUDA
    "can't allocate memory",  # torch on Linux
    "insufficient memory",  # OpenCV
    "exited unexpectedly",  # a loader process that the system has killed
    "is killed by signal",
)
"""Said by libraries whose errors have no class of their own."""

MEMORY = (
    "enough memory",
    "a smaller --image-size or batch size, fewer --workers; finished stages are kept",
)
FULL = ("a disk with space left", "free some space; finished stages are kept")
CLOSED = ("files that you may read, a folder that you may write to", "chmod, or another place")
SYSTEM = {
    errno.ENOMEM: MEMORY,
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EMFILE: ("fewer open files", "fewer --workers, or a higher limit (ulimit -n 4096)"),
    errno.EROFS: CLOSED,
    errno.EACCES: CLOSED,
    errno.EPERM: CLOSED,
}
"""By the number of an error of the operating system: what is expected, and the fix."""


def resource_error(error: Exception) -> ResourceError | None:
    """The error of a machine that has too little, or forbids something; None for other errors."""
    if isinstance(error, MemoryError):
        return _resources("more memory than there is")
    lines = str(error).splitlines() or [type(error).__name__]
    if isinstance(error, OSError):
        default = "files that can be read and written", "see to that file or device, then try again"
        where = error.filename or "this machine"
        expected, fix = SYSTEM.get(error.errno or 0, default)
        return _resources(error.strerror or lines[0], where, expected, fix)
    found = next((line for line in lines if any(s in line.lower() for s in SHORTAGES)), None)
    return _resources(found) if found else None


def _resources(
    found: str, where: object = "this machine", expected: str = MEMORY[0], fix: str = MEMORY[1]
) -> ResourceError:
    return ResourceError.of("RESOURCES", where=where, found=found, expected=expected, fix=fix)
