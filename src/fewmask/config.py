"""Settings: one frozen schema a pipeline, read as preset < ``--config file.yaml`` < flags.

A pipeline declares a :class:`Settings` subclass and a dictionary of presets. The command line, the
YAML file, Python keywords and the web form all go through :func:`resolve`, so a setting has one
name, one documentation string and one validation everywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)
from pydantic.fields import FieldInfo

from fewmask.errors import Problem, UsageError


class Settings(BaseModel):
    """Settings that every pipeline has; a pipeline adds its own. Frozen, strict about names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    class_name: str | None = None
    """Name of the one foreground class, where the folders say only positive and negative."""
    class_names: tuple[str, ...] | None = None
    """Names of the foreground classes in the order of their mask ids."""
    group_pattern: str | None = None
    """Regular expression on the file stem; images with the same match (a scene, a patient, a
    county) stay on one side of every split. No match: a group of its own."""
    image_size: int = Field(128, ge=32)
    """Side in px to which images are resized for training and prediction; at least 32."""
    seen_from_above: bool = True
    """Images have no up and down (aerial, microscope): train with all mirror images and turns.
    False: left-right mirror images and small rotations only, in prediction too."""
    seed: int = 0
    """Seed of everything that is learned or drawn."""
    split_seed: int = 0
    """Seed of the cut into folds."""
    folds: int = Field(1, ge=1)
    """1: hold out one of `test_folds` parts. K of 2 or more: cross-validation, every stage made
    again in each of the K folds."""
    fold: int | None = Field(None, ge=0)
    """Run only this fold of the cut, counted from 0."""
    test_folds: int = Field(5, ge=2)
    """Without cross-validation, the held-out part is fold 0 of a cut into so many."""
    split_file: Path | None = None
    """CSV file with columns `id` (path below the data folder, without suffix) and `part` (train,
    val or test): an official split, used instead of a cut."""
    val_fraction: float = Field(0.1, ge=0, le=0.5)
    """Part of the remaining images that is set aside for validation."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps; never a silent fallback."""
    threads: int = Field(0, ge=0)
    """CPU threads; 0 = all cores. The number is written to the run: results are bit-identical
    for the same number only."""
    workers: int = Field(0, ge=0)
    """Loader processes; the result does not depend on them."""
    tensorboard: bool = False
    """Also write TensorBoard events to RUN/tensorboard, at the end of each stage."""
    stages: tuple[str, ...] = ()
    """Run only these stages (and those that they cannot do without); empty = all of the preset."""
    reuse: Path | None = None
    """Another run of this pipeline: its finished stages, but for `export` and `generate`, are
    copied wherever they would be made from the same images, masks and settings."""
    save_probs: bool = False
    """Also keep each image's class probabilities, RUN/probs/*.npy, float16 (K + 1, H, W)."""
    encoder: str = "tf_efficientnet_lite0"
    """timm's name of the encoder, or vgg16, of classifier and segmenter; or a file of weights for
    the preset's encoder."""
    encoder_weights: str = "packaged"
    """packaged (ImageNet weights, offline; tf_efficientnet_lite0 only), imagenet (fetched on first
    use; vgg16 and resnet101 only), none, or a file."""

    segment_architecture: Literal[
        "unet", "unetplusplus", "fpn", "deeplabv3", "deeplabv3plus", "fcn", "segformer", "upernet",
        "classic_unet",
    ] = "unet"  # fmt: skip
    """All but classic_unet (64 … 1024 channels) stand on `encoder`."""
    segment_decoder_width: int = Field(32, ge=0)
    """Channels of the decoder's middle level, of unet and unetplusplus; of fpn a quarter of the
    pyramid's, half of the branch's. 0, and all others: the library's own."""
    segment_epochs: int = Field(8, ge=1)
    """Passes over the training images, in each round."""
    segment_min_steps: int = Field(0, ge=0)
    """No fewer optimiser steps than this: a small folder gets more passes."""
    segment_batch_size: int = Field(16, ge=2)
    """Images a step; at least 2, for batch normalisation."""
    segment_learning_rate: float = Field(1e-3, gt=0)
    """Highest rate of the schedule."""
    segment_optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """How weights are updated."""
    segment_schedule: Literal["constant", "cosine"] = "cosine"
    """Of the learning rate."""
    segment_weight_decay: float = Field(1e-2, ge=0)
    """Decay of the weights."""
    segment_loss: Literal["ce", "ce_dice", "gce", "focal", "combined"] = "ce_dice"
    """Cross-entropy, with Dice; the generalised cross-entropy that forgives wrong targets; focal;
    or half cross-entropy, half focal."""
    segment_ema_decay: float = Field(0.99, ge=0, lt=1)
    """The result is this moving average of the weights; 0 = the last weights."""
    segment_zoom: float = Field(0.25, ge=0, lt=1)
    """Largest relative change of scale in training."""
    segment_rotation_degrees: float = Field(180.0, ge=0, le=180)
    """Largest rotation in training; where images have an up (`seen_from_above` false) at most 10.
    """
    segment_colour: float = Field(0.2, ge=0, le=1)
    """Strength of colour changes in training."""
    segment_resample: float = Field(0.5, ge=0, le=1)
    """Probability of shrinking and enlarging an image in training."""
    segment_encoder_rate: float = Field(0.3, ge=0)
    """The encoder's learning rate as a fraction of the decoder's."""
    predict_views: Literal["single", "mirror", "dihedral"] = "mirror"
    """Average predictions over no, the mirrored, or all eight mirrored and turned views. With
    `seen_from_above` false, dihedral becomes mirror unless asked for by name."""
    predict_refine: Literal[
        "none", "colour_model", "random_walker", "superpixel_vote", "pixel_adaptive"
    ] = "none"
    """Refinement of a predicted mask on the image's own pixels."""

    @property
    def working_size(self) -> tuple[int, int]:
        """Height and width in px to which images are resized for training and prediction."""
        return self.image_size, self.image_size

    @property
    def data_folders(self) -> dict[str, Path]:
        """Settings that name a folder of images beside the data folder, if any are given."""
        return {}

    def replaced(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self).model_validate({**self.model_dump(), **changes})


S = TypeVar("S", bound=Settings)


def resolve(
    schema: type[S],
    presets: Mapping[str, Mapping[str, Any]],
    preset: str,
    *,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> S:
    """Settings from a preset, then a YAML file, then explicit values (``None`` = not given).

    An ``encoder`` that is a file gives the weights; the encoder's name stays that of the layer
    below. Images that are not seen from above are not turned either, unless the file or an explicit
    value says so.

    Raises:
        UsageError: unknown preset or setting (with the nearest name), or a value out of range; all
            of them at once.
    """
    if preset not in presets:
        raise UsageError.of(
            "PRESET",
            where="--preset",
            found=repr(preset),
            expected="one of " + ", ".join(presets),
            fix=_did_you_mean(preset, presets) or f"--preset {next(iter(presets))}",
        )
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    asked = {**_weights_apart(read_yaml(file) if file else {}), **_weights_apart(given)}
    try:
        settings = schema.model_validate({**presets[preset], **asked})
        if settings.seen_from_above:
            return settings
        turned = [name for name, value in settings if value == "dihedral" and name not in asked]
        return settings.replaced(**dict.fromkeys(turned, "mirror"))
    except ValidationError as error:
        where = str(file) if file else "settings"
        raise UsageError(*_problems(error, schema, where)) from None


def _weights_apart(values: Mapping[str, Any]) -> dict[str, Any]:
    encoder = values.get("encoder")
    if isinstance(encoder, str) and encoder.endswith((".safetensors", ".pth", ".pt")):
        rest = {name: value for name, value in values.items() if name != "encoder"}
        return {**rest, "encoder_weights": encoder}
    return dict(values)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping of setting names to values.

    Raises:
        UsageError: the file is missing, is not YAML, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError.of(
            "CONFIG-FILE",
            where=path,
            found=_unreadable(error),
            expected="a readable YAML file",
            fix="correct the path or the file's syntax",
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError.of(
            "CONFIG-FILE",
            where=path,
            found=type(values).__name__,
            expected="a mapping such as `image_size: 128`",
            fix="write one `name: value` a line",
        )
    return values


def _unreadable(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error).splitlines() or [type(error).__name__])[0]


def optional_fields(schema: type[Settings], *without: str) -> type[BaseModel]:
    """The same fields but for some, each ``None`` unless given: what a command line hands in.

    Types without bounds: these are for :func:`resolve` to check.
    """
    types = get_type_hints(schema)
    fields: dict[str, Any] = {
        name: (types[name] | None, FieldInfo(default=None, description=_help(field)))
        for name, field in schema.model_fields.items()
        if name not in without
    }
    return create_model(f"{schema.__name__}Flags", __doc__=schema.__doc__, **fields)


def _help(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _problems(error: ValidationError, schema: type[Settings], where: str) -> list[Problem]:
    problems = []
    for detail in error.errors():
        name = ".".join(str(part) for part in detail["loc"]) or schema.__name__
        if detail["type"] == "extra_forbidden":
            nearest = _did_you_mean(name, schema.model_fields)
            if name == "preset":
                nearest = f"no setting but a flag: --preset {detail.get('input')}"
            problems.append(
                Problem(
                    "SETTING-UNKNOWN",
                    where,
                    f"{name!r}",
                    "a known setting",
                    nearest or "`fewmask <command> --help` lists them",
                )
            )
        else:
            field = schema.model_fields.get(name.split(".")[0])
            problems.append(
                Problem(
                    "SETTING-VALUE",
                    f"{where}: {name}",
                    repr(detail.get("input")),
                    _in_words(detail),
                    _help(field) if field else "see --help",
                )
            )
    return problems


IN_WORDS = {
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "text",
    "tuple_type": "a list",
}
"""What a value should have been, by the kind of pydantic's error."""


def _in_words(detail: Mapping[str, Any]) -> str:
    words = IN_WORDS.get(detail["type"], "")
    return words.format(**detail.get("ctx", {})) or str(detail["msg"])


def _did_you_mean(name: str, known: Mapping[str, Any]) -> str | None:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else None
