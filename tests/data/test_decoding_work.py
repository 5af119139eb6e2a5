"""Compressed images of few pixels that keep their decoder at work for hours: refused before one sees them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit
from scans import open_scan, refusal_of

from robustcheck.data.decoding_work import check_work
from robustcheck.errors import DataError

TOO_MUCH = r"^net.jp2 is a JPEG 2000 image of \d+ layers in up to \d+ precincts and code-blocks, which is more work"


def jpeg(scans, *, size=8, **options):
    """A grey JPEG whose last scan stands there so often that it has this many."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(size * size).reshape(size, size).astype(np.uint8)).save(buffer, "JPEG", **options)
    content = buffer.getvalue().removesuffix(b"\xff\xd9")
    last = content[content.rindex(b"\xff\xda") :]
    return content + last * (scans - content.count(b"\xff\xda")) + b"\xff\xd9"


def segment(marker, body):
    return struct.pack(">HH", marker, len(body) + 2) + body


def style(*, layers=1, levels=5, blocks=64, precincts=None):
    """COD; precincts are exponents, the same for each resolution."""
    side = blocks.bit_length() - 3
    body = bytes([precincts is not None, 0]) + struct.pack(">H", layers) + bytes([0, levels, side, side, 0, 1])
    return segment(0xFF52, body + bytes([(precincts or 0) * 17] * (levels + 1) if precincts is not None else []))


def of_channel(**said):
    """COC of the first channel."""
    whole = style(**said)
    return segment(0xFF53, b"\0" + whole[4:5] + whole[9:])


def tile_part(in_tile=b""):
    """Of nothing, but what stands in its header."""
    part = in_tile + b"\xff\x93" + bytes(20)
    return segment(0xFF90, struct.pack(">HIBB", 0, 12 + len(part), 0, 1)) + part


def codestream(*heads, side=8192, tile=None, channels=1, in_tile=b""):
    """Two tile-parts; `in_tile` stands in the second one's header."""
    tile = tile or side
    size = struct.pack(">H8IH", 0, side, side, 0, 0, tile, tile, 0, 0, channels) + b"\7\1\1" * channels
    head = b"\xff\x4f" + segment(0xFF51, size) + b"".join(heads) + segment(0xFF64, b"\0\1made here")
    return head + tile_part() + tile_part(in_tile) + b"\xff\xd9"


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_more_scans_than_any_has(progressive, tmp_path, load):
    (tmp_path / "scans/normal").mkdir(parents=True)
    path = tmp_path / "scans/normal/a.jpg"
    path.write_bytes(jpeg(100, progressive=progressive))
    assert load("scans").shape_of(0) == (1, 8, 8)
    path.write_bytes(jpeg(101, progressive=progressive))
    with pytest.raises(
        DataError, match=r"^normal/a.jpg is a JPEG of 101 scans, each of which takes work; 100 is the limit"
    ):
        load("scans")


def test_scans_within_segments_and_behind_the_end_do_not_count(tmp_path, load):
    (tmp_path / "scans/normal").mkdir(parents=True)
    content = jpeg(1)
    thumbnails = segment(0xFFE2, b"\xff\xda\0\4ab" * 200)
    (tmp_path / "scans/normal/a.jpg").write_bytes(
        content[:2] + thumbnails + content[2:] + bytes(2) + b"\xff\xda\0\4" * 200
    )
    assert load("scans").image(0).shape == (1, 8, 8)


def test_scans_in_dicom(scan):
    pixels = np.zeros((8, 8), np.uint8)
    path = scan(pixels, TransferSyntaxUID=JPEGBaseline8Bit, PixelData=encapsulate([jpeg(101, progressive=True)]))
    assert "a.dcm is a JPEG of 101 scans" in refusal_of(path)


@pytest.mark.parametrize(
    "content",
    [
        codestream(style(layers=20), channels=3),
        codestream(style(layers=20, blocks=32, precincts=8), channels=3),
        codestream(style(blocks=16), channels=3),
        codestream(style(layers=20), tile=256, channels=3),
        codestream(style(blocks=4, precincts=2), of_channel(blocks=4), side=512, in_tile=style(blocks=4)),
        codestream(style())[:60],
    ],
)
def test_what_encoders_make_passes(content):
    check_work(content, "net.jp2")


@pytest.mark.parametrize(
    "content",
    [
        codestream(style(layers=65535)),
        codestream(style(blocks=4, levels=32)),
        codestream(style(precincts=2)),
        codestream(style(blocks=8), channels=3),
        codestream(style(), side=2048, tile=2),
        codestream(style(), of_channel(blocks=4)),
        codestream(style(), in_tile=style(blocks=4)),
        codestream(style(), in_tile=of_channel(precincts=2)),
        struct.pack(">I4s", 0, b"jp2c") + codestream(style(blocks=4)),
    ],
)
def test_more_parts_than_any_encoder_makes(content):
    with pytest.raises(DataError, match=TOO_MUCH):
        check_work(content, "net.jp2")


def test_parts_are_counted_in_all_resolutions():
    """1 precinct and 16 x 16 blocks of the coarser one, 1 precinct and three bands as large of the finer one."""
    with pytest.raises(DataError, match="of 65535 layers in up to 1026 precincts and code-blocks"):
        check_work(codestream(style(layers=65535, levels=1), side=2048), "net.jp2")


def test_headers_with_unknown_markers_are_not_guessed_at():
    with pytest.raises(DataError, match=r"^net.jp2 is a JPEG 2000 image with an unknown marker \(FF40\)"):
        check_work(codestream(style(), b"\xff\x40\0\x08", style(blocks=4)), "net.jp2")


def test_parts_in_dicom(scan):
    content = codestream(style(layers=65535), side=2048)
    pixels = np.zeros((2048, 2048), np.uint8)
    path = scan(pixels, TransferSyntaxUID=JPEG2000Lossless, PixelData=encapsulate([content]))
    assert "a.dcm is a JPEG 2000 image of 65535 layers in up to" in refusal_of(path)


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "SC_rgb_small_odd_jpeg.dcm", "JPEG2000.dcm"])
def test_files_by_others_pass(name):
    path = Path(get_testdata_file(name, download=False))
    assert open_scan(path).image(0).shape[1:] == (pydicom.dcmread(path).Rows, pydicom.dcmread(path).Columns)
