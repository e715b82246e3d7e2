"""`fewmask predict` on volumes: a mask on the same grid, or a DICOM-SEG of the same series."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewmask.layouts.stacks import as_rgb, stacks_of
from fewmask.pipelines.finished import predictor_of_run
from fewmask.training.device import choose_device
from fewmask.training.run_folder import RunFolder

nibabel = pytest.importorskip("nibabel")
highdicom = pytest.importorskip("highdicom")

_SPEC = importlib.util.spec_from_file_location(
    "dicom_files", Path(__file__).parent / "io" / "dicom_files.py"
)
dicom_files = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(dicom_files)


@pytest.fixture
def voxels(small_data):
    """(slices, rows, columns) float32: grey tiles, so that slices show what the run has learned."""
    tiles = [Image.open(path).convert("L") for path in sorted(small_data.glob("*tive/*.png"))[:3]]
    return np.stack([np.asarray(tile, np.float32) for tile in tiles])


@pytest.fixture
def volume(voxels, tmp_path):
    affine = np.array([[0, 0, 3.0, 5], [0.5, 0, 0, 6], [0, -0.7, 0, 7], [0, 0, 0, 1]])
    path = tmp_path / "scans" / "case.nii.gz"
    path.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine), path)
    return path


def by_hand(run, path):
    """Masks of the slices, predicted one by one as pictures."""
    predictor = predictor_of_run(RunFolder.open(run.path), choose_device("cpu"))
    stacks, problems = stacks_of(path)
    assert not problems
    images = [as_rgb(pixels()) for pixels in stacks[0].slices]
    return np.stack([predictor.mask(image) for image in images])


def test_a_nifti_mask_has_the_volumes_grid_and_the_slices_masks(
    fewmask, tiny_run, volume, tmp_path
):
    out = tmp_path / "out"
    result = fewmask("predict", tiny_run.path, volume, "-o", out)
    assert result.code == 0, result.err
    given, made = nibabel.load(volume), nibabel.load(out / "masks/case.nii.gz")
    assert np.array_equal(given.affine, made.affine)
    assert given.shape == made.shape
    assert made.get_data_dtype() == np.uint8
    expected = by_hand(tiny_run, volume)
    assert expected.any()
    assert not expected.all()
    assert np.asarray(made.dataobj).sum() == expected.sum()
    assert "positive" in (out / "masks/case.labels.txt").read_text()
    assert Image.open(out / "overlays/case.png").size[0] % expected.shape[2] == 0


def test_label_volumes_and_further_channels_are_not_predicted(fewmask, tiny_run, volume, tmp_path):
    folder = volume.parent
    volume.rename(folder / "brain_0000.nii.gz")
    for name in ("brain_0001", "brain_mask"):
        (folder / f"{name}.nii.gz").write_bytes((folder / "brain_0000.nii.gz").read_bytes())
    out = tmp_path / "out"
    result = fewmask("predict", tiny_run.path, folder, "-o", out)
    assert result.code == 0, result.err
    assert [path.name for path in (out / "masks").glob("*.nii.gz")] == ["brain.nii.gz"]


def test_a_series_gets_a_dicom_seg_of_its_own_images(fewmask, tiny_run, voxels, tmp_path):
    order = (1, 2, 0)  # files are not named in the order of the slices
    for name, i in zip("abc", order, strict=True):
        dicom_files.save(tmp_path / "series" / f"{name}.dcm", voxels[i], z=10 * i, number=i + 1)
    out = tmp_path / "out"
    result = fewmask("predict", tiny_run.path, tmp_path / "series", "-o", out)
    assert result.code == 0, result.err
    target = out / "masks/patient-001/series-01.dcm"
    found = highdicom.seg.segread(target)
    assert [each.SegmentLabel for each in found.SegmentSequence] == ["positive"]
    expected = by_hand(tiny_run, tmp_path / "series")
    instances = {}
    import pydicom

    for name, i in zip("abc", order, strict=True):
        instances[i] = pydicom.dcmread(tmp_path / "series" / f"{name}.dcm").SOPInstanceUID
    pixels = found.get_pixels_by_source_instance(
        [instances[i] for i in range(3)], combine_segments=True, skip_overlap_checks=True
    )
    assert (pixels == expected).all()


def test_a_damaged_volume_is_told_and_the_others_are_done(fewmask, tiny_run, volume, tmp_path):
    data = volume.read_bytes()
    (volume.parent / "torn.nii.gz").write_bytes(data[: len(data) // 2])
    out = tmp_path / "out"
    result = fewmask("predict", tiny_run.path, volume.parent, "-o", out)
    assert result.code == 10
    assert "NIFTI-TRUNCATED" in result.err
    assert "1 volumes are done" in result.err
    assert (out / "masks/case.nii.gz").is_file()


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--save-probs"], "VOLUME-FLAG"), (["--bands", "1"], "VOLUME-FLAG"),
     (["--window", "5", "1"], "WINDOW")],
)  # fmt: skip
def test_flags_that_mean_nothing_for_volumes_are_refused(
    fewmask, tiny_run, volume, tmp_path, flags, code
):
    result = fewmask("predict", tiny_run.path, volume, "-o", tmp_path / "out", *flags)
    assert result.code == 2
    assert code in result.err
    assert not (tmp_path / "out").exists()


def test_a_window_without_a_volume_is_refused(fewmask, tiny_run, small_data, tmp_path):
    result = fewmask("predict", tiny_run.path, small_data, "-o", tmp_path / "o", "--window", "0",
                     "1")  # fmt: skip
    assert result.code == 2
    assert "VOLUME-MISSING" in result.err


def test_a_folder_given_as_output_that_is_taken_is_refused(fewmask, tiny_run, volume, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("x")
    result = fewmask("predict", tiny_run.path, volume, "-o", tmp_path / "out")
    assert result.code == 2
    assert "RUN-EXISTS" in result.err
