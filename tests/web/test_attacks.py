"""Two hundred requests that mean no good: each gets a 4xx, and nothing on the disk is touched."""

import itertools
import json

import pytest

from fewmask.training.run_folder import RunFolder

OWN = "http://127.0.0.1:8000"
NAMES = (
    "..", "../..", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//....//etc/passwd",
    "%252e%252e%252fetc", "..%5c..%5cwindows", "C:%5cboot.ini", "/etc/passwd", "%2fetc%2fpasswd",
    "a%00b", "%00", "~root", "file:%2f%2f%2fetc%2fpasswd", "http:%2f%2fevil.test",
    "run.yaml%23x", "%22%3E%3Cimg%20src=x%20onerror=1%3E", "javascript:alert(1)",
    "=HYPERLINK(1)", "%f0%28%8c%28", "A" * 3000,
)  # fmt: skip
PLACES = (
    "/runs/{}", "/runs/{}/report", "/api/runs/{}", "/api/runs/{}/curves", "/data/{}",
    "/api/data/{}/images", "/review/{}", "/api/reviews/{run}/{}", "/api/runs/{run}/samples/{}",
    "/api/data/{data}/images/{}/thumb", "/static/{}",
)  # fmt: skip
READING = [place.replace("{}", name) for place, name in itertools.product(PLACES, NAMES)]


def review(**changes):
    return {"client_id": "0" * 32, "run": "{run}", "image": "{image}", "verdict": "accepted",
            "base_version": 0, **changes}  # fmt: skip


BODIES = [
    ("/api/reviews", review(image="../../run.yaml")),
    ("/api/reviews", review(run="/etc")),
    ("/api/reviews", review(client_id="../../../tmp/x")),
    ("/api/reviews", review(mask=[0, 10**12])),
    ("/api/reviews", review(mask=[[0]] * 10)),
    ("/api/reviews", review(mask={"a": 1})),
    ("/api/reviews", review(seconds=1e309)),
    ("/api/reviews", "text"),
    ("/api/reviews", [1]),
    ("/api/reviews", None),
    ("/api/reviews/{run}/retrain", {"name": "../../x"}),
    ("/api/reviews/{run}/retrain", {"name": "-o"}),
    ("/api/reviews/{run}/retrain", {"name": "x\u0000y"}),
    ("/api/reviews/{run}/retrain", {"name": "first"}),
    ("/api/runs", {"data": "{data}", "pipeline": "tags", "name": "../x"}),
    ("/api/runs", {"data": "/etc", "pipeline": "tags", "name": "x"}),
    ("/api/runs", {"data": "{data}", "pipeline": "../tags", "name": "x"}),
    ("/api/runs", {"data": "{data}", "pipeline": "tags", "name": "x", "preset": "--config"}),
    ("/api/runs", {"data": "{data}", "pipeline": "tags", "name": "x",
                   "settings": {"split_file": "/etc/passwd"}}),
    ("/api/runs", {"data": "{data}", "pipeline": "tags", "name": "x",
                   "settings": {"encoder": "../evil.pth"}}),
    ("/api/runs", {"data": "{data}", "pipeline": "tags", "name": "x",
                   "settings": {"class_names": "--config /etc/passwd"}}),
    ("/api/runs", {"data": "{data}", "pipeline": "tags", "name": "x", "settings": {"seed": "1x"}}),
    ("/api/runs", {"data": "{data}", "pipeline": "adapt", "name": "x", "folders": {"test": "/"}}),
    ("/api/runs", {"data": "{data}", "pipeline": "tags", "name": "x", "reuse": "../first"}),
    ("/api/runs/{run}/stop", {}),
    ("/api/jobs/..%2f..%2fx/forget", {}),
    ("/api/jobs/1;kill/stop", {}),
    ("/api/data/..%2f/fix", {}),
]  # fmt: skip


@pytest.fixture(scope="module")
def fill(client, run_id):
    """Puts the ids that there are into an address or a body."""
    data = client.get("/api/data").json()[0]["id"]
    image = client.get(f"/api/reviews/{run_id}").json()["items"][0]["id"]

    def fill(text):
        for name, value in (("{run}", run_id), ("{data}", data), ("{image}", image)):
            text = text.replace(name, value)
        return text

    return fill


@pytest.fixture(scope="module")
def untouched(runs_root, small_data, tree):
    """Digests of everything that could be harmed; the app's own folder may change."""

    def look():
        found = tree(runs_root) | {f"data/{k}": v for k, v in tree(small_data).items()}
        return {k: v for k, v in found.items() if not k.startswith((".fewmask-ui", "first/.lock"))}

    return look


def test_there_are_two_hundred():
    assert len(READING) + len(BODIES) >= 200


def test_no_address_leads_to_anything_else(client, fill, untouched):
    before = untouched()
    for path in READING:
        answer = client.get(fill(path), follow_redirects=False)
        above = path.endswith("/..")  # the client asks for the address above, which there is
        assert 400 <= answer.status_code < 500 or above or answer.status_code in {303, 307}, path
        assert "root:" not in answer.text
        shown = answer.headers.get("content-type", "application/json")
        assert shown == "application/json" or (above and shown.startswith("text/html")), path
    assert untouched() == before


def test_no_body_does_harm(client, fill, untouched, desk):
    before, jobs = untouched(), len(desk.store.rows("SELECT 1 FROM jobs"))
    for path, body in BODIES:
        text = fill(json.dumps(body))
        headers = {"content-type": "application/json", "origin": OWN}
        answer = client.post(fill(path), content=text, headers=headers)
        assert 400 <= answer.status_code < 500, (path, body, answer.text)
        assert answer.json()["problems"][0]["code"] != "BUG"
    for path in ("/api/reviews", "/api/runs", "/api/command"):
        for body in (b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"a":' * 2000, b"null"):
            answer = client.post(path, content=body, headers={"content-type": "application/json"})
            assert 400 <= answer.status_code < 500, (path, body[:10])
    for method in ("PUT", "DELETE", "PATCH", "TRACE"):
        assert client.request(method, "/api/runs").status_code in {403, 405}
    assert untouched() == before
    assert len(desk.store.rows("SELECT 1 FROM jobs")) == jobs


def test_a_run_that_names_foreign_files_shows_none_of_them(client, desk, runs_root, tmp_path):
    import shutil

    from fewmask.web.run_images import RunImages

    evil = tmp_path / "evil"
    shutil.copytree(runs_root / "first", evil)
    (manifest,) = evil.glob("*-export/manifest.json")
    records = json.loads(manifest.read_text())
    records[0]["id"] = "../../../../etc/passwd"
    manifest.write_text(json.dumps(records))
    images = RunImages(RunFolder.open(evil))
    (item,) = [each for each in images.items if ".." in each.name]
    for look in (images.weak_mask, images.image_path):
        with pytest.raises(Exception, match=r"NOT-THERE|IMAGE-MISSING"):
            look(item)
