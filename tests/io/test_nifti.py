"""NIfTI in and out: nothing mirrored, the grid kept to the last bit, damage told."""

import gzip
import struct

import numpy as np
import pytest

from fewmask.errors import DataError, UsageError
from fewmask.io import nifti
from fewmask.io.nifti import Volume, nifti_stem, write_mask_like

nibabel = pytest.importorskip("nibabel")

SHAPE = (5, 6, 7)  # right, front, head
OBLIQUE = np.array([[0.96, -0.20, 0.17], [0.25, 0.92, -0.29], [-0.10, 0.32, 0.94]]) * [
    0.8,
    0.9,
    2.5,
]


def phantom(codes):
    """A volume of 5 x 6 x 7, stored in the order of ``codes``, and its affine.

    In the body, voxel (x, y, z) counted from left to right, back to front, foot to head has the
    value 100 x + 10 y + z.
    """
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    image = nibabel.Nifti1Image((100 * x + 10 * y + z).astype(np.int16), np.diag([1, 2, 3, 1.0]))
    wanted = nibabel.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted)
    )
    return np.asarray(turned.dataobj), turned.affine


def save(path, data, affine, kind=None):
    image = (kind or nibabel.Nifti1Image)(data, affine)
    nibabel.save(image, path)
    return path


def code_of(call, *arguments):
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return caught.value.problems[0].code


def displayed(i):
    """Slice i by hand: rows from the front to the back, columns from the right to the left."""
    return np.array([[100 * x + 10 * y + i for x in range(4, -1, -1)] for y in range(5, -1, -1)])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SLA", "ASR", "IPL"])
def test_every_storage_order_shows_the_same_slices(tmp_path, codes):
    volume = Volume(save(tmp_path / "v.nii.gz", *phantom(codes)))
    assert volume.shape == (7, 6, 5)
    for i in range(7):
        shown = volume.slice(i)
        assert shown.dtype == np.float32
        np.testing.assert_array_equal(shown, displayed(i))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA", "LSP", "ARS"])
def test_a_written_mask_lies_where_its_image_lies(tmp_path, codes):
    source = save(tmp_path / "v.nii.gz", *phantom(codes))
    volume = Volume(source)
    mask = np.stack([volume.slice(i) > 240 for i in range(7)])
    write_mask_like(source, mask, tmp_path / "m.nii.gz")
    read = nibabel.load(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(read.get_fdata(), nibabel.load(source).get_fdata() > 240)
    assert np.array_equal(read.affine, nibabel.load(source).affine)


def test_an_oblique_volume_keeps_its_affine_and_is_not_mirrored(tmp_path):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = OBLIQUE, (-31.7, 12.9, 0.1)
    data = np.arange(5 * 6 * 7, dtype=np.float32).reshape(SHAPE)
    source = save(tmp_path / "v.nii", data, affine)
    volume = Volume(source)
    np.testing.assert_array_equal(volume.slice(3), data[::-1, ::-1, 3].T)
    mask = np.zeros(volume.shape, np.uint8)
    mask[3, 0, 4] = 9  # the front, the patient's left: x = 0, y = 5, z = 3
    write_mask_like(source, mask, tmp_path / "m.nii")
    read = nibabel.load(tmp_path / "m.nii")
    assert np.argwhere(np.asarray(read.dataobj) == 9).tolist() == [[0, 5, 3]]
    assert np.array_equal(read.affine, nibabel.load(source).affine)


def test_a_mask_keeps_codes_units_and_both_transforms(tmp_path):
    data, affine = phantom("RAS")
    image = nibabel.Nifti1Image(data, None)
    image.header.set_qform(affine, code=2)
    image.header.set_sform(affine * [[1.01], [1], [1], [1]], code=4)
    image.header.set_xyzt_units("micron", "msec")
    nibabel.save(image, tmp_path / "v.nii.gz")
    write_mask_like(tmp_path / "v.nii.gz", np.zeros((7, 6, 5), np.uint8), tmp_path / "m.nii.gz")
    before = nibabel.load(tmp_path / "v.nii.gz").header
    after = nibabel.load(tmp_path / "m.nii.gz").header
    assert (int(after["qform_code"]), int(after["sform_code"])) == (2, 4)
    assert after.get_xyzt_units() == ("micron", "msec")
    for name in ("pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(after[name], before[name])
    assert after.get_data_dtype() == np.uint8
    assert after.get_intent()[0] == "label"


def test_a_mask_takes_no_text_from_its_volume(tmp_path):
    image = nibabel.Nifti1Image(*phantom("RAS"))
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = b"ZZPHI123"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"ZZPHI123"))
    nibabel.save(image, tmp_path / "v.nii")
    assert b"ZZPHI123" in (tmp_path / "v.nii").read_bytes()
    write_mask_like(tmp_path / "v.nii", np.zeros((7, 6, 5), np.uint8), tmp_path / "m.nii")
    assert b"ZZPHI123" not in (tmp_path / "m.nii").read_bytes()


def test_a_nifti_2_volume_has_a_nifti_2_mask(tmp_path):
    affine = np.diag([1 / 3, 1 / 7, 1 / 11, 1])  # no float32 holds these
    source = save(tmp_path / "v.nii.gz", phantom("RAS")[0], affine, nibabel.Nifti2Image)
    write_mask_like(source, np.ones((7, 6, 5), np.uint8), tmp_path / "m.nii.gz")
    read = nibabel.load(tmp_path / "m.nii.gz")
    assert isinstance(read, nibabel.Nifti2Image)
    assert np.array_equal(read.affine, affine)


def test_class_names_stand_beside_the_mask(tmp_path):
    source = save(tmp_path / "v.nii.gz", *phantom("RAS"))
    classes = [("liver", (255, 0, 0)), ('a "b"', (0, 128, 0))]
    write_mask_like(source, np.zeros((7, 6, 5), np.uint8), tmp_path / "m.nii.gz", classes)
    lines = (tmp_path / "m.labels.txt").read_text().splitlines()[1:]
    assert [line.split(maxsplit=7) for line in lines] == [
        ["0", "0", "0", "0", "0", "0", "0", '"background"'],
        ["1", "255", "0", "0", "1", "1", "1", '"liver"'],
        ["2", "0", "128", "0", "1", "1", "1", "\"a 'b'\""],
        ["255", "128", "128", "128", "1", "1", "1", '"ignored"'],
    ]


def test_nothing_but_the_mask_is_left_behind(tmp_path):
    source = save(tmp_path / "v.nii.gz", *phantom("RAS"))
    write_mask_like(source, np.zeros((7, 6, 5), np.uint8), tmp_path / "m.nii.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.nii.gz", "v.nii.gz"]


@pytest.mark.parametrize(
    "mask", [np.zeros((7, 5, 6), np.uint8), np.zeros((7, 6, 5)), np.full((7, 6, 5), 256)]
)
def test_masks_of_another_shape_or_kind_are_refused(tmp_path, mask):
    source = save(tmp_path / "v.nii.gz", *phantom("RAS"))
    with pytest.raises(UsageError, match="MASK-DTYPE"):
        write_mask_like(source, mask, tmp_path / "m.nii.gz")
    assert not (tmp_path / "m.nii.gz").exists()


def test_slope_and_intercept_are_applied(tmp_path):
    data, affine = phantom("RAS")
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_slope_inter(2, -1024)
    path = tmp_path / "v.nii"
    nibabel.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = struct.pack("<2f", 2, -1024)  # nibabel puts the slope of its own choice there
    raw[352:] = data.astype("<i2").tobytes(order="F")
    path.write_bytes(raw)
    np.testing.assert_array_equal(Volume(path).slice(0), 2 * displayed(0) - 1024)
    assert nibabel.load(path).get_fdata()[4, 5, 6] == 2 * 456 - 1024


def test_a_big_endian_volume_is_read(tmp_path):
    data, affine = phantom("RAS")
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    nibabel.save(nibabel.Nifti1Image(data, affine, header), tmp_path / "v.nii")
    assert struct.unpack(">i", (tmp_path / "v.nii").read_bytes()[:4]) == (348,)
    np.testing.assert_array_equal(Volume(tmp_path / "v.nii").slice(2), displayed(2))


def test_a_flat_file_is_one_slice(tmp_path):
    data = np.arange(12, dtype=np.uint8).reshape(3, 4)
    source = save(tmp_path / "v.nii.gz", data, np.eye(4))
    volume = Volume(source)
    assert volume.shape == (1, 4, 3)
    np.testing.assert_array_equal(volume.slice(0), data[::-1, ::-1].T)
    write_mask_like(source, volume.slice(0)[None].astype(np.uint8), tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "m.nii.gz").get_fdata(), data)


def test_a_single_coronal_plane_is_one_slice_with_the_head_at_the_top(tmp_path):
    data = np.arange(12, dtype=np.uint8).reshape(3, 1, 4)  # right, front, head
    volume = Volume(save(tmp_path / "v.nii.gz", data, np.eye(4)))
    assert volume.shape == (1, 4, 3)
    np.testing.assert_array_equal(volume.slice(0), data[::-1, 0, ::-1].T)


def test_one_channel_in_four_dimensions_is_accepted_and_written_back(tmp_path):
    data, affine = phantom("LPS")
    source = save(tmp_path / "v.nii.gz", data[..., None], affine)
    volume = Volume(source)
    np.testing.assert_array_equal(volume.slice(1), displayed(1))
    write_mask_like(source, np.ones(volume.shape, np.uint8), tmp_path / "m.nii.gz")
    assert nibabel.load(tmp_path / "m.nii.gz").shape == (*data.shape, 1)


def test_several_channels_are_refused_with_the_fix(tmp_path):
    path = save(tmp_path / "v.nii.gz", np.zeros((3, 4, 5, 2), np.uint8), np.eye(4))
    with pytest.raises(DataError, match=r"NIFTI-CHANNELS.*2 volumes.*fslsplit"):
        Volume(path)


def test_colours_are_refused(tmp_path):
    rgb = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert code_of(Volume, save(tmp_path / "v.nii", rgb, np.eye(4))) == "NIFTI-DTYPE"


def test_an_affine_that_flattens_is_refused(tmp_path):
    path = save(tmp_path / "v.nii", *phantom("RAS"))
    raw = bytearray(path.read_bytes())
    raw[312:328] = raw[280:296]  # srow_z becomes srow_x
    path.write_bytes(raw)
    assert code_of(Volume, path) == "NIFTI-AFFINE"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_claims_a_trillion_voxels_is_refused_unread(tmp_path, suffix, monkeypatch):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((10_000, 10_000, 10_000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    raw = header.binaryblock + bytes(100)
    path = tmp_path / f"v{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix == ".nii.gz" else raw)
    monkeypatch.setattr(nifti.Volume, "_decoded", lambda _: pytest.fail("decoded"))
    assert code_of(Volume, path) == "NIFTI-TOO-LARGE"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_more_voxels_than_the_file_can_hold_are_refused_from_the_header(tmp_path, suffix):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((1000, 1000, 1000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    raw = header.binaryblock + bytes(100)
    path = tmp_path / f"v{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix == ".nii.gz" else raw)
    assert code_of(Volume, path) == "NIFTI-TRUNCATED"


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.995])
def test_a_file_that_is_cut_off_is_told(tmp_path, share):
    noise = np.random.default_rng(0).integers(0, 9999, SHAPE).astype(np.int16)
    path = save(tmp_path / "v.nii.gz", noise, np.eye(4))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert code_of(lambda: Volume(path).slice(0)) == "NIFTI-TRUNCATED"


def test_a_flipped_byte_in_the_voxels_is_told(tmp_path):
    noise = np.random.default_rng(0).integers(0, 9999, SHAPE).astype(np.int16)
    path = save(tmp_path / "v.nii.gz", noise, np.eye(4))
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1  # in the checksum
    path.write_bytes(raw)
    assert code_of(lambda: Volume(path).slice(0)) == "NIFTI-TRUNCATED"


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b", b"not a volume" * 50, b"\x5c\x01\x00\x00" + bytes(600)]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "v.nii.gz"
    path.write_bytes(content)
    assert code_of(Volume, path).startswith("NIFTI-")


def test_damaged_headers_never_raise_anything_else(tmp_path):
    path = save(tmp_path / "v.nii", *phantom("RAS"))
    whole, draw = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        raw = bytearray(whole)
        for place in draw.integers(0, 352, 4):
            raw[place] = draw.integers(0, 256)
        path.write_bytes(raw)
        try:
            Volume(path).slice(0)
        except DataError:
            refused += 1
    assert 20 < refused < 280


def test_a_missing_file_is_told(tmp_path):
    assert code_of(Volume, tmp_path / "v.nii.gz") == "IMAGE-MISSING"


def test_stems():
    names = ["a.nii", "a.nii.gz", "a.b.NII.GZ", "a.png"]
    assert [nifti_stem(nifti.Path(name)) for name in names] == ["a", "a", "a.b", "a.png"]
