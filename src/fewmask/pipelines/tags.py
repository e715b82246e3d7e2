"""Image-level tags to masks: a classifier's map, a CycleGAN's difference, then a segmenter.

Sources: the two landslide studies "CycleGAN + Score-CAM" (VGG16, Bijie tiles), Wang et al. 2020
(Score-CAM, arXiv 1910.01279), Zhu et al. 2017 (CycleGAN, arXiv 1703.10593).

============  =============================  ===================================  ================
stage         reads                          writes                               published in
============  =============================  ===================================  ================
prepare       images                         images.npy, digests.json             (ours)
split         tags, groups, digests          split.json, split.csv                5-10 folds
translate     images by tag                  gen_ab, gen_ba .safetensors          3.2.1, 3.3
augment       negatives, gen_ba              generated/*.png, generated.csv       4.2
classify      images, tags, generated        classifier.safetensors               3.2.2, 3.3
evidence      all of the above               cams.npy, differences.npy            1.3.3, 3.4
pseudo_masks  evidence                       targets.npy                          3.4
segment       images, targets                round-N.safetensors                  ours
controls      true masks, if any             masks-N.safetensors                  U-Net reference
evaluate      test images and masks          confusion.npy, evaluation.json       4.1, table 4.1
export        segmenter, all images          RUN/masks, RUN/weights               (ours)
============  =============================  ===================================  ================

Differs from the paper (preset ``paper``):

- The loss weights and norms of the CycleGAN are not published: least squares, L1, lambda_cycle
  10, lambda_identity 5 and an image pool of 50, CycleGAN's own, stand in for them.
- Batches of 6 images at 512 px need more memory than most machines have: gradients are
  accumulated over ``translate_micro_batch_size`` images (1). The images shown to the judges are
  the same, and nothing mixes images (instance norm), so that only rounding differs.
- The translator sees its images mirrored and in quarter turns; the paper names no augmentation.
- The translator of the last epoch is used; the paper kept the best of its checkpoints (450).
- The 10 generated images rejected by hand are named in a file (``augment_reject_file``).
- Negatives are used as they are; the paper removed those with buildings and roads by hand.
- The U-Net on true masks (``controls_full``), of whose training nothing is published: Adam, 1e-4,
  batch 4, 50 epochs, cross-entropy + Dice, mirrored and in quarter turns, gradients cut at norm 5.
- Images are evaluated at their own size, and over all test images, negatives included.
- Folds are cut before anything is generated: no copy of a test image can be trained on.

The other presets leave the paper by design. In ``fast`` and ``best`` the CAM alone makes the
pseudo-masks (``pseudo_fusion = none``); the translator's maps are measured beside it.
"""

from __future__ import annotations

import numpy as np

from fewmask.conventions import IGNORE_INDEX
from fewmask.masks.pseudo_labels import against_the_rest, only_tagged
from fewmask.pipelines.folders import one_folder
from fewmask.pipelines.tags_bill import bill
from fewmask.pipelines.tags_checks import refuse_impossible
from fewmask.pipelines.tags_config import PRESETS, TagsConfig
from fewmask.pipelines.tags_erasure import balanced_cut, cut_record, drawn_rows, judged
from fewmask.pipelines.tags_evidence import EvidenceMaker, make_evidence, train_classifier
from fewmask.pipelines.tags_reviewed import put_reviews, reviewed_rows, weighed
from fewmask.pipelines.tags_rows import (
    Evidence,
    EvidencePredictor,
    candidates,
    panels,
    pictures,
    remarks,
    target_of,
)
from fewmask.pipelines.tags_sharpness import checks
from fewmask.pipelines.tags_translation import augment, train_translation
from fewmask.training.controls import controls
from fewmask.training.evaluation import measure, refuse_descendants
from fewmask.training.export import export_masks
from fewmask.training.loop import Loop
from fewmask.training.run_folder import Stage
from fewmask.training.segmenting import (
    SegmenterPredictor,
    fit_segmenter,
    load_segmenter,
    probs_of_rows,
)
from fewmask.training.signals import stop_if_asked
from fewmask.training.stages import StageSpec
from fewmask.training.workspace import Workspace, prepare, split

__all__ = [
    "ALWAYS",
    "DATA",
    "NEEDS",
    "PRESETS",
    "STAGES",
    "TagsConfig",
    "bill",
    "checks",
    "panels",
    "pictures",
    "predictor_of",
    "refuse_impossible",
    "remarks",
    "stages_of",
]

CUT_IMAGES = 48  # on which the cut of the evidence is found


def make_pseudo_masks(work: Workspace, stage: Stage) -> None:
    """Evidence to training targets: refined, with an ignore band; negatives are background."""
    evidence, config = Evidence(work), work.config
    rows = work.rows("train", "val")
    if config.pseudo_cut is None:
        cuts = label_free_cuts(work, stage, evidence)
    else:
        cuts = [config.pseudo_cut] * len(work.class_names)
    stage.write_json("used_cuts.json", cuts)
    targets = np.full(work.images.shape[:3], IGNORE_INDEX, np.uint8)
    loop = Loop(stage, len(rows), seed=config.seed, state={}, unit="image", resumable=False)
    for row in (rows[i] for i in loop):
        scores = evidence.scores(row)
        targets[row] = target_of(work.images[row], scores, work.tags[row], cuts, config)
    put_reviews(work, stage, targets)
    np.save(stage.path / "targets.npy", targets)


def label_free_cuts(work: Workspace, stage: Stage, evidence: Evidence) -> list[float]:
    """Each class's cut of the evidence, found by its tags alone.

    ``cut.json`` holds the curves, and whether the largest cut allowed decided (``capped``).
    """
    maker, train = EvidenceMaker.of(work), work.rows("train", tagged=True)
    drawn = drawn_rows(work.tags, train, CUT_IMAGES, work.config.seed, stage.label, "cut")

    def score_of(row: int, k: int) -> np.ndarray:
        return np.asarray(evidence.scores(row)[k])

    erasures = judged(work, stage, drawn, score_of, maker.prob_of, "cut")
    cuts = [balanced_cut(erasure) if erasure else 0.5 for erasure in erasures]
    names = work.class_names
    stage.write_json(
        "cut.json", cut_record({n: e for n, e in zip(names, erasures, strict=True) if e})
    )
    found = ", ".join(f"{name} {cut:.2f}" for name, cut in zip(names, cuts, strict=True))
    work.run.log(f"{stage.label}: label-free cut of the evidence: {found}")
    return cuts


def train_segmenter(work: Workspace, stage: Stage) -> None:
    """Train on the pseudo-masks; predict the training images, refine, train anew."""
    config: TagsConfig = work.config
    targets = np.load(work.stages["pseudo_masks"].path / "targets.npy")
    rows, reviewed = weighed(work, work.rows("train", "val")), reviewed_rows(work)
    tagged = [row for row in work.rows("train", "val", tagged=True) if row not in reviewed]
    cuts = [0.5] * len(work.class_names)  # of probabilities
    for number in range(1, config.segment_rounds + 1):
        network = fit_segmenter(work, stage, targets, rows, f"round-{number}")
        if number < config.segment_rounds:
            probs = probs_of_rows(work, stage, network, tagged, f"probs-{number}")
            targets = targets.copy()
            for row in tagged:
                stop_if_asked()
                scores = against_the_rest(only_tagged(probs[row], work.tags[row]))
                targets[row] = target_of(
                    work.images[row], scores, work.tags[row], cuts, config, before=targets[row]
                )


def evaluate(work: Workspace, stage: Stage) -> None:
    """Measure every row on the held-out images at their own sizes.

    Raises:
        LeakError: something was trained on that descends from a test image.
    """
    refuse_descendants(work, "augment", "generated.json")
    measure(work, stage, candidates(work))


def export(work: Workspace, stage: Stage) -> None:
    """Masks of all images, the trained weights and their card."""
    export_masks(work, stage, predictor_of(work))


def predictor_of(work: Workspace) -> SegmenterPredictor | EvidencePredictor:
    """What ``fewmask predict`` applies: the last round's segmenter, or the published chain."""
    if "segment" in work.stages and work.config.segment_rounds:
        name = f"round-{work.config.segment_rounds}.safetensors"
        return load_segmenter(work, work.stages["segment"].path / name)
    return EvidencePredictor(EvidenceMaker.of(work), work.config)


DATA = one_folder(require_tags=True)
STAGES = (
    StageSpec("prepare", prepare, shared=True),
    StageSpec("split", split, reads=("prepare",)),
    StageSpec("translate", train_translation, reads=("prepare", "split")),
    StageSpec("augment", augment, reads=("prepare", "split", "translate")),
    StageSpec("classify", train_classifier, reads=("prepare", "split", "augment"), together=True),
    StageSpec(
        "evidence",
        make_evidence,
        reads=("split", "classify", "translate"),
        settings=("cam", "difference", "pseudo"),
    ),
    StageSpec(
        "pseudo_masks",
        make_pseudo_masks,
        reads=("evidence",),
        settings=("pseudo", "review_file"),
    ),
    StageSpec(
        "segment",
        train_segmenter,
        reads=("pseudo_masks",),
        settings=("predict", "pseudo", "review_weight"),
        together=True,
    ),
    StageSpec(
        "controls",
        controls,
        reads=("split", "classify"),
        settings=("segment", "controls", "predict"),
        masks=True,
        together=True,
    ),
    StageSpec(
        "evaluate",
        evaluate,
        reads=("split", "evidence", "pseudo_masks", "segment", "controls"),
        settings=("predict", "threshold", "cam", "difference", "pseudo"),
        masks=True,
    ),
    StageSpec(
        "export",
        export,
        reads=("evidence", "segment"),
        settings=("predict", "threshold"),
        outside=True,
    ),
)
ALWAYS = ("prepare", "split", "evaluate", "export")
NEEDS = {
    "augment": ("translate",),
    "evidence": ("classify",),
    "pseudo_masks": ("evidence",),
    "segment": ("pseudo_masks",),
    "export": ("classify",),
}


def stages_of(config: TagsConfig) -> list[str]:
    """The stages that the settings ask for, in running order."""
    idle = set()
    if not config.augment_images:
        idle.add("augment")
    if not config.segment_rounds:
        idle |= {"pseudo_masks", "segment"}
    if not config.controls_full and not config.controls_masks:
        idle.add("controls")
    return [spec.name for spec in STAGES if spec.name not in idle]
