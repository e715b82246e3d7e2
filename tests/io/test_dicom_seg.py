"""Segmentations as highdicom and pydicom read them, and as ours reads those of others."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fewmask.errors import DataError, ResourceError, UsageError
from fewmask.io.dicom_seg import SegmentationFile, plain_label, write_dicom_seg

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

_SPEC = importlib.util.spec_from_file_location(
    "dicom_files", Path(__file__).with_name("dicom_files.py")
)
dicom_files = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(dicom_files)

NAMES = ("liver", "tumour", "vein")


@pytest.fixture
def source(tmp_path):
    """Four slices whose names, numbers and places are in three different orders."""
    return [
        dicom_files.save(tmp_path / "series" / name, np.zeros((5, 6)), number=number, z=z)
        for name, number, z in (("a", 3, 4), ("b", 1, 0), ("c", 4, 2), ("d", 2, 6))
    ]


@pytest.fixture
def masks():
    made = np.zeros((4, 5, 6), np.uint8)
    made[0, 1:3, 2:5], made[0, 4, 5] = 1, 2
    made[1, 0, 0] = 2
    made[3, 2], made[3, 3, :2] = 1, 255
    return made


def instance(path):
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def test_highdicom_reads_the_same_masks_for_the_same_images(tmp_path, source, masks):
    write_dicom_seg(source, masks, NAMES, tmp_path / "seg.dcm")
    read = highdicom.seg.segread(tmp_path / "seg.dcm")
    pixels = read.get_pixels_by_source_instance(
        [instance(path) for path in source],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(pixels, np.where(masks == 255, 0, masks))


def test_segments_are_named_and_coded(tmp_path, source, masks):
    write_dicom_seg(source, masks, NAMES, tmp_path / "seg.dcm")
    read = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert list(read.segment_numbers) == [1, 2, 3]
    for number, name in enumerate(NAMES, 1):
        segment = read.get_segment_description(number)
        assert segment.segment_label == name
        assert segment.algorithm_type.value == "AUTOMATIC"
        assert segment.algorithm_identification.name == "fewmask"
        assert segment.segmented_property_type.scheme_designator == "SCT"
    assert read.segmentation_type.value == "BINARY"


def test_pydicom_finds_each_frame_at_its_image(tmp_path, source, masks):
    write_dicom_seg(source, masks, NAMES, tmp_path / "seg.dcm")
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    (series,) = read.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == pydicom.dcmread(source[0]).SeriesInstanceUID
    listed = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert listed == {instance(path) for path in source}
    found = {}
    for item, pixels in zip(read.PerFrameFunctionalGroupsSequence, read.pixel_array, strict=True):
        image = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[image, number] = pixels
    expected = {
        (instance(source[i]), number): masks[i] == number
        for i in range(4)
        for number in (1, 2, 3)
        if (masks[i] == number).any()
    }
    assert found.keys() == expected.keys()
    for key, pixels in expected.items():
        np.testing.assert_array_equal(found[key], pixels)


def test_the_segmentation_goes_back_to_the_same_patient(tmp_path, source, masks):
    write_dicom_seg(source, masks, NAMES, tmp_path / "seg.dcm")
    before, after = pydicom.dcmread(source[0]), pydicom.dcmread(tmp_path / "seg.dcm")
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert after[name].value == before[name].value
    assert after.SeriesInstanceUID != before.SeriesInstanceUID


def test_ours_reads_what_ours_wrote(tmp_path, source, masks):
    write_dicom_seg(source, masks, NAMES, tmp_path / "seg.dcm")
    read = SegmentationFile(tmp_path / "seg.dcm")
    assert read.labels == dict(enumerate(NAMES, 1))
    assert read.size == (5, 6)
    assert not read.may_overlap
    for path, mask in zip(source, masks, strict=True):
        assert read.covers(instance(path))
        found = read.mask(instance(path), 0, None)
        assert found.keys() == set(np.unique(mask).tolist()) - {0, 255}
        for number, pixels in found.items():
            np.testing.assert_array_equal(pixels, mask == number)
    assert not read.covers("1.2.3")


def test_frames_that_name_no_image_are_found_by_their_place(tmp_path, source, masks):
    write_dicom_seg(source, masks, NAMES, tmp_path / "seg.dcm")
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    for item in made.PerFrameFunctionalGroupsSequence:
        del item.DerivationImageSequence
    made.save_as(tmp_path / "seg.dcm")
    read = SegmentationFile(tmp_path / "seg.dcm")
    found = read.mask(instance(source[1]), 0, (10.0, 20.0, 0.0))
    np.testing.assert_array_equal(found[2], masks[1] == 2)
    assert read.mask(instance(source[1]), 0, (10.0, 20.0, 1.0)) == {}


def test_a_fractional_segmentation_is_cut_at_half(tmp_path, source):
    images = [pydicom.dcmread(path) for path in source]
    shares = np.zeros((4, 5, 6), np.float32)
    shares[0, 0, :3] = 0.25, 0.55, 1
    name = highdicom.AlgorithmIdentificationSequence(
        name="x", version="1", family=pydicom.sr.codedict.codes.cid7162.ArtificialIntelligence
    )
    tissue = pydicom.sr.codedict.codes.SCT.Tissue
    segment = highdicom.seg.SegmentDescription(1, "Liver", tissue, tissue, "AUTOMATIC", name)
    highdicom.seg.Segmentation(
        images, shares, "FRACTIONAL", [segment], highdicom.UID(), 1, highdicom.UID(), 1, "m", "m",
        "1", "1",
    ).save_as(tmp_path / "seg.dcm")  # fmt: skip
    found = SegmentationFile(tmp_path / "seg.dcm").mask(instance(source[0]), 0, None)
    assert found[1][0, :4].tolist() == [False, True, True, False]


def test_a_segmentation_of_others_is_read():
    path = Path(pydicom.__file__).parent / "data" / "test_files" / "liver_1frame.dcm"
    read = SegmentationFile(path)
    assert read.labels == {1: "Liver"}
    (image,) = {frame.instance for frame in read._frames}
    found = read.mask(image, 0, None)
    assert int(found[1].sum()) == int(pydicom.dcmread(path).pixel_array.sum()) == 36233


def test_one_multi_frame_file_is_a_source(tmp_path):
    def item(z):
        place = pydicom.Dataset()
        place.ImagePositionPatient = [0, 0, z]
        made = pydicom.Dataset()
        made.PlanePositionSequence = [place]
        return made

    shared, way, size = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    way.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    size.PixelSpacing, size.SliceThickness = [1, 1], 2
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [way], [size]
    path = dicom_files.save(
        tmp_path / "a", np.zeros((2, 3, 4)), SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
        PerFrameFunctionalGroupsSequence=[item(0), item(2)],
        SharedFunctionalGroupsSequence=[shared],
    )  # fmt: skip
    masks = np.zeros((2, 3, 4), np.uint8)
    masks[1, 0, 3] = 1
    write_dicom_seg([path], masks, ["liver"], tmp_path / "seg.dcm")
    read = SegmentationFile(tmp_path / "seg.dcm")
    assert read.mask(instance(path), 0, None) == {}
    np.testing.assert_array_equal(read.mask(instance(path), 1, None)[1], masks[1] == 1)


def test_images_without_names_and_dates_are_sources_too(tmp_path, source, masks):
    for path in source:
        made = pydicom.dcmread(path)
        for name in ("PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
                     "StudyTime", "AccessionNumber", "ReferringPhysicianName",
                     "PositionReferenceIndicator"):  # fmt: skip
            delattr(made, name)
        made.save_as(path)
    write_dicom_seg(source, masks, NAMES, tmp_path / "seg.dcm")
    read = SegmentationFile(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read.mask(instance(source[1]), 0, None)[2], masks[1] == 2)


def test_empty_masks_are_written_too(tmp_path, source):
    write_dicom_seg(source, np.zeros((4, 5, 6), np.uint8), NAMES, tmp_path / "seg.dcm")
    read = SegmentationFile(tmp_path / "seg.dcm")
    assert read.labels == dict(enumerate(NAMES, 1))
    assert all(
        not pixels.any()
        for path in source
        for pixels in read.mask(instance(path), 0, None).values()
    )


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 5, 6), np.uint8), np.zeros((4, 5, 6)), np.full((4, 5, 6), 4, np.uint8)]
)
def test_masks_of_another_shape_or_with_unnamed_ids_are_refused(tmp_path, source, wrong):
    with pytest.raises(UsageError, match="MASK-DTYPE"):
        write_dicom_seg(source, wrong, NAMES, tmp_path / "seg.dcm")


def test_images_of_several_series_are_refused(tmp_path, source, masks):
    source[2] = dicom_files.save(tmp_path / "other", np.zeros((5, 6)), series="2", z=1)
    with pytest.raises(DataError, match="DICOM-SERIES"):
        write_dicom_seg(source, masks, NAMES, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_a_folder_that_is_not_there_is_told_and_nothing_is_left(tmp_path, source, masks):
    with pytest.raises(ResourceError, match="DISK-WRITE"):
        write_dicom_seg(source, masks, NAMES, tmp_path / "nowhere" / "seg.dcm")
    write_dicom_seg(source, masks, NAMES, tmp_path / "seg.dcm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seg.dcm", "series"]


def test_a_damaged_segmentation_is_told(tmp_path, source, masks):
    write_dicom_seg(source, masks, NAMES, tmp_path / "seg.dcm")
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    del made.PerFrameFunctionalGroupsSequence
    made.save_as(tmp_path / "seg.dcm")
    with pytest.raises(DataError, match="DICOM-UNREADABLE"):
        SegmentationFile(tmp_path / "seg.dcm")


def test_labels_become_plain_text():
    assert (
        plain_label("left_lung (upper)\x1b[31m\n=1+1|<script>")
        == "left_lung (upper) 31m 1+1 script"
    )
    assert plain_label(None) == plain_label("\x00;;") == ""
    assert len(plain_label("x" * 300)) == 64
