"""The shape of the code: which way imports flow, what no file may be called or contain."""

import ast
import re
from pathlib import Path

import pytest

import fewmask

ROOT = Path(__file__).parents[1] / "src" / "fewmask"
FILES = sorted(ROOT.rglob("*.py"))

LAYERS = (
    {"errors", "shortages", "conventions", "randomness", "config", "torchvision_compat"},
    {"models", "losses", "attribution", "masks", "data", "io", "metrics"},
    {"training", "report", "layouts"},
    {"pipelines"},
    {
        "engine",
        "predict",
        "predict_scene",
        "runtimes",
        "planning",
        "predict_video",
        "predict_formats",
        "predict_folder",
        "trained",
        "onnx_graph",
        "onnx_model",
        "exporting",
        "cli_export",
        "predict_volume",
        "checking",
        "selection",
        "translate",
        "explaining",
        "factory_runs",
        "sampling",
        "api",
        "cli",
        "cli_pipelines",
        "cli_domains",
        "cli_engine",
        "cli_explain",
        "cli_predict",
        "cli_check",
        "cli_factory",
        "cli_ui",
        "web",
        "demo",
        "doctor",
        "__main__",
    },
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ACROSS = {
    ("data", "io"),
    ("report", "training"),
}
"""Imports between areas of one level that are allowed; every other pair must not meet."""


def area(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imported_areas(path):
    """Areas of fewmask that a file imports, inside functions too; not those for type checkers."""
    found = set()
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "fewmask" and len(parts) > 1 and parts[1] in LEVEL:
                found.add(parts[1])
    return found


def test_every_file_belongs_to_a_layer():
    unknown = {area(path) for path in FILES} - set(LEVEL) - {"__init__"}
    assert not unknown, f"say where these stand in LAYERS: {unknown}"


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_flow_one_way(name):
    for path in FILES:
        if area(path) != name:
            continue
        for other in imported_areas(path) - {name}:
            relation = f"{path.relative_to(ROOT)} imports {other}"
            assert LEVEL[other] <= LEVEL[name], relation
            if LEVEL[other] == LEVEL[name] and LEVEL[name] in {1, 2}:
                assert (name, other) in ACROSS, relation


def test_only_its_command_knows_the_web_app():
    knowing = {area(path) for path in FILES if "web" in imported_areas(path)}
    assert knowing <= {"web", "cli_ui"}


def test_no_file_has_a_name_that_says_nothing():
    banned = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
    assert not [path for path in FILES if path.stem in banned]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_stay_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= 400


def test_packages_export_nothing_so_that_imports_stay_lazy():
    for path in ROOT.glob("*/__init__.py"):
        (only,) = ast.parse(path.read_text()).body
        assert isinstance(only, ast.Expr), path


def test_the_public_names_are_these():
    assert fewmask.__all__ == [
        "FewmaskError", "Run", "__version__", "adapt", "check", "explain", "factory", "mend",
        "resume_run", "saliency", "select", "tags", "train",
    ]  # fmt: skip
    assert dir(fewmask) == sorted(fewmask.__all__)
    for name in fewmask.__all__:
        assert getattr(fewmask, name)
    with pytest.raises(AttributeError, match="nonsense"):
        fewmask.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "pattern",
    [
        r"pickle\.loads?\(",
        r"weights_only\s*=\s*False",
        r"yaml\.(unsafe_|full_)?load\(",
        r"(?<![\w.])eval\(",
        r"(?<![\w.])exec\(",
        r"shell\s*=\s*True",
        r"os\.system\(",
        r"allow_pickle\s*=\s*True",
        r"verify\s*=\s*False",
        r"os\.environ|getenv\(",
    ],
)
def test_no_file_runs_what_it_reads(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not found


def test_torch_files_are_only_read_as_plain_tensors():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert options.get("weights_only") == "True", path


def test_errors_exit_with_the_codes_that_are_promised():
    from fewmask import errors

    codes = {
        kind.__name__: kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.FewmaskError)
    }
    assert codes == {
        "FewmaskError": 1,
        "UsageError": 2,
        "DataError": 10,
        "LeakError": 11,
        "CheckpointError": 12,
        "NumericalError": 13,
        "ResourceError": 14,
        "SecurityError": 15,
        "Interrupted": 75,
    }
