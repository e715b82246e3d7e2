"""DICOM trees: patients, series and slices by number, and nothing that could name a patient."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fewmask.errors import DataError, UsageError
from fewmask.io.dicom_seg import write_dicom_seg
from fewmask.layouts import dicom
from fewmask.layouts.records import ReadingOptions

pydicom = pytest.importorskip("pydicom")

_SPEC = importlib.util.spec_from_file_location(
    "dicom_files", Path(__file__).parents[1] / "io" / "dicom_files.py"
)
dicom_files = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(dicom_files)
save = dicom_files.save

CANARY = "ZZPHI123"
RAMP = np.arange(30).reshape(5, 6) * 100


def read(root, **options):
    return dicom.read(root, ReadingOptions(**options))


def codes(problems):
    return sorted(problem.code for problem in problems)


def series(folder, heights=(0, 2, 4), **tags):
    return [
        save(folder / f"IM{i}", RAMP + i, number=i, z=z, **tags) for i, z in enumerate(heights, 1)
    ]


def test_files_without_suffix_are_recognised_by_content(tmp_path):
    assert not dicom.recognise(tmp_path)
    (tmp_path / "notes.dcm").write_text("no image")
    assert not dicom.recognise(tmp_path)
    series(tmp_path / "a" / "b")
    assert dicom.recognise(tmp_path)
    assert not dicom.recognise(tmp_path / "missing")


def test_ids_count_patients_series_and_slices(tmp_path):
    series(tmp_path / "a", (0, 2), patient="Z", series="9")
    series(tmp_path / "b", (0,), patient="A", series="2")
    series(tmp_path / "c", (0,), patient="Z", series="1")
    source = read(tmp_path)
    assert [(entry.id, entry.group) for entry in source.entries] == [
        ("patient-001/series-01/slice-001", "patient-001"),
        ("patient-001/series-01/slice-002", "patient-001"),
        ("patient-001/series-02/slice-001", "patient-001"),
        ("patient-002/series-01/slice-001", "patient-002"),
    ]
    assert {entry.tags for entry in source.entries} == {None}
    assert {entry.mask for entry in source.entries} == {None}
    assert codes(source.problems) == []


def test_slices_run_along_the_body(tmp_path):
    for name, z in (("x", 4), ("y", 0), ("z", 2)):
        save(tmp_path / name, np.full((2, 2), 100 + z), z=z)
    values = [entry.image()[0, 0] for entry in read(tmp_path, window=(100, 104)).entries]
    assert values == [0, 32768, 65535]


# --- grey levels ----------------------------------------------------------------------------------


def test_ct_has_one_fixed_window(tmp_path):
    stored = [[0, 1024, 2047, 4095]]
    save(tmp_path / "a", stored, RescaleIntercept=-1024)
    source = read(tmp_path)
    assert source.entries[0].image().tolist() == [[0, 32784, 65535, 65535]]
    assert codes(source.notes) == ["WINDOW"]


def test_mr_goes_from_percentile_to_percentile_of_its_series(tmp_path):
    values = np.arange(2000).reshape(2, 40, 25)
    for i in range(2):
        save(tmp_path / str(i), values[i], z=i, Modality="MR")
    low, high = np.percentile(values, (0.5, 99.5))
    for i, entry in enumerate(read(tmp_path).entries):
        expected = np.clip((values[i] - low) / (high - low), 0, 1) * 65535
        np.testing.assert_allclose(entry.image(), expected, atol=0.51)


@pytest.mark.parametrize(
    ("modality", "slope", "intercept"), [("DX", 2, -1024), ("MR", 1, 0), ("CT", 1, -2048)]
)
def test_inverted_storage_gives_the_same_input(tmp_path, modality, slope, intercept):
    """For CT so that the window lies in the middle of what 12 bits can hold."""
    tags = {"Modality": modality, "RescaleSlope": slope, "RescaleIntercept": intercept}
    inverted = {**tags, "PhotometricInterpretation": "MONOCHROME1"}
    save(tmp_path / "a" / "x", RAMP, series="1", **tags)
    save(tmp_path / "b" / "x", 4095 - RAMP, series="2", **inverted)
    first, second = (entry.image() for entry in read(tmp_path).entries)
    assert len(np.unique(first)) > 15
    np.testing.assert_allclose(second.astype(int), first.astype(int), atol=1)


def test_colours_stay_colours(tmp_path):
    rgb = Path(pydicom.__file__).parent / "data" / "test_files" / "SC_rgb_rle.dcm"
    (tmp_path / "a").write_bytes(rgb.read_bytes())
    source = read(tmp_path)
    image = source.entries[0].image()
    assert (image.shape, image.dtype) == ((100, 100, 3), np.uint8)
    assert source.notes == []


def test_a_damaged_slice_is_told_by_itself_alone(tmp_path):
    paths = series(tmp_path, Modality="MR")
    damaged = pydicom.dcmread(paths[1])
    damaged.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
    damaged.PixelData = pydicom.encaps.encapsulate([bytes(64)])
    damaged["PixelData"].is_undefined_length = True
    damaged.save_as(paths[1])
    first, second, third = read(tmp_path).entries
    assert (first.image().min(), third.image().max()) == (0, 65535)
    with pytest.raises(DataError, match="DICOM-"):
        second.image()


# --- notes ----------------------------------------------------------------------------------------


def test_burned_in_text_is_noted(tmp_path):
    series(tmp_path / "a", series="1")
    series(tmp_path / "b", series="2", BurnedInAnnotation="YES")
    (note,) = [n for n in read(tmp_path).notes if n.code == "DICOM-BURNED-IN"]
    assert note.where == "patient-001/series-02"


def test_missing_slices_are_noted(tmp_path):
    series(tmp_path, (0, 2, 4, 10))
    (note,) = [n for n in read(tmp_path).notes if n.code == "DICOM-GAP"]
    assert "1 gaps, the widest 6.00 mm" in note.found


def test_mixed_sizes_are_noted(tmp_path):
    series(tmp_path)
    save(tmp_path / "x", np.zeros((3, 3)), z=6)
    (note,) = [n for n in read(tmp_path).notes if n.code == "MIXED-SIZES"]
    assert note.found == "3 of 5x6, 1 of 3x3"


def test_slices_without_positions_are_noted(tmp_path):
    for number in (2, 1):
        save(tmp_path / str(number), RAMP, number=number)
    assert "DICOM-ORDER" in codes(read(tmp_path).notes)


def test_a_pattern_for_file_names_is_not_used_and_this_is_noted(tmp_path):
    series(tmp_path)
    source = read(tmp_path, group_pattern=r"IM(\d)")
    assert {entry.group for entry in source.entries} == {"patient-001"}
    assert "DICOM-GROUPS" in codes(source.notes)


def test_objects_that_are_no_images_are_counted(tmp_path):
    series(tmp_path)
    samples = Path(pydicom.__file__).parent / "data" / "test_files"
    for name in ("reportsi.dcm", "rtplan.dcm", "rtdose_1frame.dcm"):
        (tmp_path / name).write_bytes((samples / name).read_bytes())
    source = read(tmp_path)
    (note,) = [n for n in source.notes if n.code == "DICOM-NO-IMAGE"]
    assert "1 RTDOSE, 1 RTPLAN, 1 SR" in note.found
    assert len(source.entries) == 3


def test_files_that_repeat_another_are_told(tmp_path):
    first = series(tmp_path)[0]
    (tmp_path / "copy").write_bytes(first.read_bytes())
    source = read(tmp_path)
    assert codes(source.repairs) == ["DICOM-TWICE"]
    assert len(source.entries) == 3


def test_damaged_files_are_problems(tmp_path):
    series(tmp_path)
    (tmp_path / "bad").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    (tmp_path / "text.dcm").write_text("hello")
    (tmp_path / "read.me").write_text("hello")
    source = read(tmp_path)
    assert {Path(problem.where).name for problem in source.problems} == {"bad", "text.dcm"}
    assert len(source.entries) == 3


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    series(tmp_path / "data")
    secret = save(tmp_path / "secret", RAMP, patient="X")
    (tmp_path / "data" / "link").symlink_to(secret)
    source = read(tmp_path / "data")
    assert codes(source.problems) == ["PATH-OUTSIDE"]
    assert {entry.group for entry in source.entries} == {"patient-001"}


# --- segmentations --------------------------------------------------------------------------------


def ids_of(source):
    return np.stack([entry.mask() for entry in source.entries])


@pytest.fixture
def drawn():
    masks = np.zeros((3, 5, 6), np.uint8)
    masks[0, 1:3, 2:4], masks[2, 4, 5] = 1, 2
    return masks


def test_segmentations_become_the_masks_of_their_series(tmp_path, drawn):
    paths = series(tmp_path / "a", (4, 0, 2), series="1")
    series(tmp_path / "b", series="2")
    write_dicom_seg(paths, drawn, ["Liver", "Tumour"], tmp_path / "a" / "seg")
    source = read(tmp_path)
    assert codes(source.problems) == []
    assert [c.name for c in source.classes] == ["Liver", "Tumour"]
    assert len(source.entries) == 6
    assert [entry.mask is not None for entry in source.entries] == [True] * 3 + [False] * 3
    masks = np.stack([entry.mask() for entry in source.entries[:3]])
    np.testing.assert_array_equal(masks, drawn[[1, 2, 0]])
    assert masks.dtype == np.uint8


def test_slices_that_nobody_has_drawn_on_are_unlabelled(tmp_path, drawn):
    paths = series(tmp_path / "a", (0, 2, 4))
    write_dicom_seg(paths[:2], drawn[:2], ["Liver"], tmp_path / "seg")
    assert [entry.mask is not None for entry in read(tmp_path).entries] == [True, True, False]


def test_segmentations_of_several_files_share_their_classes(tmp_path, drawn):
    paths = series(tmp_path / "a")
    write_dicom_seg(paths, (drawn == 2).astype(np.uint8), ["Tumour"], tmp_path / "s1")
    write_dicom_seg(paths, (drawn > 0).astype(np.uint8), ["Liver"], tmp_path / "s2")
    source = read(tmp_path)
    assert [c.name for c in source.classes] == ["Tumour", "Liver"]
    np.testing.assert_array_equal(ids_of(source), np.where(drawn > 0, 2, 0))
    assert "DICOM-SEG-OVERLAP" in codes(source.notes)


def test_the_order_of_the_classes_can_be_given(tmp_path, drawn):
    write_dicom_seg(series(tmp_path / "a"), drawn, ["Liver", "Tumour"], tmp_path / "seg")
    source = read(tmp_path, class_names=("Tumour", "Liver"))
    np.testing.assert_array_equal(ids_of(source), np.array([0, 2, 1])[drawn])
    with pytest.raises(UsageError, match="CLASS-NAMES"):
        read(tmp_path, class_names=("Kidney", "Liver"))


def test_a_segmentation_without_its_series_is_a_problem(tmp_path, drawn):
    paths = series(tmp_path / "a")
    write_dicom_seg(paths, drawn, ["Liver", "Tumour"], tmp_path / "seg")
    for path in paths:
        path.unlink()
    series(tmp_path / "b", series="5")
    source = read(tmp_path)
    assert codes(source.problems) == ["MASK-UNPAIRED"]
    assert source.classes == ()


def test_a_segmentation_of_another_size_is_a_problem(tmp_path, drawn):
    paths = series(tmp_path / "a")
    write_dicom_seg(paths, drawn, ["Liver", "Tumour"], tmp_path / "seg")
    for path in paths:
        made = pydicom.dcmread(path)
        made.Rows, made.PixelData = 4, made.PixelData[: 4 * 6 * 2]
        made.save_as(path)
    assert codes(read(tmp_path).problems) == ["MASK-SIZE"]


def test_names_of_segments_become_plain_text(tmp_path, drawn):
    write_dicom_seg(series(tmp_path / "a"), drawn, ["Liver", "Tumour"], tmp_path / "seg")
    made = pydicom.dcmread(tmp_path / "seg")
    made.SegmentSequence[0].SegmentLabel = "=cmd|<b>Liver\x1b[31m"
    made.SegmentSequence[1].SegmentLabel = ""
    made.save_as(tmp_path / "seg")
    assert [c.name for c in read(tmp_path).classes] == ["cmd b Liver 31m", "class_2"]


# --- what names a patient -------------------------------------------------------------------------

LONG_TEXT = [
    "PatientName", "PatientID", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "PatientAddress", "MilitaryRank", "BranchOfService", "PatientTelephoneNumbers", "Occupation",
    "EthnicGroup", "AdditionalPatientHistory", "PatientReligiousPreference", "PatientComments",
    "MedicalRecordLocator", "CountryOfResidence", "RegionOfResidence", "Allergies", "MedicalAlerts",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName",
    "ReferringPhysicianName", "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers",
    "PhysiciansOfRecord", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy",
    "OperatorsName", "AdmittingDiagnosesDescription", "StudyDescription", "SeriesDescription",
    "AccessionNumber", "StudyID", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber",
    "SoftwareVersions", "ProtocolName", "BodyPartExamined", "RequestingPhysician",
    "RequestingService", "RequestedProcedureDescription", "RequestedProcedureID",
    "RequestedProcedureComments", "PerformedProcedureStepID", "PerformedProcedureStepDescription",
    "CommentsOnThePerformedProcedureStep", "AdmissionID", "IssuerOfPatientID", "SpecialNeeds",
    "CurrentPatientLocation", "PatientInstitutionResidence", "VisitComments", "ImageComments",
    "DerivationDescription", "ContentCreatorName", "PersonName", "SourceApplicationEntityTitle",
    "SecondaryCaptureDeviceID", "AcquisitionDeviceProcessingDescription", "ContrastBolusAgent",
    "TransducerData", "FilterType", "LossyImageCompressionMethod", "RescaleType",
    "WindowCenterWidthExplanation", "PositionReferenceIndicator", "TextString",
    "ScheduledStationAETitle",
]  # fmt: skip


def with_canaries(path):
    """The canary in more than 60 tags, private ones and sequences too; digits of it in the UIDs."""
    made = pydicom.dcmread(path)
    for name in LONG_TEXT:
        if name == "SourceApplicationEntityTitle":
            made.file_meta.SourceApplicationEntityTitle = CANARY
        else:
            setattr(made, name, CANARY)
    block = made.private_block(0x0029, CANARY, create=True)
    for offset in range(5):
        block.add_new(offset, "LO", CANARY)
    block.add_new(9, "OB", CANARY.encode())
    request = pydicom.Dataset()
    request.ScheduledProcedureStepDescription = request.RequestedProcedureID = CANARY
    made.RequestAttributesSequence = [request]
    made.StudyInstanceUID = "1.2.90125.424242.1"
    made.SeriesInstanceUID = "1.2.90125.424242.2"
    made.Modality = "MR"
    made.BurnedInAnnotation = "YES"
    made.save_as(path)


def test_nothing_of_a_header_leaves(tmp_path, capfd, caplog):
    root = tmp_path / f"{CANARY}^Jane"
    paths = series(root / CANARY, (0, 2, 9))
    save(root / CANARY / "small", np.zeros((2, 2)), z=11)
    copy = root / CANARY / f"{CANARY}.dcm"
    for path in [*paths, root / CANARY / "small"]:
        with_canaries(path)
    copy.write_bytes(paths[0].read_bytes())
    assert paths[0].read_bytes().count(CANARY.encode()) >= 70
    drawn = np.zeros((3, 5, 6), np.uint8)
    drawn[1, 1] = 1
    write_dicom_seg(paths, drawn, ["liver"], root / "seg")
    assert CANARY.encode() in (root / "seg").read_bytes()  # which goes back to the archive

    source = dicom.read(root, ReadingOptions())
    told = [*source.notes, *source.repairs]
    assert {"DICOM-BURNED-IN", "MIXED-SIZES", "DICOM-GAP", "DICOM-TWICE"} <= set(codes(told))
    shown = [f"{entry.id} {entry.group} {entry.tags}" for entry in source.entries]
    shown += [str(problem) for problem in told if problem.code != "WINDOW"]
    shown += [c.name for c in source.classes]
    for entry in source.entries:
        pixels = entry.image()
        shown += [pixels.tobytes().decode("latin1"), entry.mask().tobytes().decode("latin1")
                  if entry.mask else ""]  # fmt: skip
    shown += [*capfd.readouterr(), caplog.text]
    for secret in (CANARY, "424242", "Jane"):
        assert not [text for text in shown if secret in text]
    assert len(source.entries) == 4


def test_errors_quote_no_header(tmp_path):
    paths = series(tmp_path / "a")
    for path in paths:
        with_canaries(path)
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2])
    source = read(tmp_path)
    assert codes(source.problems) == ["DICOM-TRUNCATED"] * 3
    assert CANARY not in "".join(map(str, source.problems))


def test_a_copys_tables_have_no_name_of_a_file(tmp_path):
    from fewmask.checking import mend

    folder = tmp_path / "ZZPHI Doe"
    for i in range(3):
        pixels = np.arange(64).reshape(8, 8) * (i + 1)
        dicom_files.save(folder / f"ZZPHI-{i}.dcm", pixels, z=i, number=i + 1)
    data = (folder / "ZZPHI-0.dcm").read_bytes()
    (folder / "ZZPHI-torn.dcm").write_bytes(data[:200])
    mended = mend(tmp_path, tmp_path.parent / "copy")
    assert "ZZPHI" in mended.text(), "whoever runs it may see which file it is"
    copied = [path for path in (tmp_path.parent / "copy").rglob("*") if path.is_file()]
    assert len(copied) > 3
    assert not [path for path in copied if b"ZZPHI" in path.read_bytes() or "ZZPHI" in str(path)]
