"""What pipeline ``adapt`` refuses before its first stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewmask.data.folder import DataFolder
from fewmask.data.splits import Split
from fewmask.errors import CheckpointError, LeakError, UsageError
from fewmask.io.images import read_image
from fewmask.models.features import content_features, level_statistics
from fewmask.pipelines.adapt_config import AdaptConfig
from fewmask.pipelines.adapt_translation import new_unit
from fewmask.training.checkpoint import load_weights
from fewmask.training.known_images import KnownImages
from fewmask.training.run_folder import RunFolder
from fewmask.training.segmenting import new_segmenter


def refuse_impossible(
    config: AdaptConfig, data: DataFolder, stages: Sequence[str], parts: Sequence[Split]
) -> None:
    """Build each network once, before anything is trained.

    Raises:
        FewmaskError: there is no such network, or not with these weights; UNIT is to translate and
            not to be trained, or has seen test images; or a stage has nothing to do.
    """
    idle = [name for name in stages if name in config.idle_stages]
    if idle:
        raise UsageError.of(
            "STAGE-IDLE",
            where="--stages",
            found=", ".join(idle),
            expected="stages that the settings have something to do for",
            fix="leave them out; or see --render-methods, --choose-method, --adapt-method",
        )
    if "render" in stages and "unit" in config.render_methods and "translate" not in stages:
        raise UsageError.of(
            "STAGE-NEEDED",
            where="--stages",
            found="render by unit, without translate",
            expected="the stage that trains UNIT",
            fix="add translate to --stages, or choose cheap --render-methods",
        )
    new_segmenter(config, data.num_classes)
    ready = config.translate_weights != "none"
    if "translate" in stages and ready:
        _check_given_unit(Path(config.translate_weights), config, data, parts[0].test)
    elif "translate" in stages and config.translate_lambda_perceptual:
        content_features(config.translate_perceptual_network, config.translate_perceptual_weights)
    if "choose" in stages and config.choose_method == "distance":
        level_statistics(config.choose_encoder, config.choose_weights)


def _check_given_unit(
    path: Path, config: AdaptConfig, data: DataFolder, tested: Sequence[str]
) -> None:
    """Refuse a UNIT that is none, or that the run it comes from has trained on test images.

    Raises:
        UsageError: no such file, or weights of another network.
        LeakError: a test image is one of that run's training images, or these are not known.
    """
    try:
        load_weights(path, new_unit(config).unit)
    except CheckpointError as error:
        raise UsageError.of(
            "UNIT-WEIGHTS",
            where=f"translate_weights: {path}",
            found=error.problems[0].found,
            expected="unit.safetensors of a run with the same --translate-width, -blocks, -norm",
            fix="correct the path or these settings",
        ) from None
    known = known_images_of(path)
    samples = [s for s in data.samples if s.id in set(tested)] if known else []
    for sample in samples:
        if known and (what := known.learned(read_image(sample.image_path))):
            raise LeakError.of(
                "LEAK",
                where=sample.image_path,
                found=f"{what}, where {path} was trained",
                expected="a UNIT that has not seen the test images",
                fix="train UNIT here (leave out --translate-weights), or test on other images",
            )


def known_images_of(unit_weights: Path) -> KnownImages | None:
    """What the run in whose stage a UNIT lies has seen; None if it lies in no run.

    Raises:
        LeakError: it lies in a run that no longer knows its images.
        CheckpointError: the run's list of them is damaged.
    """
    run = unit_weights.resolve().parents[1]
    return KnownImages.of(RunFolder.open(run)) if (run / "run.yaml").is_file() else None
