"""Where the images of ``adapt`` come from: two or three folders, checked, opened as one, and cut.

Samples are called ``source/...``, ``target/...`` and ``test/...``. Learned from are the labelled
source images and the unlabelled target images of their training parts; measured is on ``test``, or
on the target's own official test part. Masks of target images are opened where they are, and used
to measure and for the oracle alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from fewmask.conventions import IGNORE_INDEX
from fewmask.data.content import find_exact_copies, find_near_copies, inspect_all
from fewmask.data.domains import Domain, official_part, open_domain
from fewmask.data.folder import DataFolder, refuse
from fewmask.data.label_sets import CAMVID, CITYSCAPES, LabelSet, plain_ids
from fewmask.data.mask_encoding import may_be_ids, read_values
from fewmask.data.records import Sample
from fewmask.data.splits import Split, cut_folds, link_copies
from fewmask.errors import DataError, LeakError, Problem, UsageError
from fewmask.pipelines.adapt_config import AdaptConfig
from fewmask.pipelines.folders import DataSource
from fewmask.training.progress import watched
from fewmask.training.workspace import Workspace

SHOWN = 5
"""So many files of one kind of problem are named."""


def open_domains(root: Path, config: AdaptConfig) -> DataFolder:
    """Source, target and test images as one set of samples.

    Args:
        root: The source folder.
        config: Names the others.

    Raises:
        UsageError: a folder is not there, holds no image, or the settings leave something open.
        DataError: the source has no mask, or the domains' masks mean different things.
    """
    domains = _domains(root, config)
    labels = label_set(domains["source"], config)
    for name, domain in domains.items():
        masked = any(sample.mask_path for sample in domain.samples)
        if masked and domain.labels and domain.labels.names != labels.names:
            raise DataError.of(
                "LABELS-DIFFER",
                where=domain.root,
                found=f"classes {', '.join(domain.labels.names[:4])}, ...",
                expected=f"those of the source: {', '.join(labels.names[:4])}, ...",
                fix=f"give a --{name} with masks of the same classes, or without masks",
            )
    samples = [sample for domain in domains.values() for sample in domain.samples]
    return DataFolder(
        root=root,
        samples=tuple(sorted(samples, key=lambda sample: sample.id)),
        class_names=labels.names,
        layout="domains",
        mask_encoding=None,
        has_background=False,
        label_sets={name: domain.labels or labels for name, domain in domains.items()},
    )


def check_domains(root: Path, config: AdaptConfig) -> Mapping[str, str]:
    """Decode every image and mask, and refuse all at once what is wrong with them.

    Returns:
        The samples' groups by id, copies of a picture in one.

    Raises:
        UsageError: as :func:`open_domains`.
        DataError: with every problem of all folders.
        SecurityError: a path that leaves its folder.
    """
    domains = _domains(root, config)
    labels = label_set(domains["source"], config)
    problems: list[Problem] = []
    for domain in domains.values():
        problems += domain.problems
        own = domain.labels or labels
        values, unreadable = read_values(s.mask_path for s in domain.samples if s.mask_path)
        problems += unreadable + _strangers(values.items(), own, domain)
    samples = [sample for domain in domains.values() for sample in domain.samples]
    inspections = inspect_all(samples, partial(watched, title="check", unit="image"))
    for inspection in inspections:
        problems += inspection.problems
    kinds = find_exact_copies(inspections), find_near_copies(inspections)
    for copies in (copies for kind in kinds for copies in kind):
        problems += _across(copies, config)
    refuse(problems)
    return {sample.id: sample.group for sample in link_copies(samples, *kinds)}


def cut_domains(data: DataFolder, config: AdaptConfig, fold: int) -> Split:  # noqa: ARG001
    """Training, validation and test parts; the folders' own, where they have any.

    Train: source images with a mask, and all target images, but for those of an official test
    part. Val: the source's official validation part, or ``val_fraction`` of its groups. Test: the
    ``test`` folder, or the target's official test part.

    Raises:
        UsageError: folds or a split file are asked for: the folders themselves are the split.
        DataError: nothing is left to learn from, or a group is learned from and tested on.
    """
    _refuse_folds(config)
    source = [s for s in data.samples if _domain(s) == "source" and s.mask_path]
    learned = [s for s in source if official_part(s.id) in {None, "train"}]
    val = [s for s in source if official_part(s.id) == "val"]
    if not val and config.val_fraction and len({s.group for s in learned}) > 1:
        folds = min(round(1 / config.val_fraction), len({s.group for s in learned}))
        fold_of = cut_folds(learned, folds=max(folds, 2), seed=config.split_seed)
        val = [s for s, own in zip(learned, fold_of, strict=True) if own == 0]
        learned = [s for s, own in zip(learned, fold_of, strict=True) if own != 0]
    target = [s for s in data.samples if _domain(s) == "target"]
    test = [s for s in data.samples if _domain(s) == "test"]
    held_out = [s for s in target if official_part(s.id) == "test"]
    unlabelled = [s for s in target if official_part(s.id) != "test"]
    for name, root, found in (
        ("source", data.root, learned),
        ("target", config.target, unlabelled),
    ):
        if not found:
            raise DataError.of(
                "PART-EMPTY",
                where=root,
                found="no image to learn from: all are of a validation or test part",
                expected=f"training images of the {name} domain",
                fix="put some into train/, or into no such folder",
            )
    test = test or held_out
    _refuse_shared_groups([*learned, *unlabelled, *val], test)
    return Split(
        train=tuple(s.id for s in (*learned, *unlabelled)),
        val=tuple(s.id for s in val),
        test=tuple(s.id for s in test),
    )


def _refuse_folds(config: AdaptConfig) -> None:
    asked = {"--folds": config.folds > 1, "--fold": config.fold, "--split-file": config.split_file}
    for flag, value in asked.items():
        if value is not None and value is not False:
            raise UsageError.of(
                "SPLIT-FOLDERS",
                where=flag,
                found=f"{value}",
                expected="none: --source, --target and --test are the split",
                fix=f"leave out {flag}",
            )


def _refuse_shared_groups(learned: Sequence[Sample], tested: Sequence[Sample]) -> None:
    """A drive that a pattern names must not stand on both sides, in whatever folder; nor copies.

    The group of an image by itself, or of copies that were linked, is an image's id. It names no
    drive that another folder may have too, but copies all the same.
    """
    ids = {sample.id for sample in (*learned, *tested)}
    known = {s.group: s for s in learned}
    drives = {_in_its_folder(s.group): s for s in learned if s.group not in ids}
    for sample in tested:
        drive = None if sample.group in ids else drives.get(_in_its_folder(sample.group))
        if other := known.get(sample.group) or drive:
            raise LeakError.of(
                "LEAK",
                where=f"group {_in_its_folder(sample.group)}",
                found=f"{other.id} to learn from and {sample.id} to test on",
                expected="each group, and all copies of a picture, on one side",
                fix="take its images out of one of the folders",
            )


def domain_rows(work: Workspace, domain: str, *parts: str) -> list[int]:
    """Rows of one domain's samples in some parts of the split.

    Args:
        work: A fold, split already.
        domain: ``source``, ``target`` or ``test``.
        *parts: Any of ``train``, ``val``, ``test``.
    """
    return [row for row in work.rows(*parts) if _domain(work.data.samples[row]) == domain]


def masked_rows(work: Workspace, domain: str) -> list[int]:
    """Training rows of a domain whose true masks are there; of the target, for the oracle alone."""
    rows = domain_rows(work, domain, "train")
    return [row for row in rows if work.data.samples[row].mask_path is not None]


DOMAINS = DataSource(check=check_domains, open=open_domains, cut=cut_domains)  # type: ignore[arg-type]


def _domains(root: Path, config: AdaptConfig) -> dict[str, Domain]:
    if config.target is None:
        raise UsageError.of(
            "TARGET-MISSING",
            where="--target",
            found="nothing",
            expected="a folder of images of the domain to adapt to",
            fix="--target NIGHT",
        )
    roots = {"source": root, "target": config.target, "test": config.test}
    return {
        name: open_domain(path, name, group_pattern=config.group_pattern)
        for name, path in roots.items()
        if path is not None
    }


def label_set(source: Domain, config: AdaptConfig) -> LabelSet:
    """What the source's masks mean: as its layout says, or as the settings do, or by their ids.

    Raises:
        DataError: the source has no mask, or values that cannot be ids.
    """
    known = {"camvid": CAMVID, "cityscapes": CITYSCAPES}
    masks = [sample.mask_path for sample in source.samples if sample.mask_path]
    if not masks:
        raise DataError.of(
            "NO-MASKS",
            where=source.root,
            found="no mask",
            expected="masks of the source images: images/ and masks/ with the same names",
            fix="add masks; images without any are for --target",
        )
    if source.labels:
        return source.labels
    if config.labels != "auto":
        return known[config.labels]
    if config.class_names:
        return plain_ids(config.class_names, config.ignore_ids)
    values, _ = read_values(masks)
    ids = {v for counts in values.values() for v in counts} - {IGNORE_INDEX, *config.ignore_ids}
    number = max(ids, default=0) + 1
    if not may_be_ids(ids, number):
        listed = ", ".join(map(str, sorted(ids)[:12])) or "255 only"
        raise DataError.of(
            "MASK-VALUES",
            where=source.root,
            found=f"values {listed}" + (", ..." if len(ids) > 12 else ""),
            expected="class ids 0, 1, 2, ... and 255 to ignore",
            fix="store ids, or name the classes (--class-names) and what to leave out "
            "(--ignore-ids)",
        )
    return plain_ids(tuple(f"class_{k}" for k in range(number)), config.ignore_ids)


def _strangers(
    values_of: Iterable[tuple[Path, dict[int, int]]], labels: LabelSet, domain: Domain
) -> list[Problem]:
    """One problem for all masks of a domain with values that are no class."""
    wrong = {
        path: strange for path, values in values_of if (strange := labels.strangers([*values]))
    }
    if not wrong:
        return []
    path, strange = next(iter(wrong.items()))
    values = ", ".join(map(str, strange[:8]))
    return [
        Problem(
            "MASK-VALUES",
            str(path),
            f"{values}" + (f", and so in {len(wrong) - 1} more masks" if len(wrong) > 1 else ""),
            f"0 to {max(labels.id_of)} for {', '.join(labels.names[:4])}, ...; 255 to ignore",
            "name all classes with --class-names, or what to leave out with --ignore-ids"
            if domain.layout == "plain"
            else "export the masks again as the data set publishes them",
        )
    ]


def _domain(sample: Sample) -> str:
    return sample.id.split("/")[0]


def _in_its_folder(name: str) -> str:
    """An id or group without the domain before it."""
    return name.partition("/")[2]


def _across(copies: Sequence[Sample], config: AdaptConfig) -> list[Problem]:
    """A problem for copies in several domains: such a target would be labelled, or tested on."""
    tested = config.test is None  # the target's own test part, rather than another folder
    places = {(_domain(s), tested and official_part(s.id) == "test") for s in copies}
    if len(places) == 1 or {domain for domain, _ in places} == {"source"}:
        return []
    return [
        Problem(
            "DUPLICATE",
            copies[0].id,
            "the same picture, perhaps mirrored, turned, resized or compressed anew: "
            + ", ".join(sample.id for sample in copies[:SHOWN]),
            "no picture in two of the folders, or to learn from and to test on",
            "remove it from one of them",
        )
    ]
