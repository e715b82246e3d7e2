"""Settings: one order of precedence, one message for every mistake, all mistakes at once."""

import re
from typing import Literal

import pytest
from pydantic import Field

from fewmask.config import Settings, optional_fields, read_yaml, resolve
from fewmask.errors import UsageError
from fewmask.pipelines import supervised_config, tags_config


class Kite(Settings):
    """A pipeline's settings."""

    tail_px: int = Field(10, ge=1)
    """Length of the tail."""
    shape: Literal["delta", "box"] = "delta"
    """Of the kite."""


PRESETS = {"fast": {"tail_px": 20, "seed": 1}, "best": {}}


@pytest.fixture
def file(tmp_path):
    """``file("a: 1")`` writes a settings file."""

    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(**arguments):
    with pytest.raises(UsageError) as caught:
        resolve(Kite, PRESETS, arguments.pop("preset", "fast"), **arguments)
    return caught.value.problems


def test_explicit_values_win_over_the_file_which_wins_over_the_preset(file):
    path = file("tail_px: 30\nseed: 2\n")
    assert resolve(Kite, PRESETS, "best").tail_px == 10
    assert resolve(Kite, PRESETS, "fast").tail_px == 20
    assert resolve(Kite, PRESETS, "fast", file=path).tail_px == 30
    settings = resolve(Kite, PRESETS, "fast", file=path, overrides={"tail_px": 40})
    assert (settings.tail_px, settings.seed) == (40, 2)


def test_none_means_not_given_and_false_and_zero_are_given():
    given = {"tail_px": None, "seen_from_above": False, "seed": 0}
    settings = resolve(Kite, PRESETS, "fast", overrides=given)
    assert (settings.tail_px, settings.seen_from_above, settings.seed) == (20, False, 0)


def test_an_unknown_preset_is_answered_with_the_nearest():
    (problem,) = problems_of(preset="fats")
    assert (problem.code, problem.fix) == ("PRESET", "did you mean 'fast'?")
    assert problem.expected == "one of fast, best"


def test_an_unknown_setting_is_answered_with_the_nearest():
    (problem,) = problems_of(overrides={"tail_length_px": 1})
    assert (problem.code, problem.found) == ("SETTING-UNKNOWN", "'tail_length_px'")
    assert problem.fix == "did you mean 'tail_px'?"


def test_a_preset_in_a_settings_file_is_said_to_be_a_flag(file):
    (problem,) = problems_of(file=file("preset: best\n"))
    assert problem.code == "SETTING-UNKNOWN"
    assert problem.fix == "no setting but a flag: --preset best"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tail_px": 0}, "1 or more"),
        ({"tail_px": "many"}, "a whole number"),
        ({"shape": "round"}, "'delta' or 'box'"),
        ({"val_fraction": 0.9}, "0.5 or less"),
        ({"segment_ema_decay": 1}, "less than 1.0"),
        ({"segment_learning_rate": float("nan")}, "a finite number"),
        ({"seen_from_above": "perhaps"}, "true or false"),
        ({"stages": "all"}, "a list"),
    ],
)
def test_what_a_value_should_be_is_said_in_plain_words(values, expected):
    assert [problem.expected for problem in problems_of(overrides=values)] == [expected]


def test_a_settings_file_that_is_not_there_is_told_without_numbers_of_the_system(tmp_path):
    (problem,) = problems_of(file=tmp_path / "gone.yaml")
    assert problem.found == "no such file or directory"


def test_all_mistakes_are_told_at_once(file):
    path = file("tail_px: 0\nshape: round\nsed: 3\nfolds: two\n")
    problems = problems_of(file=path)
    assert {
        (p.code, p.where.split(": ")[-1] if "VALUE" in p.code else p.found) for p in problems
    } == {
        ("SETTING-VALUE", "tail_px"),
        ("SETTING-VALUE", "shape"),
        ("SETTING-VALUE", "folds"),
        ("SETTING-UNKNOWN", "'sed'"),
    }
    tail = next(p for p in problems if "tail_px" in p.where)
    assert tail.fix == "Length of the tail."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 31),
        ("folds", 0),
        ("fold", -1),
        ("test_folds", 1),
        ("val_fraction", -0.1),
        ("val_fraction", 0.6),
        ("threads", -1),
        ("workers", -1),
        ("segment_epochs", 0),
        ("segment_batch_size", 0),
        ("segment_learning_rate", 0),
        ("segment_learning_rate", float("nan")),
        ("segment_learning_rate", float("inf")),
        ("segment_ema_decay", 1.0),
        ("segment_zoom", 1.0),
        ("segment_architecture", "vnet"),
        ("segment_optimizer", "sdg"),
        ("seed", 1.5),
    ],
)
def test_values_that_no_run_could_use_are_refused(name, value):
    (problem,) = problems_of(overrides={name: value})
    assert problem.code == "SETTING-VALUE"
    assert name in problem.where


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("- a\n", "list"),
        ("just words\n", "str"),
        ("a: [1\n", "flow sequence"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    ],
)
def test_files_that_hold_no_settings_are_refused(file, text, found):
    with pytest.raises(UsageError, match="CONFIG-FILE") as caught:
        read_yaml(file(text))
    assert found in caught.value.problems[0].found


def test_a_missing_or_binary_file_is_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "gone.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(UsageError, match="CONFIG-FILE"):
            read_yaml(path)


def test_an_empty_file_changes_nothing(file):
    assert read_yaml(file("# nothing\n")) == {}


def test_settings_cannot_be_changed_but_copied_with_changes():
    settings = Kite()
    with pytest.raises(ValueError, match="frozen"):
        settings.tail_px = 3
    assert settings.replaced(tail_px=3).tail_px == 3
    with pytest.raises(ValueError, match="tail_px"):
        settings.replaced(tail_px=0)


def test_an_encoder_that_is_a_file_is_a_file_of_weights():
    settings = resolve(Kite, PRESETS, "best", overrides={"encoder": "mine.safetensors"})
    assert settings.encoder_weights == "mine.safetensors"
    assert settings.encoder == Kite().encoder


def test_a_file_as_encoder_leaves_the_encoder_that_the_preset_names(file):
    for layer in (
        {"overrides": {"encoder": "vgg16.pth"}},
        {"file": file("encoder: vgg16.pth\n")},
    ):
        paper = resolve(tags_config.TagsConfig, tags_config.PRESETS, "paper", **layer)
        assert (paper.encoder, paper.encoder_weights) == ("vgg16", "vgg16.pth")
    named = {"overrides": {"encoder": "mine.pth"}, "file": file("encoder: resnet18\n")}
    settings = resolve(Kite, PRESETS, "fast", **named)
    assert (settings.encoder, settings.encoder_weights) == ("resnet18", "mine.pth")


@pytest.mark.parametrize("preset", ["fast", "best"])
def test_images_with_an_up_are_not_turned_unless_asked_for(file, preset):
    def views(**layers):
        settings = resolve(tags_config.TagsConfig, tags_config.PRESETS, preset, **layers)
        return settings.cam_views, settings.predict_views

    assert views() == ("dihedral", "dihedral")
    assert views(overrides={"seen_from_above": False}) == ("mirror", "mirror")
    assert views(file=file("seen_from_above: false\n")) == ("mirror", "mirror")
    asked = {"seen_from_above": False, "cam_views": "dihedral", "predict_views": "single"}
    assert views(overrides=asked) == ("dihedral", "single")


ANY_INTEGER = {"seed", "split_seed"}  # hashed, or drawn from


NUMBERS = [
    (verb, name)
    for verb, schema in (
        ("tags", tags_config.TagsConfig),
        ("train", supervised_config.SupervisedConfig),
    )
    for name, field in schema.model_fields.items()
    if re.search(r"\b(int|float)\b", str(field.annotation)) and name not in ANY_INTEGER
]


@pytest.mark.parametrize(("verb", "name"), NUMBERS)
def test_every_number_has_a_bound_below_and_what_is_beyond_is_refused(fewmask, verb, name):
    result = fewmask(verb, "data", f"--{name.replace('_', '-')}=-1")
    assert result.code == 2, result.err
    assert re.match(rf"SETTING-VALUE settings: {name}\b", result.err), result.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("translate_batch_size", 0),
        ("translate_learning_rate", 0),
        ("translate_area", 1.1),
        ("classify_batch_size", 1),
        ("classify_label_smoothing", 0.5),
        ("segment_batch_size", 1),
        ("segment_rotation_degrees", 181),
        ("cam_scales", ()),
        ("cam_scales", (1.0, 0.0)),
        ("cam_max_masks", 0),
        ("cam_threshold", 1.1),
        ("difference_threshold", 1.1),
        ("pseudo_cut", 1.1),
        ("controls_masks", (0,)),
    ],
)
def test_values_that_pipeline_tags_could_not_use_are_refused(name, value):
    with pytest.raises(UsageError) as caught:
        resolve(tags_config.TagsConfig, tags_config.PRESETS, "fast", overrides={name: value})
    (problem,) = caught.value.problems
    assert problem.code == "SETTING-VALUE"
    assert name in problem.where


def test_a_form_has_every_field_empty_with_its_help():
    form = optional_fields(Kite)
    assert set(form.model_fields) == set(Kite.model_fields)
    assert form().model_dump(exclude_none=True) == {}
    assert form(shape="box", fold=2).model_dump(exclude_none=True) == {"shape": "box", "fold": 2}
    assert form.model_fields["tail_px"].description == "Length of the tail."
    assert "\n" not in form.model_fields["group_pattern"].description


@pytest.mark.parametrize("module", [tags_config, supervised_config])
@pytest.mark.parametrize("preset", ["smoke", "fast", "paper", "best"])
def test_every_pipeline_has_the_four_presets_and_they_survive_a_round_trip(module, preset, file):
    import yaml

    schema = getattr(module, {tags_config: "TagsConfig"}.get(module, "SupervisedConfig"))
    assert set(module.PRESETS) == {"smoke", "fast", "paper", "best"}
    settings = resolve(schema, module.PRESETS, preset)
    path = file(yaml.safe_dump(settings.model_dump(mode="json")))
    assert resolve(schema, {"none": {}}, "none", file=path) == settings


def test_every_setting_has_a_help_text():
    for schema in (tags_config.TagsConfig, supervised_config.SupervisedConfig):
        for name, field in schema.model_fields.items():
            assert field.description, name
