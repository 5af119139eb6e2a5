"""Images of other samples, at which attacks begin that cannot begin at their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from building import brightness_policy, brightness_project
from PIL import Image

from robustcheck import load_policy, run
from robustcheck.evaluation.search import starting_images
from robustcheck.evaluation.search.starting_images import StartingImages
from robustcheck.threats import Goal

CPU = torch.device("cpu")


class Pictures:
    """As much of `robustcheck.data.Samples` as is looked at."""

    bits, maximum = 8, 255

    def __init__(self, images) -> None:
        self._images = images
        self.names = [f"{number}.png" for number in range(len(images))]

    def __len__(self) -> int:
        return len(self._images)

    def shape_of(self, index):
        return self._images[index].shape

    def image(self, index):
        return self._images[index].copy()


def _even(levels, sizes=None):
    sizes = sizes or [(4, 4)] * len(levels)
    return Pictures([np.full((1, *size), level, np.uint8) for level, size in zip(levels, sizes, strict=True)])


def _starting(samples, labels, count=2):
    return StartingImages(samples, torch.tensor(labels), Goal(labels=count), seed=0, name="gate", device=CPU)


def _levels(start, sample, attempts):
    """Mean levels of the images that are tried."""
    return [round(float(start(sample, attempt).mean()) * 255) for attempt in range(attempts)]


def test_the_nearest_image_comes_first_and_noise_last():
    start = _starting(_even([10, 200, 90, 50]), [0, 1, 1, 1])
    assert _levels(start, 0, 3) == [50, 90, 200]
    noise = start(0, 3)
    assert not torch.equal(noise, start(0, 4)), "another at each attempt"
    assert noise.shape == (1, 4, 4)
    assert len(noise.unique()) > 10


def test_the_nearest_is_so_whichever_of_the_two_is_darker():
    assert _levels(_starting(_even([100, 90, 150, 60]), [0, 1, 1, 1]), 0, 3) == [90, 60, 150]


def test_of_other_sizes_as_many_images_are_tried_as_there_are_too_few_of_the_own(monkeypatch):
    monkeypatch.setattr(starting_images, "MOST_IMAGES", 3)
    samples = _even([10, 20, 30, 40, 50, 60], [(4, 4)] * 3 + [(6, 6)] * 3)
    start = _starting(samples, [0, 1, 1, 1, 1, 1])
    assert [len(start(0, attempt).unique()) > 1 for attempt in range(4)] == [False] * 3 + [True]
    assert _levels(start, 0, 2) == [20, 30]


def test_images_of_more_than_eight_bits_take_twice_the_memory(monkeypatch):
    monkeypatch.setattr(starting_images, "_KEPT_BYTES", 64 * 100)
    kept = []
    for bits in (8, 12):
        samples = _even([1] * 4, [(8, 8)] * 4)
        monkeypatch.setattr(samples, "bits", bits, raising=False)
        kept.append(_starting(samples, [0, 1, 0, 1])._image.cache_info().maxsize)
    assert kept == [100, 50]


def test_images_of_other_sizes_come_after_those_of_the_sample_s_own_and_are_resampled_to_it():
    samples = _even([10, 200, 90, 50, 30], [(4, 4), (4, 4), (9, 3), (2, 2), (4, 6)])
    start = _starting(samples, [0, 1, 1, 1, 1])
    assert _levels(start, 0, 4) == [200, 30, 50, 90]
    assert {start(0, attempt).shape for attempt in range(5)} == {(1, 4, 4)}
    assert _levels(start, 2, 1) == [10]
    assert start(2, 0).shape == (1, 9, 3)


def test_what_was_resampled_can_be_stored():
    random = np.random.default_rng(0)
    samples = Pictures([random.integers(0, 256, (1, *size), dtype=np.uint8) for size in ((8, 8), (13, 5), (40, 30))])
    start = _starting(samples, [0, 1, 1])
    for attempt in range(2):
        levels = start(0, attempt) * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert levels.min() >= 0
        assert levels.max() <= 255


def test_images_of_other_channels_are_none():
    samples = Pictures([np.zeros((1, 4, 4), np.uint8), np.full((3, 4, 4), 9, np.uint8)])
    assert len(_starting(samples, [0, 1])(0, 0).unique()) > 10


def test_images_are_kept_as_they_are_stored_and_as_many_as_memory_is_meant_for(monkeypatch):
    monkeypatch.setattr(starting_images, "_KEPT_BYTES", 64 * 100)
    monkeypatch.setattr(starting_images, "_LEAST_IMAGES", 2)
    samples, read = _even([1] * 1000, [(8, 8)] * 1000), []
    image = samples.image
    monkeypatch.setattr(samples, "image", lambda index: (read.append(index), image(index))[1], raising=False)
    start = _starting(samples, [index % 2 for index in range(1000)])
    for sample in range(20):
        for attempt in range(50):
            assert _levels(start, sample, 1) == [1]
            start(sample, attempt)
    others = [index for index in read if read.count(index) > 1]
    assert len(read) <= 20 + 2 * 50, "each of two readings' images is read once"
    assert len(others) <= 20
    kept = start._image.cache_info()
    assert kept.maxsize * 64 <= 64 * 100
    assert start._image(0).nbytes == 64


SIZES = ((8, 8), (9, 7), (6, 12), (8, 10), (11, 11), (5, 8))


@pytest.mark.parametrize("name", ["label_only", "hopskipjump", "partial_information"])
def test_images_that_are_all_of_different_sizes_are_attacked(tmp_path, name):
    """Bright is what has a level of 172 or more here, which no noise has."""
    brightness_project(tmp_path)
    rows = ["path,label"]
    for number, (size, level) in enumerate(zip(SIZES, (170, 168, 169, 173, 175, 174), strict=True)):
        Image.fromarray(np.full(size, level, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'bright' if level > 171 else 'dark'}")
    (tmp_path / "images.csv").write_text("\n".join(rows))
    gate = f"\n  - {{id: gate, attack: {name}, epsilon: 16/255, queries: 300, require: {{accuracy: 0}}}}\n"
    policy = brightness_policy(gate, model="operating_point: 0.999", data="source: images.csv")
    (tmp_path / "policy.yaml").write_text(policy)
    (found,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert {outcome.evidence for outcome in found.samples} == {"searched"}
    assert found.metrics["accuracy"].value == 0


def test_whatever_the_order_of_the_samples_the_same_images_are_tried(tmp_path, monkeypatch):
    """Counterexamples and queries of a manifest whose rows are shuffled are those of the manifest."""
    monkeypatch.setattr(starting_images, "MOST_IMAGES", 3)  # of twenty
    brightness_project(tmp_path)
    random, rows = np.random.default_rng(0), list[str]()
    for number in range(40):
        level = 110 + number % 20 if number % 2 else 129 + number % 20
        image = np.clip(np.full((8, 8), level) + random.integers(-9, 10, (8, 8)), 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'bright' if image.mean() > 127.5 else 'dark'}")
    gates = "".join(
        f"\n  - {{id: {name}, attack: {name}, epsilon: 4/255, queries: 200, require: {{accuracy: 0}}}}"
        for name in ("label_only", "hopskipjump")
    )
    (tmp_path / "policy.yaml").write_text(brightness_policy(gates + "\n", data="source: images.csv"))
    told = []
    for order in (range(40), random.permutation(40)):
        (tmp_path / "images.csv").write_text("\n".join(["path,label", *(rows[index] for index in order)]))
        report = run(load_policy(tmp_path / "policy.yaml"))
        told.append([
            {one.sample: (one.status, one.sha256, one.queries, one.found_after) for one in gate.samples}
            for gate in report.gates
        ])  # fmt: skip
    assert told[0] == told[1]
    assert any(status == "broken" for gate in told[0] for status, *_ in gate.values())


def test_all_stages_of_a_gate_that_may_stop_share_them(tmp_path, monkeypatch):
    brightness_project(tmp_path, levels=(126, 129) * 20)
    made, begin = [], StartingImages.__init__
    monkeypatch.setattr(StartingImages, "__init__", lambda self, *a, **k: (made.append(self), begin(self, *a, **k))[1])
    gate = "\n  - {id: gate, attack: {name: label_only, patterns: false}, epsilon: 1/255, queries: 60,"
    gate += " require: {accuracy: 0.5}}\n"
    (tmp_path / "policy.yaml").write_text(brightness_policy(gate, extra="decision: {stop: determined}"))
    (found,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert found.stopped.needed > 16, "two stages at least"
    assert len(made) == 1
