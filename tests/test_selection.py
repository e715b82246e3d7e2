"""``fewmask select``: what is kept, why, and what it refuses."""

import csv
import shutil

import numpy as np
import pytest
import scipy.linalg
from PIL import Image

import fewmask as fewmask_library
from fewmask.data.light import grey_level, light_score
from fewmask.metrics.feature_distance import (
    FeatureStatistics,
    feature_distances,
    feature_statistics,
    frechet_distance,
)


def frechet_by_the_book(mean_a, cov_a, mean_b, cov_b):
    """Heusel et al. 2017, eq. 6, with a general matrix square root."""
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root).real


class TestFeatureDistance:
    def features(self, n, d=5, seed=0):
        rng = np.random.default_rng(seed)
        return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)

    def test_statistics_are_numpy_s(self):
        features = self.features(20)
        mean, covariance = feature_statistics(features)
        assert np.allclose(mean, features.mean(0))
        assert np.allclose(covariance, np.cov(features.T))

    @pytest.mark.parametrize("n", [3, 30])  # fewer images than dimensions: a singular covariance
    def test_frechet_distance_is_the_published_formula(self, n):
        a, b = self.features(n, seed=1), self.features(40, seed=2)
        expected = frechet_by_the_book(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
        found = frechet_distance(feature_statistics(a), feature_statistics(b))
        assert found == pytest.approx(expected, rel=1e-6)

    def test_of_equal_sets_it_is_zero(self):
        same = feature_statistics(self.features(30))
        assert frechet_distance(same, same) == pytest.approx(0, abs=1e-9)

    @pytest.mark.filterwarnings("ignore:Matrix is singular")
    def test_of_one_image_the_published_fid_is_the_distance_to_the_mean_and_a_constant(self):
        target = self.features(40, seed=2)
        statistics = feature_statistics(target)
        images = self.features(6, seed=3)
        found = feature_distances(images, statistics)
        for image, distance in zip(images, found, strict=True):
            none = np.zeros((5, 5))
            book = frechet_by_the_book(image, none, target.mean(0), np.cov(target.T))
            assert distance == pytest.approx(book, rel=1e-9)
            alone = FeatureStatistics(image, none)
            assert distance == pytest.approx(frechet_distance(alone, statistics), rel=1e-9)
        nearest = ((images - target.mean(0)) ** 2).sum(1)
        assert list(np.argsort(found)) == list(np.argsort(nearest))


class TestLight:
    def test_red_counts_half_in_the_light_score(self):
        image = np.zeros((2, 2, 3), np.uint8)
        image[..., 0], image[..., 1], image[..., 2] = 100, 10, 40
        assert light_score(image) == pytest.approx((50 + 10 + 40) / 2.5)
        assert grey_level(image) == pytest.approx(0.299 * 100 + 0.587 * 10 + 0.114 * 40)


def scene(rng, level, *, striped):
    """A grey scene of a mean level; stripes or dots, so that content differs too."""
    y, x = np.mgrid[:48, :64]
    pattern = (x // 4) % 2 if striped else ((x // 8) % 2) * ((y // 8) % 2)
    image = level * (0.5 + pattern)[..., None] + rng.normal(0, 2, (48, 64, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """A pool of 6 dark stripes, 6 light stripes and 6 dark dots; a target of dark stripes."""
    rng = np.random.default_rng(0)
    kinds = {"dark": (30, True), "light": (150, True), "dots": (30, False)}
    for kind, (level, striped) in kinds.items():
        for i in range(6):
            path = tmp_path / "pool" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene(rng, level + i, striped=striped)).save(path)
    (tmp_path / "like").mkdir()
    for i in range(6):
        Image.fromarray(scene(rng, 30 + i, striped=True)).save(tmp_path / "like" / f"{i}.png")
    return tmp_path


def kept(out):
    rows = list(csv.DictReader((out / "selected.csv").open()))
    return [row["image"] for row in rows if row["kept"] == "1"], rows


def kinds(names):
    return {name.split("/")[0] for name in names}


def test_distance_finds_the_target_s_content_and_light(fewmask, folders, tree):
    before = tree(folders)
    result = fewmask("select", folders / "pool", "--like", folders / "like", "--keep", 6,
                     "-o", folders / "out")  # fmt: skip
    assert result.code == 0, result.err
    names, rows = kept(folders / "out")
    assert kinds(names) == {"dark"}
    assert len(rows) == 18
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)  # the nearest first
    assert "6 of 18 images kept" in result.out
    copies = {p.relative_to(folders / "out" / "images").as_posix(): p.read_bytes()
              for p in (folders / "out" / "images").rglob("*.png")}  # fmt: skip
    assert copies == {f"{n}.png": (folders / "pool" / f"{n}.png").read_bytes() for n in names}
    shutil.rmtree(folders / "out")
    assert tree(folders) == before


def test_histogram_keeps_the_target_s_range_of_light(fewmask, folders):
    flags = ("--like", folders / "like", "--method", "histogram", "--quantiles", 0, 1)
    result = fewmask("select", folders / "pool", *flags, "-o", folders / "out", "--no-copy")
    names, rows = kept(folders / "out")
    assert names
    levels = [light_score(np.asarray(Image.open(p))) for p in (folders / "like").iterdir()]
    inside = {r["image"] for r in rows if min(levels) <= float(r["score"]) <= max(levels) + 1e-4}
    assert set(names) == inside
    assert "light" not in kinds(names)
    assert not (folders / "out" / "images").exists()
    assert "quantiles 0 and 1 of the target" in result.out
    fewest = fewmask("select", folders / "pool", *flags, "--keep", 1, "-o", folders / "one")
    assert fewest.code == 0
    middle = np.median(levels)
    assert kept(folders / "one")[0] == [min(names, key=lambda n: abs(  # nearest to the middle
        light_score(np.asarray(Image.open(folders / "pool" / f"{n}.png"))) - middle))]  # fmt: skip


@pytest.mark.parametrize(("flag", "expected"), [("--high", {"dark", "dots"}), ("--low", {"light"})])
def test_grey_sorts_day_from_night(fewmask, folders, flag, expected):
    result = fewmask("select", folders / "pool", "--method=grey", flag, 65, "-o", folders / "out")
    assert result.code == 0, result.err
    names, _ = kept(folders / "out")
    assert kinds(names) == expected
    assert len(names) == 6 * len(expected)
    levels = [grey_level(np.asarray(Image.open(folders / "pool" / f"{n}.png"))) for n in names]
    assert levels == sorted(levels, reverse=flag == "--low")  # the farthest from the bound first


def test_the_same_from_python(folders):
    found = fewmask_library.select(
        str(folders / "pool"), str(folders / "out"), like=str(folders / "like"), keep=6
    )
    assert list(found.kept) == kept(folders / "out")[0]
    assert kinds(found.kept) == {"dark"}
    assert len(found.scores) == 18


def test_a_target_inside_the_pool_is_no_part_of_it(fewmask, folders):
    fewmask("select", folders / "pool", "--like", folders / "pool" / "dark", "--keep", 3,
            "-o", folders / "out")  # fmt: skip
    _, rows = kept(folders / "out")
    assert kinds(row["image"] for row in rows) == {"light", "dots"}


def test_nothing_in_the_range_is_said_and_the_scores_are_there(fewmask, folders):
    flags = ("--method=grey", "--low=250", "-o", folders / "out")
    result = fewmask("select", folders / "pool", *flags)
    assert result.code == 10
    assert "SELECT-NONE" in result.err
    assert "0 of 18 images kept" in result.err
    names, rows = kept(folders / "out")
    assert (names, len(rows)) == ([], 18)


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_chosen_from(fewmask, folders):
    broken = folders / "pool" / "dark" / "0.png"
    broken.write_bytes(broken.read_bytes()[:100])
    result = fewmask("select", folders / "pool", "--like", folders / "like", "--keep", 5,
                     "-o", folders / "out")  # fmt: skip
    assert result.code == 10
    assert str(broken) in result.err
    assert "SELECT-PARTIAL" in result.err
    names, rows = kept(folders / "out")
    assert kinds(names) == {"dark"}
    assert len(rows) == 17


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (("--keep", 3), 2, "--like"),
        (("--method=histogram",), 2, "--like TARGET, or --low and --high"),
        (("--like", "{like}"), 2, "--keep"),
        (("--like", "{like}", "--keep", 0), 2, "1 or more"),
        (("--method=grey", "--low=9", "--high=3"), 2, "low to high"),
        (("--method=grey", "--like", "{like}", "--quantiles", 0.9, 0.1), 2, "rising"),
        (("--like", "{pool}", "--keep", 3), 2, "POOL-EMPTY"),
        (("--like", "{like}/nowhere", "--keep", 3), 2, "IMAGES-MISSING"),
        (("--like", "{like}", "--keep", 3, "-o", "{pool}/out"), 10, "DATA-READ-ONLY"),
        (("--like", "{like}", "--keep", 3, "-o", "{like}"), 2, "holds"),
        (("--like", "{like}", "--keep", 3, "--encoder", "resnet18"), 2, "ENCODER-WEIGHTS"),
    ],
)
def test_refusals(fewmask, folders, tree, flags, code, word):
    before = tree(folders)
    places = {"like": folders / "like", "pool": folders / "pool"}
    flags = [f.format(**places) if isinstance(f, str) else f for f in flags]
    out = () if "-o" in flags else ("-o", folders / "out")
    result = fewmask("select", folders / "pool", *flags, *out)
    assert result.code == code, result.err
    assert word in result.err
    assert tree(folders) == before
