"""What a plain folder holds, before any pixel is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fewmask.data.classes_csv import Class
from fewmask.data.mask_encoding import MaskEncoding
from fewmask.data.roles import Part


@dataclass(frozen=True)
class Item:
    """An image file.

    Attributes:
        path: Where it is.
        mask: Its mask; None: there is none.
        tags: Classes on it; None: nobody has said.
        group: What it must not be cut apart from; empty: itself.
        part: Of an official split.
    """

    path: Path
    mask: Path | None = None
    tags: tuple[str, ...] | None = None
    group: str = ""
    part: Part | None = None


@dataclass
class Plain:
    """A plain folder.

    Attributes:
        items: By the ids that they have in a copy.
        classes: By mask id, as far as anything names them.
        encoding: What the masks' values mean, where all of them are understood; else None.
    """

    items: dict[str, Item] = field(default_factory=dict)
    classes: tuple[Class, ...] = ()
    encoding: MaskEncoding | None = None
