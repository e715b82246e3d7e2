"""Image files: exact pixels or one kind of error."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fewmask.errors import DataError, ResourceError, UsageError
from fewmask.io import images, whole_files
from fewmask.io.images import (
    image_size,
    read_header,
    read_image,
    read_mask,
    write_image,
    write_mask,
)

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)
# Where EXIF puts the stored top-left and top-right corners on the displayed image.
CORNERS = {
    1: ("top left", "top right"), 2: ("top right", "top left"),
    3: ("bottom right", "bottom left"), 4: ("bottom left", "bottom right"),
    5: ("top left", "bottom left"), 6: ("top right", "bottom right"),
    7: ("bottom right", "top right"), 8: ("bottom left", "top left"),
}  # fmt: skip


def corner(pixels, name):
    row, column = name.split()
    return pixels[0 if row == "top" else -1, 0 if column == "left" else -1]


def code_of(call, *arguments):
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return caught.value.problems[0].code


def save_marked(path, orientation, dtype=np.uint8):
    """4 x 6 blocks of 8 pixels, stored top-left red, stored top-right green."""
    blocks = np.zeros((4, 6, 3), dtype)
    full = np.iinfo(dtype).max
    blocks[0, 0, 0] = blocks[0, 5, 1] = full
    pixels = np.kron(blocks, np.ones((8, 8, 1), dtype))
    if dtype == np.uint16:
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, pixels, photometric="rgb", extratags=tags)
        return
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(pixels).save(path, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("png", np.uint8), ("jpg", np.uint8), ("tif", np.uint8), ("tif", np.uint16)],
)
def test_exif_orientation_puts_the_stored_corners_where_a_viewer_shows_them(
    tmp_path, suffix, dtype, orientation
):
    path = tmp_path / f"marked.{suffix}"
    save_marked(path, orientation, dtype)
    pixels = read_image(path)
    first, second = CORNERS[orientation]
    assert np.abs(corner(pixels, first).astype(int) - RED).max() <= 2
    assert np.abs(corner(pixels, second).astype(int) - GREEN).max() <= 2
    assert image_size(path) == pixels.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
    assert read_header(path).orientation == orientation


def test_orientation_is_applied_to_masks_too(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.array([[1, 2, 3], [0, 0, 0]], np.uint8)).save(tmp_path / "m.png", exif=exif)
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1], [0, 2], [0, 3]]


def test_palette_masks_give_their_indices_not_their_colours(tmp_path):
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    image = Image.fromarray(ids, mode=None)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    image.save(tmp_path / "p.png")
    assert read_header(tmp_path / "p.png").mode == "P"
    assert np.array_equal(read_mask(tmp_path / "p.png"), ids)
    assert read_image(tmp_path / "p.png")[0, 1].tolist() == [128, 0, 0]


def grey_png(depth, row):
    """A one-row grey PNG of ``depth`` bits, written by hand (Pillow cannot)."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(
            ">I", zlib.crc32(name + body)
        )  # fmt: skip

    bits = "".join(format(value, f"0{depth}b") for value in row).ljust(8, "0")
    head = struct.pack(">IIBBBBB", len(row), 1, depth, 0, 0, 0, 0)
    body = zlib.compress(bytes([0, int(bits, 2)]))
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(("depth", "row"), [(1, [0, 1, 1]), (2, [0, 1, 2, 3]), (4, [3, 15])])
def test_grey_masks_of_few_bits_keep_their_stored_values(tmp_path, depth, row):
    (tmp_path / "m.png").write_bytes(grey_png(depth, row))
    assert read_mask(tmp_path / "m.png").tolist() == [row]


def test_sixteen_bit_masks_are_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 255, 256, 65535]]


def test_coloured_masks_are_refused_unless_their_channels_are_equal(tmp_path):
    grey = np.array([[0, 1], [2, 255]], np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "grey.png")
    assert np.array_equal(read_mask(tmp_path / "grey.png"), grey)
    Image.fromarray(np.stack([grey, grey, grey * 0], -1)).save(tmp_path / "colour.png")
    assert code_of(read_mask, tmp_path / "colour.png") == "MASK-RGB"


def test_float_masks_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "m.tif")
    assert code_of(read_mask, tmp_path / "m.tif") == "MASK-DTYPE"


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_images_are_scaled_by_257_and_never_clipped(tmp_path, channels):
    ramp = np.array([[0, 257, 12850, 40000, 65535]], np.uint16)
    pixels = ramp if channels == 1 else np.stack([ramp] * 3, -1)
    photometric = "minisblack" if channels == 1 else "rgb"
    tifffile.imwrite(tmp_path / "r.tif", pixels, photometric=photometric)
    assert read_image(tmp_path / "r.tif")[0, :, 1].tolist() == [0, 1, 50, 156, 255]


def test_grey_one_bit_and_cmyk_become_rgb(tmp_path):
    Image.fromarray(np.array([[7, 200]], np.uint8)).save(tmp_path / "l.png")
    assert read_image(tmp_path / "l.png").tolist() == [[[7] * 3, [200] * 3]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    assert read_image(tmp_path / "one.png").tolist() == [[[255] * 3, [0] * 3]]
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red = read_image(tmp_path / "c.jpg")[8, 8].astype(int)
    assert np.abs(red - RED).max() < 6


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    Image.new("RGBA", (2, 2), (9, 8, 7, 255)).save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "opaque.png")[0, 0].tolist() == [9, 8, 7]
    Image.new("RGBA", (2, 2), (9, 8, 7, 254)).save(tmp_path / "clear.png")
    assert code_of(read_image, tmp_path / "clear.png") == "IMAGE-ALPHA"
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "trns.png", transparency=1)
    assert code_of(read_image, tmp_path / "trns.png") == "IMAGE-ALPHA"


@pytest.mark.parametrize(
    ("pixels", "code"),
    [
        (np.zeros((4, 4, 2), np.uint8), "IMAGE-CHANNELS"),
        (np.zeros((4, 4, 5), np.uint8), "IMAGE-CHANNELS"),
        (np.zeros((4, 4, 2), np.uint16), "IMAGE-CHANNELS"),
        (np.zeros((4, 4), np.float32), "IMAGE-DTYPE"),
        (np.zeros((4, 4), np.float64), "IMAGE-DTYPE"),
        (np.zeros((4, 4), np.int16), "IMAGE-DTYPE"),
    ],
)
def test_pixels_without_a_meaning_as_rgb_are_refused(tmp_path, pixels, code):
    planar = {"planarconfig": "contig"} if pixels.ndim == 3 else {}
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="minisblack", **planar)
    assert code_of(read_image, tmp_path / "x.tif") == code


def test_a_stack_of_pictures_is_refused_but_overviews_are_not(tmp_path):
    page = np.zeros((32, 32), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([page, page]), photometric="minisblack")
    assert code_of(read_image, tmp_path / "stack.tif") == "IMAGE-PAGES"
    with tifffile.TiffWriter(tmp_path / "overview.tif") as tiff:
        tiff.write(page, photometric="minisblack")
        tiff.write(page[::2, ::2], photometric="minisblack", subfiletype=1)
    assert read_image(tmp_path / "overview.tif").shape == (32, 32, 3)


def test_missing_empty_foreign_and_unreadable_files_have_codes_of_their_own(tmp_path):
    assert code_of(read_image, tmp_path / "none.png") == "IMAGE-MISSING"
    (tmp_path / "empty.png").touch()
    assert code_of(read_image, tmp_path / "empty.png") == "IMAGE-EMPTY"
    Image.new("RGB", (4, 4)).save(tmp_path / "gif.png", format="GIF")
    assert code_of(read_image, tmp_path / "gif.png") == "IMAGE-FORMAT"
    (tmp_path / "dir.png").mkdir()
    assert code_of(read_image, tmp_path / "dir.png") == "IMAGE-UNREADABLE"


@pytest.mark.parametrize("reader", [read_image, read_mask, image_size])
def test_a_bomb_is_refused_from_its_header(tmp_path, reader, recwarn):
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    body = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    idat = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body + idat)
    assert code_of(reader, tmp_path / "bomb.png") == "IMAGE-TOO-LARGE"
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_band_that_is_not_declared_as_a_colour_or_alpha_is_refused(tmp_path, dtype, planar):
    path, full = tmp_path / "x.tif", np.iinfo(dtype).max
    for bands, colours, extra, code in (
        (4, "rgb", 0, "IMAGE-BANDS"), (4, "minisblack", None, "IMAGE-BANDS"),
        (3, "minisblack", None, "IMAGE-BANDS"), (4, "rgb", 2, "IMAGE-ALPHA"),
    ):  # fmt: skip
        pixels = np.full((8, 6, bands), full // 2, dtype)
        pixels = np.moveaxis(pixels, -1, 0) if planar == "separate" else pixels
        options = {} if extra is None else {"extrasamples": (extra,)}
        tifffile.imwrite(path, pixels, photometric=colours, planarconfig=planar, **options)
        assert code_of(read_image, path) == code


@pytest.fixture(params=["png", "jpg", "tif"])
def noise_file(request, tmp_path):
    path = tmp_path / f"noise.{request.param}"
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_cut_anywhere_is_refused(noise_file):
    whole = noise_file.read_bytes()
    read_image(noise_file)
    for length in {*range(0, len(whole), 97), *range(len(whole) - 30, len(whole))}:
        noise_file.write_bytes(whole[:length])
        for reader in (read_image, read_mask):
            with pytest.raises(DataError):
                reader(noise_file)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mutated_files_raise_data_errors_and_nothing_else(noise_file):
    whole = noise_file.read_bytes()
    draw = np.random.default_rng(1)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(draw.integers(1, 6)):
            at = draw.integers(0, min(len(whole), draw.choice([64, len(whole)])))
            damaged[at] = draw.integers(0, 256)
        noise_file.write_bytes(damaged[: draw.integers(1, len(whole) + 1) if draw.random() < 0.3
                                       else len(whole)])  # fmt: skip
        for reader in (read_image, read_mask, image_size):
            try:
                reader(noise_file)
            except DataError:
                refused += 1
    assert refused > 100


def test_written_masks_come_back_id_exact(tmp_path):
    ids = np.arange(256, dtype=np.int64).reshape(16, 16)
    write_mask(tmp_path / "m.png", ids)
    assert np.array_equal(read_mask(tmp_path / "m.png"), ids)
    assert read_header(tmp_path / "m.png").mode == "L"


@pytest.mark.parametrize("bad", [np.array([[256]]), np.array([[-1]]), np.zeros((2, 2)),
                                 np.zeros((1, 2, 2), np.uint8)])  # fmt: skip
def test_masks_that_would_change_on_the_way_are_not_written(tmp_path, bad):
    with pytest.raises(UsageError):
        write_mask(tmp_path / "m.png", bad)
    with pytest.raises(UsageError):
        write_mask(tmp_path / "m.jpg", np.zeros((2, 2), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_written_images_come_back_exact(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_image(tmp_path / f"x{suffix}", pixels)
    assert np.array_equal(read_image(tmp_path / f"x{suffix}"), pixels)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    write_mask(tmp_path / "m.png", np.ones((2, 2), np.uint8))
    before = (tmp_path / "m.png").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_mask(tmp_path / "m.png", np.zeros((2, 2), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]
    assert (tmp_path / "m.png").read_bytes() == before


def test_a_file_that_may_not_be_read_is_a_data_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images.Path, "open", refuse)
    assert code_of(read_image, tmp_path / "x.png") == "IMAGE-UNREADABLE"
