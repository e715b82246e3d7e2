"""What pipeline ``adapt`` refuses before its first stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewmask.data.folder import DataFolder
from fewmask.data.splits import Split
from fewmask.errors import CheckpointError, UsageError
from fewmask.models.features import content_features, level_statistics
from fewmask.pipelines.adapt_config import AdaptConfig
from fewmask.pipelines.adapt_translation import new_unit
from fewmask.training.checkpoint import load_weights
from fewmask.training.known_images import refuse_weights_that_saw
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
    if "segment" in stages and config.segment_translated_steps and "render" not in stages:
        raise UsageError.of(
            "STAGE-NEEDED",
            where="--stages",
            found=f"segment with {config.segment_translated_steps} steps on translated images, "
            "without render",
            expected="the stage that translates them",
            fix="add render to --stages, or --segment-translated-steps 0",
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
    samples = [sample for sample in data.samples if sample.id in set(tested)]
    fix = "train UNIT here (leave out --translate-weights), or test on other images"
    refuse_weights_that_saw(path, samples, fix)
