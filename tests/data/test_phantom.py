from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcheck.data import phantom
from robustcheck.data.phantom import generate
from robustcheck.errors import DataError


def words(count: int, seed: int = 0) -> np.ndarray:
    size = phantom.PARAMETERS + phantom.GRAINS + phantom.SIDE**2
    return np.random.Philox(seed).random_raw(count * size).reshape(count, size)


def test_shapes_types_and_labels_in_turn():
    images, labels = generate(7, split="train", seed=3)
    assert (images.shape, images.dtype) == ((7, 64, 64), np.uint8)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_the_bytes_are_the_same_everywhere():
    images, _ = generate(64, split="train", seed=0)
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest == "494343712905d3317283e804620356fd319a2b23afdcda565691c0501939293f"


@settings(max_examples=15, deadline=None)
@given(
    short=st.integers(0, 70), more=st.integers(0, 40), seed=st.integers(0, 2**70), split=st.sampled_from(phantom.SPLITS)
)
def test_an_image_does_not_depend_on_how_many_are_asked_for(short, more, seed, split):
    few, _ = generate(short, split=split, seed=seed)
    many, _ = generate(short + more, split=split, seed=seed)
    assert (few == many[:short]).all()


def test_splits_and_seeds_share_no_image():
    sets = [generate(20, split=split, seed=seed)[0] for split in phantom.SPLITS for seed in (0, 1)]
    assert len({image.tobytes() for images in sets for image in images}) == 20 * len(sets)


def test_the_label_is_a_nodule_and_nothing_else():
    draws = words(60)
    normal = phantom.radiographs(draws, np.zeros(60, np.int64)).astype(int)
    nodule = phantom.radiographs(draws, np.ones(60, np.int64)).astype(int)
    for before, after in zip(normal, nodule, strict=True):
        rows, columns = np.nonzero(before != after)
        assert (after >= before).all()
        assert (after - before).max() >= 8
        assert 3 <= np.ptp(rows) <= 20
        assert 3 <= np.ptp(columns) <= 20


def test_it_looks_like_a_chest():
    images, _ = generate(200, split="val", seed=0)
    mean = images.mean(axis=0)
    lungs = (mean[20:38, 12:24].mean() + mean[20:38, 40:52].mean()) / 2
    assert mean[:12, :3].mean() < 60 < lungs
    assert mean[20:50, 31:34].mean() > lungs + 60  # the mediastinum
    assert mean[58:, 20:44].mean() > lungs + 60  # below the diaphragm
    assert (images == 255).mean() < 0.05  # few are burnt out
    assert images.std(axis=0).min() > 1  # no pixel is the same in every patient


def test_all_arithmetic_is_in_single_precision(monkeypatch):
    seen = []
    film = phantom.film
    monkeypatch.setattr(
        phantom, "film", lambda dice, density, raw: seen.append(density.dtype) or film(dice, density, raw)
    )
    phantom.radiographs(words(2), np.array([0, 1]))
    assert seen == [np.float32]


def test_each_parameter_has_words_of_its_own(monkeypatch):
    used = []
    monkeypatch.setattr(phantom, "soften", lambda dice, density: used.append(dice) or density)
    phantom.radiographs(words(2), np.array([0, 1]))
    assert used[0].used <= phantom.PARAMETERS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tset"}, "'tset' does not exist; it has train, val, test"),
        ({"seed": -1}, "must not be negative"),
        ({"count": -1}, "must not be negative"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(DataError, match=message):
        generate(**{"count": 1, "split": "test", "seed": 0, **options})


def test_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].tolist()
    generate(3, split="test", seed=0)
    assert np.random.get_state()[1].tolist() == before


def test_data_needs_no_torch():
    script = "import sys, robustcheck.data; sys.exit(bool({'torch', 'medmnist', 'pandas', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_as_a_source(load):
    samples = load("phantom:nodule", samples=11, seed=5, split="val")
    images, labels = generate(11, split="val", seed=5)
    assert samples.names[:2] == ("val/0", "val/1")
    assert (samples.image(10) == images[10]).all()
    assert (samples.labels == labels).all()
    assert samples.info.synthetic
    assert "nothing about patients" in samples.info.notes[0]
    assert samples.info.available == 11
    assert samples.info.by_label == {"normal": 6, "sick": 5}


@pytest.mark.parametrize(
    ("labels", "nodule", "note"),
    [
        (["normal", "nodule"], 1, ""),
        (["nodule", "normal"], 0, ""),
        (["nodule", "healthy"], 0, "nodule, healthy stand for the phantom's nodule, normal, in this order"),
        (["healthy", "nodule"], 1, "healthy, nodule stand for the phantom's normal, nodule, in this order"),
        (["sick", "normal"], 0, "sick, normal stand for the phantom's nodule, normal, in this order"),
        (["a", "b"], 1, "a, b stand for the phantom's normal, nodule, in this order"),
    ],
)
def test_labels_are_told_by_their_names_where_they_are_the_phantoms(load, labels, nodule, note):
    samples = load("phantom:nodule", samples=4, labels=labels)
    assert samples.labels.tolist() == [1 - nodule, nodule, 1 - nodule, nodule]
    assert samples.info.by_label == {labels[0]: 2, labels[1]: 2}
    assert samples.info.notes[1:] == ((note,) if note else ())


def test_as_a_source_without_a_number_or_split(load):
    samples = load("phantom:nodule")
    assert (len(samples), samples.info.split, samples.bits, samples.info.shape) == (256, "test", 8, (1, 64, 64))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("phantom:nodul", {}, "no such phantom; did you mean 'nodule'"),
        ("phantom:nodule", {"labels": ["a", "b", "c"]}, "has 2 labels, normal, nodule; the policy names 3"),
        ("phantom:nodule", {"bits": 12}, "data.bits is 12: 1 to 8 are allowed"),
        ("phantom:nodule", {"samples": 10**12}, "GiB of memory"),
        ("phantom:nodule", {"samples": 0}, "holds no samples"),
    ],
)
def test_as_a_source_mistakes(load, source, options, message):
    with pytest.raises(DataError, match=message):
        load(source, **options)
