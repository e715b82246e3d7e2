"""What `fewmask check` says of pipelines and their times."""

import pytest

from fewmask import planning
from fewmask.planning import duration, of_tags, of_train, plans_for


@pytest.fixture(autouse=True)
def same_machine(monkeypatch):
    monkeypatch.setattr(planning, "_slower_here", planning._slower_here.__wrapped__)
    monkeypatch.setattr(planning, "matrix_rate", lambda: planning.COSTS_GFLOPS)
    monkeypatch.setattr(planning.os, "sched_getaffinity", lambda _: {0}, raising=False)


def of(images, masks, tagged):
    return {plan.command.split()[1]: plan for plan in plans_for(images, masks, tagged)}


@pytest.mark.parametrize(
    ("counts", "possible"),
    [
        ((100, 0, 0), {"factory"}),
        ((100, 0, 50), {"factory", "tags"}),
        ((100, 0, 100), {"factory"}),
        ((100, 30, 0), {"factory", "train", "saliency", "adapt"}),
        ((100, 30, 50), {"factory", "train", "saliency", "adapt", "tags"}),
    ],
)
def test_each_pipeline_says_what_it_lacks_or_how_long_it_takes(counts, possible):
    plans = of(*counts)
    assert {name for name, plan in plans.items() if not plan.lacks} == possible
    for plan in plans.values():
        assert (plan.minutes is None) == bool(plan.lacks)
        assert ("needs" in str(plan)) == bool(plan.lacks)


def test_a_time_is_what_the_settings_make_of_the_images(monkeypatch):
    few, many = of(100, 50, 50), of(4000, 2000, 2000)
    assert all(few[name].minutes < many[name].minutes for name in few)
    config = planning.resolve(
        planning.supervised_config.SupervisedConfig, planning.supervised_config.PRESETS, "fast"
    )
    images = 200 * 0.8 * 0.9
    steps = config.segment_epochs * -(-images // config.segment_batch_size)
    assert of_train(200)["segmenter, training"] == pytest.approx(
        steps * config.segment_batch_size * config.image_size**2 / 1e6
    )
    assert set(of_tags(10)) <= set(planning.COSTS)
    monkeypatch.setattr(planning, "matrix_rate", lambda: 2 * planning.COSTS_GFLOPS)
    assert of(100, 50, 50)["tags"].minutes == pytest.approx(few["tags"].minutes / 2)


def test_more_cores_help_by_less_than_their_number(monkeypatch):
    one = of(100, 50, 50)["train"].minutes
    monkeypatch.setattr(planning.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    eight = of(100, 50, 50)["train"].minutes
    assert one / 8 < eight < one / 4


def test_the_command_tells_it_and_so_does_its_json(fewmask, small_data):
    told = fewmask("check", small_data)
    assert "fewmask tags: masks and a segmenter, from the tags of 24 images, no mask; " in told.out
    asked = fewmask("check", small_data, "--json").json["plans"]
    assert asked[0]["command"] == "fewmask tags"
    assert all(plan["minutes"] > 0 for plan in asked if not plan["lacks"])


def test_of_what_cannot_be_used_nothing_is_promised(fewmask, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"no image")
    told = fewmask("check", tmp_path)
    assert told.code == 10
    assert "What could be made" not in told.out


def test_durations():
    assert [duration(m) for m in (0.2, 5, 89, 91, 2000, 4400)] == [
        "a minute", "5 minutes", "89 minutes", "2 hours", "33 hours", "3 days",
    ]  # fmt: skip
