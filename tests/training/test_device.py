"""Which devices may be asked for."""

import pytest
import torch

from fewmask.errors import UsageError
from fewmask.training.device import choose_device


def test_the_cpu_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize("name", ["meta", "xla", "cpu:1", "cuda:", "cuda:x", "CUDA", ""])
def test_a_device_on_which_nothing_can_be_computed_is_refused(name):
    with pytest.raises(UsageError, match="auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)
