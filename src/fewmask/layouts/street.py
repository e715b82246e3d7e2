"""Labelled street scenes: Cityscapes, and CamVid as SegNet arranges it.

==============  =========================================================================
layout          files
==============  =========================================================================
Cityscapes      ``leftImg8bit/train/city/x_leftImg8bit.png``,
                ``gtFine/train/city/x_gtFine_labelIds.png`` (or ``labelTrainIds``)
CamVid          ``train/ trainannot/ val/ valannot/ test/ testannot/``, masks of ids
==============  =========================================================================

Recognised, paired, split and grouped as :mod:`fewmask.data.domains` does it for
``fewmask adapt``, which reads these folders as they are. There id 0 is a class; a plain folder's 0
is the background, so here every id is one more, and what is evaluated in none is 255.

Source: Cordts et al. 2016; Brostow et al. 2009; Badrinarayanan et al. 2017.

===============  ==========================================================================
code             meaning
===============  ==========================================================================
MASK-VALUES      a stored value that the data set does not know
MASK-SIZE        a mask of another size than its image
STREET-ADAPT     `fewmask adapt` reads the folder as it is (a note)
STREET-IDS       ids are one more than stored (a repair)
===============  ==========================================================================
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.domains import layout_of, official_part, open_domain
from fewmask.data.files import list_images
from fewmask.data.label_sets import LabelSet
from fewmask.errors import DataError, UsageError
from fewmask.io.decoding import refuse
from fewmask.io.images import image_size, read_mask
from fewmask.layouts.annotation_files import in_order, some
from fewmask.layouts.records import Class, Colour, Entry, ReadingOptions, Source

CITYSCAPES_COLOURS: tuple[Colour, ...] = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
    (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
    (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
"""Of the 19 classes, as Cityscapes draws them."""
CAMVID_COLOURS: tuple[Colour, ...] = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
"""Of the 11 classes, as SegNet draws them."""

_NAMES = {"camvid": "CamVid", "cityscapes": "Cityscapes"}
_COLOURS = {"camvid": CAMVID_COLOURS, "cityscapes": CITYSCAPES_COLOURS}
_ANY = "source"  # open_domain names a domain; nothing here depends on which


def recognise(root: Path) -> bool:
    """Whether folders or files are called as in Cityscapes or CamVid; never raises."""
    return root.is_dir() and layout_of(list_images(root), root) in _NAMES


def read(root: Path, options: ReadingOptions) -> Source:
    """List the scenes, with their masks, parts and groups.

    Args:
        root: The data folder.
        options: ``class_names`` set the order of the ids; ``group_pattern`` replaces the groups
            (of CamVid blocks of ten frames, of Cityscapes the sequence).

    Raises:
        UsageError: class names or a pattern that do not fit, or no image at all.
    """
    domain = open_domain(root, _ANY, group_pattern=options.group_pattern)
    labels = domain.labels
    if labels is None:
        raise UsageError.of(
            "STREET-LAYOUT",
            where=root,
            found="neither the names of Cityscapes nor those of CamVid",
            expected="a folder that `recognise` knows",
            fix="see the module's table",
        )
    source = Source(_NAMES[domain.layout], root, problems=list(domain.problems))
    colours = _COLOURS[domain.layout]
    classes = [Class(name, colour) for name, colour in zip(labels.names, colours, strict=True)]
    numbers = in_order(classes, options, source)
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for i, name in enumerate(labels.names):
        table[i] = numbers[name]
    for sample in domain.samples:
        mask = None
        if sample.mask_path:
            try:
                _require_size(sample.image_path, sample.mask_path)
            except DataError as error:
                source.problems += error.problems
                continue
            mask = partial(_ids, sample.mask_path, labels, table)
        source.entries.append(
            Entry(
                sample.id.removeprefix(f"{_ANY}/"),
                sample.image_path,
                mask,
                None,
                sample.group.removeprefix(f"{_ANY}/"),
                official_part(sample.id),
            )
        )
    source.repaired("STREET-IDS", root, f"ids from 0 on, of {some(labels.names)}", "0 for the "
                    "background", "every id is one more; what is no class is 255")  # fmt: skip
    source.note("STREET-ADAPT", root, f"{source.layout} as it is distributed", "any data folder",
                "nothing to do: `fewmask adapt` reads this folder as it is")  # fmt: skip
    return source


def _require_size(image: Path, mask: Path) -> None:
    (height, width), found = image_size(image), image_size(mask)
    if found != (height, width):
        refuse(mask, "MASK-SIZE", f"{found[0]}x{found[1]}", f"{height}x{width}, as the image",
               "resize the mask with nearest neighbour")  # fmt: skip


def _ids(path: Path, labels: LabelSet, table: np.ndarray) -> np.ndarray:
    """(H, W) uint8 class ids, from 1 on."""
    stored = read_mask(path)
    if strange := labels.strangers(np.unique(stored).tolist()):
        refuse(path, "MASK-VALUES", some(strange, 8), f"ids of {some(labels.names)}; 255",
               "restore the mask as it was distributed")  # fmt: skip
    return table[labels.decode(stored)]
