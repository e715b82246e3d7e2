"""The shim must act on exactly one failure, once, and stay out of the way otherwise."""

import logging
import subprocess
import sys
import types

import pytest
import torch

from fewmask import torchvision_compat

MISSING = "operator torchvision::nms does not exist"


@pytest.fixture
def attempts(monkeypatch):
    """Simulates the import of torchvision: one outcome per attempt; records what is declared."""
    outcomes: list[Exception | None] = []
    declared: list[str] = []

    def import_module(name):
        assert name == "torchvision"
        outcome = outcomes.pop(0)
        if outcome:
            raise outcome
        return types.ModuleType(name)

    monkeypatch.setattr(torchvision_compat.importlib, "import_module", import_module)
    monkeypatch.setattr(torch.library, "define", lambda name, schema: declared.append(name))
    torchvision_compat.ensure.cache_clear()
    yield outcomes, declared
    torchvision_compat.ensure.cache_clear()


def test_nothing_is_declared_where_torchvision_imports(attempts, caplog):
    outcomes, declared = attempts
    outcomes[:] = [None]
    with caplog.at_level(logging.INFO):
        torchvision_compat.ensure()
    assert declared == []
    assert caplog.records == []


def test_the_two_operators_are_declared_and_logged_once(attempts, caplog):
    outcomes, declared = attempts
    outcomes[:] = [RuntimeError(MISSING), None]
    with caplog.at_level(logging.INFO):
        torchvision_compat.ensure()
        torchvision_compat.ensure()
    assert declared == ["torchvision::nms", "torchvision::qnms"]
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize("error", [RuntimeError("operator torchvision::roi_align"), ImportError()])
def test_any_other_failure_passes_untouched(attempts, error):
    outcomes, declared = attempts
    outcomes[:] = [error]
    with pytest.raises(type(error)) as caught:
        torchvision_compat.ensure()
    assert caught.value is error
    assert declared == []


def test_timm_and_segmentation_models_import_in_a_fresh_process():
    program = (
        "from fewmask import torchvision_compat as c; c.ensure(); c.ensure()\n"
        "import torchvision, timm, segmentation_models_pytorch\n"
        "from torchvision.transforms import v2\n"
        "print(v2.Resize(3).size)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[3]", done.stderr
