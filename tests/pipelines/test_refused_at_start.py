"""What cannot end well is refused at start: nothing was trained, not even the run's folder made."""

import shutil

import pytest
from PIL import Image

TAGS = [
    (["--encoder=resnet18"], 2, "ENCODER-WEIGHTS", "--encoder-weights none"),
    (["--encoder=resnet18", "--encoder-weights=imagenet"], 2, "ENCODER-WEIGHTS", "resnet18"),
    (["--encoder=vgg16"], 2, "ENCODER-WEIGHTS", "--encoder-weights imagenet"),
    (["--encoder-weights=imagenet"], 2, "ENCODER-WEIGHTS", "--encoder-weights packaged"),
    (["--encoder=mobilenetv3_small_050", "--encoder-weights=none"], 2, "CAM-HEAD", "grad_cam"),
    (["--cam-layer=nonsense"], 2, "CAM-LAYER", "nonsense"),
    (["--cam-layer=network.classifier"], 2, "CAM-LAYER", "(N, C, h, w)"),
    (["--cam-layer=network.conv_head"], 2, "CAM-HEAD", "the layer that is pooled"),
    (["--cam-image-size=32"], 2, "CAM-LAYER", "a larger image: --cam-image-size 64"),
    (["--cam-image-size=0", "--image-size=32"], 2, "CAM-LAYER", "a larger image: --image-size 64"),
    (["--class-name=background"], 10, "CLASS-NAMES", "background"),
    (["--augment-images=2", "--augment-reject-file=gone.txt"], 2, "REJECT-FILE", "gone.txt"),
    (["--translate-steps=0"], 2, "TRANSLATE-STEPS", "--translate-steps"),
    (["--classify-keep=best", "--val-fraction=0"], 2, "KEEP-BEST", "--val-fraction 0.1"),
    (
        ["--cam-method=score_cam", "--cam-weighting=class_softmax"],
        2,
        "CAM-SETTING",
        "--classify-loss cross_entropy",
    ),
]


def refused(result, out, code, name, part):
    assert result.code == code, (result.code, result.err)
    assert f"\n{name} " in f"\n{result.err}", result.err  # a slow machine shows progress before
    assert part in result.err
    assert "Traceback" not in result.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "code", "name", "part"), TAGS, ids=[" ".join(case[0]) for case in TAGS]
)
def test_settings_of_tags(fewmask, tiny, small_data, tmp_path, flags, code, name, part):
    own = {flag.split("=")[0] for flag in flags}
    rest = [flag for flag in tiny if flag.split("=")[0] not in own]
    out = tmp_path / "out"
    refused(fewmask("tags", small_data, "-o", out, *rest, *flags), out, code, name, part)


@pytest.fixture
def tagged_data(small_data, tmp_path):
    """``tagged_data(("cat", "dog"), ("", ""))``: tags, in turn, of positives and negatives."""

    def build(*tags_of_kinds):
        data = tmp_path / "data"
        (data / "images").mkdir(parents=True)
        lines = ["file,tags"]
        for kind, tags in zip(("positive", "negative"), tags_of_kinds, strict=True):
            for number, path in enumerate(sorted((small_data / kind).glob("*.png"))):
                (data / "images" / f"{kind}{path.name}").write_bytes(path.read_bytes())
                lines.append(f"{kind}{path.name},{tags[number % 2]}")
        (data / "tags.csv").write_text("\n".join(lines) + "\n")
        return data

    return build


def test_generated_images_of_several_classes(fewmask, tiny, tmp_path, tagged_data):
    data, out = tagged_data(("cat", "dog"), ("", "")), tmp_path / "out"
    result = fewmask("tags", data, "-o", out, *tiny, "--augment-images=2")
    refused(result, out, 2, "AUGMENT-CLASSES", "2 classes")


def test_a_translation_where_every_image_has_a_tag(fewmask, tiny, tmp_path, tagged_data):
    data, out = tagged_data(("cat", "cat"), ("dog", "dog")), tmp_path / "out"
    result = fewmask("tags", data, "-o", out, *tiny)
    refused(result, out, 10, "NO-NEGATIVES", "0 without")


def test_several_tags_on_an_image_under_a_loss_for_one(fewmask, tiny, tmp_path, tagged_data):
    data, out = tagged_data(("cat;dog", "dog"), ("", "")), tmp_path / "out"
    result = fewmask("tags", data, "-o", out, *tiny, "--classify-loss=cross_entropy")
    refused(result, out, 10, "TAGS-SEVERAL", "cat, dog")


@pytest.mark.parametrize("masks", ["none", "of negatives alone"])
def test_training_on_masks_where_nothing_tagged_has_one(fewmask, small_data, tmp_path, masks):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(small_data, data)
    shutil.rmtree(data / "masks")
    if masks != "none":
        (data / "masks" / "negative").mkdir(parents=True)
        for path in (data / "negative").glob("*.png"):
            Image.new("L", (32, 32)).save(data / "masks" / "negative" / path.name)
    result = fewmask("train", data, "-o", out, "--preset=smoke", "--threads=1")
    refused(result, out, 10, "NO-MASKS", "masks/")


@pytest.mark.parametrize(
    ("flags", "name", "part"),
    [
        (["--encoder=resnet18"], "ENCODER-WEIGHTS", "resnet18"),
        (["--segment-start=tags"], "USAGE", "--segment-start"),
        (["--controls-full"], "USAGE", "--controls-full"),
        (["--controls-masks", "3"], "USAGE", "--controls-masks"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_settings_of_train(fewmask, small_data, tmp_path, flags, name, part):
    out = tmp_path / "out"
    result = fewmask("train", small_data, "-o", out, "--preset=smoke", "--threads=1", *flags)
    refused(result, out, 2, name, part)


def test_paper_without_its_weights(fewmask, small_data, tmp_path):
    out = tmp_path / "out"
    flags = ("--encoder=gone/vgg16.pth", "--image-size=64", "--threads=1", "--folds=2")
    result = fewmask("tags", small_data, "-o", out, "--preset=paper", *flags)
    refused(result, out, 2, "WEIGHTS-MISSING", "vgg16.pth")


def test_weights_of_another_network(fewmask, tiny, small_data, tmp_path):
    import torch

    out = tmp_path / "out"
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "other.pth")
    result = fewmask("tags", small_data, "-o", out, *tiny, f"--encoder={tmp_path / 'other.pth'}")
    refused(result, out, 12, "WEIGHTS-KEYS", "--encoder NAME --encoder-weights FILE")
