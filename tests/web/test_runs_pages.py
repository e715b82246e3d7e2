"""The list of runs, a run's page, and processes that are started, stopped and resumed."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from fewmask.training.run_folder import RunFolder
from fewmask.web.jobs import Jobs, stop_run
from fewmask.web.store import Store
from fewmask.web.watching import curves_of, stages_of, time_left

LONG = ("--preset=smoke", "--threads=1", "--image-size=32", "--segment-epochs=4000")


def test_a_finished_run_is_listed_with_state_score_and_stages(client, run_id, tiny_run):
    listed = next(run for run in client.get("/api/runs").json() if run["id"] == run_id)
    assert (listed["state"], listed["pipeline"], listed["preset"]) == ("finished", "tags", "smoke")
    state = client.get(f"/api/runs/{run_id}").json()
    done = [stage for stage in state["stages"] if stage["state"] == "done"]
    assert [stage["name"] for stage in done][:2] == ["prepare", "split"]
    assert len(done) == len(list(tiny_run.path.glob("*-*/DONE.json")))
    page = client.get(f"/runs/{run_id}").text
    assert all(stage["name"].replace("_", " ") in page for stage in done)
    assert client.get("/", follow_redirects=False).headers["location"] == "/runs"


def test_pictures_of_stages_and_samples_are_sent(client, run_id, tiny_run):
    found = client.get(f"/api/runs/{run_id}/previews").json()
    assert [each["kind"] for each in found["kinds"]] == ["image", "evidence", "target"]
    row = found["rows"][0]["row"]
    stored = np.load(tiny_run.path / "1-prepare" / "images.npy")[row]
    shown = Image.open(io.BytesIO(client.get(f"/api/runs/{run_id}/previews/{row}/image").content))
    np.testing.assert_array_equal(np.asarray(shown), stored)
    for kind in ("evidence", "target"):
        answer = client.get(f"/api/runs/{run_id}/previews/{row}/{kind}")
        assert answer.headers["content-type"] == "image/png"
    state = client.get(f"/api/runs/{run_id}").json()
    for name in state["pictures"]:
        sent = client.get(f"/api/runs/{run_id}/samples/{name}").content
        assert sent == (tiny_run.path / "samples" / name).read_bytes()


def test_curves_have_at_most_three_hundred_points(client, run_id, tmp_path):
    names = {curve["name"] for curve in client.get(f"/api/runs/{run_id}/curves").json()}
    assert "loss" in names
    run = RunFolder.create(tmp_path / "run", {"pipeline": "tags"})
    lines = "".join(
        f'{{"stage": "a", "loop": "b", "step": {i}, "loss": {i}}}\n' for i in range(900)
    )
    (run.path / "metrics.jsonl").write_text(lines)
    (curve,) = curves_of(run)
    assert len(curve["points"]) == 300
    assert curve["points"][0] == [2, 1]  # the last step, and the mean, of 0, 1, 2


def test_time_left_scales_with_the_images_of_a_run_that_has_finished(tiny_run):
    run = RunFolder.open(tiny_run.path)
    stages = stages_of(run)
    assert time_left(run, stages, [run]) == (None, "")  # not by itself
    other = RunFolder.open(tiny_run.path)
    other.path = tiny_run.path.parent / "other"
    other.path.symlink_to(tiny_run.path)
    try:
        begun = [
            type(stage)(stage.label, stage.name, stage.fold, "to come", None) for stage in stages
        ]
        left, source = time_left(run, begun, [other])
        assert left == pytest.approx(sum(stage.seconds for stage in stages))
        assert "other" in source
    finally:
        other.path.unlink()


def test_the_step_shown_is_one_of_the_stage_under_way():
    from fewmask.web.watching import StageState, _step

    lines = ["2026-11-28T07:19:49+0000 3-translate: step 20/20, 9 s, 0 s left  generators 5.481"]
    now = [StageState("8-segment", "segment", "", "under way", 4.0)]
    assert _step(lines, now) is None
    lines.append("2026-11-28T07:20:19+0000 8-segment round-1: step 7/64, 30 s, 240 s left  loss 1")
    assert _step(lines, now) == {"stage": "8-segment", "done": 7, "of": 64}


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api/runs/nothing", 404), ("/runs/nothing", 404), ("/runs/nothing/report", 404),
     ("/api/runs/{run}/previews/999/image", 404), ("/api/runs/{run}/previews/0/other", 422),
     ("/api/runs/{run}/samples/../run.yaml", 404),
     ("/api/runs/{run}/samples/%2e%2e/run.yaml", 404)],
)  # fmt: skip
def test_what_is_not_there_is_said_so(client, run_id, path, status):
    answer = client.get(path.format(run=run_id))
    assert answer.status_code == status
    assert answer.json()["problems"][0]["fix"]


def test_an_idle_run_cannot_be_stopped(client, run_id):
    answer = client.post(f"/api/runs/{run_id}/stop")
    assert (answer.status_code, answer.json()["problems"][0]["code"]) == (409, "RUN-IDLE")


def test_a_process_is_known_by_its_lock_also_to_a_later_server(tmp_path):
    store = Store(tmp_path)
    jobs = Jobs(store)
    job = jobs.start("check", tmp_path, ["doctor", "--json"])
    assert job.alive
    later = Jobs(store)  # has not started it
    while later.find(job.id).alive:
        time.sleep(0.1)
    assert later.find(job.id).result["fewmask"]
    assert later.latest(tmp_path, "check", "fix").id == job.id
    later.forget(job.id)
    assert later.latest(tmp_path, "check") is None
    store.close()


@pytest.mark.slow
def test_a_run_is_stopped_by_a_button_and_goes_on_by_another(tmp_path, small_data):
    store = Store(tmp_path)
    jobs, path = Jobs(store), tmp_path / "stopped"
    job = jobs.start("run", path, ["train", small_data, "-o", path, *LONG])
    assert [each.id for each in jobs.beginning()] == [job.id]

    def wait(state, job):
        at_work = True
        while at_work:
            at_work = jobs.find(job.id).alive
            if (path / "run.yaml").is_file():
                run = RunFolder.open(path)
                if run.summary()["state"] == state and (path / "metrics.jsonl").is_file():
                    return run
            time.sleep(0.1)
        raise AssertionError(jobs.find(job.id).log)

    stop_run(wait("running", job))
    run = wait("interrupted", job)
    assert not jobs.beginning()
    again = jobs.start("resume", path, ["resume", path])
    stop_run(wait("running", again))
    wait("interrupted", again)
    assert run.path == path
    store.close()
