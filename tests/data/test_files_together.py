"""Image files of one source: faults are told once a kind, and grey stored as colour among grey is grey."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from robustcheck.data.files import take_files
from robustcheck.data.grouped_faults import Faults
from robustcheck.errors import DataError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)


def test_faults_are_told_once_a_kind(save_picture, load, tmp_path):
    for index in range(12):
        save_picture(f"scans/normal/{index:02}.png", GREY)
    for index in (3, 5, 9):
        save_picture(f"scans/normal/{index:02}.png", Image.new("RGBA", (4, 3)))
    for index in (4, 6):
        save_picture(f"scans/normal/{index:02}.png", COLOUR)
    (tmp_path / "scans/normal/07.png").write_bytes(b"")
    for index in (8, 10):
        (tmp_path / f"scans/normal/{index:02}.png").unlink()
        (tmp_path / f"scans/normal/{index:02}.png").symlink_to("gone")
    with pytest.raises(DataError) as caught:
        load("scans")
    assert str(caught.value).splitlines() == [
        "normal/03.png, like 2 others, has transparency (mode RGBA): store it without, as grey or RGB",
        "normal/07.png is not a PNG, JPEG or TIFF image, or its header is damaged",
        "normal/08.png, like 1 other: it cannot be read: No such file or directory",
        "normal/04.png, like 1 other, has 3 channels and normal/00.png, like 3 others, has 1 channel: one candidate "
        "takes one kind; convert the files (normal/04.png is no grey image: its channels differ)",
    ]


def test_ten_kinds_of_faults_are_spelt_out_and_the_rest_counted(save_picture, load, monkeypatch):
    monkeypatch.setattr("robustcheck.data.pictures.MAX_PIXELS", 3)
    for index in range(14):
        save_picture(f"scans/normal/{index:02}.png", np.zeros((1, 4 + min(index, 12)), np.uint8))
    with pytest.raises(DataError) as caught:
        load("scans")
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[9:] == ["normal/09.png claims 13 x 1 pixels; 3 is the limit", "4 more files cannot be read either"]


def test_grey_that_is_stored_as_colour_among_grey_is_grey(save_picture, load):
    save_picture("scans/normal/a.png", GREY)
    save_picture("scans/normal/b.jpg", Image.fromarray(np.full((8, 8), 77, np.uint8)).convert("RGB"))
    save_picture("scans/normal/c.png", np.repeat(GREY[..., None], 3, axis=2))
    samples = load("scans")
    assert [samples.shape_of(index) for index in range(3)] == [(1, 3, 4), (1, 8, 8), (1, 3, 4)]
    assert [samples.image(index).shape for index in range(3)] == [(1, 3, 4), (1, 8, 8), (1, 3, 4)]
    assert (samples.image(1) == 77).all()
    assert (samples.image(2) == samples.image(0)).all()
    assert samples.info.notes[0] == (
        "2 files, first normal/b.jpg, are stored as colour of three equal channels, and read as grey"
    )
    almost = np.repeat(GREY[..., None], 3, axis=2)
    almost[2, 3, 1] += 1
    save_picture("scans/normal/d.png", almost)
    with pytest.raises(
        DataError,
        match=r"^normal/a.png has 1 channel and normal/b.jpg, like 2 others, has 3 channels: one candidate takes one "
        r"kind; convert the files \(normal/d.png is no grey image: its channels differ\)$",
    ):
        load("scans")


def test_grey_that_is_stored_as_colour_among_its_like_stays_colour(save_picture, load):
    save_picture("scans/normal/a.png", np.repeat(GREY[..., None], 3, axis=2))
    samples = load("scans")
    assert samples.image(0).shape == samples.shape_of(0) == (3, 3, 4)
    assert samples.images.notes == ()


def test_a_subset_is_read_in_as_many_channels_whichever_files_it_draws(save_picture, load):
    for index in range(5):
        save_picture(f"scans/normal/{index}.png", np.repeat(GREY[..., None], 3, axis=2) + np.uint8(index))
    save_picture("scans/normal/grey.png", GREY)
    for seed in range(8):
        samples = load("scans", samples=2, seed=seed)
        assert [samples.shape_of(index)[0] for index in range(2)] == [1, 1]


def test_what_lies_beside_a_subset_may_be_damaged(save_picture, tmp_path):
    drawn = save_picture("a.png", np.repeat(GREY[..., None], 3, axis=2))
    (tmp_path / "b.png").write_bytes(b"no picture")
    files = [("a.png", drawn), ("b.png", tmp_path / "b.png")]
    assert take_files(files, np.array([0]), bits=None, hounsfield=None).shape_of(0) == (3, 3, 4)


def test_of_what_lies_beside_a_subset_headers_alone_are_read(save_picture, monkeypatch):
    files = [
        (f"{index}.png", save_picture(f"{index}.png", np.repeat(GREY[..., None], 3, axis=2))) for index in range(4)
    ]
    digest, read = hashlib.file_digest, list[str]()
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind))
    take_files(files, np.array([0]), bits=None, hounsfield=None)
    assert set(read) == {str(files[0][1])}


def test_colour_is_colour_whatever_lies_beside_it(save_picture, load):
    for index in range(5):
        save_picture(f"scans/normal/{index}.png", COLOUR)
    save_picture("scans/normal/grey.png", GREY)
    for seed in range(8):
        samples = load("scans", samples=1, seed=seed)
        assert samples.shape_of(0)[0] == (1 if samples.names[0] == "normal/grey.png" else 3)


def test_of_faults_that_are_not_told_only_their_number_is_kept():
    faults = Faults()
    for index in range(100):
        faults.add(f"{index}.png", DataError(f"{index}.png holds {min(index, 50)}"))
    assert len(faults._found) == 10
    assert faults.sentences()[9:] == ["9.png holds 9", "90 more files cannot be read either"]
