"""The flags that say where a command's work is done: the same of every command that shares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fewmask.errors import UsageError

if TYPE_CHECKING:
    from fewmask.engine import Engine


@dataclass(frozen=True)
class EngineFlags:
    """Where the work is done.

    Attributes:
        engine: ray: share the work among Ray's worker processes (needs the extra `ray`).
        workers: Of Ray; 0: one for each CPU.
        ray_address: Of a Ray cluster, such as `auto`; without it, one on this machine alone.
    """

    engine: Literal["local", "ray"] = "local"
    workers: int = 0
    ray_address: str | None = None

    def chosen(self) -> Engine:
        """What they say.

        Raises:
            UsageError: a flag of Ray without Ray, or fewer than no workers.
        """
        from fewmask.engine import Engine

        given = {"--workers": self.workers, "--ray-address": self.ray_address}
        for flag in (flag for flag, value in given.items() if value and self.engine != "ray"):
            raise UsageError.of("ENGINE-FLAG", where=flag, found="--engine local",
                                expected="--engine ray, whose flag it is",
                                fix=f"add --engine ray, or leave out {flag}")  # fmt: skip
        if self.workers < 0:
            raise UsageError.of("ENGINE-FLAG", where="--workers", found=self.workers,
                                expected="1 or more, or 0 for one of each CPU",
                                fix="leave it out")  # fmt: skip
        return Engine(self.engine, self.workers, self.ray_address)
