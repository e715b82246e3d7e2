"""Everything that fewmask raises on purpose, and the exit code of each.

::

    FewmaskError              1   (never raised itself: an exit code of 1 is a bug of ours)
    ├── UsageError            2   a wrong flag, setting or command
    ├── DataError            10   the user's images, masks or tags cannot be used as they are
    ├── LeakError            11   an evaluation would be dishonest (training images in the test set)
    ├── CheckpointError      12   a checkpoint or weights file is damaged, foreign or incomplete
    ├── NumericalError       13   a loss or gradient is not finite, or training has collapsed
    ├── ResourceError        14   disk, memory, device or an optional package is missing
    ├── SecurityError        15   a path or file that must not be touched
    └── Interrupted          75   stopped by a signal; everything is saved, `fewmask resume RUN`

Each error carries one or more :class:`Problem` records, so that a scan can report all that it
found at once and a program can read them (``--json``).
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import Self


def shell_command(*words: object) -> str:
    """A command of fewmask as one line that can be pasted into a shell: quoted where needed.

    >>> shell_command("resume", "runs/my run")
    "fewmask resume 'runs/my run'"
    """
    return shlex.join(["fewmask", *map(str, words)])


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in the five parts that a person needs to mend it.

    Attributes:
        code: Short upper-case name that never changes, for example ``MASK-VALUES``.
        where: File, folder, setting or flag.
        found: What is there now.
        expected: What should be there.
        fix: The command, setting or action that mends it.
    """

    code: str
    where: str
    found: str
    expected: str
    fix: str

    def __str__(self) -> str:
        return (
            f"{self.code} {self.where}: found {self.found}; expected {self.expected}. "
            f"Fix: {self.fix}"
        )

    def as_dict(self) -> dict[str, str]:
        """The five parts by name, ready for JSON."""
        return asdict(self)


class FewmaskError(Exception):
    """Root of the tree; see the module's docstring.

    Args:
        *problems: What is wrong; at least one.
    """

    exit_code = 1

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))

    @classmethod
    def of(cls, code: str, *, where: object, found: object, expected: object, fix: object) -> Self:
        """Build the error from the parts of a single :class:`Problem`.

        >>> print(DataError.of("MASK-SIZE", where="a.png", found="5x4", expected="5x3",
        ...                    fix="resize the mask with nearest neighbour"))
        MASK-SIZE a.png: found 5x4; expected 5x3. Fix: resize the mask with nearest neighbour
        """
        return cls(Problem(code, str(where), str(found), str(expected), str(fix)))


class UsageError(FewmaskError):
    """A wrong flag, setting or command."""

    exit_code = 2


class DataError(FewmaskError):
    """The user's images, masks or tags cannot be used as they are."""

    exit_code = 10


class LeakError(FewmaskError):
    """An evaluation would be dishonest: training images, or their children, are in the test set."""

    exit_code = 11


class CheckpointError(FewmaskError):
    """A checkpoint or weights file is damaged, foreign or incomplete."""

    exit_code = 12


class NumericalError(FewmaskError):
    """A loss or gradient is not finite, or training has collapsed."""

    exit_code = 13


class ResourceError(FewmaskError):
    """Disk, memory, device or an optional package is missing."""

    exit_code = 14


class SecurityError(FewmaskError):
    """A path or file that must not be touched."""

    exit_code = 15


class Interrupted(FewmaskError):  # noqa: N818 - a state, not a mistake
    """Stopped by a signal; everything is saved and ``fewmask resume RUN`` goes on."""

    exit_code = 75
