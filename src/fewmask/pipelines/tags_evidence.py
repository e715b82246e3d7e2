"""Third part of pipeline ``tags``: the tag classifier, and the two maps that it and gen_ab give.

Source: Wang et al. 2020 (Score-CAM, arXiv 1910.01279); sections 1.3.3, 3.2.2 and 3.4 of the first
landslide study.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewmask.attribution.cam import compute_cam, find_layer, multi_scale_cam
from fewmask.data.folder import Sample
from fewmask.data.loading import TrainingSet
from fewmask.data.transforms import Augmentation, resize_image, to_bytes, to_signed, to_unit
from fewmask.errors import DataError
from fewmask.io.images import read_image
from fewmask.masks.fuse import difference_map
from fewmask.models.classifier import (
    CLASSIFIER_TARGET_LAYER,
    check_encoder,
    efficientnet_classifier,
    timm_classifier,
    vgg16_classifier,
)
from fewmask.models.cyclegan import translate
from fewmask.pipelines.tags_config import TagsConfig
from fewmask.pipelines.tags_erasure import (
    CUTS,
    Erasure,
    drawn_rows,
    judged,
    most_convincing,
)
from fewmask.pipelines.tags_translation import load_generator, shrink
from fewmask.randomness import seed_all
from fewmask.training.checkpoint import load_weights, save_weights
from fewmask.training.fit import FitSettings, fit
from fewmask.training.inference import predict_tags
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.segmenting import weights_file
from fewmask.training.workspace import Workspace, open_array

CAM_SIZES = (1.0, 1.5, 2.0)  # of the CAM's input, as multiples of image_size
JUDGED_IMAGES = 24


def new_classifier(config: TagsConfig, num_classes: int, *, pretrained: bool = True) -> nn.Module:
    """The tag classifier that the settings describe: image in [0, 1] to logits.

    Args:
        config: Reads ``encoder``, ``encoder_weights`` and ``classify_loss``.
        num_classes: K tags.
        pretrained: False when trained weights are loaded afterwards.

    Raises:
        FewmaskError: there is no such encoder, or not with these weights.
    """
    outputs = num_classes + (config.classify_loss == "cross_entropy")
    source = config.encoder_weights if pretrained else "none"
    check_encoder(config.encoder, source)
    if config.encoder == "vgg16":
        return vgg16_classifier(
            outputs, "imagenet" if source == "imagenet" else weights_file(source)
        )
    if source == "packaged":
        return efficientnet_classifier(outputs, pretrained=True)
    return timm_classifier(config.encoder, outputs, weights_file(source))


def target_layer(classifier: nn.Module, config: TagsConfig) -> nn.Module:
    """Where the maps are taken: the layer of the settings, or the encoder's own."""
    return find_layer(classifier, config.cam_layer or CLASSIFIER_TARGET_LAYER.get(config.encoder))


def tag_loss(kind: str, smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """``(logits, tags)`` to a scalar; tags (N, K) float32 in {0, 1}.

    >>> loss = tag_loss("binary", smoothing=0.05)
    >>> round(float(loss(torch.zeros(1, 1), torch.ones(1, 1))), 4)
    0.6931
    """
    if kind == "binary":

        def sigmoid_loss(logits: Tensor, tags: Tensor) -> Tensor:
            target = tags * (1 - 2 * smoothing) + smoothing
            return functional.binary_cross_entropy_with_logits(logits, target)

        return sigmoid_loss

    def softmax_loss(logits: Tensor, tags: Tensor) -> Tensor:
        none = 1 - tags.sum(1, keepdim=True)
        return functional.cross_entropy(logits, torch.cat([none, tags], 1).argmax(1))

    return softmax_loss


def require_one_tag(samples: Sequence[Sample]) -> None:
    """Refuse images with several tags: a softmax over none and the tags cannot learn them.

    Raises:
        DataError: naming the image with the most tags.
    """
    worst = max(samples, key=lambda sample: len(sample.tags))
    if len(worst.tags) > 1:
        raise DataError.of(
            "TAGS-SEVERAL",
            where=worst.id,
            found=f"tags {', '.join(worst.tags)}",
            expected="at most one tag an image, for classify_loss cross_entropy",
            fix="--classify-loss binary",
        )


def train_classifier(work: Workspace, stage: Stage) -> None:
    """Fine-tune on the tags of the training part and of the images generated from it."""
    config: TagsConfig = work.config
    exclusive = config.classify_loss == "cross_entropy"
    if exclusive:
        require_one_tag(work.data.samples)
    images, tags, rows = work.images, work.tags, work.rows("train")
    if "augment" in work.stages:
        images, tags, rows = _with_generated(work, rows)
    seed_all(config.seed, stage.label, "weights")
    network = new_classifier(config, len(work.class_names))
    augmentation = Augmentation()
    if config.classify_augment:
        augmentation = Augmentation(
            flips=config.seen_from_above,
            mirror=True,
            zoom=0.25,
            rotation_degrees=180.0 if config.seen_from_above else 10.0,
            colour=0.25,
            resample=0.7,
        )
    held_out = work.rows("val")

    def accuracy(judged: nn.Module) -> float:
        probs = predict_tags(judged, work.images, held_out, exclusive=exclusive, device=work.device)
        return float(((probs > 0.5) == work.tags[held_out]).mean())

    fit(
        stage,
        network,
        TrainingSet(images, tags, rows, augmentation, seed=config.seed, name=stage.label),
        tag_loss(config.classify_loss, config.classify_label_smoothing),
        FitSettings(
            epochs=config.classify_epochs,
            min_steps=config.classify_min_steps,
            batch_size=config.classify_batch_size,
            micro_batch_size=config.classify_micro_batch_size,
            learning_rate=config.classify_learning_rate,
            optimizer=config.classify_optimizer,
            schedule=config.classify_schedule,
            weight_decay=config.classify_weight_decay,
            keep=config.classify_keep,
            validate_every_epochs=config.classify_validate_every_epochs,
        ),
        seed=config.seed,
        device=work.device,
        score=accuracy if held_out else None,
        workers=config.workers,
    )
    save_weights(stage.path / "classifier.safetensors", network)
    probs = predict_tags(
        network, work.images, range(len(work.images)), exclusive=exclusive, device=work.device
    )
    np.save(stage.path / "tag_probs.npy", probs)
    test = work.rows("test")
    hits = ((probs[test] > 0.5) == work.tags[test]).mean(0)
    stage.write_json("accuracy.json", dict(zip(work.class_names, map(float, hits), strict=True)))


def _with_generated(work: Workspace, rows: list[int]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Images, tags and training rows with the kept generated positives behind the real ones."""
    stage = work.stages["augment"]
    kept = [record for record in stage.read_json("generated.json") if record["kept"]]
    if not kept:
        return work.images, work.tags, rows
    size = work.config.image_size
    extra = [
        resize_image(read_image(stage.path / (record["id"] + ".png")), size, size)
        for record in kept
    ]
    tags = np.zeros((len(kept), len(work.class_names)), bool)
    tags[:, 0] = True
    first = len(work.images)
    return (
        np.concatenate([work.images, np.stack(extra)]),
        np.concatenate([work.tags, tags]),
        [*rows, *range(first, first + len(kept))],
    )


class EvidenceMaker(NamedTuple):
    """The trained networks of this fold that turn an image into evidence."""

    classifier: nn.Module
    gen_ab: nn.Module | None
    config: TagsConfig
    device: torch.device
    cam_image_size: int
    layer: nn.Module

    @classmethod
    def of(cls, work: Workspace) -> EvidenceMaker:
        """Load them; where the size of the CAM's input was chosen, with the choice."""
        classifier = new_classifier(work.config, len(work.class_names), pretrained=False)
        load_weights(work.stages["classify"].path / "classifier.safetensors", classifier)
        gen_ab = load_generator(work, "gen_ab") if "translate" in work.stages else None
        size = work.config.cam_image_size or work.config.image_size
        evidence = work.stages.get("evidence")
        if work.config.cam_image_size is None and evidence and evidence.holds("cam_size.json"):
            size = evidence.read_json("cam_size.json")["chosen"]
        layer = target_layer(classifier, work.config)
        return cls(classifier.to(work.device).eval(), gen_ab, work.config, work.device, size, layer)

    @torch.no_grad()
    def tag_probs(self, image: Tensor) -> np.ndarray:
        """(N, 3, S, S) float32 in [0, 1] to the probability of each tag (N, K) float32."""
        logits = self.classifier(image.to(self.device))
        exclusive = self.config.classify_loss == "cross_entropy"
        probs = logits.softmax(1)[:, 1:] if exclusive else logits.sigmoid()
        return np.asarray(probs.cpu().numpy())

    def prob_of(self, k: int) -> Callable[[Tensor], np.ndarray]:
        """:meth:`tag_probs` of one tag: images to (N,) float32."""
        return lambda image: np.asarray(self.tag_probs(image)[:, k])

    def cams(self, image: Tensor, tags: np.ndarray, method: str | None = None) -> np.ndarray:
        """One map for each tag that an image has.

        Args:
            image: (N, 3, S, S) float32 in [0, 1].
            tags: (N, K) bool.
            method: Another CAM than the settings' (for the published baseline).

        Returns:
            (N, K, S, S) float32 in [0, 1]; zero where the tag is absent.
        """
        config, size = self.config, image.shape[-1]
        options: dict[str, Any] = {"target_layer": self.layer}
        if (method or config.cam_method) == "score_cam":
            options |= {
                "weighting": config.cam_weighting,
                "max_masks": config.cam_max_masks,
                "mask_batch_size": config.cam_mask_batch_size,
            }
        cams = np.zeros((*tags.shape, size, size), np.float32)
        big = image.to(self.device)
        if self.cam_image_size != size:
            sides = (self.cam_image_size, self.cam_image_size)
            big = functional.interpolate(big, sides, mode="bilinear", align_corners=False)
        for k in range(tags.shape[1]):
            chosen = np.flatnonzero(tags[:, k])
            if len(chosen) == 0:
                continue
            index = k + (config.classify_loss == "cross_entropy")
            options |= {"class_index": index, "method": method or config.cam_method}
            if config.cam_scales == (1.0,) and config.cam_views == "single":
                cam = compute_cam(self.classifier, big[chosen], **options)
            else:
                cam = multi_scale_cam(
                    self.classifier,
                    big[chosen],
                    scales=config.cam_scales,
                    views=config.cam_views,
                    **options,
                )
            cams[chosen, k] = shrink(cam[:, None], size)[:, 0].clamp(0, 1).cpu().numpy()
        return cams

    def differences(self, image: Tensor) -> np.ndarray:
        """(N, 3, S, S) float32 in [0, 1] to the difference maps (N, S, S) float32 in [0, 1]."""
        return self.changes(image)[0]

    @torch.no_grad()
    def changes(self, image: Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """What ``gen_ab`` changes: :meth:`differences`, and the attention if the generator has one.

        The attention is (N, S, S) float32 in [0, 1], 1 where the pixel is replaced.
        """
        size = image.shape[-1]
        if self.gen_ab is None:
            return np.zeros((len(image), size, size), np.float32), None
        small = shrink(image, self.config.translate_image_size).to(self.device)
        fake, attention = translate(self.gen_ab, to_signed(small))
        changed = np.stack(
            [
                difference_map(before, after, scale=self.config.difference_scale)
                for before, after in zip(to_bytes(small), to_bytes((fake + 1) / 2), strict=True)
            ]
        )

        def enlarged(maps: Tensor) -> np.ndarray:
            big = functional.interpolate(maps, (size, size), mode="bilinear", align_corners=False)
            return np.asarray(big[:, 0].clamp(0, 1).cpu().numpy())

        differences = enlarged(torch.from_numpy(changed)[:, None])
        return differences, None if attention is None else enlarged(attention.float())


def choose_cam_size(work: Workspace, stage: Stage, maker: EvidenceMaker) -> int:
    """The side in px of the CAM's input whose masks convince the classifier most, at equal area.

    A larger input gives a finer map, of a network that has learned at another size: which one
    counts more depends on the objects. Tags decide it, no mask is seen.

    Writes ``cam_size.json`` with the choice and the curves behind it.
    """
    config: TagsConfig = work.config
    train, salt = work.rows("train", tagged=True), (config.seed, stage.label, "CAM size")
    drawn = drawn_rows(work.tags, train, JUDGED_IMAGES, *salt)
    curves: dict[int, list[Erasure]] = {}
    for size in (round(factor * config.image_size) for factor in CAM_SIZES):
        sized = maker._replace(cam_image_size=size)

        def score_of(row: int, k: int, sized: EvidenceMaker = sized) -> np.ndarray:
            only = np.arange(len(work.class_names))[None] == k
            return np.asarray(sized.cams(to_unit(work.images[[row]]), only)[0, k])

        name = f"CAM of {size} px"
        erasures = judged(work, stage, drawn, score_of, maker.prob_of, name)
        curves[size] = [erasure for erasure in erasures if erasure]
    chosen = most_convincing(curves)
    record = {str(size): [e.record() for e in erasures] for size, erasures in curves.items()}
    stage.write_json("cam_size.json", {"chosen": chosen, "cuts": CUTS, "curves": record})
    work.run.log(f"{stage.label}: CAMs of {chosen} px images (label-free choice)")
    return chosen


def make_evidence(work: Workspace, stage: Stage) -> None:
    """CAMs and difference maps: training images by their tags, test images by predicted tags."""
    config: TagsConfig = work.config
    maker = EvidenceMaker.of(work)
    if config.cam_image_size is None:
        maker = maker._replace(cam_image_size=choose_cam_size(work, stage, maker))
    probs = np.load(work.stages["classify"].path / "tag_probs.npy")
    test = set(work.rows("test"))
    known = np.array([probs[i] > 0.5 if i in test else work.tags[i] for i in range(len(probs))])
    rows = [row for row in range(len(known)) if known[row].any() or row in test]
    size, (n, k) = config.image_size, known.shape
    shapes: dict[str, tuple[int, ...]] = {
        "cams": (n, k, size, size),
        "differences": (n, size, size),
    }
    if config.cam_method == "score_cam":
        shapes["grad_cams"] = (n, k, size, size)  # the published baseline
    if maker.gen_ab is not None and config.translate_kind == "attention":
        shapes["attentions"] = (n, size, size)
    arrays = {}
    for name, shape in shapes.items():
        arrays[name] = open_array(stage.path / f"{name}.npy", np.float16, shape)

    def flush() -> None:
        for array in arrays.values():
            array.flush()

    chunks = [rows[i : i + 8] for i in range(0, len(rows), 8)]
    loop = Loop(
        stage,
        len(chunks),
        seed=config.seed,
        state={},
        unit="batch",
        before_save=flush,
    )
    for step in loop:
        chunk = chunks[step]
        image = to_unit(work.images[chunk])
        arrays["cams"][chunk] = maker.cams(image, known[chunk])
        arrays["differences"][chunk], attention = maker.changes(image)
        if "attentions" in arrays:
            arrays["attentions"][chunk] = attention
        if "grad_cams" in arrays:
            arrays["grad_cams"][chunk] = maker.cams(image, known[chunk], "grad_cam")
    flush()
    empty = [row for row in rows if known[row].any() and not arrays["cams"][row].any()]
    if len(empty) > len(rows) // 2:
        work.run.log(
            f"EVIDENCE-EMPTY: {len(empty)} of {len(rows)} maps are constant; the layer is too "
            "coarse for this image size: try a larger --image-size or --cam-image-size"
        )
    np.save(stage.path / "known_tags.npy", known)
