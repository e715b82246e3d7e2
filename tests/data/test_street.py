import numpy as np
import pytest
from PIL import Image

from fewmask.data.appearance import noise_level
from fewmask.data.street import (
    CAR,
    ROAD,
    SKY,
    STREET_CLASS_NAMES,
    make_street,
    street_scene,
)
from fewmask.errors import UsageError


def scenes(light, count=12):
    return [street_scene((0, "test", i), light, 96, 64) for i in range(count)]


def test_day_and_night_of_a_scene_have_the_same_mask():
    for (day, by_day), (night, by_night) in zip(scenes("day", 4), scenes("night", 4), strict=True):
        assert np.array_equal(by_day, by_night)
        assert day.shape == night.shape == (64, 96, 3)
        assert day.mean() > 3 * night.mean()


def test_every_class_is_there_and_no_other_id():
    ids = np.unique(np.concatenate([mask.ravel() for _, mask in scenes("day")]))
    assert ids.tolist() == list(range(len(STREET_CLASS_NAMES)))


def test_sky_is_above_and_road_below():
    masks = np.stack([mask for _, mask in scenes("day")])
    assert (masks[:, 0] == SKY).mean() > 0.6
    assert (masks[:, -1] == ROAD).mean() > 0.5
    assert not (masks[:, 45:] == SKY).any()


def test_by_night_lamps_shine_and_the_sky_is_dark():
    nights = scenes("night")
    assert np.mean([image.max() for image, _ in nights]) > 200
    assert np.mean([image[mask == SKY].mean() for image, mask in nights]) < 40
    days = scenes("day")
    for (day, mask), (night, _) in zip(days, nights, strict=True):
        if (mask == CAR).sum() > 50:  # head or tail lamps are brighter than the car by day
            assert night[mask == CAR].max() > day[mask == CAR].mean()


def test_the_noise_is_the_sensor_s_stronger_by_night():
    pairs = list(zip(scenes("day", 6), scenes("night", 6), strict=True))
    of_sky = [[noise_level(shot[0][:8]) / (shot[0][:8].mean() + 1) for shot in pair]
              for pair in pairs]  # fmt: skip
    assert all(night > 2 * day > 0 for day, night in of_sky)


def test_folders_same_bytes_and_scenes_of_their_own(tmp_path, tree):
    args = {"seed": 1, "day": 3, "night": 2, "test": 2, "width": 64, "height": 48}
    first, second = (make_street(tmp_path / name, **args) for name in "ab")
    assert tree(first) == tree(second)
    found = sorted(p.relative_to(first).as_posix() for p in first.rglob("*.png"))
    assert len(found) == 3 * 2 + 2 + 2 * 2
    assert not (first / "night" / "masks").exists()
    masks = [np.asarray(Image.open(p)) for p in sorted(first.rglob("masks/*.png"))]
    assert all(mask.dtype == np.uint8 and mask.shape == (48, 64) for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    other = make_street(tmp_path / "c", **{**args, "seed": 2})
    assert not set(tree(first).values()) & set(tree(other).values())


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="SAMPLE-EXISTS"):
        make_street(tmp_path)
