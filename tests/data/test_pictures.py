from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from rawpng import grey_png, packed, raw_png

from robustcheck.errors import DataError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
DEEP = np.array([[0, 1, 255], [256, 4095, 4094]], np.uint16)


@pytest.fixture
def only(load, save_picture):
    """Save one picture as `scans/normal/NAME` and load it."""

    def build(name, picture, bits=None, **options):
        save_picture(f"scans/normal/{name}", picture, **options)
        return load("scans", bits=bits)

    return build


def tiff(width, height, pixels, *, bits=8, photometric=1, sample_format=1, samples=1, planes=1, width_tag=None):
    """A minimal little-endian TIFF of one strip, or of one a plane."""
    offsets = [8 + plane * len(pixels) // planes for plane in range(planes)]
    strips = struct.pack(f"<{planes}I", *offsets) + struct.pack(f"<{planes}I", *[len(pixels) // planes] * planes)
    if planes > 1:
        pixels += strips
    entries = [
        (256, 4, width_tag or width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8 if planes == 1 else len(pixels) + 8 - 8 * planes),
        (277, 3, samples),
        (278, 4, height),
        (279, 4, len(pixels) if planes == 1 else len(pixels) + 8 - 4 * planes),
        (284, 3, 1 if planes == 1 else 2),
        (339, 3, sample_format),
    ]
    directory = b"".join(
        struct.pack("<HHII", tag, kind, planes if tag in (273, 279) else 1, value) for tag, kind, value in entries
    )
    header = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    return header + pixels + struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0)


_DATE = struct.pack("<HHII", 0x0132, 2, 200, 5000)  # of 200 bytes, which lie beyond the end
_TURN = struct.pack("<HHII", 0x0112, 3, 1, 6)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize(
    ("exif", "notes"),
    [
        (b"II*\0\x08\0\0\0\2\0" + _TURN + _DATE + bytes(4), 1),
        (b"II*\0\x08\0\0\0\5\0" + _DATE, 0),
        (b"no such block", 0),
        (b"II*\0", 0),
    ],
    ids=["a tag that claims more than there is", "a directory that breaks off", "something else", "next to nothing"],
)
def test_a_damaged_exif_block_decides_nothing(name, exif, notes, only):
    samples = only(name, np.full((8, 8), 7, np.uint8), exif=b"Exif\0\0" + exif)
    assert samples.image(0).tolist() == np.full((1, 8, 8), 7).tolist()
    assert sum("EXIF" in note for note in samples.info.notes) == notes


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey(only, name):
    samples = only(name, GREY)
    assert samples.image(0).tolist() == [GREY.tolist()]
    assert (samples.image(0).dtype, samples.bits) == (np.uint8, 8)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_colour(only, name):
    image = only(name, COLOUR).image(0)
    assert image.flags["C_CONTIGUOUS"]
    assert (image == COLOUR.transpose(2, 0, 1)).all()


def test_jpeg(only):
    samples = only("a.JPG", np.full((8, 8), 77, np.uint8))
    assert (samples.image(0) == 77).all()


def few_bits(levels, bits, kind):
    """A picture of a row of levels, of 1, 2 or 4 bits."""
    row = np.array(levels)
    return grey_png(row[None], bits) if kind == "png" else tiff(len(levels), 1, packed(row, bits), bits=bits)


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_the_levels_that_are_stored(only, load, bits, kind):
    levels = list(range(1 << bits))
    samples = only(f"a.{kind}", few_bits(levels, bits, kind))
    assert (samples.bits, samples.maximum) == (bits, levels[-1])
    assert samples.image(0).tolist() == [[levels]]
    assert samples.image(0).dtype == np.uint8
    assert load("scans", bits=bits).info.sha256 == samples.info.sha256


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_few_bits_are_scaled_to_eight_where_the_policy_says_so(load, save_picture, tmp_path, kind):
    save_picture("scans/normal/b.png", np.array([[0, 1, 254, 255]], np.uint8))
    save_picture(f"scans/normal/a.{kind}", few_bits([0, 1, 14, 15], 4, kind))
    with pytest.raises(
        DataError, match=r"b.png stores 8 bits and .* 4: .*or set data.bits: 8, to which they are scaled"
    ):
        load("scans")
    samples = load("scans", bits=8)
    assert samples.image(0).tolist() == [[[0, 17, 238, 255]]]
    assert samples.info.notes[0] == f"1 files, first normal/a.{kind}, store fewer bits, and are scaled to 8"
    with pytest.raises(DataError, match=r"stores 4 bits and cannot hold the 6 that data.bits asks for"):
        load("scans", bits=6)
    (tmp_path / "scans/normal/b.png").unlink()
    assert load("scans", bits=8).info.sha256 != load("scans", bits=4).info.sha256


def test_a_palette_has_colours_of_eight_bits(only):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([10, 10, 10, 200, 200, 200])
    samples = only("a.png", picture)
    with Image.open(samples.images.files[0].path) as opened:
        assert opened.tile[0].args == "P;1"
    assert samples.bits == 8
    assert samples.image(0).tolist() == [[[10, 200]]]


def test_one_bit_is_black_and_white(only):
    samples = only("a.png", Image.fromarray(GREY > 5))
    assert samples.bits == 1
    assert samples.image(0).tolist() == [(GREY > 5).astype(int).tolist()]


def test_a_palette_of_greys_is_grey(only):
    picture = Image.fromarray(GREY).convert("P")
    assert only("a.png", picture).image(0).tolist() == [GREY.tolist()]


def test_a_palette_of_eight_bits_where_a_tiff_has_sixteen(only):
    """Pillow takes the upper eight of each, which are all black."""
    picture, written, colours = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P"), io.BytesIO(), range(256)
    picture.putpalette([value for colour in colours for value in (colour, colour, colour)])
    picture.save(written, "TIFF")
    right, wrong = (struct.pack("<256H", *(value * times for value in colours)) * 3 for times in (256, 1))
    assert right in written.getvalue()
    with pytest.raises(DataError, match=r"has a colour map of 8 bits where TIFF has 16, which Pillow reads as black"):
        only("a.tif", written.getvalue().replace(right, wrong))
    black = written.getvalue().replace(right, bytes(len(right)))
    assert only("a.tif", black).image(0).max() == 0  # as it says


def test_a_palette_of_colours_is_rgb(only):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8))
    picture = picture.convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    samples = only("a.png", picture)
    assert samples.info.shape == (3, 1, 2)
    assert samples.image(0).reshape(3, 2).tolist() == [[10, 40], [20, 50], [30, 60]]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits(only, name):
    samples = only(name, DEEP)
    assert (samples.bits, samples.maximum) == (16, 65535)
    assert samples.image(0).dtype == np.uint16
    assert samples.image(0).tolist() == [DEEP.tolist()]


def test_sixteen_bits_of_which_twelve_are_used(only):
    samples = only("a.png", DEEP, bits=12)
    assert (samples.bits, samples.maximum) == (12, 4095)
    assert samples.image(0).tolist() == [DEEP.tolist()]


@pytest.mark.parametrize("hounsfield", [None, -1024])
def test_sixteen_bits_that_twelve_do_not_hold(save_picture, load, hounsfield):
    """What it holds and what is allowed are told in one unit: values as they are stored."""
    save_picture("scans/normal/a.png", DEEP + 1)
    samples = load("scans", bits=12, hounsfield=hounsfield)
    message = r"normal/a.png holds values from 1 to 4096; with 12 bits, 0 to 4095 are allowed: check data.bits"
    with pytest.raises(DataError, match=message):
        samples.image(0)


@pytest.mark.parametrize(("hounsfield", "how"), [(-1024, "plus 1024"), (10, "minus 10")])
def test_a_picture_of_ct_that_holds_hounsfield_units(save_picture, load, hounsfield, how):
    save_picture("scans/normal/a.tif", np.array([[-1000, 40]], np.int32))
    with pytest.raises(
        DataError,
        match=f"values from -1000 to 40; with 12 bits, 0 to 4095 are allowed; 0 stands for {hounsfield} HU: store "
        f"Hounsfield units {how}$",
    ):
        load("scans", bits=12, hounsfield=hounsfield).image(0)


def test_big_endian_tiff(only):
    pixels = DEEP.astype(">u2").tobytes()
    data = tiff(3, 2, pixels, bits=16)
    entries = [struct.unpack_from("<HHII", data, 10 + len(pixels) + 12 * index) for index in range(11)]
    directory = b""
    for tag, kind, count, value in entries:
        directory += struct.pack(">HHI", tag, kind, count) + (
            struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
        )
    data = b"MM\0*" + struct.pack(">I", 8 + len(pixels)) + pixels + struct.pack(">H", 11) + directory + bytes(4)
    assert only("a.tif", data).image(0).tolist() == [DEEP.tolist()]


@pytest.mark.parametrize(("bits", "expected"), [(None, 12), (11, 11)])
def test_a_tiff_of_twelve_bits_says_so(only, bits, expected):
    samples = only("a.tif", tiff(2, 1, bytes([0x12, 0x34, 0x56]), bits=12), bits=bits)
    assert samples.bits == expected
    assert samples.image(0).tolist() == [[[0x123, 0x456]]]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white_is_read_dark_to_bright(only, bits):
    pixels = np.array([1, 200], f"<u{bits // 8}").tobytes()
    samples = only("a.tif", tiff(2, 1, pixels, bits=bits, photometric=0))
    white = (1 << bits) - 1
    assert samples.bits == bits
    assert samples.image(0).tolist() == [[[white - 1, white - 200]]]
    assert any("0 is white" in note for note in samples.info.notes) == (bits > 8)  # Pillow's own, of 8 bits


def test_the_digest_of_what_is_inverted_depends_on_how_many_bits_it_has(load, save_picture):
    for photometric, alike in ((0, False), (1, True)):
        pixels = np.array([1, 200], "<u2").tobytes()
        save_picture("scans/normal/a.tif", tiff(2, 1, pixels, bits=16, photometric=photometric))
        one, other = load("scans", bits=12), load("scans", bits=16)
        assert (one.image(0) == other.image(0)).all() == alike
        assert (one.info.sha256 == other.info.sha256) == alike


def test_thirty_two_bits_that_fit_sixteen(only):
    samples = only("a.tif", np.array([[0, 65535]], np.int32))
    assert samples.bits == 16
    assert samples.image(0).tolist() == [[[0, 65535]]]


@pytest.mark.parametrize("value", [-1, 65536])
def test_thirty_two_bits_that_do_not(only, value):
    samples = only("a.tif", np.array([[0, value]], np.int32))
    with pytest.raises(DataError, match=r"a.tif holds values from .* with 16 bits, 0 to 65535 are allowed"):
        samples.image(0)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_an_orientation_is_noted_and_not_applied(only, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = only(name, GREY, exif=exif)
    assert samples.image(0).shape == (1, 3, 4)
    assert samples.info.notes[0] == f"1 files, first normal/{name}, have an EXIF orientation, which is not applied"


def test_a_tiffs_orientation_is_applied_and_its_shape_right(only):
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = only("a.tif", GREY, exif=exif)
    assert samples.shape_of(0) == samples.image(0).shape == (1, 4, 3)
    assert samples.images.notes == ("1 files, first normal/a.tif, have a TIFF orientation, which is applied",)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("MPO", {"save_all": True, "append_images": [Image.new("L", (4, 3))]}, r"holds several pictures \(MPO, as pho"),
        ("JPEG2000", {}, r"a.png is JPEG 2000, whatever its name says: store it as PNG"),
        ("JPEG2000", {"no_jp2": True}, r"a.png is JPEG 2000, whatever its name says: store it as PNG"),
    ],
)
def test_other_formats_are_told_whatever_they_are_called(only, kind, options, message):
    with pytest.raises(DataError, match=message):
        only("a.png", Image.new("L", (4, 3)), format=kind, **options)


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("a.png", "RGBA", r"a.png has transparency \(mode RGBA\): store it without"),
        ("a.png", "LA", r"a.png has transparency \(mode LA\)"),
        ("a.jpg", "CMYK", "a.jpg is of mode CMYK: store it as grey of 8 or 16 bits, or as RGB"),
        ("a.tif", "CMYK", "a.tif is of mode CMYK"),
        ("a.tif", "F", "a.tif is of mode F"),
        ("a.tif", "LAB", "a.tif is of mode LAB"),
    ],
)
def test_modes_that_are_refused(only, name, mode, message):
    with pytest.raises(DataError, match=message):
        only(name, Image.new(mode, (4, 3)))


def test_a_transparent_colour(only):
    with pytest.raises(DataError, match=r"has transparency"):
        only("a.png", GREY, transparency=3)


def test_colour_of_sixteen_bits(only, save_picture):
    path = save_picture("scans/normal/b.png", raw_png(2, 1, b"\0" + bytes(2 * 3 * 2), bits=16, colour=2))
    with Image.open(path) as opened:
        assert opened.mode == "RGB"  # Pillow would go on in silence
    with pytest.raises(DataError, match=r"b.png is colour with 16 bits per channel, which Pillow cuts to 8"):
        only("a.png", COLOUR)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_tiff_of_sixteen_bits(load, save_picture, planar):
    """Of separate planes, each lies in the file as a grey image, and Pillow takes the first byte of each pixel."""
    pixels, planes = np.full((3, 2, 4), 300, "<u2").tobytes(), 1 if planar == "contig" else 3
    path = save_picture("scans/normal/a.tif", tiff(4, 2, pixels, bits=16, photometric=2, samples=3, planes=planes))
    with Image.open(path) as opened:
        assert opened.mode == "RGB"  # Pillow would go on in silence
    with pytest.raises(DataError, match=r"a.tif is colour with 16 bits per channel, which Pillow cuts to 8"):
        load("scans")


def test_grey_tiff_of_signed_bytes(load, save_picture):
    path = save_picture("scans/normal/a.tif", tiff(2, 1, np.array([-1, 1], np.int8).tobytes(), sample_format=2))
    with Image.open(path) as opened:
        assert np.asarray(opened).tolist() == [[255, 1]]
    with pytest.raises(DataError, match=r"a.tif is grey of signed 8 bits, which Pillow reads as unsigned"):
        load("scans")


def test_grey_tiff_of_signed_values_that_are_none_below_zero(only):
    pixels = np.array([0, 300], "<i2").tobytes()
    assert only("a.tif", tiff(2, 1, pixels, bits=16, sample_format=2)).image(0).tolist() == [[[0, 300]]]


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_frames(only, name):
    with pytest.raises(DataError, match=rf"{name} holds several frames"):
        only(name, Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(GREY + 1)])


def test_channels_that_differ(only, save_picture):
    save_picture("scans/normal/b.png", COLOUR)
    with pytest.raises(DataError, match=r"b.png has 3 channels and normal/a.png has 1 channel"):
        only("a.png", GREY)


def test_depths_that_differ(only, save_picture):
    save_picture("scans/normal/b.png", DEEP)
    with pytest.raises(
        DataError,
        match=r"b.png stores 16 bits and normal/a.png 8: a budget means the same only within one pixel space; each is "
        r"judged as it is stored: convert the files to one depth, or give each depth a policy of its own$",
    ):
        only("a.png", GREY)


def test_bits_that_the_files_cannot_hold(only):
    with pytest.raises(DataError, match=r"a.png stores 8 bits and cannot hold the 12 that data.bits asks for"):
        only("a.png", GREY, bits=12)


def test_a_comment_as_long_as_a_bomb_is_a_sentence(only):
    info = PngImagePlugin.PngInfo()
    info.add_text("key", "x" * (2 << 20), zip=True)
    with pytest.raises(DataError, match=r"normal/a.png: it cannot be read: ValueError: Decompressed data too large"):
        only("a.png", GREY, pnginfo=info)
