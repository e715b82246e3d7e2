"""``fewmask factory``: train, export, label by three routes, sample; and what must be refused."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fewmask.errors import LeakError
from fewmask.factory_runs import EXPORTED_FROM
from fewmask.io.images import read_image, read_mask, write_image, write_mask
from fewmask.pipelines import factory_judge
from fewmask.pipelines.factory_watch import latent_codes
from fewmask.pipelines.finished import restore_workspace
from fewmask.pipelines.running import recorded_settings
from fewmask.training.known_images import KnownImages
from fewmask.training.run_folder import RunFolder
from fewmask.training.segmenting import load_segmenter

SMALL = ("--preset=smoke", "--threads=1", "--device=cpu")


def blob(rng, side=32):
    """An orange disc on a dark ground, and its mask."""
    image = rng.integers(60, 90, (side, side, 3))
    y, x, r = *rng.integers(side // 4, side - side // 4, 2), rng.integers(4, 8)
    rows, columns = np.mgrid[:side, :side]
    mask = (rows - y) ** 2 + (columns - x) ** 2 < r * r
    image[mask] = np.array([200, 120, 40]) + rng.integers(-10, 10, (mask.sum(), 3))
    return image.astype(np.uint8), mask.astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("blobs") / "data", np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(30):
        image, mask = blob(rng)
        write_image(root / "images" / f"b{number:02d}.png", image)
        write_mask(root / "masks" / f"b{number:02d}.png", mask)
    return root


@pytest.fixture(scope="module")
def factory(fewmask, data):
    """A generator of 16 px, trained for a moment."""
    out = data.parent / "run"
    result = fewmask("factory", "train", data, "-o", out, *SMALL)
    assert result.code == 0, result.err
    return out


@pytest.fixture(scope="module")
def seeds(fewmask, factory):
    """Six exported images with masks drawn on them."""
    out = factory.parent / "seeds"
    result = fewmask("factory", "export-seeds", factory, "-n", 6, "-o", out)
    assert result.code == 0, result.err
    (out / "masks").mkdir()
    for path in (out / "images").iterdir():
        mask = np.zeros((16, 16), np.uint8)
        mask[4:9, 3:12] = 1
        write_mask(out / "masks" / path.name, mask)
    return out


@pytest.fixture(scope="module")
def labelled(fewmask, factory, seeds):
    """An interpreter taught by the masks on generated images."""
    result = fewmask("factory", "label", factory, "--generated", "--masks", seeds / "masks")
    assert result.code == 0, result.err
    return factory / "labelled-generated"


@pytest.fixture(scope="module")
def inverted(fewmask, factory, data):
    result = fewmask(
        "factory", "label", factory, "--invert", "--masks", data / "masks", "--invert-steps", 3,
        "--encoder-weights", "none",
    )  # fmt: skip
    assert result.code == 0, result.err
    return factory / "labelled-invert"


@pytest.fixture(scope="module")
def judged(fewmask, inverted, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("judge") / "run"
    result = fewmask("factory", "judge", inverted, data, "-o", out, *SMALL)
    assert result.code == 0, result.err
    return out, result


class TestTrain:
    def test_what_is_written(self, factory, fewmask):
        assert (factory / "weights" / "generator.safetensors").is_file()
        assert len(list((factory / "samples").glob("generated-*.png"))) == 2
        page = (factory / "report.html").read_text()
        assert "real images" in page
        assert "KID" in page
        summary = json.loads((factory / "metrics.json").read_text())
        assert summary["quality"]["kimg_per_hour"] > 0
        shown = fewmask("report", factory)
        assert shown.code == 0
        assert "KID" in shown.out
        assert "factory export-seeds" in shown.out

    def test_the_test_part_teaches_nothing(self, factory):
        parts = json.loads(next(factory.glob("*-split/split.json")).read_text())
        known = KnownImages._read(factory / "weights" / "known_images.npz")
        assert parts["test"]
        assert {r["id"] for r in known.records if r["part"] == "test"} == set(parts["test"])

    def test_images_without_any_mask_will_do(self, fewmask, data, tmp_path):
        plan = fewmask(
            "factory", "train", data / "images", "-o", tmp_path / "r", *SMALL, "--dry-run"
        )
        assert plan.code == 0, plan.err
        assert plan.json["stages"] == ["prepare", "split", "generate"]
        assert "fewmask factory train" in plan.err

    def test_too_few_images(self, fewmask, data, tmp_path):
        for number in range(6):
            shutil.copy(data / "images" / f"b{number:02d}.png", tmp_path)
        result = fewmask("factory", "train", tmp_path, "-o", tmp_path.parent / "few", *SMALL)
        assert result.code == 10
        assert "TOO-FEW" in result.err

    def test_a_generator_segments_nothing(self, fewmask, factory, data, tmp_path):
        result = fewmask("predict", factory, data / "images", "-o", tmp_path / "masks")
        assert result.code == 2
        assert "factory label" in result.err
        assert not (tmp_path / "masks").exists()


class TestExport:
    def test_images_are_functions_of_their_names(self, fewmask, factory, seeds, tmp_path):
        again = tmp_path / "again"
        assert fewmask("factory", "export-seeds", factory, "-n", 3, "-o", again).code == 0
        for path in sorted((again / "images").iterdir()):
            assert path.read_bytes() == (seeds / "images" / path.name).read_bytes()
        assert (again / "images" / f"seed-{EXPORTED_FROM}.png").is_file()

    def test_a_folder_that_holds_something_is_refused(self, fewmask, factory, seeds):
        result = fewmask("factory", "export-seeds", factory, "-o", seeds)
        assert result.code == 2
        assert "RUN-EXISTS" in result.err

    def test_not_into_the_data(self, fewmask, factory, data):
        result = fewmask("factory", "export-seeds", factory, "-o", data / "seeds")
        assert result.code != 0
        assert not (data / "seeds").exists()

    def test_of_an_interpreter_there_is_none(self, fewmask, labelled, tmp_path):
        result = fewmask("factory", "export-seeds", labelled, "-o", tmp_path / "x")
        assert result.code == 2
        assert "an interpreter" in result.err


class TestLabel:
    def test_drawn_masks_are_learned(self, labelled):
        summary = json.loads((labelled / "metrics.json").read_text())
        assert summary["annotated"] == 6
        assert (labelled / "report.html").is_file()

    def test_masks_of_test_images_are_left_for_judging(self, inverted, factory):
        parts = json.loads(next(factory.glob("*-split/split.json")).read_text())
        taught = json.loads(next(inverted.glob("*-split/split.json")).read_text())
        assert taught["test"] == []
        assert set(taught["train"]) == {*parts["train"], *parts["val"]}

    def test_masks_of_test_images_alone_teach_nothing(self, fewmask, factory, data, tmp_path):
        parts = json.loads(next(factory.glob("*-split/split.json")).read_text())
        for name in parts["test"]:
            shutil.copy(data / "masks" / f"{name.split('/')[-1]}.png", tmp_path)
        result = fewmask("factory", "label", factory, "--invert", "--masks", tmp_path)
        assert result.code == 10
        assert "masks of test images only" in result.err

    def test_mask_without_an_image(self, fewmask, factory, data, tmp_path):
        shutil.copytree(data / "masks", tmp_path / "masks")
        write_mask(tmp_path / "masks" / "stranger.png", np.zeros((32, 32), np.uint8))
        result = fewmask("factory", "label", factory, "--encoder", "--masks", tmp_path / "masks")
        assert result.code == 10
        assert "MASK-UNPAIRED" in result.err
        assert "stranger" in result.err

    def test_truncated_mask(self, fewmask, factory, data, tmp_path):
        shutil.copytree(data / "masks", tmp_path / "masks")
        path = tmp_path / "masks" / "b03.png"
        path.write_bytes(path.read_bytes()[:40])
        result = fewmask("factory", "label", factory, "--encoder", "--masks", tmp_path / "masks")
        assert result.code == 10
        assert "b03.png" in result.err

    def test_mask_of_another_size(self, fewmask, factory, data, tmp_path):
        shutil.copytree(data / "masks", tmp_path / "masks")
        for path in (tmp_path / "masks").iterdir():
            write_mask(path, np.ones((8, 8), np.uint8))
        result = fewmask("factory", "label", factory, "--encoder", "--masks", tmp_path / "masks")
        assert result.code == 10
        assert "MASK-SIZE" in result.err

    def test_exported_images_of_another_generator(self, fewmask, factory, seeds, tmp_path):
        other = tmp_path / "seeds"
        shutil.copytree(seeds, other)
        record = json.loads((other / "seeds.json").read_text())
        (other / "seeds.json").write_text(json.dumps({**record, "generator_sha256": "0" * 64}))
        result = fewmask("factory", "label", factory, "--masks", other / "masks")
        assert result.code == 10
        assert "SEEDS-OTHER" in result.err

    def test_an_exported_image_that_was_painted_over(self, fewmask, factory, seeds, tmp_path):
        other, out = tmp_path / "seeds", tmp_path / "out"
        shutil.copytree(seeds, other)
        path = other / "images" / f"seed-{EXPORTED_FROM}.png"
        write_image(path, np.full((16, 16, 3), 255, np.uint8))
        result = fewmask("factory", "label", factory, "--masks", other / "masks", "-o", out)
        assert result.code == 10
        assert "SEEDS-CHANGED" in result.err

    def test_masks_far_from_their_images(self, fewmask, factory, data):
        result = fewmask("factory", "label", factory, "--masks", data / "masks")
        assert result.code == 2
        assert "SEEDS-MISSING" in result.err
        assert "--invert" in result.err

    def test_one_route_at_a_time(self, fewmask, factory, data):
        result = fewmask("factory", "label", factory, "--invert", "--encoder", "--masks", data)
        assert result.code == 2
        assert "ROUTE" in result.err

    def test_masks_that_were_moved(self, fewmask, factory, data, tmp_path):
        first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "run"
        shutil.copytree(data / "masks", first)
        words = ("--encoder", "--masks", first, "-o", out)
        assert fewmask("factory", "label", factory, *words).code == 0
        first.rename(second)
        lost = fewmask("resume", out)
        assert lost.code == 10
        assert "--masks" in lost.err
        assert fewmask("resume", out, "--masks", second).code == 0

    def test_killed_and_resumed_gives_the_same_bytes(self, inverted, factory, data, tmp_path):
        """Killed in each stage that takes long, right after a checkpoint."""
        script = (
            "import sys, os, fewmask.training.loop as loops\n"
            "save = loops.Loop.save\n"
            "def kill(self):\n"
            "    save(self)\n"
            "    if self.step == int(sys.argv[1]) and self.name == sys.argv[2]: os._exit(9)\n"
            "loops.Loop.save = kill\n"
            "take = loops.Loop.__init__\n"
            "def often(self, *a, **k): take(self, *a, **{**k, 'save_every_steps': 1})\n"
            "loops.Loop.__init__ = often\n"
            "from fewmask.cli import main\n"
            "main(sys.argv[3:])\n"
        )
        out = tmp_path / "again"
        command = [
            "factory", "label", factory, "--invert", "--masks", data / "masks", "-o", out,
            "--invert-steps", 3, "--encoder-weights", "none",
        ]  # fmt: skip
        for step, name in ((2, "images-10"), (4, "classifier-1")):
            words = [sys.executable, "-c", script, step, name, *command]
            killed = subprocess.run([str(word) for word in words], capture_output=True, check=False)
            assert killed.returncode == 9, killed.stderr.decode()
            command = ["resume", out]
        words = [sys.executable, "-m", "fewmask", "resume", str(out)]
        subprocess.run(words, check=True, capture_output=True)
        for name in ("styles.npy", "interpreter.safetensors"):
            first, second = (next(run.glob(f"*/{name}")) for run in (inverted, out))
            assert first.read_bytes() == second.read_bytes(), name


class TestEncoderRoute:
    def test_five_masks_and_a_scribble_find_the_rest(self, fewmask, data, tmp_path):
        """Without a generator; the masks' values 255 are not learned from."""
        masks = tmp_path / "masks"
        masks.mkdir()
        for number in range(5):
            mask = read_mask(data / "masks" / f"b{number:02d}.png").copy()
            mask[:, ::3] = 255
            write_mask(masks / f"b{number:02d}.png", mask)
        run = tmp_path / "run"
        result = fewmask(
            "factory", "label", data / "images", "--encoder", "--masks", masks, "-o", run, *SMALL,
            "--image-size", 32, "--interpret-steps", 150, "--interpret-enlarge", 2,
        )  # fmt: skip
        assert result.code == 0, result.err
        assert "predict" in result.out
        found = tmp_path / "found"
        assert fewmask("predict", run, data / "images", "-o", found).code == 0
        ious = []
        for number in range(5, 30):
            mask = read_mask(found / "masks" / f"b{number:02d}.png") == 1
            truth = read_mask(data / "masks" / f"b{number:02d}.png") == 1
            ious.append((mask & truth).sum() / (mask | truth).sum())
        assert np.mean(ious) > 0.6

    def test_predict_refuses_features_of_a_generator(self, fewmask, inverted, data, tmp_path):
        result = fewmask("predict", inverted, data / "images", "-o", tmp_path / "x")
        assert result.code == 2
        assert "RUN-INTERPRETER" in result.err


class TestSample:
    def test_pairs_with_lineage(self, fewmask, labelled, tmp_path):
        out = tmp_path / "set"
        result = fewmask("factory", "sample", labelled, "-n", 18, "-o", out)
        assert result.code == 0, result.err
        lines = list(csv.DictReader((out / "manifest.csv").open()))
        assert len(lines) == 18 == len(list((out / "images").iterdir()))
        assert {line["synthetic"] for line in lines} == {"True"}
        facts = json.loads((out / "dataset.json").read_text())
        assert facts["synthetic"] is True
        assert facts["unsure"] == 2
        codes = np.load(out / "z.npy")
        for line, code in zip(lines, codes, strict=True):
            image, mask = read_image(out / line["image"]), read_mask(out / line["mask"])
            assert image.shape[:2] == mask.shape == (16, 16)
            assert mask.max() <= 1
            assert np.array_equal(code, latent_codes(0, [int(line["number"])], 16)[0])

    def test_the_least_sure_are_left_out(self, fewmask, labelled, tmp_path):
        for name, drop in (("all", 0), ("some", 0.5)):
            words = ("-n", 10 if drop else 20, "--drop", drop, "-o", tmp_path / name)
            assert fewmask("factory", "sample", labelled, *words).code == 0
        every, some = (
            {line["number"]: float(line["disagreement"]) for line in csv.DictReader(path.open())}
            for path in (tmp_path / "all/manifest.csv", tmp_path / "some/manifest.csv")
        )
        assert sorted(some.values()) == sorted(every.values())[:10]

    def test_twice_the_same_bytes(self, fewmask, labelled, tmp_path, tree):
        for name in ("one", "two"):
            assert fewmask("factory", "sample", labelled, "-n", 5, "-o", tmp_path / name).code == 0
        assert tree(tmp_path / "one") == tree(tmp_path / "two")

    def test_copies_of_training_images_are_left_out(
        self, fewmask, labelled, factory, tmp_path, monkeypatch
    ):
        plain = tmp_path / "plain"
        words = ("factory", "sample", labelled, "-n", 6, "--drop", 0, "-o")
        assert fewmask(*words, plain).code == 0
        stolen = read_image(plain / "images" / "000002.png")
        learned = KnownImages.learned
        monkeypatch.setattr(
            KnownImages,
            "learned",
            lambda self, image: "a copy" if np.array_equal(image, stolen) else learned(self, image),
        )
        result = fewmask(*words, tmp_path / "audited")
        assert "1 copies of training images" in result.out
        assert not (tmp_path / "audited" / "images" / "000002.png").exists()
        assert len(list((tmp_path / "audited" / "masks").iterdir())) == 5

    def test_a_generator_that_only_copies_is_refused(
        self, fewmask, labelled, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(KnownImages, "learned", lambda *_: "a copy")
        result = fewmask("factory", "sample", labelled, "-n", 3, "-o", tmp_path / "x")
        assert result.code == 13
        assert "ONLY-COPIES" in result.err
        assert not (tmp_path / "x").exists()

    def test_the_only_interpreter_is_found_and_several_are_named(
        self, fewmask, factory, labelled, inverted, tmp_path
    ):
        result = fewmask("factory", "sample", factory, "-n", 2, "-o", tmp_path / "x")
        assert result.code == 2
        assert "labelled-generated" in result.err
        assert "labelled-invert" in result.err

    @pytest.mark.parametrize("words", [("-n", 0), ("--drop", 1), ("--truncation-psi", 2)])
    def test_numbers_out_of_range(self, fewmask, labelled, tmp_path, words):
        result = fewmask("factory", "sample", labelled, "-o", tmp_path / "x", *words)
        assert result.code == 2
        assert "SAMPLE" in result.err
        assert not (tmp_path / "x").exists()

    def test_a_data_set_is_a_data_folder(self, fewmask, labelled, tmp_path):
        out = tmp_path / "set"
        assert fewmask("factory", "sample", labelled, "-n", 12, "-o", out).code == 0
        checked = fewmask("check", out, "--json")
        assert "train" in checked.json["uses"]


class TestJudge:
    def test_every_row_and_its_price(self, judged):
        out, _ = judged
        rows = {row["name"]: row for row in json.loads((out / "metrics.json").read_text())["rows"]}
        kinds = {name: row["kind"] for name, row in rows.items()}
        assert kinds["24 real only"] == kinds["synthetic only"] == "control"
        assert kinds["24 real only, no augmentation"] == "control"
        assert kinds["24 real + self-training"] == kinds["24 real, encoder route"] == "control"
        assert kinds["synthetic + 24 real"] == "result"
        assert rows["synthetic only"]["masks_used"] == 24
        assert "all real" not in kinds  # the few are all that there are

    def test_segmenters_are_measured_by_the_interpreters_masks_too(self, judged, inverted):
        """On the last synthetic images, which are the ones that ``sample`` would make."""
        out, _ = judged
        sampled = next(out.glob("*-sample"))
        images = np.load(sampled / "test-images.npy")
        assert (len(np.load(sampled / "images.npy")), len(images)) == (12, 4)
        training = {image.tobytes() for image in np.load(sampled / "images.npy")}
        assert training.isdisjoint(image.tobytes() for image in images)
        found = json.loads((next(out.glob("*-evaluate")) / "test-G.json").read_text())
        assert set(found) == {
            "24 real only", "24 real only, no augmentation", "24 real + self-training",
            "synthetic only", "synthetic + 24 real",
        }  # fmt: skip
        checks = json.loads((out / "metrics.json").read_text())["checks"]
        name = "synthetic only"
        network = load_segmenter(restore_workspace(RunFolder.open(out), torch.device("cpu"))[0],
                                 next(out.glob("*-segment")) / "synthetic.safetensors")  # fmt: skip
        truth = np.load(sampled / "test-masks.npy")
        guess = np.stack([network.mask(image) for image in images])
        ious = [(truth == k)[guess == k].sum() / ((truth == k) | (guess == k)).sum() for k in (0, 1)
                if ((truth == k) | (guess == k)).any()]  # fmt: skip
        assert found[name]["miou"] == pytest.approx(np.mean(ious))
        assert checks[f"test-G.miou.{name}"] == found[name]["miou"]
        assert "agreement with the interpreter" in (out / "report.html").read_text()

    def test_few_masks_of_many_and_the_gap(self, fewmask, labelled, data, tmp_path):
        """Six annotated generated images, so six real ones stand against them."""
        out = tmp_path / "run"
        result = fewmask("factory", "judge", labelled, data, "-o", out, *SMALL)
        assert result.code == 0, result.err
        table = json.loads((out / "metrics.json").read_text())
        rows = {row["name"]: row for row in table["rows"]}
        assert rows["all real"]["gap_closed"] == 1
        assert rows["6 real only"]["gap_closed"] == 0
        page = (out / "report.html").read_text()
        assert "6 annotated generated images, 6 real ones" in page
        assert "do not use the synthetic" in page

    def test_the_factorys_own_cut_is_kept(self, judged, factory):
        parts = [
            json.loads(next(run.glob("*-split/split.json")).read_text())
            for run in (judged[0], factory)
        ]
        assert parts[0]["test"] == parts[1]["test"]

    def test_what_the_factory_has_seen_is_no_test_image_of_the_real_cut(self, judged, monkeypatch):
        """The cut before the run is a forecast; the one that counts is asked again."""
        run = RunFolder.open(judged[0])
        work, _ = restore_workspace(run, torch.device("cpu"))
        module, work.config = recorded_settings(run)
        work.data = module.DATA.open(Path(run.record["data"]), work.config)
        stage, seen = work.stages["split"], work.parts["train"][:1]
        factory_judge.refuse_known(work.config, work.data, work.parts["test"])
        monkeypatch.setattr(factory_judge, "split", lambda *_: None)
        monkeypatch.setattr(stage.__class__, "read_json", lambda *_: {"test": seen})
        with pytest.raises(LeakError):
            factory_judge.cut(work, stage)

    def test_no_augmentation_shows_images_as_they_are(
        self, fewmask, inverted, data, tmp_path, monkeypatch
    ):
        from fewmask.data.transforms import Augmentation
        from fewmask.training import segmenting

        used, fit = {}, segmenting.fit

        def noted(stage, network, dataset, *rest, name, **options):
            used[name] = dataset.augmentation
            return fit(stage, network, dataset, *rest, name=name, **options)

        monkeypatch.setattr(segmenting, "fit", noted)
        words = (
            "-o",
            tmp_path / "run",
            *SMALL,
            "--judge-rows",
            "few",
            "few-plain",
            "synthetic",
            "both",
        )
        assert fewmask("factory", "judge", inverted, data, *words).code == 0
        assert used.pop("few-plain") == Augmentation()
        assert set(used) == {"few", "synthetic", "both"}
        assert Augmentation() not in used.values()

    def test_the_encoder_route_alone_hands_out_what_it_measured(self, fewmask, data, tmp_path):
        taught, out = tmp_path / "taught", tmp_path / "run"
        (tmp_path / "few").mkdir()
        for number in range(3):
            shutil.copy(data / "masks" / f"b{number:02d}.png", tmp_path / "few")
        words = ("--encoder", "--masks", tmp_path / "few", "-o", taught, *SMALL, "--image-size", 32)
        assert fewmask("factory", "label", data / "images", *words).code == 0
        split = tmp_path / "split.csv"
        lines = [f"images/b{i:02d},{'test' if i > 20 else 'train'}" for i in range(30)]
        split.write_text("id,part\n" + "\n".join(lines) + "\n")
        words = ("-o", out, *SMALL, "--split-file", split, "--judge-rows", "few", "all")
        judged = fewmask("factory", "judge", taught, data, *words)
        assert judged.code == 0, judged.err
        rows = json.loads((out / "metrics.json").read_text())["rows"]
        assert [r["name"] for r in rows if r["kind"] == "result"] == ["3 real, encoder route"]
        for run in (out, taught):
            found = tmp_path / f"found-{run.name}"
            assert fewmask("predict", run, data / "images", "-o", found).code == 0
        name = "masks/b25.png"
        first, second = (read_mask(tmp_path / f"found-{n}" / name) for n in ("run", "taught"))
        assert np.array_equal(first, second)

    def test_a_generator_beside_the_encoder_route_is_asked_too(
        self, fewmask, factory, data, tmp_path
    ):
        """The encoder's own masks are no leak there, but the generator knows the test images."""
        few, taught, other = tmp_path / "few", tmp_path / "taught", tmp_path / "copy"
        few.mkdir()
        parts = json.loads(next(factory.glob("*-split/split.json")).read_text())
        shutil.copy(data / "masks" / f"{parts['train'][0].split('/')[-1]}.png", few)
        words = ("--encoder", "--masks", few, "-o", taught)
        assert fewmask("factory", "label", factory, *words).code == 0
        shutil.copytree(data, other)
        split = tmp_path / "split.csv"
        test = set(parts["train"][1:6])
        names = [f"images/b{i:02d}" for i in range(30)]
        lines = [f"{name},{'test' if name in test else 'train'}" for name in names]
        split.write_text("id,part\n" + "\n".join(lines) + "\n")
        words = ("-o", tmp_path / "run", *SMALL, "--split-file", split)
        result = fewmask("factory", "judge", taught, other, *words)
        assert result.code == 11
        assert "LEAK" in result.err

    def test_a_few_rows_alone(self, fewmask, inverted, data, tmp_path):
        """Synthetic images need no control to be measured; the answer is what there is."""
        out = tmp_path / "run"
        words = ("-o", out, *SMALL, "--judge-rows", "synthetic")
        result = fewmask("factory", "judge", inverted, data, *words)
        assert result.code == 0, result.err
        rows = json.loads((out / "metrics.json").read_text())["rows"]
        assert [r["name"] for r in rows if r["kind"] == "result"] == ["synthetic only"]
        assert "24 real only" not in {r["name"] for r in rows}
        assert not list(out.glob("*-interpret"))

    def test_synthetic_rows_without_synthetic_images(self, fewmask, inverted, data, tmp_path):
        words = ("-o", tmp_path / "run", *SMALL, "--judge-rows", "both", "--sample-count", 0)
        result = fewmask("factory", "judge", inverted, data, *words)
        assert result.code == 2
        assert "sample_count above 0" in result.err

    def test_predict_and_resume(self, fewmask, judged, data, tmp_path):
        out, _ = judged
        assert fewmask("predict", out, data / "images", "-o", tmp_path / "masks").code == 0
        again = fewmask("resume", out)
        assert again.code == 0
        assert "done before" in again.err

    def test_images_that_the_generator_knows_are_no_test(self, fewmask, labelled, data, tmp_path):
        other = tmp_path / "copy"
        shutil.copytree(data, other)  # the same images elsewhere, so another cut
        result = fewmask(
            "factory", "judge", labelled, other, "-o", tmp_path / "run", *SMALL, "--split-seed=3"
        )
        assert result.code == 11
        assert "LEAK" in result.err

    def test_images_alone_cannot_judge(self, fewmask, labelled, data, tmp_path):
        result = fewmask(
            "factory", "judge", labelled, data / "images", "-o", tmp_path / "r", *SMALL
        )
        assert result.code == 10
        assert "NO-MASKS" in result.err


def test_the_same_from_python(data, tmp_path):
    import fewmask

    run = fewmask.factory(data, tmp_path / "run", preset="smoke", threads=1, device="cpu")
    seeds = run.export_seeds(tmp_path / "seeds", 2)
    (tmp_path / "seeds" / "masks").mkdir()
    for path in seeds:
        mask = np.zeros((16, 16), np.uint8)
        mask[5:9] = 1
        write_mask(tmp_path / "seeds" / "masks" / path.name, mask)
    taught = run.label(tmp_path / "seeds" / "masks", interpret_steps=3)
    assert taught.path == run.path / "labelled-generated"
    assert run.sample(tmp_path / "set", 3).pairs == 3
    judged = run.judge(data, tmp_path / "judged", preset="smoke", judge_steps=2, threads=1)
    assert "synthetic + 2 real" in {row["name"] for row in judged.table["rows"]}


def test_the_demo_in_short(fewmask, tmp_path, monkeypatch):
    pytest.importorskip("nilearn")
    from fewmask import demo
    from fewmask.pipelines import factory_config

    for presets in (factory_config.PRESETS, factory_config.JUDGE_PRESETS):
        monkeypatch.setitem(presets, "fast", {**presets["smoke"], "threads": 1})
    monkeypatch.setattr(demo, "FACTORY_SETTINGS", {"image_size": 32, "invert_steps": 2})
    monkeypatch.setattr(demo, "JUDGE_SETTINGS", {})
    result = fewmask("demo", "factory", "-o", tmp_path / "demo")
    assert result.code == 0, result.err
    assert result.out.startswith("one average brain")
    table = json.loads((tmp_path / "demo" / "run" / "metrics.json").read_text())
    names = {row["name"] for row in table["rows"]}
    assert {"10 real only", "synthetic + 10 real", "10 real, encoder route", "all real"} <= names
    assert "fewmask factory train" in result.out
