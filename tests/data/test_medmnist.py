from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from robustcheck.errors import DataError, MissingExtraError

NUMBERS = "labels are numbers, places in model.labels from 0: 0 is normal (1 sample), 1 is sick (1 sample)"


def save_archive(path: Path, value: int) -> None:
    path.parent.mkdir(exist_ok=True)
    images = np.full((2, 4, 4), value, np.uint8) + np.arange(2, dtype=np.uint8)[:, None, None]
    np.savez(
        path,
        **{
            f"{split}_{kind}": what
            for split in ("test", "val")
            for kind, what in (("images", images), ("labels", [[0], [1]]))
        },
    )


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the medmnist package that "downloads" to a folder of its own."""
    own = tmp_path / "own"

    class ChestMNIST:
        available_sizes = (28, 64)

        def __init__(self, *, split, download, size):
            print("downloading", split, download)  # noqa: T201
            self.root, self.size_flag = str(own), "" if size == 28 else f"_{size}"
            save_archive(own / f"chestmnist{self.size_flag}.npz", size)

    module = ModuleType("medmnist")
    module.__dict__.update(
        INFO={"chestmnist": {"python_class": "ChestMNIST"}}, ChestMNIST=ChestMNIST, HOMEPAGE="https://medmnist.example"
    )
    monkeypatch.setitem(sys.modules, "medmnist", module)
    return module


@pytest.fixture
def no_package(monkeypatch):
    """As where the package is not installed."""
    monkeypatch.setitem(sys.modules, "medmnist", None)


def test_an_archive_that_is_there_needs_no_package(load, tmp_path, no_package):
    save_archive(tmp_path / "here" / "chestmnist.npz", 9)
    samples = load("medmnist:chestmnist", root="here", split="val")
    assert samples.names == ("val/0", "val/1")
    assert (samples.image(0) == 9).all()
    assert samples.info.notes == (NUMBERS,)
    assert samples.info.source == "medmnist:chestmnist"


@pytest.mark.parametrize(("name", "size"), [("chestmnist", 28), ("chestmnist_64", 64)])
def test_the_package_downloads_in_silence(load, package, capsys, name, size):
    samples = load(f"medmnist:{name}")
    assert (samples.image(0) == size).all()
    assert samples.info.notes == (NUMBERS,)
    assert capsys.readouterr().out == ""


def test_a_root_without_the_archive_is_noted(load, package, tmp_path):
    samples = load("medmnist:chestmnist", root="here")
    note = f"root {tmp_path / 'here'} holds no chestmnist.npz, so the medmnist package's own folder was used"
    assert samples.info.notes == (note, NUMBERS)


@pytest.mark.parametrize(
    ("root", "message"),
    [(None, "^medmnist:chestmnist needs"), ("here", r"\(root .*here holds no chestmnist.npz\) needs")],
)
def test_the_package_is_not_installed(load, no_package, root, message):
    with pytest.raises(MissingExtraError, match=message + r".*pip install 'pytest-robustcheck\[medmnist\]'"):
        load("medmnist:chestmnist", root=root)


def test_the_package_is_broken(load, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "medmnist", raising=False)
    (tmp_path / "medmnist.py").write_text("import nothing_of_that_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        DataError, match=r"cannot be imported: ModuleNotFoundError: No module named 'nothing_of_that_name'"
    ):
        load("medmnist:chestmnist")


def test_the_download_fails(load, package, monkeypatch):
    def fail(**_):
        raise RuntimeError("\n  no network\n")

    fail.available_sizes = (28,)
    monkeypatch.setattr(package, "ChestMNIST", fail)
    with pytest.raises(
        DataError, match=r"could not be downloaded \(RuntimeError\): get chestmnist.npz from .* data.root"
    ):
        load("medmnist:chestmnist")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("medmnist:chestmist", {}, "no data set 'chestmist'; did you mean 'chestmnist'"),
        ("medmnist:chestmnist_32", {}, "chestmnist has no size '32'; it has 28, 64"),
        ("medmnist:chestmnist_²", {}, "is not the name of a MedMNIST data set"),
        ("medmnist:../../etc", {}, "is not the name of a MedMNIST data set"),
        ("medmnist:", {}, "is not the name of a MedMNIST data set"),
    ],
)
def test_mistakes(load, package, source, options, message):
    with pytest.raises(DataError, match=message):
        load(source, **options)


@pytest.fixture
def written_package(tmp_path, monkeypatch):
    """The package's files, where importing it fails."""
    own = tmp_path / "site" / "medmnist"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("raise RuntimeError('this takes long')")
    (own / "info.py").write_text("INFO = {'chestmnist': {'label': {'0': 'normal', '1': 'Sick'}}}")
    monkeypatch.delitem(sys.modules, "medmnist", raising=False)
    monkeypatch.syspath_prepend(own.parent)
    return own


def test_the_data_sets_own_names_in_another_order(load, tmp_path, written_package):
    save_archive(tmp_path / "here" / "chestmnist_64.npz", 9)
    message = (
        "medmnist:chestmnist_64: label 0 is normal there, but model.labels has sick at place 0, from 0; write them in "
        "the order normal, sick, and if the network's scores are in another order, give that in model.scores"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        load("medmnist:chestmnist_64", root="here", labels=["sick", "normal"])


@pytest.mark.parametrize("labels", [["normal", "sick"], ["ill", "well"], ["sick", "healthy"]])
def test_the_data_sets_own_order_and_names_of_ones_own(load, tmp_path, written_package, labels):
    save_archive(tmp_path / "here" / "chestmnist.npz", 9)
    assert load("medmnist:chestmnist", root="here", labels=labels).labels.tolist() == [0, 1]


def test_a_package_that_says_its_names_elsewhere(load, tmp_path, written_package):
    (written_package / "info.py").write_text("INFO = read()")
    save_archive(tmp_path / "here" / "chestmnist.npz", 9)
    assert load("medmnist:chestmnist", root="here", labels=["sick", "normal"]).labels.tolist() == [0, 1]


@pytest.mark.xrays
def test_the_real_archive(load, xrays, no_package):
    samples = load("medmnist:pneumoniamnist", root=str(xrays.parent))
    assert samples.info.by_label == {"normal": 234, "sick": 390}
