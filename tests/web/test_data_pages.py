"""Data folders in the browser: images, checks, the repaired copy, what fits, the form of a run."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from fewmask.web import forms
from fewmask.web.advice import advise
from fewmask.web.albums import Albums
from fewmask.web.app import new_desk


@pytest.fixture(scope="module")
def data_id(client, small_data):
    (found,) = [each["id"] for each in client.get("/api/data").json()
                if each["path"] == str(small_data)]  # fmt: skip
    return found


def test_images_come_in_parts_by_tag_mask_and_name(client, data_id):
    def ask(**query):
        return client.get(f"/api/data/{data_id}/images", params=query).json()

    first, rest = ask(limit=5), ask(offset=5, limit=500)
    assert (first["total"], len(first["images"]), len(rest["images"])) == (24, 5, 19)
    names = [each["name"] for each in first["images"] + rest["images"]]
    assert names == sorted(names)
    assert ask(show="tag:positive")["total"] == 12
    assert ask(show="without-tag")["total"] == ask(text="NEGATIVE/")["total"] == 12
    assert ask(show="with-mask")["total"] == 12


def test_a_thumb_is_small_and_a_view_shows_the_mask(client, data_id, small_data):
    (found,) = client.get(f"/api/data/{data_id}/images", params={"text": "positive/p000"}).json()["images"]  # fmt: skip  # noqa: E501
    address = f"/api/data/{data_id}/images/{found['id']}"
    for _ in range(2):  # made, then kept
        thumb = Image.open(io.BytesIO(client.get(f"{address}/thumb").content))
        assert thumb.size == (32, 32)
    plain = np.asarray(Image.open(small_data / "positive" / "p000.png").convert("RGB"), int)
    view = np.asarray(Image.open(io.BytesIO(client.get(f"{address}/view").content)), int)
    mask = np.asarray(Image.open(small_data / "masks" / "p000.png")) > 0
    change = np.abs(view - plain).mean(-1)
    assert change[mask].mean() > 3 * change[~mask].mean()


def test_a_folder_of_ten_thousand_images_is_listed_by_parts(tmp_path):
    (tmp_path / "data").mkdir()
    stream = io.BytesIO()
    Image.new("L", (2, 2)).save(stream, "PNG")
    for number in range(10_000):
        (tmp_path / "data" / f"{number:05}.png").write_bytes(stream.getvalue())
    album = Albums(tmp_path).open(tmp_path / "data")
    assert len(album.chosen()) == 10_000
    assert [each.name for each in album.chosen(text="0999")][:2] == ["00999", "09990"]


def finished(client, address, what):
    while True:
        found = client.get(address).json()
        if found[what] and not found[what]["running"]:
            return found
        time.sleep(0.2)


def test_a_broken_folder_is_told_and_mended_beside(tmp_path, tree):
    from starlette.testclient import TestClient

    from fewmask.web.app import create_app
    from fewmask.web.gate import Rules

    data = tmp_path / "data"
    for name, grey in (("positive", 200), ("negative", 90)):
        (data / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng(grey + i).integers(0, grey, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(data / name / f"{name}{i}.png")
    (data / "positive" / "cut.png").write_bytes((data / "positive" / "positive0.png").read_bytes()[:300])  # fmt: skip  # noqa: E501
    before = tree(data)
    desk = new_desk(tmp_path / "runs", (data,))
    client = TestClient(create_app(desk, Rules("t" * 16, 80)), base_url="http://localhost",
                        headers={"authorization": f"Bearer {'t' * 16}"})  # fmt: skip
    (listed,) = client.get("/api/data").json()
    address = f"/api/data/{listed['id']}"
    assert client.post(f"{address}/check").status_code == 200
    assert client.post(f"{address}/check").json()["problems"][0]["code"] == "JOB-RUNS"
    found = finished(client, address, "check")
    assert "IMAGE-TRUNCATED" in {each["code"] for each in found["problems"]}
    page = client.get(f"/data/{listed['id']}").text
    assert "IMAGE-TRUNCATED" in page
    assert "Write a repaired copy" in page
    assert client.post(f"{address}/fix").status_code == 200
    found = finished(client, address, "fix")
    assert found["fix"]["result"]["written"] == 12
    assert found["copy"]["name"] == "data-fixed"
    assert found["copy"]["id"] in {each["id"] for each in client.get("/api/data").json()}
    assert tree(data) == before
    desk.store.close()


def report(images=10, masks=0, without_tag=5, uses=("tags", "predict")):
    return {"uses": uses, "counts": {"images": images, "masks": masks, "without_tag": without_tag}}


@pytest.mark.parametrize(
    ("found", "others", "fits", "first"),
    [
        (report(), 0, {"tags"}, {"tags"}),
        (report(masks=2, uses=("tags", "train", "predict")), 0,
         {"tags", "train", "saliency"}, {"tags"}),
        (report(masks=6, uses=("train", "predict")), 1, {"train", "saliency", "adapt"}, {"train"}),
        (report(uses=("predict",)), 1, set(), set()),
        (report(uses=()), 1, set(), set()),
    ],
)  # fmt: skip
def test_advice_follows_what_the_folder_holds(found, others, fits, first):
    advice = advise(found, [], other_folders=others)
    assert {each.pipeline for each in advice if each.fits} == fits
    assert {each.pipeline for each in advice if each.is_first} == first
    ending = " with preset fast" if found["uses"] else ""
    assert all(each.time.endswith(ending) and bool(each.time) == bool(ending) for each in advice)
    assert all("mended" in each.why for each in advice) is not bool(found["uses"])


def asked(data_id, **changes):
    return {"data": data_id, "pipeline": "tags", "name": "new one", "preset": "smoke",
            "settings": {}, **changes}  # fmt: skip


def test_the_command_is_the_one_that_would_be_typed(
    client, data_id, small_data, runs_root, fewmask
):
    settings = {"class_name": "scar", "cam_scales": "1 1.5", "seen_from_above": "false", "seed": ""}
    told = client.post("/api/command", json=asked(data_id, settings=settings)).json()
    assert told["problems"] == []
    line = told["command"]
    assert line == (f"fewmask tags {small_data} -o '{runs_root}/new one' --preset smoke "
                    "--class-name=scar --cam-scales 1.0 1.5 --no-seen-from-above")  # fmt: skip
    import shlex

    planned = fewmask(*shlex.split(line)[1:], "--dry-run").json
    assert planned["settings"]["cam_scales"] == [1.0, 1.5]
    assert planned["settings"]["seen_from_above"] is False


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../up"}, {"name": "a/b"}, {"name": ".hidden"}, {"name": ""}, {"name": "first"},
        {"name": "-o"}, {"preset": "none"}, {"settings": {"cam_threshold": 2}},
        {"settings": {"cam_treshold": 0.2}}, {"settings": {"split_file": "/etc/passwd"}},
        {"settings": {"reuse": "/tmp"}}, {"settings": {"encoder": "/etc/passwd.pth"}},
        {"settings": {"encoder": "weights.safetensors"}}, {"settings": {"encoder_weights": "x"}},
        {"settings": {"class_names": "a --config=/etc/passwd"}}, {"settings": {"stages": "../x"}},
        {"reuse": "nothing"}, {"folders": {"target": "nothing"}},
    ],
    ids=str,
)  # fmt: skip
def test_no_form_names_a_file_or_starts_what_cannot_run(client, data_id, desk, changes):
    told = client.post("/api/command", json=asked(data_id, **changes)).json()
    assert told["problems"]
    assert client.post("/api/runs", json=asked(data_id, **changes)).status_code in {400, 404}
    assert not desk.store.rows("SELECT 1 FROM jobs WHERE kind = 'run'")


@pytest.mark.parametrize("pipeline", sorted(forms.FORMS))
def test_every_setting_but_files_is_in_the_form(client, data_id, pipeline):
    schema, presets = forms.FORMS[pipeline]
    names = {field.name for field in forms.fields_of(pipeline)}
    left = {n for n in schema.model_fields if n not in names}
    assert left <= {"split_file", "reuse", "target", "test", "augment_reject_file", "review_file",
                    "saliency_classifier", "saliency_cache"}  # fmt: skip
    page = client.get(f"/new/{data_id}/{pipeline}").text
    assert all(f'name="{name}"' in page for name in names)
    in_sight = [field for field in forms.fields_of(pipeline) if field.in_sight]
    assert len(in_sight) + 1 == 6  # and the preset
    for preset in presets:
        assert client.get(f"/api/presets/{pipeline}/{preset}").json().keys() == names
