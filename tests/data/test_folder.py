from __future__ import annotations

import hashlib

import numpy as np
import pytest

from robustcheck.errors import DataError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.fixture
def classes(save_picture):
    """`scans/` with two normal and three sick images of one size, of which no two are alike."""
    for index, name in enumerate(("sick/2.tiff", "normal/b.png", "normal/a.PNG", "sick/3.tif", "sick/1.png")):
        save_picture(f"scans/{name}", GREY + index)


def test_classes(classes, load):
    samples = load("scans")
    assert samples.names == ("normal/a.PNG", "normal/b.png", "sick/1.png", "sick/2.tiff", "sick/3.tif")
    assert samples.labels.tolist() == [0, 0, 1, 1, 1]
    assert (samples.image(3) == GREY).all()
    assert (samples.info.split, samples.info.shape, samples.info.bits) == (None, (1, 3, 4), 8)
    assert samples.info.notes == ()


def test_the_policy_orders_labels_and_the_folder_samples(classes, load):
    samples = load("scans", labels=["sick", "normal"])
    assert samples.names[0] == "normal/a.PNG"
    assert samples.labels.tolist() == [1, 1, 0, 0, 0]


def test_only_the_files_that_are_used_are_opened(classes, load, tmp_path):
    whole = load("scans", samples=2)
    for name in {"normal/a.PNG", "normal/b.png", "sick/1.png", "sick/2.tiff", "sick/3.tif"} - set(whole.names):
        (tmp_path / "scans" / name).write_bytes(b"broken")
    assert load("scans", samples=2).info.sha256 == whole.info.sha256
    assert whole.info.available == 5


def test_split_folders(save_picture, load):
    save_picture("scans/test/normal/a.png", GREY)
    save_picture("scans/train/sick/a.png", GREY)
    samples = load("scans", split="test")
    assert samples.names == ("test/normal/a.png",)
    assert samples.info.split == "test"
    assert samples.info.notes == ("no sample is labelled 'sick'",)


@pytest.mark.parametrize(
    ("split", "own"),
    [("val", "valid"), ("val", "validation"), ("val", "dev"), ("train", "Training"), ("test", "testing")],
)
def test_split_folders_of_other_names(save_picture, load, split, own):
    for name in ({"train", "val", "test"} - {split}) | {own}:
        save_picture(f"scans/{name}/normal/a.png", GREY)
    samples = load("scans", split=split)
    assert samples.names == (f"{own}/normal/a.png",)
    assert samples.info.split == split
    assert samples.info.notes == (f"split {split} is the subfolder {own}", "no sample is labelled 'sick'")


def test_the_split_that_is_spelt_as_the_policy_does_comes_first(save_picture, load):
    for name in ("dev", "val", "valid"):
        save_picture(f"scans/{name}/normal/a.png", GREY)
    assert load("scans", split="val").names == ("val/normal/a.png",)


def test_splits_of_which_several_may_be_meant(save_picture, load):
    for name in ("dev", "valid"):
        save_picture(f"scans/{name}/normal/a.png", GREY)
    with pytest.raises(
        DataError,
        match=r"scans: the subfolders dev, valid may all mean the split val: call the one that you mean val$",
    ):
        load("scans", split="val")
    assert load("scans", labels=["normal", "dev"], split="val").names == ("valid/normal/a.png",)


def test_a_label_that_is_named_like_the_split(save_picture, load):
    save_picture("scans/test/a.png", GREY)
    assert load("scans", labels=["test", "train"], split="test").names == ("test/a.png",)


def test_no_split_folders(classes, load):
    samples = load("scans", split="test")
    assert len(samples) == 5
    assert samples.info.split is None
    assert samples.info.notes == ("scans has no subfolder test: all its images are one split",)


def test_hidden_and_other_entries(classes, load, tmp_path):
    (tmp_path / "scans/.DS_Store").write_bytes(b"")
    (tmp_path / "scans/.cache").mkdir()
    (tmp_path / "scans/sick/.hidden.png").write_bytes(b"")
    (tmp_path / "scans/sick/notes.txt").write_bytes(b"")
    (tmp_path / "scans/README.md").write_bytes(b"")
    (tmp_path / "scans/sick/nested.png").mkdir()
    samples = load("scans")
    assert len(samples) == 5
    assert samples.info.notes == (
        "1 folder inside a class, which is not searched, was left out: sick/nested.png",
        "2 entries that are not PNG, JPEG, TIFF or DICOM were left out: sick/notes.txt, README.md",
    )


def test_what_may_be_samples_and_is_not_read(classes, load, tmp_path):
    """README files and the like are left out with a note alone."""
    for name in ("sick/a.BMP", "sick/b.nii.gz", "normal/Thumbs.db", "README.md"):
        (tmp_path / "scans" / name).write_bytes(b"")
    (tmp_path / "scans/sick/patient").mkdir()
    samples = load("scans")
    assert samples.not_read == (
        "1 folder inside a class, which is not searched, was left out: sick/patient",
        "2 entries that are not PNG, JPEG, TIFF or DICOM were left out: sick/a.BMP, sick/b.nii.gz",
    )
    assert "4 entries that are not PNG, JPEG, TIFF or DICOM were left out" in samples.info.notes[1]


def test_other_endings_of_jpeg(save_picture, load):
    for name in ("normal/a.jfif", "sick/b.JPE"):
        save_picture(f"scans/{name}", GREY, format="JPEG")
    assert load("scans").names == ("normal/a.jfif", "sick/b.JPE")


def test_a_label_whose_images_lie_deeper_or_are_of_another_format(classes, load, tmp_path):
    (tmp_path / "scans/nested/patient").mkdir(parents=True)
    (tmp_path / "scans/other").mkdir()
    (tmp_path / "scans/other/a.bmp").write_bytes(b"")
    (tmp_path / "scans/empty").mkdir()
    samples = load("scans", labels=["normal", "sick", "nested", "other", "empty", "none"])
    folder = "1 folder inside a class, which is not searched, was left out: nested/patient"
    file = "1 entry that is not PNG, JPEG, TIFF or DICOM was left out: other/a.bmp"
    assert samples.info.notes == (
        folder,
        file,
        f"no sample is labelled 'nested': {folder}",
        f"no sample is labelled 'other': {file}",
        "no sample is labelled 'empty': its folder is empty",
        "no sample is labelled 'none'",
    )


def test_copies_are_counted_and_those_that_are_labelled_otherwise_as_well(classes, save_picture, load):
    save_picture("scans/normal/c.png", GREY + 1)
    save_picture("scans/sick/9.png", GREY + 1)
    samples = load("scans")
    assert len(samples) == 7
    assert samples.contents.tolist() == [0, 1, 1, 2, 3, 4, 1]
    assert samples.info.notes == (
        "samples that store the same as an earlier one, and still count: 2 of 7, first normal/c.png, as normal/b.png",
        "samples that store the same as one with another label, so that no candidate reads both right: 1 of 7, first "
        "sick/9.png, as normal/b.png",
    )


def test_images_of_several_sizes(classes, save_picture, load):
    save_picture("scans/normal/c.png", np.zeros((7, 9), np.uint8))
    samples = load("scans")
    assert samples.info.shape is None
    assert samples.shape_of(2) == (1, 7, 9) == samples.image(2).shape


def test_the_digest_is_over_the_files_bytes(classes, save_picture, load):
    samples = load("scans")
    assert samples.images.content_sha256(1) == hashlib.sha256(samples.images.files[1].path.read_bytes()).hexdigest()
    save_picture("scans/sick/2.tiff", GREY + 1)
    assert load("scans").info.sha256 != samples.info.sha256


def test_a_file_that_changes_after_loading(classes, save_picture, load):
    samples = load("scans")
    save_picture("scans/normal/a.PNG", GREY + 1)
    with pytest.raises(DataError, match=r"normal/a.PNG: the file has changed since it was loaded"):
        samples.image(0)


def test_a_file_that_goes_after_loading(classes, load, tmp_path):
    samples = load("scans")
    (tmp_path / "scans/normal/a.PNG").unlink()
    with pytest.raises(DataError, match=r"normal/a.PNG: it cannot be read: No such file"):
        samples.image(0)


def test_links_inside_the_folder_are_followed(classes, load, tmp_path):
    (tmp_path / "scans/sick/4.png").symlink_to(tmp_path / "scans/sick/1.png")
    assert len(load("scans")) == 6


@pytest.mark.parametrize("whole_class", [False, True])
def test_links_out_of_the_folder_are_refused(classes, save_picture, load, tmp_path, whole_class):
    outside = save_picture("secret/0.png", GREY)
    if whole_class:
        (tmp_path / "scans/extra").symlink_to(outside.parent)
    else:
        (tmp_path / "scans/sick/0.png").symlink_to(outside)
    with pytest.raises(DataError, match=r"0.png is a link out of .*: a data file cannot escape its folder"):
        load("scans", labels=["normal", "sick", "extra"])


def test_a_dangling_link(classes, load, tmp_path):
    (tmp_path / "scans/sick/0.png").symlink_to(tmp_path / "scans/sick/gone.png")
    with pytest.raises(DataError, match=r"sick/0.png: it cannot be read: No such file"):
        load("scans")


def test_folders_that_are_no_labels(classes, save_picture, load):
    save_picture("scans/sic/a.png", GREY)
    with pytest.raises(DataError, match=r"subfolders are normal, sic, sick, and the policy's labels are normal, sick"):
        load("scans")


@pytest.mark.parametrize(
    ("folder", "split", "message"),
    [
        ("test/normal", None, r"subfolders are test, .*; name one in data.split$"),
        ("test/normal", "val", r"it has no subfolder 'val'; there are test"),
        ("Normal", None, r"must bear a label's name; did you mean 'normal'\?"),
    ],
)
def test_folders_that_may_be_splits_or_labels(save_picture, load, folder, split, message):
    save_picture(f"scans/{folder}/a.png", GREY)
    with pytest.raises(DataError, match=message):
        load("scans", split=split)


def test_no_folders(load, tmp_path):
    (tmp_path / "scans").mkdir()
    with pytest.raises(DataError, match=r"it has no subfolders; one per label is needed, named normal, sick"):
        load("scans")


def test_no_images(load, tmp_path):
    (tmp_path / "scans/normal").mkdir(parents=True)
    with pytest.raises(DataError, match=r"scans: it holds no samples$"):
        load("scans")


def test_no_images_that_are_read(load, tmp_path):
    for name in ("scans/normal/patient", "scans/sick/patient"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "scans/sick/a.bmp").write_bytes(b"")
    with pytest.raises(
        DataError,
        match=r"scans: it holds no samples; 2 folders inside classes, which are not searched, were left out: "
        r"normal/patient, sick/patient; 1 entry that is not PNG, JPEG, TIFF or DICOM was left out: sick/a.bmp$",
    ):
        load("scans")


def test_no_such_folder(classes, load):
    with pytest.raises(DataError, match=r"scan: there is no such folder.*module:callable; did you mean 'scans'"):
        load("scan")
