"""Which images some weights have learned from: those of their own fold, of their own run."""

from types import SimpleNamespace

import numpy as np
import pytest

from fewmask.data.content import digest_of
from fewmask.errors import LeakError
from fewmask.training.known_images import KnownImages


@pytest.fixture
def run(tmp_path):
    """Two images; fold 0 learns the first, fold 1 the second."""
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    (tmp_path / "1-prepare").mkdir()
    np.save(tmp_path / "1-prepare/images.npy", images)
    for fold in range(2):
        lines = ["id,part,sha256"]
        lines += [f"{i},{'train' if i == fold else 'test'},{digest_of(images[i])}" for i in (0, 1)]
        folder = tmp_path / f"fold-{fold}/2-split"
        folder.mkdir(parents=True)
        (folder / "split.csv").write_text("\n".join(lines) + "\n")
    KnownImages.of_stages(SimpleNamespace(path=tmp_path)).save(_made(tmp_path / "weights"))
    return SimpleNamespace(path=tmp_path, images=images)


def _made(folder):
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("weights", "learned"),
    [
        ("fold-0/3-classify/classifier.safetensors", [True, False]),
        ("fold-1/3-classify/classifier.safetensors", [False, True]),
        ("weights/segmenter.safetensors", [True, False]),
        ("3-classify/classifier.safetensors", [True, False]),
    ],
)
def test_weights_of_a_fold_have_learned_its_images(run, weights, learned):
    known = KnownImages.of_weights(run, run.path / weights)
    assert [bool(known.learned(image)) for image in run.images] == learned


def test_a_copy_has_learned_what_stands_beside_it_and_nothing_of_the_run_it_lies_in(run):
    lent = KnownImages.of_weights(run, run.path / "fold-1/3-classify/classifier.safetensors")
    lent.save(_made(run.path / "3-saliency"))
    known = KnownImages.of_weights(run, run.path / "3-saliency/classifier.safetensors")
    assert [bool(known.learned(image)) for image in run.images] == [False, True]
    assert len(KnownImages.lent_to(run)) == 1


def test_a_fold_that_is_no_longer_there_is_no_reason_to_let_images_pass(run):
    with pytest.raises(LeakError, match="LEAK-UNKNOWN"):
        KnownImages.of_weights(run, run.path / "fold-2/3-classify/classifier.safetensors")
