"""What pipeline ``tags`` refuses before its first stage, so that nothing late can fail."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import nn

from fewmask.attribution.cam import compute_cam, require_pooled
from fewmask.data.folder import DataFolder
from fewmask.data.splits import Split
from fewmask.errors import UsageError
from fewmask.pipelines.tags_config import TagsConfig
from fewmask.pipelines.tags_evidence import new_classifier, require_one_tag, target_layer
from fewmask.pipelines.tags_reviewed import read_reviews
from fewmask.pipelines.tags_translation import require_both_domains
from fewmask.training.segmenting import has_encoder, new_segmenter, start_from_tags


def refuse_impossible(
    config: TagsConfig, data: DataFolder, stages: Sequence[str], parts: Sequence[Split]
) -> None:
    """Look at tags and files, build each network once, and take a map of noise.

    Args:
        config: Of the run.
        data: The folder, already checked.
        stages: That the run will pass through.
        parts: The cut of each fold.

    Raises:
        UsageError: settings that do not fit each other, the encoder or the data.
        DataError: tags that a stage cannot work with, or reviews of other images.
        FewmaskError: weights that cannot be had.
    """
    _refuse_bad_translation(config, len(data.class_names), stages)
    _refuse_bad_tags(config, data, stages, parts)
    if config.review_file is not None:
        read_reviews(config.review_file, data)
    classifier = new_classifier(config, len(data.class_names)).eval()
    _refuse_bad_map(config, classifier)
    if {"segment", "controls"} & set(stages):
        segmenter = new_segmenter(config, data.num_classes)
        if config.segment_start == "tags" and has_encoder(config):
            start_from_tags(segmenter, classifier.state_dict())


def _refuse_bad_translation(config: TagsConfig, num_classes: int, stages: Sequence[str]) -> None:
    if "translate" in stages and not config.translate_steps and not config.translate_epochs:
        raise UsageError.of(
            "TRANSLATE-STEPS",
            where="translate_steps",
            found="0, and translate_epochs 0",
            expected="one of them above 0",
            fix="--translate-steps 500, or --stages without translate",
        )
    if "augment" not in stages or not config.augment_images:
        return
    if num_classes > 1:
        raise UsageError.of(
            "AUGMENT-CLASSES",
            where="augment_images",
            found=f"{config.augment_images} for {num_classes} classes",
            expected="one class: of several, nobody knows which one a generated image shows",
            fix="--augment-images 0",
        )
    file = config.augment_reject_file
    if file is not None and not file.is_file():
        raise UsageError.of(
            "REJECT-FILE",
            where=file,
            found="no such file",
            expected="a text file with one id a line",
            fix="correct --augment-reject-file",
        )


def _refuse_bad_tags(
    config: TagsConfig, data: DataFolder, stages: Sequence[str], parts: Sequence[Split]
) -> None:
    if "translate" in stages:
        tagged = {sample.id for sample in data.samples if sample.tags}
        for part in parts:
            with_tag = len(tagged & set(part.train))
            require_both_domains(with_tag, len(part.train) - with_tag)
    if "classify" not in stages:
        return
    if config.classify_loss == "cross_entropy":
        require_one_tag(data.samples)
    elif (config.cam_method, config.cam_weighting) == ("score_cam", "class_softmax"):
        raise UsageError.of(
            "CAM-SETTING",
            where="cam_weighting",
            found=f"class_softmax with classify_loss {config.classify_loss}",
            expected="a classifier whose outputs exclude each other",
            fix="--classify-loss cross_entropy, or --cam-weighting cic",
        )
    if config.classify_keep == "best" and not all(part.val for part in parts):
        raise UsageError.of(
            "KEEP-BEST",
            where="classify_keep",
            found="best, and no validation part to tell which that is",
            expected="images that are set aside for validation",
            fix="--val-fraction 0.1 (or val in the --split-file), or --classify-keep last",
        )


LARGEST_TRIED = 512
"""Side in px up to which a size is looked for at which a map can be taken."""


def _refuse_bad_map(config: TagsConfig, classifier: nn.Module) -> None:
    side = config.cam_image_size or config.image_size
    try:
        _take_map(config, classifier, side)
    except UsageError as error:
        where, fix = "--cam-layer, --cam-method, --cam-image-size", ""
        above = range(side // 32 * 32 + 32, LARGEST_TRIED + 1, 32)
        for larger in () if config.cam_layer else above:
            with suppress(UsageError):
                _take_map(config, classifier, larger)
                where = "--cam-image-size" if config.cam_image_size else "--image-size"
                fix = f"a larger image: {where} {larger} (found by trying steps of 32)"
                break
        raise UsageError(
            *(replace(problem, where=where, fix=fix or problem.fix) for problem in error.problems)
        ) from None


def _take_map(config: TagsConfig, classifier: nn.Module, side: int) -> None:
    side = max(1, round(side * min(config.cam_scales)))
    image = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    method = "grad_cam" if config.cam_method == "score_cam" else config.cam_method
    layer = target_layer(classifier, config)
    compute_cam(classifier, image, target_layer=layer, class_index=0, method=method)
    if method == "cam":
        require_pooled(classifier, image, layer)
