"""Files that were made, or broken, to hurt their reader: each ends in a sentence, and none takes the machine along."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy
from PIL import Image, ImageFile

from robustcheck.data import reading
from robustcheck.data.files import open_files
from robustcheck.data.pictures import open_picture
from robustcheck.errors import DataError

LABELS = np.zeros(6, np.uint8)


def npy_bytes(shape, descr="|u1", body=b"", version=(1, 0)):
    """An npy member whose header claims a shape, with whatever body."""
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    data = buffer.getvalue()
    return data[:6] + bytes(version) + data[8:] + body


@pytest.fixture
def forged(tmp_path):
    """Write `data.npz` with this as its images, and six labels."""

    def write(images, compression=zipfile.ZIP_DEFLATED):
        labels = io.BytesIO()
        npy.write_array(labels, LABELS)
        with zipfile.ZipFile(tmp_path / "data.npz", "w", compression) as archive:
            archive.writestr("test_images.npy", images)
            archive.writestr("test_labels.npy", labels.getvalue())
        return tmp_path / "data.npz"

    return write


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (npy_bytes((10**9, 28, 28), body=b"\0" * 100), r"header claims 784000000000 bytes .*, but 100 are stored"),
        (npy_bytes((2**62, 2**62, 2**62)), "header claims"),
        (npy_bytes((6, 2, 2), body=b"\0" * 25), "header claims 24 bytes .*, but 25 are stored"),
        (npy_bytes((6, -2, -2), body=b"\0" * 24), r"shape \(6, -2, -2\)"),
        (npy_bytes((), body=b"\0"), r"shape \(\)"),
        (npy_bytes((6,), descr="|O", body=pickle.dumps(print)), "pickled objects never"),
        (npy_bytes((6,), descr=[("a", "|O")], body=pickle.dumps(print)), "only plain arrays are read"),
        (npy_bytes((6, 2, 2), version=(9, 0)), "npy version|format version"),
        (npy_bytes((6, 2, 2), version=(3, 0)), r"npy version \(3, 0\); 1.0 and 2.0 are allowed"),
        (pickle.dumps(np.zeros(3)), "test_images: it cannot be read"),
        (b"", "test_images: it cannot be read"),
        (b"\x93NUMPY\x01\x00\xff\x00{", "test_images: it cannot be read"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "test_images: it cannot be read"),
    ],
)
def test_forged_members(forged, load, images, message):
    forged(images)
    with pytest.raises(DataError, match=message):
        load("data.npz")


def test_an_honest_header_of_too_many_bytes(forged, load, monkeypatch):
    forged(npy_bytes((6, 100, 100), body=b"\0" * 60_000))
    monkeypatch.setattr("robustcheck.data.reading.memory_limit", lambda: 59_999)
    with pytest.raises(DataError, match=r"data.npz: test_images: it would take .* GiB of memory"):
        load("data.npz")


def test_labels_that_would_grow_beyond_memory_as_they_are_read(forged, load, monkeypatch):
    forged(npy_bytes((6, 2, 2), body=b"\0" * 24))
    monkeypatch.setattr("robustcheck.data.reading.memory_limit", lambda: 95)  # six labels take 96 then
    with pytest.raises(DataError, match=r"data.npz: test_labels: it would take .* GiB of memory"):
        load("data.npz")


def test_half_of_what_the_process_may_have_is_allowed(forged, load, monkeypatch):
    forged(npy_bytes((6, 2, 2), body=b"\0" * 24))
    monkeypatch.setattr("robustcheck.resources.memory", lambda: 191)  # six labels take 96
    match = r"GiB of memory, but only half of what this process may have, 0\.0 GiB, is allowed"
    with pytest.raises(DataError, match=match):
        load("data.npz")
    monkeypatch.setattr("robustcheck.resources.memory", lambda: 192)
    load("data.npz")


def test_where_a_machine_does_not_say_how_much_it_has(monkeypatch):
    monkeypatch.setattr("robustcheck.resources.memory", lambda: None)
    reading.check_memory(4 << 30, "scan")
    with pytest.raises(DataError, match=r"scan: .* memory, but only 4\.0 GiB is allowed if the machine does not say"):
        reading.check_memory((4 << 30) + 1, "scan")


def test_a_pickled_archive_runs_nothing(tmp_path, load):
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "exploded").touch, ())

    np.savez(tmp_path / "data.npz", test_images=np.array([Bomb()], dtype=object), test_labels=LABELS)
    with pytest.raises(DataError, match=r"pickled objects never"):
        load("data.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a zip", pickle.dumps([1])])
def test_no_archive_at_all(tmp_path, load, data):
    (tmp_path / "data.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"data.npz: it cannot be read: .*BadZipFile"):
        load("data.npz")


def test_a_directory_that_is_named_like_an_archive(tmp_path, load):
    (tmp_path / "data.npz").mkdir()
    with pytest.raises(DataError, match=r"data\.npz: .*data\.npz is not a file$"):
        load("data.npz")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4166\n"


@pytest.mark.parametrize("name", ["data.npz", "data.csv"])
def test_a_pointer_of_git_lfs_is_no_data(tmp_path, load, name):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(DataError, match=rf"^{name} is a Git LFS pointer, .*: fetch that with `git lfs pull`$"):
        load(name)


@pytest.mark.parametrize("name", ["a.png", "b.dcm"])
def test_a_pointer_of_git_lfs_is_no_image(tmp_path, name):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(DataError, match=rf"^{name} is a Git LFS pointer"):
        open_files([(name, tmp_path / name)])


def test_a_damaged_body(forged, load):
    path = forged(npy_bytes((6, 30, 30), body=bytes(range(250)) * 21 + b"\0" * 150), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[1000] ^= 255
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"test_images: it cannot be read: .*Bad CRC-32"):
        load("data.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_would_be_unpacked_without_a_limit(forged, load, method):
    forged(npy_bytes((6, 2, 2), body=bytes(24)), method)
    with pytest.raises(DataError, match=r"^data.npz: test_images is neither stored nor deflated, as numpy writes it: "):
        load("data.npz")


@pytest.mark.parametrize(("version", "size"), [((1, 0), "<H"), ((2, 0), "<I")])
def test_a_header_that_is_longer_than_any_array_needs(forged, load, version, size):
    head, begin = npy_bytes((6, 2, 2))[10:].strip(), b"\x93NUMPY" + bytes(version)
    forged(begin + struct.pack(size, 10_000) + head.ljust(9999) + b"\n" + bytes(24))
    assert len(load("data.npz")) == 6
    forged(begin + struct.pack(size, 10_001) + head.ljust(10_000) + b"\n" + bytes(24))
    with pytest.raises(DataError, match=r"^data.npz: test_images: its header has 10001 bytes, more than an array"):
        load("data.npz")


def test_an_encrypted_member(forged, load):
    path = forged(npy_bytes((6, 2, 2), body=bytes(24)))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    path.write_bytes(data[: start + 8] + b"\x01" + data[start + 9 :])
    with pytest.raises(DataError, match=r"test_images: it cannot be read: RuntimeError.*encrypted"):
        load("data.npz")


def png(width, height, body=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


@pytest.fixture
def picture(tmp_path):
    """Write `scans/normal/a.png` (or another name) with these bytes."""

    def write(data, name="a.png"):
        (tmp_path / "scans/normal").mkdir(parents=True, exist_ok=True)
        (tmp_path / "scans/normal" / name).write_bytes(data)

    return write


@pytest.mark.parametrize("side", [8193, 12_000, 60_000])
@pytest.mark.filterwarnings("default")
def test_a_header_of_too_many_pixels(picture, load, side, recwarn):
    picture(png(side, side))
    with pytest.raises(DataError, match=r"normal/a.png claims .* pixels"):
        load("scans")


def test_a_header_of_too_many_pixels_where_warnings_are_errors(picture, load):
    picture(png(12_000, 12_000))
    with pytest.raises(DataError, match=r"normal/a.png claims more than 67108864 pixels"):
        load("scans")


def saved(kind, **options):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "end"), [("PNG", -300), ("JPEG", -300), ("TIFF", 600)])
def test_a_truncated_image(picture, load, kind, end):
    picture(saved(kind)[:end])
    message = r": it cannot be read: OSError: image file is truncated" if kind != "TIFF" else ""
    with pytest.raises(DataError, match=rf"^normal/a.png{message}"):
        load("scans").image(0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_nor_is_one_filled_up_where_a_network_s_module_has_told_pillow_so(picture, load, kind, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    picture(saved(kind)[:-300])
    with pytest.raises(DataError, match=r"^normal/a.png: it cannot be read: OSError: image file is truncated"):
        load("scans").image(0)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 1000,
        b"\x89PNG\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        saved("GIF"),
        saved("BMP"),
    ],
)
def test_no_image_at_all_whatever_its_name(picture, load, data):
    picture(data)
    with pytest.raises(DataError, match=r"normal/a.png is not a PNG, JPEG or TIFF image, or its header is damaged"):
        load("scans")


def tiled(width, length, kind=4):
    """A TIFF of 8 x 8 grey pixels in a deflated tile of 16 x 16, which says that it is of another size."""
    body = zlib.compress(bytes(256))
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: width, 323: length, 324: 8, 325: len(body)}
    entries = [struct.pack("<HHLL", tag, kind if tag == 323 else 4, 1, value) for tag, value in tags.items()]
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + struct.pack("<L", 0)
    return b"II*\0" + struct.pack("<L", 8 + len(body)) + body + directory


def test_a_tile_that_is_larger_than_any_image(picture, load):
    picture(tiled(16, 16), "a.tif")
    assert not load("scans").image(0).any()
    picture(tiled(8192, 8192), "a.tif")
    assert load("scans").shape_of(0) == (1, 8, 8)
    picture(tiled(8192, 8208), "a.tif")
    with pytest.raises(DataError, match=r"^normal/a.tif has tiles of 8192 x 8208 pixels; 67108864 is the limit$"):
        load("scans")
    picture(tiled(16, 0, kind=11), "a.tif")
    with pytest.raises(DataError, match=r"^normal/a.tif: the size of its tiles is not a whole number"):
        load("scans")


def test_an_image_under_another_formats_name(picture, load):
    picture(saved("PNG"), "a.tif")
    assert load("scans").shape_of(0) == (1, 40, 30)


def test_a_name_that_no_report_can_hold(picture, load, tmp_path):
    picture(saved("PNG"), "a\n.png")
    with pytest.raises(DataError, match=r"'normal/a\\n.png' cannot be written in a report: rename the file"):
        load("scans")


def test_a_name_that_is_no_text(load, tmp_path):
    folder = tmp_path / "scans/normal"
    folder.mkdir(parents=True)
    try:
        (folder / "a\udcff.png").write_bytes(saved("PNG"))
    except (OSError, UnicodeError):
        pytest.skip("this file system holds text only")
    with pytest.raises(DataError, match=r"cannot be written in a report"):
        load("scans", samples=1)


def test_a_folder_that_may_not_be_searched(picture, load, tmp_path, monkeypatch):
    picture(saved("PNG"))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"scans: it cannot be read: Permission denied"):
        load("scans")


SEEDS = [saved("PNG"), saved("JPEG"), saved("TIFF"), saved("TIFF", compression="tiff_lzw")]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 200),
)
def test_a_damaged_image_is_an_image_or_a_sentence(tmp_path, load, seed, edits, cut):
    data = bytearray(seed)
    for place, value in edits:
        data[place % min(len(data), 400) if place % 2 else -1 - place % min(len(data), 400)] = value
    (tmp_path / "scans/normal").mkdir(parents=True, exist_ok=True)
    (tmp_path / "scans/normal/a.png").write_bytes(data[: len(data) - cut] if cut < 100 else data)
    try:
        samples = load("scans")
        assert samples.image(0).shape == samples.shape_of(0)
    except DataError as error:
        sentence = str(error)
    else:
        sentence = "normal/a.png is an image"
    assert sentence.startswith("normal/a.png")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), stored=st.booleans()
)
def test_a_damaged_archive_is_an_archive_or_a_sentence(tmp_path, load, edits, stored):
    path = tmp_path / "data.npz"
    (np.savez if stored else np.savez_compressed)(path, test_images=np.zeros((6, 4, 4), np.uint8), test_labels=LABELS)
    data = bytearray(path.read_bytes())
    for place, value in edits:
        data[place % len(data)] = value
    path.write_bytes(data)
    try:
        assert len(load("data.npz")) > 0
    except DataError as error:
        sentence = str(error)
    else:
        sentence = "data.npz is an archive"
    assert sentence.startswith("data.npz")


def test_a_tiff_whose_tags_overlap(tmp_path):
    """Each is as large as the file, and together they are as large as memory."""
    size, many = 1 << 20, 64
    shape = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags = [*shape, (278, 3, 1, 4), (279, 4, 1, 16), *((60_000 + tag, 7, size, 0) for tag in range(many))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHLL", *tag) for tag in tags) + bytes(4)
    (tmp_path / "a.tif").write_bytes((b"II*\0" + struct.pack("<L", 8) + directory).ljust(size, b"\0"))
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as where tests do not forbid them
            with pytest.raises(DataError, match=r"^a\.tif: it cannot be read: UserWarning: Tag data larger than file"):
                open_picture("a.tif", tmp_path / "a.tif")
        assert tracemalloc.get_traced_memory()[1] < 8 * size
    finally:
        tracemalloc.stop()
