"""Surrogates that are trained here, once, and kept."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from halves import NETS, SMALL, Project, agreement, halves_project
from safetensors.torch import load_file, save, save_file

from robustcheck.errors import CandidateError
from robustcheck.evaluation.surrogates import training
from robustcheck.evaluation.surrogates.weight_cache import kept


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    return halves_project(tmp_path, monkeypatch)


@pytest.fixture
def trainings(monkeypatch) -> list[str]:
    """The architectures that are trained from here on."""
    seen, whole = [], training.train

    def counted(spec, *arguments, **options):
        seen.append(spec.architecture)
        return whole(spec, *arguments, **options)

    monkeypatch.setattr(training, "train", counted)
    return seen


def test_it_is_trained_on_the_train_split(project):
    told = []
    (own,) = project.load(train=SMALL, progress=lambda *step: told.append(step))
    assert own.path == "nets:small"
    assert own.trained == "trained here for 8 epochs on 120 images of the train split (the data's labels)"
    assert agreement(own, project) > 0.9
    assert (120, 120) in told
    assert told[-1] == (20, 20)


def test_a_task_and_preprocessing_of_its_own(project):
    own_ways = {"task": "binary", "architecture_args": {"scores": 1, "channels": 3}, "epochs": 1}
    preprocess = {"channels": 3, "resize": [12, 12], "mean": 0.5, "std": 0.1}
    (own,) = project.load(train=SMALL | own_ways | {"preprocess": preprocess})
    assert own.candidate.info.task == "binary"
    assert own.candidate.preprocess.shape((1, 8, 8)) == (3, 12, 12)
    assert own.trained.startswith("trained here for 1 epoch on")


def test_it_is_trained_once(project, trainings):
    (first,) = project.load(train=SMALL)
    (again,) = project.load(train=SMALL)
    assert len(trainings) == 1
    assert torch.equal(first.logits, again.logits)
    assert first.trained.startswith("trained here for 8 epochs on 120 images")
    assert again.trained == first.trained, "a report does not depend on what was kept before"
    assert first.candidate.info.sha256 == again.candidate.info.sha256
    assert len(project.files) == 1


BRIEF = SMALL | {"epochs": 1}  # what is asked is whether weights are made, not whether they are good ones
CHANGES = {
    "epochs": {"epochs": 7},
    "seed": {"seed": 1},
    "batch": {"batch_size": 32},
    "preprocess": {"preprocess": {"mean": 0.5}},
    "task": {"task": "binary", "architecture_args": {"scores": 1}},
    "answers": {"labels": "candidate", "queries": 50},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_the_weights_decides_the_file(name, project, trainings):
    project.load(train=[BRIEF, BRIEF | CHANGES[name]])
    assert len(trainings) == len(project.files) == 2


def test_so_do_the_code_and_the_data(project, trainings):
    project.load(train=BRIEF)
    (project.folder / "nets.py").write_text(f"{NETS}\n")
    project.load(train=BRIEF)
    arrays = dict(np.load(project.folder / "halves.npz"))
    arrays["train_images"][0, 0, 0] += 1
    np.savez(project.folder / "halves.npz", **arrays)
    project.load(train=BRIEF)
    assert len(trainings) == len(project.files) == 3


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A package that is no part of the policy's folder: its `nets`, and `layers` that these use."""
    package = tmp_path / "elsewhere" / "our_checkout"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "layers.py").write_text("import torch\n\nclass Flat(torch.nn.Flatten):\n    pass\n")
    (package / "nets.py").write_text(
        "import torch\nfrom our_checkout.layers import Flat\n\n"
        "def small():\n    return torch.nn.Sequential(Flat(), torch.nn.Linear(64, 2))\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    yield package
    _forget("our_checkout")


def _forget(package):
    """Its modules are imported anew, as in another process."""
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]


def test_so_does_the_code_of_a_package_that_is_worked_on(project, trainings, checkout):
    spec = BRIEF | {"architecture": "our_checkout.nets:small"}
    project.load(train=spec)
    for name in ("layers", "nets"):
        file = checkout / f"{name}.py"
        file.write_text(f"{file.read_text()}\n")
        with pytest.raises(CandidateError, match=rf"{name}\.py changed since it was imported; restart the kernel"):
            project.load(train=spec)
        _forget("our_checkout")
        project.load(train=spec)
    project.load(train=spec)
    assert len(trainings) == len(project.files) == 3


def test_so_do_the_arguments_of_a_partial(project, trainings):
    spec = BRIEF | {"architecture": "partly:small"}
    source = "import functools\nfrom nets import small as _small\n\nsmall = functools.partial(_small, channels=1)\n"
    for changed in ("partly", "nets", "nothing"):
        (project.folder / "partly.py").write_text(source)
        project.load(train=spec)
        source += "\n" if changed == "partly" else ""
        if changed == "nets":
            (project.folder / "nets.py").write_text(f"{NETS}\n")
    project.load(train=spec)
    assert len(trainings) == len(project.files) == 3


def test_so_does_the_version_of_a_package_that_the_architecture_is_built_from(project, trainings, monkeypatch):
    site = project.folder / "site-packages"
    (site / "our_library").mkdir(parents=True)
    (site / "our_library" / "__init__.py").write_text("import torch\n\nclass Flat(torch.nn.Flatten):\n    pass\n")
    monkeypatch.syspath_prepend(site)
    (project.folder / "built.py").write_text(
        "import torch\nimport our_library\n\n"
        "def small():\n    return torch.nn.Sequential(our_library.Flat(), torch.nn.Linear(64, 2))\n"
    )
    for number in ("1.0", "1.1"):
        facts = site / "our_library-1.dist-info"
        facts.mkdir(exist_ok=True)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: our-library\nVersion: {number}\n")
        (facts / "top_level.txt").write_text("our_library\n")
        for _ in range(2):
            project.load(train=BRIEF | {"architecture": "built:small"})
    assert len(trainings) == len(project.files) == 2


_READS = """
import torch

def small(backbone):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Linear(8, 2))
    network[1].load_state_dict(torch.load(backbone, weights_only=True))
    return network
"""


def test_so_does_what_the_architecture_reads(project, trainings):
    (project.folder / "read.py").write_text(_READS)
    file = project.folder / "backbone.pt"
    spec = BRIEF | {"architecture": "read:small", "architecture_args": {"backbone": str(file)}}
    for value in (0.1, 0.2):
        torch.save({"weight": torch.full((8, 64), value), "bias": torch.zeros(8)}, file)
        for _ in range(2):
            project.load(train=spec)
            torch.rand(1)  # what is drawn when a network is built is no part of what it is made of
    assert len(trainings) == len(project.files) == 2


def _cut(content: bytes) -> bytes:
    return content[:-40]


def _blanked(content: bytes) -> bytes:
    return content[:-40] + bytes(40)


def _emptied(_content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [_cut, _blanked, _emptied])
def test_a_damaged_file_is_trained_again(damage, project, trainings):
    (first,) = project.load(train=BRIEF)
    (file,) = project.files
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    (again,) = project.load(train=BRIEF)
    assert len(trainings) == 2
    assert file.read_bytes() == whole
    assert torch.equal(first.logits, again.logits)


def test_a_training_that_is_cut_short_leaves_nothing(project):
    def stop(_done, _of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project.load(train=SMALL, progress=stop)
    left = list((project.folder / "cache" / "robustcheck" / "surrogates").iterdir())
    assert [path.suffix for path in left] == [".lock"]


def test_what_a_training_that_was_killed_left_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = kept("other", lambda: {"weight": torch.ones(3)}).parent
    for name in (".name.safetensors.0123abcd.part", ".other.safetensors.0123abcd.part"):
        (folder / name).write_bytes(b"half")
    kept("name", lambda: {"weight": torch.ones(3)})
    left = {path.name for path in folder.iterdir() if path.suffix != ".lock"}
    assert left == {"name.safetensors", "other.safetensors", ".other.safetensors.0123abcd.part"}


def test_of_two_that_want_it_at_once_one_makes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def make():
        made.append(1)
        time.sleep(0.2)
        return {"weight": torch.ones(3)}

    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: kept("name", make), range(4)))
    assert len(made) == len(set(paths)) == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_weights_that_others_could_have_written_are_trained_again(mode, project, trainings):
    (first,) = project.load(train=BRIEF)
    (file,) = project.files
    planted = load_file(file)
    for value in planted.values():
        value.zero_()
    save_file(planted, file, metadata={"sha256": hashlib.sha256(save(planted)).hexdigest()})
    file.chmod(mode)
    (again,) = project.load(train=BRIEF)
    assert len(trainings) == 2
    assert first.trained == again.trained
    assert torch.equal(first.logits, again.logits)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
def test_weights_that_are_a_link_are_trained_again(project, trainings):
    project.load(train=BRIEF)
    (file,) = project.files
    file.rename(project.folder / "elsewhere")
    file.symlink_to(project.folder / "elsewhere")
    project.load(train=BRIEF)
    assert len(trainings) == 2


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
def test_nobody_else_may_put_weights_into_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "robustcheck" / "surrogates"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept("name", lambda: {"weight": torch.ones(3)})
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("os.getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(
        CandidateError, match=r"cannot be kept in .*: it is another user's, .*; set XDG_CACHE_HOME to a folder of your"
    ):
        kept("name", lambda: {"weight": torch.ones(3)})


def _unheard(_path, _mode):
    pass


def _forbidden(_path, _mode):
    raise PermissionError("modes are not kept here")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
@pytest.mark.parametrize("chmod", [_unheard, _forbidden])
def test_a_disk_without_modes_keeps_weights_too(chmod, tmp_path, monkeypatch):
    made, folder = [], tmp_path / "robustcheck" / "surrogates"

    def make():
        made.append(1)
        return {"weight": torch.ones(3)}

    folder.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    true_chmod = Path.chmod
    monkeypatch.setattr(Path, "chmod", chmod)
    true_chmod(kept("name", make), 0o666)
    kept("name", make)
    assert len(made) == 1


def test_a_folder_that_cannot_be_used(project, monkeypatch):
    (project.folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.folder / "file"))
    match = r"^surrogate nets:small: trained weights cannot be kept in .*: Not a directory; set XDG_CACHE_HOME to"
    with pytest.raises(CandidateError, match=match):
        project.load(train=SMALL)


def test_a_folder_in_the_place_of_the_weights_is_seen_before_they_are_trained(project, trainings):
    project.load(train=BRIEF)
    (path,) = project.files
    path.unlink()
    path.mkdir()
    with pytest.raises(CandidateError, match=r"trained weights cannot be kept: .*safetensors is a folder; delete it$"):
        project.load(train=BRIEF)
    assert len(trainings) == 1


def test_a_relative_cache_folder_is_none(tmp_path, monkeypatch):
    """It would be another one for each folder that a run starts in."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    path = kept("name", lambda: {"weight": torch.ones(1)})
    assert path == tmp_path / ".cache" / "robustcheck" / "surrogates" / "name.safetensors"


TRAINED = {
    "softmax": (
        {"architecture_args": {"softmax": True}},
        "train.architecture: it ends in probabilities, but training needs logits; leave the softmax off",
    ),
    "scores": ({"architecture_args": {"scores": 3}}, r"train.architecture: nets:small answers 8 images with scores of"),
    "arguments": (
        {"architecture_args": {"width": 3}},
        r"train.architecture: nets:small\(width=3\) failed: TypeError: ",
    ),
    "import": ({"architecture": "nets:smal"}, r"train.architecture: 'nets:smal': .*did you mean 'small'\?"),
    "channels": ({"preprocess": {"mean": [0.1, 0.2]}}, r"train.preprocess.mean has 2 numbers for 1 channel$"),
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_that_cannot_be_done(name, project):
    changes, sentence = TRAINED[name]
    entry = SMALL | changes
    with pytest.raises(CandidateError, match=rf"^surrogate {entry['architecture']}: {sentence}") as caught:
        project.load(train=entry)
    assert "\n" not in str(caught.value)
