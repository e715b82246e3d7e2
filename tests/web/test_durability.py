"""Saves while the process is killed: whatever was acknowledged is there afterwards."""

import contextlib
import hashlib
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from fewmask.training.run_folder import RunFolder
from fewmask.web import mask_runs
from fewmask.web.reviews import Reviews, png_of
from fewmask.web.run_images import RunImages
from fewmask.web.store import Store

SAVING = """
import sys, threading, uuid
import numpy as np
from pathlib import Path
from fewmask.training.run_folder import RunFolder
from fewmask.web.reviews import Review, Reviews
from fewmask.web.run_images import RunImages
from fewmask.web.store import Store
root = Path(sys.argv[1])
images, reviews = RunImages(RunFolder.open(root / "first")), Reviews(Store(root))

def work(number):
    rng, item, version = np.random.default_rng(number), images.items[number], 0
    while True:
        mask = rng.integers(0, 2, (32, 32)).astype(np.uint8)
        review = Review(str(uuid.uuid4()), "edited", version, 1.0, mask)
        version = reviews.save(images, item, review).version
        sys.stdout.write(f"{item.name} {version} {mask.tobytes().hex()}\\n")
        sys.stdout.flush()

for number in range(6):
    threading.Thread(target=work, args=(number,)).start()
"""


@pytest.fixture
def root(tiny_run, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "runs" / "first")
    return tmp_path / "runs"


def newest(root):
    """Mask by image as the database and as the files have it."""
    store = Store(root)
    images, reviews = RunImages(RunFolder.open(root / "first")), Reviews(store)
    reviews.follow(images)
    found = {row["image"]: (row["version"], row["mask"]) for row in reviews.latest(images)}
    for name, (_, mask) in found.items():
        assert (root / "first" / "review" / "masks" / f"{name}.png").read_bytes() == mask
    assert (
        len((root / "first" / "review" / "review.csv").read_text().splitlines()) == len(found) + 1
    )
    store.close()
    return found


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(root):
    child = subprocess.Popen([sys.executable, "-c", SAVING, str(root)], stdout=subprocess.PIPE)
    said = [child.stdout.readline() for _ in range(60)]
    child.send_signal(signal.SIGKILL)
    said += child.stdout.read().splitlines(keepends=True)
    child.wait()
    acknowledged = {}
    for line in said:
        if line.endswith(b"\n"):
            name, version, content = line.decode().split()
            acknowledged[name] = int(version), bytes.fromhex(content)
    found = newest(root)
    assert len(acknowledged) == 6
    for name, (version, content) in acknowledged.items():
        there, mask = found[name]
        assert there >= version
        if there == version:
            assert mask == png_of(np.frombuffer(content, np.uint8).reshape(32, 32))


class Server:
    """``fewmask ui`` as a process that is killed and started again on the same port."""

    def __init__(self, root):
        self.root, self.token = root, "t" * 20
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self):
        self.child = subprocess.Popen(
            [sys.executable, "-m", "fewmask", "ui", str(self.root), "--no-browser",
             "--port", str(self.port), "--auth", self.token],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()


@pytest.mark.slow
def test_twenty_clients_lose_nothing_while_the_server_is_killed(root):
    import httpx2

    server, stop, kills = Server(root), threading.Event(), 4
    acknowledged, slowest, lock = {}, [], threading.Lock()

    def ask(client, method, path, **options):
        while not stop.is_set():
            with contextlib.suppress(httpx2.TransportError):
                return client.request(method, server.address + path, **options)
            time.sleep(0.2)
        return None

    def work(number):
        rng = random.Random(number)
        headers = {"authorization": f"Bearer {server.token}"}
        with httpx2.Client(headers=headers, timeout=20) as client:
            answer = ask(client, "GET", "/api/runs")
            run = answer.json()[0]["id"] if answer else ""
            answer = ask(client, "GET", f"/api/reviews/{run}")
            item = answer.json()["items"][number] if answer else None
            version = 0
            while item and not stop.is_set():
                mask = np.array([rng.randrange(2) for _ in range(1024)], np.uint8).reshape(32, 32)
                sent = {"client_id": str(uuid.UUID(int=rng.getrandbits(128))), "run": run,
                        "image": item["id"], "verdict": "edited", "base_version": version,
                        "mask": mask_runs.encode(mask)}  # fmt: skip
                for _ in range(1 + (rng.random() < 0.1)):  # one in ten is sent twice
                    begun = time.monotonic()
                    answer = ask(client, "POST", "/api/reviews", json=sent)
                    if answer is None:
                        return
                    assert answer.status_code == 200, answer.text
                    with lock:
                        slowest.append(time.monotonic() - begun)
                        acknowledged[item["name"]] = answer.json()["version"], png_of(mask)
                version = answer.json()["version"]
                time.sleep(4)  # twenty of them: five a second

    server.start()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        count = len(slowest)
        while len(slowest) < count + 60:
            time.sleep(0.05)
        server.kill()
        server.start()
    stop.set()
    for thread in threads:
        thread.join()
    server.kill()
    found = newest(root)
    assert len(acknowledged) == 20
    for name, (version, mask) in acknowledged.items():
        there, stored = found[name]
        assert there in {version, version + 1}  # the last may have been saved, and not told
        if there == version:
            assert hashlib.sha256(stored).digest() == hashlib.sha256(mask).digest()
    report = {
        "saves": len(slowest),
        "kills": kills,
        "p99_with_restarts_s": sorted(slowest)[-len(slowest) // 100],
    }
    sys.stdout.write(json.dumps(report) + "\n")


def test_a_full_disk_is_never_called_saved(client, run_id, desk, monkeypatch):
    import sqlite3

    from fewmask.web import reviews

    item = client.get(f"/api/reviews/{run_id}").json()["items"][-1]
    sent = {"client_id": str(uuid.uuid4()), "run": run_id, "image": item["id"],
            "verdict": "accepted", "base_version": item["version"]}  # fmt: skip

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(reviews, "_latest", full)
    answer = client.post("/api/reviews", json=sent)
    assert (answer.status_code, answer.json()["problems"][0]["code"]) == (507, "DISK-WRITE")
    monkeypatch.undo()

    def no_room(*_):
        raise OSError(28, "No space left on device", str(Path("x")))

    monkeypatch.setattr(reviews, "_put", no_room)
    assert client.post("/api/reviews", json=sent).status_code == 507
    monkeypatch.undo()
    again = client.post("/api/reviews", json=sent)  # the browser tries again with the same id
    assert (again.status_code, again.json()["file"] != "") == (200, True)
