"""Which devices may be asked for."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from fewmask.errors import UsageError
from fewmask.training.device import choose_device, peak_gigabytes


def test_the_cpu_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize("name", ["meta", "xla", "cpu:1", "cuda:", "cuda:x", "CUDA", ""])
def test_a_device_on_which_nothing_can_be_computed_is_refused(name):
    with pytest.raises(UsageError, match="auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


def test_a_process_is_not_charged_with_the_memory_of_the_one_that_started_it():
    code = "import torch; from fewmask.training.device import peak_gigabytes as peak; "
    code += "print(peak(torch.device('cpu')))"
    held = np.ones(250_000_000)  # 2 GB, every page written
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    assert peak_gigabytes(torch.device("cpu")) > held.nbytes / 1e9
    assert 0.05 < float(answer.stdout) < 1.5
