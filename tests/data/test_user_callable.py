from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest

from robustcheck.errors import DataError, UserCodeError


@pytest.fixture
def module(tmp_path):
    """Write the body of `def images(split)` in `scans_of_ours.py` beside the policy."""

    def write(body):
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        (tmp_path / "scans_of_ours.py").write_text(f"import numpy as np\n\n\ndef images(split):\n{lines}")

    return write


@pytest.mark.parametrize(
    ("expression", "shape"),
    [
        ("np.arange(24, dtype=np.uint8).reshape(2, 3, 4)", (1, 3, 4)),
        ("np.arange(24, dtype=np.uint8).reshape(2, 1, 3, 4)", (1, 3, 4)),
        ("np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)", (3, 4, 1)),
        ("np.arange(24, dtype=np.uint8).reshape(2, 4, 3, 1)", (1, 4, 3)),
        ("np.arange(72, dtype=np.uint8).reshape(2, 3, 3, 4)", (3, 3, 4)),
        ("np.arange(72, dtype=np.uint8).reshape(2, 4, 3, 3)", (3, 4, 3)),
    ],
)
def test_layouts(module, load, expression, shape):
    module(f"return {expression}, [0, 1]")
    samples = load("scans_of_ours:images")
    assert samples.shape_of(0) == samples.image(0).shape == shape


def test_channels_last_are_moved(module, load):
    module("return np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), [1]")
    assert load("scans_of_ours:images").image(0).tolist() == [[[0, 3], [6, 9]], [[1, 4], [7, 10]], [[2, 5], [8, 11]]]


@pytest.mark.parametrize(("split", "name"), [(None, "1"), ("val", "val/1")])
def test_the_split_is_handed_on(module, load, split, name):
    module("return np.full((2, 3, 3), len(split or ''), np.uint8), ['sick', 'normal']")
    samples = load("scans_of_ours:images", split=split)
    assert samples.names[1] == name
    assert samples.labels.tolist() == [1, 0]
    assert (samples.image(0) == len(split or "")).all()
    assert samples.info.split == split


@pytest.mark.parametrize(
    "labels", ["np.array([0, 1])", "np.array([[0], [1]])", "('normal', 'sick')", "np.array(['normal', 'sick'])"]
)
def test_labels(module, load, labels):
    module(f"return np.zeros((2, 3, 3), np.uint8), {labels}")
    samples = load("scans_of_ours:images")
    assert samples.labels.tolist() == [0, 1]
    told = "labels are numbers, places in model.labels from 0: 0 is normal (1 sample), 1 is sick (1 sample)"
    assert samples.info.notes.count(told) == ("normal" not in labels)


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (12, np.uint16)])
def test_other_integers_need_bits(module, load, bits, dtype):
    module("return np.array([[[0, 200]]]), [1]")
    samples = load("scans_of_ours:images", bits=bits)
    assert (samples.bits, samples.image(0).dtype, samples.image(0).tolist()) == (bits, dtype, [[[0, 200]]])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "returned int; a pair"),
        ("return [], [], [], []", "returned tuple; a pair"),
        ("return np.zeros((2, 3, 3), np.uint8), [0, 1], []", "its columns are list; a mapping"),
        ("return np.zeros((2, 3, 3)), [0, 1]", "its images holds float64, which is not a pixel space"),
        ("return np.zeros((2, 3, 3), int), [0, 1]", "holds int64: set data.bits to"),
        ("return np.zeros((2, 2, 3, 5), np.uint8), [0, 1]", r"shape \(2, 2, 3, 5\)"),
        ("return np.zeros((2, 3), np.uint8), [0, 1]", r"shape \(2, 3\)"),
        ("return np.uint8(3), [0, 1]", "its images are uint8; an array"),
        ("return [[[1, 2]], [[1]]], [0, 1]", "its images: it cannot be read: ValueError"),
        ("return None, [0, 1]", "its images are NoneType; an array"),
        ("return np.array([None, None]), [0, 1]", r"shape \(2,\)"),
        ("return np.zeros((2, 3, 3), np.uint8), [0]", "2 images, but there are 1 labels"),
        ("return np.zeros((2, 3, 3), np.uint8), ['normal', 'sik']", "no label 'sik'; did you mean 'sick'"),
        ("return np.zeros((2, 3, 3), np.uint8), [0.0, 1.0]", "holds float64"),
        ("return np.zeros((2, 3, 3), np.uint8), [0, None]", "holds object"),
        ("return np.zeros((2, 3, 3), np.uint8), 1", r"its labels has the shape \(\)"),
        ("return np.zeros((2, 3, 3), np.uint8), [True, False]", "holds bool"),
        ("return {}[split]", r"scans_of_ours:images\(None\) raised KeyError: None"),
        ("a = ValueError('too\\nfew')\na.add_note('of 3')\nraise a", r"raised ValueError: too few$"),
    ],
)
def test_mistakes(module, load, body, message):
    module(body)
    with pytest.raises(DataError, match=message):
        load("scans_of_ours:images")


def test_no_such_function(module, load):
    module("return 1")
    with pytest.raises(UserCodeError, match=r"scans_of_ours has no 'image'; did you mean 'images'"):
        load("scans_of_ours:image")


def test_neither_a_folder_nor_a_module(load):
    with pytest.raises(DataError, match=r"there is no such folder, and it is none of .npz, .csv"):
        load("C:\\scans")


def test_a_function_that_was_imported_before_and_edited_is_not_asked(module, load, tmp_path, monkeypatch):
    module("return np.zeros((2, 3, 3), np.uint8), [0, 1]")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("scans_of_ours")
    try:
        assert load("scans_of_ours:images").labels.tolist() == [0, 1]
        module("return np.zeros((2, 3, 3), np.uint8), [1, 0]")
        with pytest.raises(UserCodeError, match=r"^scans_of_ours\.py changed since it was imported; restart"):
            load("scans_of_ours:images")
    finally:
        del sys.modules["scans_of_ours"]


def test_a_function_that_was_edited_since_it_was_asked_is_asked_anew(module, load):
    module("return np.zeros((2, 3, 3), np.uint8), [0, 1]")
    assert load("scans_of_ours:images").labels.tolist() == [0, 1]
    module("return np.zeros((2, 3, 3), np.uint8), [1, 0]")
    assert load("scans_of_ours:images").labels.tolist() == [1, 0]


POOL = """
import multiprocessing
import numpy as np


def read(index):
    return np.full((3, 3), {value} + index, np.uint8)


def pooled():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return np.stack(pool.map(read, range(2)))


class Later:
    def __array__(self, dtype=None, copy=None):
        return pooled()


def images(split):
    return pooled() if split is None else Later(), [0, 1]
"""


@pytest.mark.parametrize("split", [None, "later"])
def test_processes_that_a_function_starts_find_it_by_its_name(load, tmp_path, split):
    for value, folder in ((10, tmp_path / "a"), (20, tmp_path / "b")):
        folder.mkdir()
        (folder / "scans_of_ours.py").write_text(POOL.format(value=value))
        samples = load("scans_of_ours:images", split=split, folder=folder)
        assert [samples.image(index)[0, 0, 0] for index in (0, 1)] == [value, value + 1]
        assert "scans_of_ours" not in sys.modules
