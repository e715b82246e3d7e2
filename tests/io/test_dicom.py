"""DICOM pixels as numbers, slices in the order of the body, and nothing of the patient."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fewmask.errors import DataError
from fewmask.io.dicom import is_dicom, read_header, read_pixels
from fewmask.io.dicom_series import find_series

pydicom = pytest.importorskip("pydicom")

_SPEC = importlib.util.spec_from_file_location(
    "dicom_files", Path(__file__).with_name("dicom_files.py")
)
dicom_files = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(dicom_files)
save = dicom_files.save

RAMP = np.arange(12).reshape(3, 4) * 300  # up to 3,300 of 12 bits
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def problem_of(call, *arguments):
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return caught.value.problems[0]


def pixels_of(path, window=None, frame=0):
    return read_pixels(read_header(path), frame, window)


def test_slope_and_intercept_are_applied(tmp_path):
    path = save(tmp_path / "a", RAMP, RescaleSlope=2, RescaleIntercept=-1024)
    pixels = pixels_of(path)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, 2 * RAMP - 1024)


def test_inverted_storage_gives_the_same_pixels(tmp_path):
    plain = save(tmp_path / "a", RAMP, RescaleSlope=2, RescaleIntercept=-1024)
    inverted = save(
        tmp_path / "b", 4095 - RAMP, RescaleSlope=2, RescaleIntercept=-1024,
        PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    np.testing.assert_array_equal(pixels_of(inverted), pixels_of(plain))


def test_a_window_is_applied_before_the_inversion(tmp_path):
    path = save(
        tmp_path / "a", [[0, 1000, 2000, 3000]], RescaleSlope=2, RescaleIntercept=-1024,
        PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    # -1024, 976, 2976, 4976 in 976..4976 are 0, 0, 0.5, 1
    np.testing.assert_array_equal(pixels_of(path, (976, 4976)), [[1, 1, 0.5, 0]])


def test_a_window_clips_to_0_and_1(tmp_path):
    path = save(tmp_path / "a", [[0, 900, 1024, 1104, 1184, 4000]], RescaleIntercept=-1024)
    np.testing.assert_allclose(pixels_of(path, (-160, 240)), [[0, 36 / 400, 0.4, 0.6, 0.8, 1]])


def test_the_files_own_window_changes_nothing(tmp_path):
    path = save(tmp_path / "a", RAMP, WindowCenter=40, WindowWidth=400)
    np.testing.assert_array_equal(pixels_of(path), RAMP)


def test_signed_values_stay_signed_and_are_inverted_in_their_range(tmp_path):
    stored = np.array([[-2048, -1, 0, 2047]], np.int16)
    tags = {"PixelRepresentation": 1, "PhotometricInterpretation": "MONOCHROME1"}
    path = save(tmp_path / "a", stored.view(np.uint16), **tags)
    np.testing.assert_array_equal(pixels_of(path), [[2047, 0, -1, -2048]])


def test_a_table_of_values_takes_the_place_of_slope_and_intercept(tmp_path):
    table = pydicom.Dataset()
    table.add_new(0x00283002, "US", [4, 0, 16])
    table.add_new(0x00283004, "LO", "")
    table.add_new(0x00283006, "US", [7, 70, 700, 7000])
    path = save(tmp_path / "a", [[0, 1, 2, 3]], ModalityLUTSequence=[table])
    np.testing.assert_array_equal(pixels_of(path), [[7, 70, 700, 7000]])


def test_every_frame_of_a_file_is_read(tmp_path):
    path = save(tmp_path / "a", np.stack([RAMP, RAMP + 1, RAMP + 2]))
    header = read_header(path)
    assert len(header.frames) == 3
    for i in range(3):
        np.testing.assert_array_equal(read_pixels(header, i), RAMP + i)


def groups(**sequences):
    item = pydicom.Dataset()
    for name, values in sequences.items():
        inner = pydicom.Dataset()
        for keyword, value in values.items():
            setattr(inner, keyword, value)
        setattr(item, name, [inner])
    return item


def test_an_enhanced_file_has_positions_and_slopes_for_each_frame(tmp_path):
    frames = [
        groups(
            PlanePositionSequence={"ImagePositionPatient": [0, 0, z]},
            PixelValueTransformationSequence={"RescaleSlope": slope, "RescaleIntercept": 1},
        )
        for z, slope in ((30, 1), (10, 2), (20, 3))
    ]
    shared = groups(PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]})
    path = save(
        tmp_path / "a", np.ones((3, 2, 2)), PerFrameFunctionalGroupsSequence=frames,
        SharedFunctionalGroupsSequence=[shared],
    )  # fmt: skip
    (series,) = find_series([read_header(path)])
    assert [plane.frame for plane in series.planes] == [1, 2, 0]
    values = [read_pixels(plane.header, plane.frame)[0, 0] for plane in series.planes]
    assert values == [3, 4, 2]


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("CT_small.dcm", (128, 128), np.float32),
        ("MR_small_RLE.dcm", (64, 64), np.float32),
        ("SC_rgb_rle.dcm", (100, 100, 3), np.uint8),
        ("SC_rgb_rle_16bit.dcm", (100, 100, 3), np.uint16),
        ("SC_rgb_small_odd.dcm", (3, 3, 3), np.uint8),
        ("examples_palette.dcm", (350, 800, 3), np.uint16),
    ],
)
def test_files_of_others_are_read(name, shape, dtype):
    pixels = pixels_of(SAMPLES / name)
    assert (pixels.shape, pixels.dtype) == (shape, dtype)


def test_a_ct_of_others_is_in_hounsfield_units():
    reference = pydicom.dcmread(SAMPLES / "CT_small.dcm")
    np.testing.assert_array_equal(
        pixels_of(SAMPLES / "CT_small.dcm"),
        reference.pixel_array.astype(float) * reference.RescaleSlope + reference.RescaleIntercept,
    )


def test_brightness_colours_become_red_green_and_blue():
    ybr = pixels_of(SAMPLES / "SC_rgb_dcmtk_+eb+cy+np.dcm").astype(int)
    rgb = pixels_of(SAMPLES / "SC_rgb_rle.dcm").astype(int)
    assert np.abs(ybr - rgb).mean() < 12  # lossy JPEG of the same picture


def test_a_compression_without_a_decoder_is_told_from_the_header_with_the_fix():
    problem = problem_of(read_header, SAMPLES / "SC_rgb_jpeg_gdcm.dcm")
    assert problem.code == "DICOM-SYNTAX"
    assert "JPEG Lossless" in problem.found
    assert "pip install pylibjpeg" in problem.fix


def test_a_deflated_header_is_refused_undecoded():
    assert problem_of(read_header, SAMPLES / "image_dfl.dcm").code == "DICOM-SYNTAX"


def test_the_content_and_not_the_suffix_makes_a_file_dicom(tmp_path):
    assert is_dicom(save(tmp_path / "IM000001", RAMP))
    (tmp_path / "b.dcm").write_bytes(b"x" * 200)
    assert not is_dicom(tmp_path / "b.dcm")
    assert not is_dicom(tmp_path)


def test_slices_are_ordered_by_where_they_lie(tmp_path):
    heights = {"a": (3, 10.5), "b": (1, -7), "c": (2, 8), "d": (4, 0)}
    for name, (number, z) in heights.items():
        save(tmp_path / name, RAMP, number=number, z=z)
    (series,) = find_series(read_header(tmp_path / name) for name in "abcd")
    assert [plane.header.path.name for plane in series.planes] == ["b", "d", "c", "a"]
    assert [plane.place for plane in series.planes] == [-7, 0, 8, 10.5]
    assert series.ordered_by == "position"


def test_sagittal_slices_are_ordered_along_their_own_normal(tmp_path):
    for name, x in (("a", 5), ("b", -5), ("c", 0)):
        save(
            tmp_path / name, RAMP, ImagePositionPatient=[x, 0, 100 - x],
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        )  # fmt: skip
    (series,) = find_series(read_header(tmp_path / name) for name in "abc")
    assert [plane.header.path.name for plane in series.planes] == ["a", "c", "b"]  # normal is -x


def test_without_positions_the_scanners_numbers_count_then_the_names(tmp_path):
    for name, number in (("a", 10), ("b", 9)):
        save(tmp_path / name, RAMP, number=number)
    (series,) = find_series(read_header(tmp_path / name) for name in "ab")
    assert series.ordered_by == "number"
    assert [plane.header.number for plane in series.planes] == [9, 10]
    for name in ("x10", "x9"):
        save(tmp_path / name, RAMP, number=None)
    (series,) = find_series(read_header(tmp_path / name) for name in ("x10", "x9"))
    assert series.ordered_by == "file"
    assert [plane.header.path.name for plane in series.planes] == ["x9", "x10"]


def test_patients_and_series_are_counted_as_they_are_found(tmp_path):
    files = [("B", "7"), ("A", "3"), ("B", "2"), ("B", "7")]
    headers = [
        read_header(save(tmp_path / str(i), RAMP, patient=patient, series=series, z=i))
        for i, (patient, series) in enumerate(files)
    ]
    found = {each.name: len(each.planes) for each in find_series(headers)}
    assert found == {
        "patient-001/series-01": 2,
        "patient-001/series-02": 1,
        "patient-002/series-01": 1,
    }


def test_patients_without_a_number_are_told_apart_by_their_studies(tmp_path):
    headers = [
        read_header(save(tmp_path / study, RAMP, patient="", study=study, series=study))
        for study in "12"
    ]
    assert [each.patient for each in find_series(headers)] == [1, 2]


def test_a_copy_of_a_file_counts_once(tmp_path):
    first = save(tmp_path / "a", RAMP, z=1)
    (tmp_path / "b").write_bytes(first.read_bytes())
    (series,) = find_series([read_header(first), read_header(tmp_path / "b")])
    assert (len(series.planes), series.copies) == (1, 1)


def test_a_missing_slice_is_a_gap(tmp_path):
    headers = [read_header(save(tmp_path / str(z), RAMP, z=z)) for z in (0, 2.5, 5, 10, 12.5)]
    (series,) = find_series(headers)
    assert series.gaps() == [5]
    (series,) = find_series(headers[:3])
    assert series.gaps() == []


def test_several_images_at_each_place_are_no_gaps(tmp_path):
    headers = [
        read_header(save(tmp_path / f"{z}-{echo}", RAMP, z=z, number=echo))
        for z in (0, 2, 4)
        for echo in (2, 1)
    ]
    (series,) = find_series(headers)
    assert [(plane.place, plane.header.number) for plane in series.planes] == [
        (0, 1), (0, 2), (2, 1), (2, 2), (4, 1), (4, 2),
    ]  # fmt: skip
    assert series.gaps() == []


@pytest.mark.parametrize(
    "tags", [{"NumberOfFrames": 1_000_000_000}, {"Rows": 65535, "Columns": 65535}]
)
def test_sizes_that_no_file_can_hold_are_refused_from_the_header(tmp_path, tags):
    path = save(tmp_path / "a", RAMP)
    made = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(made, name, value)
    made.save_as(path)
    assert problem_of(read_header, path).code == "IMAGE-TOO-LARGE"


def test_fewer_pixels_than_the_header_says_are_refused(tmp_path):
    path = save(tmp_path / "a", np.zeros((100, 100)))
    path.write_bytes(path.read_bytes()[:5000])
    assert problem_of(read_header, path).code == "DICOM-TRUNCATED"


@pytest.mark.parametrize(
    "content", [b"", bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\xff" * 99]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.dcm").write_bytes(content)
    assert problem_of(pixels_of, tmp_path / "a.dcm").code.startswith(("DICOM-", "IMAGE-"))


def test_damaged_files_never_raise_anything_else_and_quote_nothing(
    tmp_path, recwarn, caplog, capfd
):
    path = save(tmp_path / "a", RAMP, patient="ZZPHI123", z=0, InstitutionName="ZZPHI123")
    whole, draw = path.read_bytes(), np.random.default_rng(1)
    messages = []
    for _ in range(400):
        raw = bytearray(whole)
        for place in draw.integers(132, len(raw), 3):
            raw[place] = draw.integers(0, 256)
        path.write_bytes(raw)
        try:
            pixels_of(path)
        except DataError as error:
            messages.append(str(error))
    assert 20 < len(messages) < 380
    assert "ZZPHI" not in "".join(messages)
    said = [str(warning.message) for warning in recwarn] + [caplog.text, *capfd.readouterr()]
    assert "ZZPHI" not in "".join(said)


def test_a_header_does_not_show_who_it_is(tmp_path):
    path = save(tmp_path / "a", RAMP, patient="ZZPHI123", InstitutionName="ZZPHI123")
    header = read_header(path)
    assert header.identity.patient == "ZZPHI123"
    assert "ZZPHI123" not in f"{header!r} {header.identity!r} {find_series([header])!r}"
    assert header.identity.instance not in repr(header)
