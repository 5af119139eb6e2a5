"""DICOM that was made, or broken, to hurt its reader: each ends in a sentence, before anything is unpacked."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, RLELossless
from scans import open_scan, refusal_of

from robustcheck.data.codestream import size_of, unpacked_length
from robustcheck.errors import DataError


def test_a_header_that_claims_too_much(scan):
    assert "claims 65535 x 65535 pixels" in refusal_of(scan(np.zeros((2, 2), np.uint16), Rows=65535, Columns=65535))
    assert "holds no image: its header has 2 Rows and 0 Columns" in refusal_of(
        scan(np.zeros((2, 2), np.uint16), Columns=0)
    )
    assert "less than expected" in refusal_of(scan(np.zeros((2, 2), np.uint16), Rows=4000, Columns=4000))


@pytest.mark.parametrize("run", [5, 68, 96, 128])
def test_run_lengths_that_would_fill_the_memory(run, scan):
    runs = bytes([257 - run, 0]) * 200_000
    segment = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + b"\0" * 56
    path = scan(np.zeros((2, 2), np.uint8), TransferSyntaxUID=RLELossless, PixelData=encapsulate([segment + runs]))
    assert "its runs stand for more than the 4 bytes of its pixels" in refusal_of(path)


def test_a_compressed_image_that_is_larger_than_its_header(tmp_path):
    """A decoder would unpack all of it, or put its pixels into other rows."""
    for name, rows, columns in (("SC_rgb_small_odd_jpeg.dcm", 1, 9), ("MR_small_jp2klossless.dcm", 32, 128)):
        data = pydicom.dcmread(get_testdata_file(name, download=False))
        said = f"says {rows}×{columns}×{data.SamplesPerPixel} (height × width × channels), but its compressed image "
        said += f"{data.Rows}×{data.Columns}"
        data.Rows, data.Columns = rows, columns
        data.save_as(tmp_path / name)
        assert said in refusal_of(tmp_path / name)


def test_a_header_of_endless_parts(scan):
    """Each empty item of a sequence takes eight bytes, and a kilobyte of memory."""
    path = scan(np.zeros((2, 2), np.uint16), bits=12)
    content = path.read_bytes()
    pixels = content.index(b"\xe0\x7f\x10\x00OW")
    item, end = b"\xfe\xff\x00\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
    for items in (1000, 300_000):
        sequence = b"\x09\x00\x01\x10SQ\0\0\xff\xff\xff\xff" + item * items + end
        path.write_bytes(content[:pixels] + sequence + content[pixels:])
        if items == 1000:
            assert open_scan(path).image(0).shape == (1, 2, 2)
        else:
            assert "a.dcm: it cannot be read: " in refusal_of(path)


def test_a_pipe_among_the_files_is_no_image(tmp_path, scan, load):
    scan(np.zeros((2, 2), np.uint16), name="scans/normal/a.dcm", bits=12)
    for name in ("pipe", "pipe.dcm", "pipe.png"):
        os.mkfifo(tmp_path / "scans/normal" / name)
    (tmp_path / "beside").mkdir()
    for name, target in (("inside.png", tmp_path / "scans/normal/pipe"), ("outside.dcm", tmp_path / "beside/pipe")):
        (tmp_path / "scans/normal" / name).symlink_to(target)
    os.mkfifo(tmp_path / "beside/pipe")
    samples = load("scans")
    assert samples.names == ("normal/a.dcm",)
    assert "5 entries that are not PNG, JPEG, TIFF or DICOM were left out: normal/inside.png, " in samples.info.notes[0]


def test_a_value_that_is_a_list_of_millions(scan):
    path = scan(np.zeros((2, 2), np.uint16), bits=12, TransferSyntaxUID=ImplicitVRLittleEndian, NumberOfFrames="1")
    content = path.read_bytes()
    one = b"\x28\x00\x08\x00\x02\x00\x00\x001 "
    many = b"\x28\x00\x08\x00" + (2_000_000).to_bytes(4, "little") + b"1\\" * 1_000_000
    path.write_bytes(content.replace(one, many))
    assert one in content
    assert "a.dcm: its NumberOfFrames has 2000000 bytes, more than it can need" in refusal_of(path)


def test_how_large_compressed_images_say_they_are():
    start, frame = b"\xff\xd8", b"\xff\xc0\x00\x0b\x08\x00\x03\x00\x05\x01"
    assert size_of(start + frame) == (3, 5, 1)
    assert size_of(start + b"\xff\xff\xff\xe0\x00\x04ab" + frame) == (3, 5, 1)  # fill bytes, an application's segment
    assert size_of(start + b"\xff\x00" + frame) is None
    assert size_of(start + b"\xff\xe0\x00\x00" * 5) is None
    siz = b"\xff\x4f\xff\x51" + bytes(4) + struct.pack(">8IH", 15, 33, 5, 3, 9, 9, 0, 0, 3)
    assert size_of(siz) == (30, 10, 3)
    decoy = struct.pack(">I4s", 8 + len(siz), b"free") + siz
    other = siz.replace(struct.pack(">I", 15), struct.pack(">I", 60005))
    assert size_of(decoy + struct.pack(">I4s", 0, b"jp2c") + other) == (30, 60000, 3)
    assert size_of(b"nothing of the kind") is None


def test_what_runs_stand_for():
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    assert unpacked_length(header + bytes([2, 1, 2, 3, 128, 255, 7, 129, 0]), 1000) == 3 + 2 + 128
    assert unpacked_length(header + bytes([129, 0]) * 100, 200) == 256
    with pytest.raises(ValueError, match="says that it has 0 segments"):
        unpacked_length(b"", 10)


def test_pixels_that_are_not_there(scan):
    path = scan(np.zeros((2, 2), np.uint16), bits=12)
    data = pydicom.dcmread(path)
    del data.PixelData
    data.save_as(path)
    assert "a.dcm: it cannot be read" in refusal_of(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_a_sentence(tmp_path, data):
    name = data.draw(st.sampled_from(["CT_small.dcm", "MR_small_RLE.dcm", "SC_rgb_small_odd_jpeg.dcm"]))
    content = bytearray(Path(get_testdata_file(name, download=False)).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(128, min(2500, len(content) - 1)))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.dcm"
    path.write_bytes(content[: data.draw(st.integers(140, len(content)))])
    try:
        image = open_scan(path).image(0)
    except DataError as error:
        assert "damaged.dcm" in str(error)  # noqa: PT017
    else:
        assert image.ndim == 3
