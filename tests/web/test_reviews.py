"""Reviews: what is shown, what is saved, that nothing said to be saved is lost."""

import csv
import io
import uuid

import numpy as np
import pytest
from PIL import Image

from fewmask.errors import UsageError
from fewmask.web import mask_runs, pixels


@pytest.fixture
def reviewed(client, run_id, runs_root):
    """The list of masks, and ``save(item, …)`` that posts a review of one of them."""

    class Reviewed:
        folder = runs_root / "first" / "review"
        items = client.get(f"/api/reviews/{run_id}").json()["items"]

        @staticmethod
        def one(item):
            return client.get(f"/api/reviews/{run_id}/{item['id']}").json()

        @staticmethod
        def save(item, verdict="accepted", base_version=None, **changes):
            base = Reviewed.one(item)["version"] if base_version is None else base_version
            sent = {"client_id": str(uuid.uuid4()), "run": run_id, "image": item["id"],
                    "verdict": verdict, "base_version": base, "seconds": 1.5}  # fmt: skip
            sent |= changes
            return client.post("/api/reviews", json=sent)

    return Reviewed


def test_the_most_uncertain_comes_first(reviewed):
    confidence = [item["confidence"] for item in reviewed.items]
    assert confidence == sorted(confidence)
    assert len(confidence) == 24


def test_the_mask_is_the_run_s_own_until_it_is_reviewed(reviewed, runs_root):
    item = reviewed.items[3]
    found = reviewed.one(item)
    stored = np.asarray(Image.open(runs_root / "first" / "masks" / f"{item['name']}.png"))
    assert (found["version"], found["height"], found["width"]) == (0, 32, 32)
    np.testing.assert_array_equal(mask_runs.decode(found["mask"], (32, 32), {0, 1}), stored)
    assert reviewed.save(item).json() == {"version": 1, "file": f"review/masks/{item['name']}.png"}
    kept = np.asarray(Image.open(reviewed.folder / "masks" / f"{item['name']}.png"))
    np.testing.assert_array_equal(kept, stored)


def test_an_edit_is_a_file_and_a_line_and_a_new_version(reviewed):
    item, mask = reviewed.items[4], np.zeros((32, 32), np.uint8)
    mask[3:9, 4:20], mask[0, 0] = 1, 255
    assert reviewed.save(item, "edited", mask=mask_runs.encode(mask)).json()["version"] == 1
    file = reviewed.folder / "masks" / f"{item['name']}.png"
    np.testing.assert_array_equal(np.asarray(Image.open(file)), mask)
    with (reviewed.folder / "review.csv").open(newline="") as stream:
        (line,) = [row for row in csv.DictReader(stream) if row["image"] == item["name"]]
    assert (line["verdict"], line["version"], line["seconds"]) == ("edited", "1", "1.5")
    assert reviewed.save(item, "rejected").json() == {"version": 2, "file": ""}
    assert not file.exists()
    assert reviewed.one(item)["verdict"] == "rejected"


def test_a_review_that_is_sent_twice_counts_once(reviewed, desk):
    item = reviewed.items[5]
    name = str(uuid.uuid4())
    first = reviewed.save(item, base_version=0, client_id=name)
    again = reviewed.save(item, base_version=0, client_id=name)
    assert first.json() == again.json() == {**first.json(), "version": 1}
    other = reviewed.save(item, "rejected", base_version=0, client_id=name)
    assert other.json()["problems"][0]["code"] == "REVIEW-ID"
    assert len(desk.store.rows("SELECT 1 FROM reviews WHERE client_id = ?", name)) == 1


def test_of_two_who_changed_the_same_mask_both_are_kept(reviewed):
    item, mine, theirs = reviewed.items[6], np.ones((32, 32), np.uint8), np.zeros((32, 32), np.uint8)  # fmt: skip  # noqa: E501
    theirs[0, 0] = 1
    assert reviewed.save(item, "edited", 0, mask=mask_runs.encode(theirs)).status_code == 200
    refused = reviewed.save(item, "edited", 0, mask=mask_runs.encode(mine))
    assert (refused.status_code, refused.json()["version"]) == (409, 1)
    kept = [reviewed.folder / "masks" / f"{item['name']}.png",
            reviewed.folder.parent / refused.json()["file"]]  # fmt: skip
    for file, mask in zip(kept, (theirs, mine), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), mask)
    over = reviewed.save(item, "edited", 1, mask=mask_runs.encode(mine))
    assert over.json()["version"] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": [0, 1023]}, {"mask": [0, 1025]}, {"mask": [2, 1024]}, {"mask": [0]},
        {"mask": [0, -1, 0, 1025]}, {"mask": [0, 2**62, 0, 2**62]}, {"mask": [-1, 1024]},
        {"mask": ["x", 1]}, {"mask": []}, {"verdict": "perhaps"}, {"client_id": "../../x"},
        {"client_id": ""}, {"base_version": -1}, {"seconds": -1}, {"seconds": "NaN"},
        {"image": "nothing"}, {"image": "../masks"}, {"run": "nothing"}, {"extra": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_misshapen_review_is_refused_and_leaves_nothing(reviewed, desk, tree, changes):
    before = tree(reviewed.folder), len(desk.store.rows("SELECT 1 FROM reviews"))
    assert 400 <= reviewed.save(reviewed.items[7], **changes).status_code < 500
    assert (tree(reviewed.folder), len(desk.store.rows("SELECT 1 FROM reviews"))) == before


def test_files_follow_the_database_when_the_server_died_between(reviewed, desk, runs_root):
    from fewmask.training.run_folder import RunFolder
    from fewmask.web.reviews import Reviews

    item = reviewed.items[8]
    reviewed.save(item, "edited", mask=[1, 1024])
    file = reviewed.folder / "masks" / f"{item['name']}.png"
    saved = file.read_bytes()
    file.write_bytes(b"cut short")
    (reviewed.folder / "review.csv").unlink()
    Reviews(desk.store).follow(desk.opened.open(RunFolder.open(runs_root / "first")))
    assert file.read_bytes() == saved
    assert item["name"] in (reviewed.folder / "review.csv").read_text()


def test_the_table_can_be_downloaded_and_holds_no_formula(
    desk, client, run_id, reviewed, runs_root
):
    from dataclasses import replace

    from fewmask.training.run_folder import RunFolder
    from fewmask.web.reviews import _table

    reviewed.save(reviewed.items[9])
    answer = client.get(f"/api/reviews/{run_id}/review.csv")
    assert "attachment" in answer.headers["content-disposition"]
    assert reviewed.items[9]["name"] in answer.text
    images = desk.opened.open(RunFolder.open(runs_root / "first"))
    (row,) = [r for r in desk.reviews.latest(images) if r["image"] == reviewed.items[9]["name"]]
    evil = type("Images", (), {"items": [replace(images.items[9], name="=HYPERLINK(1)")]})
    assert b"\n=HYPER" not in _table(evil, {"=HYPERLINK(1)": row})


def test_evidence_superpixels_and_image_fit_each_other(client, run_id, reviewed):
    listed = client.get(f"/api/reviews/{run_id}").json()
    assert listed["evidence"] == ["map", "probability"]
    address = f"/api/reviews/{run_id}/{reviewed.items[0]['id']}"

    def picture(path):
        return np.asarray(Image.open(io.BytesIO(client.get(f"{address}/{path}").content)))

    for kind in listed["evidence"]:
        assert picture(f"evidence/{kind}/0").dtype == np.uint8
        assert client.get(f"{address}/evidence/{kind}/9").status_code == 404
    labels = picture("superpixels?area=40").astype(int) @ [1, 256, 65536]
    assert labels.shape == (32, 32)
    assert 5 < len(np.unique(labels)) < 60
    shown = picture("image")
    np.testing.assert_array_equal(picture("image?bands=2"), shown[..., 1])
    np.testing.assert_array_equal(picture("image?bands=3,2,1"), shown[..., ::-1])
    assert client.get(f"{address}/image?bands=7").status_code == 400
    assert picture("image?low=0&high=51").mean() > shown.mean()


def test_sixteen_bits_and_many_bands_are_shown_as_they_are_stored(tmp_path):
    import tifffile

    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    many = np.stack([deep, deep // 2, deep // 4, deep // 8], 2)
    tifffile.imwrite(tmp_path / "many.tif", many, photometric="rgb")
    np.testing.assert_array_equal(pixels.stored(tmp_path / "deep.png")[..., 0], deep)
    np.testing.assert_array_equal(pixels.stored(tmp_path / "many.tif"), many)
    cut = pixels.on_screen(many, [4], (0, 1000))
    np.testing.assert_array_equal(cut, np.clip(np.rint(many[..., 3] * 0.255), 0, 255))
    assert pixels.facts(many)["bands"] == 4
    with pytest.raises(UsageError):
        pixels.on_screen(many, [1, 2], None)


def test_masks_survive_their_runs():
    mask = np.random.default_rng(0).integers(0, 3, (13, 7)).astype(np.uint8)
    np.testing.assert_array_equal(mask_runs.decode(mask_runs.encode(mask), (13, 7), range(3)), mask)


def test_pages_of_reviews(client, run_id):
    assert "first" in client.get("/review").text
    assert "Retrain with these" in client.get(f"/review/{run_id}").text
