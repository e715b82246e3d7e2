"""A run that learns from reviewed masks: what it learns, and that its bill says so."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fewmask.training.checkpoint import sha256_file
from fewmask.training.run_folder import RunFolder


@pytest.fixture
def table(tiny_run, tmp_path):
    """``table(verdicts)`` writes a review of the first images that were trained on, and its ids."""

    def write(*verdicts, ids=None):
        with (tiny_run.path / "2-split" / "split.csv").open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["part"] != "test" and row["tags"]]
        names = ids or [row["id"] for row in rows[: len(verdicts)]]
        lines = ["image,verdict,mask,sha256"]
        for number, (name, verdict) in enumerate(zip(names, verdicts, strict=True)):
            mask = np.zeros((32, 32), np.uint8)
            mask[number : number + 5] = 1
            path = tmp_path / "masks" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
            file = f"masks/{name}.png,{sha256_file(path)}" if verdict != "rejected" else ","
            lines.append(f"{name},{verdict},{file}")
        (tmp_path / "review.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "review.csv", names

    return write


def test_reviewed_masks_are_what_is_learned_and_are_billed(
    fewmask, tiny_run, small_data, tiny, table, tmp_path
):
    file, names = table("accepted", "edited", "rejected")
    result = fewmask(
        "tags", small_data, "-o", tmp_path / "again", *tiny, "--augment-images=4",
        "--segment-rounds=2", "--reuse", tiny_run.path, "--review-file", file,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "6-evidence: copied from" in result.err
    run = tmp_path / "again"
    targets = np.load(run / "7-pseudo_masks" / "targets.npy")
    before = np.load(tiny_run.path / "7-pseudo_masks" / "targets.npy")
    ids = list(_json(run / "1-prepare" / "digests.json"))
    for number, name in enumerate(names[:2]):
        expected = np.zeros((32, 32), np.uint8)
        expected[number : number + 5] = 1
        np.testing.assert_array_equal(targets[ids.index(name)], expected)
    assert (targets[ids.index(names[2])] == 255).all()
    others = [row for row, name in enumerate(ids) if name not in names]
    np.testing.assert_array_equal(targets[others], before[others])
    rows = {row["name"]: row for row in _json(run / "metrics.json")["rows"]}
    assert rows["segmenter on pseudo-masks, 2 of them reviewed"]["masks_used"] == 2
    assert "masks accepted or corrected by hand" in (run / "report.html").read_text()


def _json(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("damage", ["mask altered", "mask gone", "unknown image", "no table", "up"])
def test_a_review_that_is_not_what_was_saved_is_refused(
    fewmask, small_data, tiny, table, tmp_path, damage
):
    ids = ["positive/none"] if damage == "unknown image" else None
    file, names = table("edited", ids=ids)
    mask = tmp_path / "masks" / f"{names[0]}.png"
    if damage == "mask altered":
        Image.fromarray(np.ones((32, 32), np.uint8)).save(mask)
    elif damage == "mask gone":
        mask.unlink()
    elif damage == "no table":
        file.write_text("something else\n")
    elif damage == "up":
        shutil.copy(mask, tmp_path.parent / "up.png")
        file.write_text(file.read_text().replace(f"masks/{names[0]}.png", "../up.png"))
    result = fewmask("tags", small_data, "-o", tmp_path / "run", *tiny, "--review-file", file)
    assert result.code == 10
    assert "REVIEW-FILE" in result.err
    assert not (tmp_path / "run").exists()


def test_the_button_starts_the_same_run_with_the_reviews_so_far(client, run_id, desk, runs_root, monkeypatch):  # fmt: skip  # noqa: E501
    started = {}

    def start(kind, about, words):
        started.update(kind=kind, about=about, words=words)
        return type("Job", (), {"id": "x"})()

    monkeypatch.setattr(desk.jobs, "start", start)
    items = client.get(f"/api/reviews/{run_id}").json()["items"]
    sent = {"client_id": "0" * 32, "run": run_id, "image": items[0]["id"], "verdict": "accepted",
            "base_version": items[0]["version"]}  # fmt: skip
    assert client.post("/api/reviews", json=sent).status_code == 200
    assert client.post(f"/api/reviews/{run_id}/retrain", json={"name": "again"}).status_code == 200
    words = started["words"]
    assert words[words.index("-o") + 1] == str(runs_root / "again")
    old = RunFolder.open(runs_root / "first").record
    assert f"--image-size={old['settings']['image_size']}" in words
    kept = next(word for word in words if word.startswith("--review-file="))
    assert "review.csv" in kept
    assert not kept.startswith(f"--review-file={runs_root / 'first'}")
    for name in ("../x", "first"):
        answer = client.post(f"/api/reviews/{run_id}/retrain", json={"name": name})
        assert answer.status_code == 400
