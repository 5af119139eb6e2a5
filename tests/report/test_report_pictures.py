"""Reading picture files that a stranger named."""

import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_builder import save

from robustcheck.report import pictures
from robustcheck.report.pictures import Album, read_stored

SQUARE = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)


@pytest.fixture
def folder(tmp_path):
    """A report's folder, with a picture inside and a secret outside."""
    inside = tmp_path / "report"
    save(inside, "counterexamples/g/1.png", SQUARE)
    save(tmp_path, "secret.png", SQUARE)
    return inside


def shown(folder, name):
    """A file as a page would show it."""
    return Album(folder, bits=8, room=1).read(name)


def test_a_picture_inside_is_read(folder):
    assert np.array_equal(shown(folder, "counterexamples/g/1.png"), SQUARE)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "counterexamples/g/../g/1.png",
        "counterexamples/../../secret.png",
        "counterexamples/g/../../../secret.png",
        "..\\secret.png",
        "C:\\secret.png",
        "\\\\server\\share\\secret.png",
        "counterexamples/g",
        "counterexamples",
        "",
        ".",
        "counterexamples/g/1.png\x00",
        "counterexamples/g/2.png",
        "x" * 5000,
        "\udcff",
    ],
)
def test_nothing_else_is_read(folder, name):
    assert shown(folder, name) is None


def test_an_absolute_path_is_not_read_even_inside(folder, tmp_path):
    assert shown(folder, str(tmp_path / "secret.png")) is None
    assert shown(folder, str(folder / "counterexamples/g/1.png")) is None


@pytest.mark.parametrize("name", ["link.png", "linked/secret.png", "inner.png"])
def test_a_link_is_followed_only_inside(folder, tmp_path, name):
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    (folder / "inner.png").symlink_to(folder / "counterexamples/g/1.png")

    assert (shown(folder, name) is not None) == (name == "inner.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang_it(folder):
    os.mkfifo(folder / "pipe.png")

    assert shown(folder, "pipe.png") is None


def test_a_folder_that_is_not_there_has_no_pictures(tmp_path):
    assert shown(tmp_path / "nowhere", "1.png") is None


def test_a_large_file_is_not_decoded(folder, monkeypatch):
    path = folder / "counterexamples/g/1.png"
    monkeypatch.setattr(pictures, "MOST_BYTES", path.stat().st_size)
    assert shown(folder, "counterexamples/g/1.png") is not None

    path.write_bytes(path.read_bytes() + b"x")
    assert shown(folder, "counterexamples/g/1.png") is None


def test_an_image_of_more_values_than_its_sample_has_is_not_read(folder):
    assert np.array_equal(read_stored(folder, "counterexamples/g/1.png", SQUARE.size), SQUARE)
    assert read_stored(folder, "counterexamples/g/1.png", SQUARE.size - 1) is None


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(9))),
        (b"IEND", b""),
    ]
    body = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (0, 5), (2**31 - 1, 1), (5, 2**31 - 1)])
def test_a_png_that_claims_a_huge_size_is_never_opened(folder, monkeypatch, width, height):
    (folder / "bomb.png").write_bytes(png(width, height))
    monkeypatch.setattr(Image, "open", lambda *_args, **_kinds: pytest.fail("it was opened"))

    assert shown(folder, "bomb.png") is None


@pytest.mark.parametrize("mode", ["P", "RGBA", "1", "LA"])
def test_kinds_of_png_that_the_evaluation_does_not_write_are_refused(folder, mode):
    Image.new(mode, (4, 4)).save(folder / "kind.png")

    assert shown(folder, "kind.png") is None


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4, 4), np.uint16),
        np.zeros((3, 4, 4), np.float32),
        np.zeros((3, 4, 4), np.int16),
        np.asfortranarray(np.zeros((3, 4, 4), np.uint16)),
        np.zeros((3, 0, 4), np.uint16),
    ],
)
def test_arrays_that_are_no_stored_image_are_refused(folder, array):
    np.save(folder / "a.npy", array, allow_pickle=False)

    assert shown(folder, "a.npy") is None


def test_an_array_of_objects_is_not_unpickled(folder):
    np.save(folder / "a.npy", np.array([[[print]]], dtype=object), allow_pickle=True)

    assert shown(folder, "a.npy") is None


@pytest.mark.parametrize("shape", [(3, 4096, 4096), (3, 10**9, 10**9), (3, -4, -4)])
def test_an_array_that_claims_more_than_it_holds_is_refused(folder, shape):
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    (folder / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))

    assert shown(folder, "a.npy") is None


@given(where=st.integers(0, 200), value=st.integers(0, 255), end=st.integers(0, 200))
def test_no_damage_to_a_file_is_an_exception(tmp_path_factory, where, value, end):
    folder = tmp_path_factory.mktemp("damaged")
    for name, image in (("a.png", SQUARE), ("b.png", SQUARE.astype(np.uint16)), ("c.npy", np.repeat(SQUARE, 3, 0))):
        save(folder, name, image)
        content = bytearray((folder / name).read_bytes())
        content[where % len(content)] = value
        (folder / name).write_bytes(content[: len(content) - end if end % 3 == 0 else None])
        read = shown(folder, name)
        assert read is None or read.ndim == 3
