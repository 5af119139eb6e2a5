from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from robustcheck.errors import DataError


@pytest.fixture
def archive(tmp_path):
    """Write `data.npz` with a test split of six 5x4 images; keyword arguments replace or add members."""

    def write(**members):
        images = np.arange(6 * 20, dtype=np.uint8).reshape(6, 5, 4)
        default = {"test_images": images, "test_labels": np.array([[0], [1], [1], [0], [1], [0]])}
        kept = {key: value for key, value in {**default, **members}.items() if value is not None}
        np.savez_compressed(tmp_path / "data.npz", **kept)
        return tmp_path / "data.npz"

    return write


def test_grey_images(archive, load):
    archive()
    samples = load("data.npz")
    assert samples.names == tuple(f"test/{index}" for index in range(6))
    assert samples.labels.tolist() == [0, 1, 1, 0, 1, 0]
    assert samples.labels.dtype == np.int64
    assert samples.shape_of(2) == (1, 5, 4) == samples.image(2).shape
    assert samples.image(2).dtype == np.uint8
    assert samples.image(2).ravel().tolist() == list(range(40, 60))
    assert (samples.bits, samples.maximum, len(samples)) == (8, 255, 6)
    assert samples.info.by_label == {"normal": 3, "sick": 3}
    assert (samples.info.available, samples.info.shape, samples.info.split) == (6, (1, 5, 4), "test")
    assert not samples.info.synthetic
    assert samples.info.notes == (
        "labels are numbers, places in model.labels from 0: 0 is normal (3 samples), 1 is sick (3 samples)",
    )


def test_colour_images_come_channels_first(archive, load):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    archive(test_images=images)
    image = load("data.npz").image(3)
    assert image.shape == (3, 5, 4)
    assert image.flags["C_CONTIGUOUS"]
    assert (image == images[3].transpose(2, 0, 1)).all()


def test_an_image_is_the_callers_own(archive, load):
    archive()
    samples = load("data.npz")
    samples.image(0)[:] = 99
    assert samples.image(0).ravel()[0] == 0
    with pytest.raises(ValueError, match=r"read-only"):
        samples.labels[0] = 1


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_twelve_bits(archive, load, dtype):
    images = np.full((6, 5, 4), 4095).astype(dtype)
    archive(test_images=images)
    samples = load("data.npz", bits=12)
    assert (samples.bits, samples.maximum) == (12, 4095)
    assert samples.image(0).dtype == np.uint16
    assert (samples.image(0) == 4095).all()


def test_the_digest_does_not_depend_on_byte_order_or_layout(archive, load):
    images = np.random.default_rng(0).integers(0, 4096, (6, 5, 4))
    digests = set()
    for stored in (images.astype("<u2"), images.astype(">u2"), np.asfortranarray(images.astype("<u2"))):
        archive(test_images=stored)
        digests.add(load("data.npz", bits=12).info.sha256)
    assert len(digests) == 1


def test_the_digest_is_what_its_docstring_says(archive, load):
    archive()
    samples = load("data.npz", samples=3)
    lines = [
        json.dumps(
            [
                name,
                ["normal", "sick"][label],
                list(samples.shape_of(index)),
                hashlib.sha256(samples.image(index).tobytes()).hexdigest(),
            ]
        )
        for index, (name, label) in enumerate(zip(samples.names, samples.labels, strict=True))
    ]
    assert samples.info.sha256 == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def test_the_digest_of_deep_images_is_little_endian(archive, load):
    images = np.arange(120).reshape(6, 5, 4).astype(">u2")
    archive(test_images=images)
    samples = load("data.npz", bits=12)
    assert samples.images.content_sha256(2) == hashlib.sha256(images[2].astype("<u2").tobytes()).hexdigest()


def test_the_digest_sees_pixels_labels_and_names(archive, load):
    images = np.zeros((6, 5, 4), np.uint8)
    archive(test_images=images)
    digests = {load("data.npz").info.sha256, load("data.npz", labels=["a", "b"]).info.sha256}
    digests.add(load("data.npz", samples=5).info.sha256)
    images[5, 4, 3] = 1
    archive(test_images=images)
    digests.add(load("data.npz").info.sha256)
    archive(test_images=images.reshape(6, 4, 5))
    digests.add(load("data.npz").info.sha256)
    assert len(digests) == 5


def test_a_subset_keeps_names_labels_and_images(archive, load):
    archive()
    whole, part = load("data.npz"), load("data.npz", samples=4, seed=1)
    assert part.info.available == 6
    assert part.info.by_label == {"normal": 2, "sick": 2}
    for index, name in enumerate(part.names):
        place = whole.names.index(name)
        assert part.labels[index] == whole.labels[place]
        assert (part.image(index) == whole.image(place)).all()


def test_other_splits_are_not_even_read(archive, load):
    archive(train_images=np.array([object()]), train_labels=np.array([object()]))
    assert len(load("data.npz")) == 6


def test_another_split(archive, load):
    archive(val_images=np.zeros((1, 2, 2), np.uint8), val_labels=np.array([1]))
    samples = load("data.npz", split="val")
    assert samples.names == ("val/0",)
    assert samples.info.notes == (
        "labels are numbers, places in model.labels from 0: 0 is normal (0 samples), 1 is sick (1 sample)",
        "no sample is labelled 'normal': labels are numbers, which count from 0, but none is 0",
    )


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ({"test_images": None}, {}, "data.npz has no 'test_images'; it holds test_labels"),
        ({}, {"split": "val"}, "no 'val_images'; it holds test_images, test_labels"),
        (
            {"test_labels": np.array([0, 1, 2, 3, 0, 1])},
            {},
            r"holds 2, 3 \(first at index 2\).*2 labels \(normal, sick\)",
        ),
        ({"test_labels": np.array([0, -1, 0, 1, 0, 1])}, {}, r"holds -1 \(first at index 1\)"),
        ({"test_labels": np.zeros((6, 14), int)}, {}, r"shape \(6, 14\).*one label per image"),
        ({"test_labels": np.zeros(5, int)}, {}, "holds 6 images, but there are 5 labels"),
        ({"test_labels": np.zeros(6)}, {}, "holds float64.*one integer or name for each image"),
        ({"test_images": np.zeros((6, 5, 4))}, {}, "holds float64, which is not a pixel space"),
        ({"test_images": np.zeros((6, 5, 4), bool)}, {}, "holds bool"),
        ({"test_images": np.zeros((6, 5, 4), np.uint16)}, {}, "holds uint16: set data.bits to"),
        ({"test_images": np.full((6, 5, 4), 4096, np.uint16)}, {"bits": 12}, "test/0 holds values from 4096 to 4096"),
        ({"test_images": np.full((6, 5, 4), -1, np.int16)}, {"bits": 12}, "values from -1 to -1"),
        (
            {"test_images": np.full((6, 5, 4), -1000, np.int16)},
            {"bits": 12, "hounsfield": -1024},
            r"values from -1000 to -1000; with 12 bits, 0 to 4095 are allowed; 0 stands for -1024 HU: store Hounsfield "
            r"units plus 1024$",
        ),
        (
            {"test_images": np.full((6, 5, 4), 4096, np.int16)},
            {"bits": 12, "hounsfield": -1024},
            "values from 4096 to 4096; with 12 bits, 0 to 4095 are allowed$",
        ),
        ({}, {"bits": 12}, "holds uint8, but data.bits is 12: 1 to 8 are allowed"),
        ({}, {"bits": 6}, "test/3 holds values from 60 to 79; with 6 bits, 0 to 63 are allowed"),
        ({"test_images": np.zeros((6, 8, 8, 8), np.uint8)}, {}, r"shape \(6, 8, 8, 8\).*not volumes"),
        ({"test_images": np.zeros((6, 0, 4), np.uint8)}, {}, r"shape \(6, 1, 0, 4\)"),
        ({"test_images": np.zeros((0, 5, 4), np.uint8), "test_labels": np.zeros(0, int)}, {}, "holds no samples"),
        ({}, {"samples": 7}, "asks for 7; 1 to 6 are available"),
        ({}, {"samples": 0}, "asks for 0; 1 to 6 are available"),
    ],
)
def test_mistakes(archive, load, members, options, message):
    archive(**members)
    with pytest.raises(DataError, match=message):
        load("data.npz", **options)


def test_a_missing_archive_has_a_neighbour(archive, load):
    archive()
    with pytest.raises(DataError, match=r"there is no file .*; did you mean 'data.npz'"):
        load("dat.npz")


def test_an_unused_root_is_noted(archive, load):
    archive()
    assert load("data.npz", root="x").info.notes[0] == "data.root is not used: it is about medmnist and .csv sources"


@pytest.mark.xrays
def test_real_radiographs(xrays, load):
    samples = load("pneumoniamnist.npz", folder=xrays.parent, labels=["normal", "pneumonia"])
    assert samples.info.by_label == {"normal": 234, "pneumonia": 390}
    assert samples.info.shape == (1, 28, 28)
    with np.load(xrays) as archive:
        assert (samples.image(17)[0] == archive["test_images"][17]).all()


@pytest.mark.xrays
def test_a_stratified_part_of_real_radiographs(xrays, load):
    samples = load("pneumoniamnist.npz", folder=xrays.parent, labels=["normal", "pneumonia"], samples=500)
    assert samples.info.by_label == {"normal": 188, "pneumonia": 312}


def test_integers_where_labels_are_called_by_other_numbers(tmp_path, load):
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    np.savez(tmp_path / "data.npz", test_images=images, test_labels=[0, 1])
    for labels in (["1", "0"], ["1", "2"]):
        with pytest.raises(DataError) as caught:
            load("data.npz", labels=labels)
        assert str(caught.value) == (
            f"data.npz: test_labels holds integers, which are places in model.labels from 0, but the names there, "
            f"{labels[0]}, {labels[1]}, are numbers themselves: store the names as text, or use words in model.labels"
        )
    assert load("data.npz", labels=["0", "1"]).labels.tolist() == [0, 1]
    np.savez(tmp_path / "data.npz", test_images=images, test_labels=["0", "1"])
    assert load("data.npz", labels=["1", "0"]).labels.tolist() == [1, 0]


def test_integers_that_begin_at_one_are_noted(tmp_path, load):
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    np.savez(tmp_path / "data.npz", test_images=images, test_labels=[1, 2])
    assert load("data.npz", labels=["normal", "sick", "unclear"]).info.notes == (
        "labels are numbers, places in model.labels from 0: 0 is normal (0 samples), 1 is sick (1 sample), "
        "2 is unclear (1 sample)",
        "no sample is labelled 'normal': labels are numbers, which count from 0, but none is 0",
    )
