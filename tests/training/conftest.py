"""Children that can be killed, a stage to work in, and small data."""

import json
import os
import signal
import time
import traceback

import pytest
import torch

from fewmask.config import resolve
from fewmask.data.sample import make_sample
from fewmask.data.street import make_street
from fewmask.errors import FewmaskError
from fewmask.pipelines.adapt_config import PRESETS as ADAPT_PRESETS
from fewmask.pipelines.adapt_config import AdaptConfig
from fewmask.pipelines.saliency_config import PRESETS as SALIENCY_PRESETS
from fewmask.pipelines.saliency_config import SaliencyConfig
from fewmask.pipelines.tags_config import PRESETS, TagsConfig
from fewmask.training.run_folder import RunFolder


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Bit-identity is promised for one number of threads, and only then is fork safe."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """24 tiles of 64 px with a scar and 24 without, with masks."""
    root = tmp_path_factory.mktemp("smoke") / "tiles"
    return make_sample(root, seed=0, images_per_class=24, image_size=64)


@pytest.fixture(scope="session")
def settings():
    """Every stage of pipeline ``tags`` and every key of its loops' state, in seconds."""
    return resolve(
        TagsConfig,
        PRESETS,
        "smoke",
        overrides={
            "threads": 1,
            "device": "cpu",
            "encoder": "mobilenetv3_small_050",
            "encoder_weights": "none",
            "image_size": 32,
            "translate_steps": 8,
            "translate_batch_size": 4,
            "translate_pool": 3,
            "augment_images": 4,
            "classify_epochs": 3,
            "classify_keep": "best",
            "cam_method": "grad_cam",
            "cam_layer": "network.blocks.2",  # 4 x 4 px; behind the pooling, maps are constant
            "cam_views": "single",
            "segment_epochs": 2,
            "segment_batch_size": 16,
            "segment_rounds": 2,
            "predict_views": "single",
            "predict_refine": "none",
            "controls_masks": (4,),
        },
    )


@pytest.fixture(scope="session")
def street(tmp_path_factory):
    """A generated street of 48 x 64 px: 8 labelled by day, 6 by night, 4 by night to test on."""
    root = tmp_path_factory.mktemp("street") / "street"
    return make_street(root, seed=0, day=8, night=6, test=4, width=64, height=48)


@pytest.fixture(scope="session")
def street_settings(street):
    """Every stage of pipeline ``adapt`` and every key of its loops' state, in seconds."""
    return resolve(
        AdaptConfig,
        ADAPT_PRESETS,
        "smoke",
        overrides={
            "threads": 1,
            "device": "cpu",
            "target": street / "night",
            "test": street / "test",
            "encoder": "mobilenetv3_small_050",
            "encoder_weights": "none",
            "image_size": 32,
            "image_width": 48,
            "translate_steps": 4,
            "translate_width": 4,
            "translate_blocks": 1,
            "translate_scales": 1,
            "translate_crop_px": [32],
            "translate_discriminator_width": 4,
            "translate_lambda_perceptual": 0.0,
            "render_methods": ("unit", "gamma"),
            "render_copies": 2,
            "choose_method": "histogram",
            "choose_share": 0.5,
            "segment_min_steps": 4,
            "adapt_steps": 4,
            "adapt_stop_if_worse": False,
            "predict_views": "single",
        },
    )


@pytest.fixture(scope="session")
def saliency_settings():
    """Pipeline ``saliency`` with two trainings of a map and an edge, in seconds."""
    return resolve(
        SaliencyConfig,
        SALIENCY_PRESETS,
        "smoke",
        overrides={
            "threads": 1,
            "device": "cpu",
            "image_size": 32,
            "encoder": "mobilenetv3_small_050",
            "encoder_weights": "none",
            "saliency_network": "mobilenetv3_small_050",
            "saliency_weights": "none",
            "saliency_batch_size": 6,
            "maps": ("guided",),
            "seeds": 2,
            "segment_epochs": 1,
            "controls_rgb": False,
            "controls_maps": ("sobel",),
            "predict_views": "single",
        },
    )


@pytest.fixture
def run(tmp_path):
    """A run folder without a pipeline."""
    made = RunFolder.create(tmp_path / "run", {"pipeline": "none", "settings": {}})
    made.quiet = True
    return made


@pytest.fixture
def stage(run):
    return run.stage(1, "train", "key")


@pytest.fixture(scope="session")
def in_child():
    """``in_child(work)`` runs a function in a forked process: exit code, or minus the signal."""
    return _in_child


def _in_child(work, *, kill_after=None, started=None):
    """Fork, run, wait.

    Args:
        work: Called without arguments in the child; a FewmaskError becomes its exit code.
        kill_after: Seconds after which the child gets SIGKILL, counted from ``started``.
        started: Pipe (read, write); the child writes a byte when the clock should start.
    """
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            work()
            code = 0
        except FewmaskError as error:
            code = error.exit_code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        if started:
            os.read(started[0], 1)
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="session")
def records_of():
    """``records_of(run_path)``: the lines of ``metrics.jsonl``, optionally of one stage."""

    def read(path, label=None):
        file = path / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        records = [json.loads(line) for line in lines]
        return [r for r in records if label is None or r["stage"] == label]

    return read
