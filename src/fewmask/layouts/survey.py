"""What is in a data set of any arrangement: every image and mask read once, nothing written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewmask.data.check import counted, listed
from fewmask.errors import DataError, Problem
from fewmask.io.images import image_size, read_image
from fewmask.layouts.plain_copy import Watch, unwatched
from fewmask.layouts.records import Source, try_read


@dataclass(frozen=True)
class Survey:
    """What was counted, and what was found wrong on the way.

    Attributes:
        layout: Name of the arrangement.
        counts: Numbers of ``images``, ``masks``, ``groups``, and by name of ``classes`` (images
            that show each), ``parts`` and ``sizes``.
        notes: Worth knowing.
        repairs: What a plain copy would have otherwise.
        problems: What a plain copy would lack.
    """

    layout: str
    counts: dict[str, Any]
    notes: tuple[Problem, ...]
    repairs: tuple[Problem, ...]
    problems: tuple[Problem, ...]

    def text(self) -> str:
        """Plain text for a terminal."""
        lines = [f"layout: {self.layout}", *counted(self.counts), *listed("Notes", self.notes)]
        lines += listed("Would be repaired", self.repairs, "Done")
        lines += listed("Would be left out", self.problems)
        if self.counts["images"]:
            lines += ["", "A copy with --fix can be used by every command."]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "layout": self.layout,
            "counts": self.counts,
            "notes": [each.as_dict() for each in self.notes],
            "repairs": [each.as_dict() for each in self.repairs],
            "problems": [each.as_dict() for each in self.problems],
        }


def survey(source: Source, watch: Watch = unwatched) -> Survey:
    """Read all of a data set, and count.

    Args:
        source: The data set.
        watch: Shows how far it is.
    """
    problems = list(source.problems)
    names = [each.name for each in source.classes]
    shown, sizes, parts = Counter[str](), Counter[str](), Counter[str]()
    shown.update(dict.fromkeys(names, 0))
    images = masks = 0
    for entry in watch(source.entries, len(source.entries)):
        try:
            if callable(entry.image):
                height, width = entry.image().shape[:2]
            else:
                height, width = image_size(entry.image)
                read_image(entry.image)
        except DataError as error:
            problems += error.problems
            continue
        images += 1
        sizes[f"{height}x{width}"] += 1
        parts.update([entry.part] if entry.part else [])
        mask = try_read(entry.mask, problems) if entry.mask else None
        on_it = set(entry.tags or ())
        if mask is not None:
            masks += 1
            on_it |= {names[i - 1] for i in np.unique(mask) if 0 < i <= len(names)}
            if mask.shape != (height, width):
                problems.append(
                    Problem("MASK-SIZE", entry.id, f"a mask of {mask.shape[0]}x{mask.shape[1]}",
                            f"{height}x{width} as its image",
                            "export the mask at the size of its image")
                )  # fmt: skip
        shown.update(on_it)
    groups = {entry.group or entry.id for entry in source.entries}
    counts: dict[str, Any] = {"images": images, "masks": masks, "classes": dict(shown)}
    counts |= {"groups": len(groups), "sizes": dict(sizes.most_common())}
    counts |= {"parts": dict(parts)} if parts else {}
    return Survey(
        source.layout, counts, tuple(source.notes), tuple(source.repairs), tuple(problems)
    )
