"""Runs side by side, and a run on a file that was dropped."""

import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def twin_id(client, runs_root):
    """A second run, whose masks of one image are all foreground."""
    twin = runs_root / "twin"
    shutil.copytree(runs_root / "first", twin, ignore=shutil.ignore_patterns("review"))
    path = sorted((twin / "masks" / "negative").glob("*.png"))[3]
    Image.fromarray(np.ones((32, 32), np.uint8)).save(path)
    yield next(run["id"] for run in client.get("/api/runs").json() if run["name"] == "twin")
    shutil.rmtree(twin)


def test_scores_costs_and_settings_stand_side_by_side(client, run_id, twin_id, tiny_run):
    found = client.get("/api/compare", params={"run": [run_id, twin_id]}).json()
    assert [each["name"] for each in found["runs"]] == ["first", "twin"]
    score = tiny_run.table["metrics"]["iou.pooled.positive"]
    assert found["runs"][0]["scores"]["IoU"]["value"] == pytest.approx(score)
    result = [p for p in found["runs"][0]["points"] if p["kind"] == "result"]
    assert (result[0]["masks"], result[0]["score"]) == (0, pytest.approx(score))
    assert found["runs"][0]["labels"] == "tags only"
    assert found["settings"] == []
    page = client.get("/compare", params={"run": [run_id, twin_id]}).text
    assert f"{score:.3f}" in page


def test_the_image_on_which_masks_differ_most_comes_first(client, run_id, twin_id):
    images = client.get(f"/api/compare/{run_id}/{twin_id}/images").json()
    assert images[0]["name"].startswith("negative/")
    assert images[0]["differ"] > 0.3
    assert [each["differ"] for each in images[1:]] == [0.0] * 23
    drawn = [
        client.get(f"/api/runs/{r}/masks/{images[0]['id']}").content for r in (run_id, twin_id)
    ]
    assert drawn[0] != drawn[1]
    assert Image.open(io.BytesIO(drawn[1])).size == (32, 32)


def test_runs_that_are_not_there_are_no_error_of_the_page(client, run_id):
    assert client.get("/compare", params={"run": ["nothing"]}).status_code == 200
    assert client.get("/api/compare", params={"run": ["nothing"]}).status_code == 404
    assert client.get(f"/api/compare/{run_id}/nothing/images").status_code == 404


def test_a_dropped_image_gives_a_mask_to_download(client, run_id, small_data, runs_root):
    content = (small_data / "positive" / "p001.png").read_bytes()
    sent = client.post("/api/tries", params={"run": run_id, "name": "..\\my scene.PNG"},
                       content=content)  # fmt: skip
    assert sent.status_code == 200, sent.text
    address = f"/api/tries/{sent.json()['id']}"
    while client.get(address).json()["state"] == "running":
        time.sleep(0.3)
    found = client.get(address).json()
    assert found == {**found, "state": "finished", "overlay": True, "mask": "image.png"}, found
    mask = client.get(f"{address}/mask", params={"stem": '../a"b\n<svg>'})
    assert mask.headers["content-disposition"] == 'attachment; filename="a_b_svg.png"'
    assert np.asarray(Image.open(io.BytesIO(mask.content))).shape == (32, 32)
    assert Image.open(io.BytesIO(client.get(f"{address}/overlay").content)).mode == "RGB"


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.svg", b"<svg onload=alert(1)>"), ("a.png", b"<html><script>1</script>"), ("a.png", b""),
     ("a.png", b"\x89P"), ("a.nii.gz", b"PK\3\4"), ("a.tif", b"\x89PNG\r\n\x1a\n"), ("png", b"x"),
     ("a.png.html", b"\x89PNG\r\n\x1a\n"), ("../../a", b"x")],
)  # fmt: skip
def test_other_files_are_not_taken(client, run_id, desk, name, content):
    answer = client.post("/api/tries", params={"run": run_id, "name": name}, content=content)
    assert (answer.status_code, answer.json()["problems"][0]["code"]) == (422, "TRY-KIND")
    left = [] if not desk.tries.folder.exists() else list(desk.tries.folder.iterdir())
    assert all(desk.jobs.latest(place, "try") for place in left)


def test_a_body_that_hides_its_length_is_cut_off(client, run_id, desk, monkeypatch):
    from fewmask.web import gate

    monkeypatch.setattr(gate, "MAX_UPLOAD", 100_000)

    def parts():
        yield b"\x89PNG\r\n\x1a\n"
        for _ in range(200):
            yield b"x" * 1000

    places = set(desk.tries.folder.iterdir())
    answer = client.post("/api/tries", params={"run": run_id, "name": "a.png"}, content=parts())
    assert answer.status_code == 413
    assert set(desk.tries.folder.iterdir()) == places


def test_only_the_newest_tries_stay(desk):
    from fewmask.web.trying import KEPT

    for _ in range(KEPT + 3):
        desk.tries.new_place(".png")
    assert len(list(desk.tries.folder.iterdir())) == KEPT
