"""Surrogates that are trained: they learn, the same each time, and leave no trace in the process."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustcheck.errors import CandidateError, NoMemoryError, UserCodeError
from robustcheck.evaluation.surrogates.training import _another_exposure, _range_used, train
from robustcheck.models.preprocess import Preprocess
from robustcheck.policy import ModelSpec, TrainSpec

CPU = torch.device("cpu")
SIDE = 8


class Small(nn.Module):
    """Batch normalisation, dropout, and a layer that knows left from right."""

    def __init__(self, scores: int = 2, channels: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(8 * 4, scores)

    def forward(self, image):
        return self.fc(self.drop(nn.functional.adaptive_avg_pool2d(self.bn(self.conv(image)).relu(), 2).flatten(1)))


def lit(readings: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Noisy images (N, 1, 8, 8): bit k of a reading is a light in quarter k; reading 1 and 2 are mirror images."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.4 + 0.2 * torch.rand(len(readings), 1, SIDE, SIDE, generator=generator)
    for bit, (row, column) in enumerate([(1, 1), (1, 5), (5, 1)]):
        images[:, :, row : row + 2, column : column + 2] += 0.3 * (readings >> bit & 1).view(-1, 1, 1, 1)
    return images


def data(count: int, task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Readings in turn, and their images; every label is a light in another place."""
    if task == "multilabel":
        readings = torch.arange(count) % 8
        return readings, lit(readings)
    readings = torch.arange(count) % (2 if task == "binary" else 3)
    return readings, lit(1 << readings)


def model(task: str = "multiclass", labels: int = 3, **preprocess) -> ModelSpec:
    names = tuple(f"label {number}" for number in range(labels))
    return ModelSpec(path="candidate.onnx", task=task, labels=names, preprocess={"mean": 0.5, "std": 0.2, **preprocess})


def learn(readings, images, described, architecture="test_training:Small", progress=None, **options):
    width = 1 if described.task == "binary" else len(described.labels)
    given = {"architecture_args": {"scores": width}, "learning_rate": 0.01, "epochs": 10, **options}
    return train(
        TrainSpec(architecture=architecture, **given),
        described,
        folder=Path(__file__).parent,
        images=lambda chosen: images[chosen],
        readings=readings,
        device=CPU,
        progress=progress,
    )


def decided(state, images, described):
    network = Small(len(state["fc.bias"]))
    network.load_state_dict(state)
    with torch.no_grad():
        scores = network.eval()(Preprocess(described.preprocess, CPU, maximum=255)(images))
    if described.task == "multiclass":
        return scores.argmax(dim=1)
    return ((scores > 0).long() << torch.arange(scores.shape[1])).sum(dim=1)


@pytest.mark.parametrize(("task", "labels"), [("multiclass", 3), ("binary", 2), ("multilabel", 3)])
def test_it_learns(task, labels):
    described = model(task, labels)
    state = learn(*data(120, task), described, epochs=20)
    readings, images = data(240, task)
    images = lit(readings if task == "multilabel" else 1 << readings, seed=1)
    right = (decided(state, images, described) == readings).float().mean()
    assert right > 0.9


def test_the_rare_label_is_learned_too():
    readings = (torch.arange(130) % 13 == 0).long()
    described = model("multiclass", 2)
    state = learn(readings, lit(1 << readings), described)
    sick = torch.ones(100, dtype=torch.long)
    assert (decided(state, lit(1 << sick, seed=1), described) == 1).float().mean() > 0.9


def test_rare_findings_are_learned_too():
    """Three findings of one image in 25 each: a network that reads nothing anywhere would be right on 88 %."""
    readings = torch.where(torch.arange(200) % 25 < 3, 1 << (torch.arange(200) % 25), 0)
    described = model("multilabel", 3)
    state = learn(readings, lit(readings), described)
    others = 1 << torch.arange(99) % 3
    assert (decided(state, lit(others, seed=1), described) & others).bool().float().mean() > 0.9
    nothing = torch.zeros(100, dtype=torch.long)
    assert (decided(state, lit(nothing, seed=1), described) == 0).float().mean() > 0.9


def test_few_images_are_learned_from_in_more_steps():
    told = []
    learn(*data(40, "multiclass"), model(), epochs=2, progress=lambda *step: told.append(step))
    assert told == [(step, 10) for step in range(1, 11)]


def test_the_smallest_training_there_is():
    state = learn(*data(2, "binary"), model("binary", 2), epochs=1)
    assert all(value.isfinite().all() for value in state.values())


def test_the_same_twice_and_another_with_another_seed():
    lessons = data(60, "multiclass")
    torch.manual_seed(1)
    first = learn(*lessons, model(), epochs=2)
    torch.manual_seed(2)
    second = learn(*lessons, model(), epochs=2)
    other = learn(*lessons, model(), epochs=2, seed=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def _state():
    return (
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),
        random.getstate(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.backends.mkldnn.conv.fp32_precision,
    )


@pytest.mark.parametrize("gradients", [True, False])
def test_the_process_is_left_as_it_was(gradients):
    with torch.set_grad_enabled(gradients):
        before = _state()
        learn(*data(30, "multiclass"), model(), epochs=1)
        assert _state() == before
        with pytest.raises(CandidateError, match="ran away"):
            learn(*data(30, "multiclass"), model(), epochs=1, architecture="test_training:Exploding")
        assert _state() == before


def test_batch_normalisation_has_the_statistics_of_unaltered_images():
    readings, images = data(60, "multiclass")
    described = model()
    state = learn(readings, images, described)
    network = Small(3)
    network.load_state_dict(state)
    with torch.no_grad():
        found = network.conv(Preprocess(described.preprocess, CPU, maximum=255)(images)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(state["bn.running_mean"], found.mean(dim=1), atol=0.05, rtol=0.05)
    torch.testing.assert_close(state["bn.running_var"], found.var(dim=1), atol=0.05, rtol=0.1)


def test_batch_normalisation_is_settled_by_no_more_images_at_once_than_training(monkeypatch):
    seen, whole = [], Small.forward

    def look(self, image):
        seen.append((self.training, len(image)))
        return whole(self, image)

    monkeypatch.setattr(Small, "forward", look)
    readings, images = data(200, "multiclass")
    learn(readings, images, model(), epochs=1, batch_size=4)
    assert {count for _, count in seen} == {4}
    assert sum(count for training, count in seen if not training) == 200


@pytest.mark.parametrize("share", [1, 1 / 16])
def test_another_exposure_is_one_of_the_range_that_images_use(share):
    """Values of 12 bits in files of 16: a sixteenth of what can be stored."""
    images = data(60, "multiclass")[1] * share
    used = _range_used(lambda chosen: images[chosen], 60)
    assert used == pytest.approx(float(images.max() - images.min()), rel=0.1)
    again = _another_exposure(images, used, torch.Generator().manual_seed(0))
    whole = _another_exposure(images / share, used / share, torch.Generator().manual_seed(0)) * share
    assert (again - whole)[whole < share * 0.999].abs().max() < 1e-6, "but for what becomes white"
    change = (again - images).flatten(1).mean(dim=1).abs()
    assert 0.05 * used < change.max() < 0.15 * used
    assert (again.flatten(1).std(dim=1) > 0.5 * images.flatten(1).std(dim=1)).all()


class Tied(Small):
    """Two names for the same weights."""

    def __init__(self, scores: int):
        super().__init__(scores)
        self.again = self.fc


def test_what_is_learned_can_be_saved(tmp_path):
    state = learn(*data(30, "multiclass"), model(), architecture="test_training:Tied", epochs=1)
    save_file(state, tmp_path / "tied.safetensors")
    assert all(value.is_contiguous() and not value.requires_grad for value in state.values())


def test_full_precision(monkeypatch):
    seen, whole = set(), Small.forward

    def look(self, image):
        seen.add((torch.backends.mkldnn.matmul.fp32_precision, image.dtype))
        return whole(self, image)

    monkeypatch.setattr(Small, "forward", look)
    torch.set_float32_matmul_precision("medium")
    try:
        learn(*data(30, "multiclass"), model(), epochs=1)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == {("ieee", torch.float32)}


# --- mistakes ------------------------------------------------------------------------------------------------------


class Exploding(Small):
    """Its scores are too large for a loss."""

    def forward(self, image):
        return super().forward(image) * 1e38 * 1e38


class Pair(Small):
    """As networks with a second head answer while they are trained."""

    def forward(self, image):
        scores = super().forward(image)
        return scores, scores


class Hungry(Small):
    """Needs more memory than there is."""

    def forward(self, image):
        raise torch.OutOfMemoryError("pretended")


class Constant(nn.Module):
    """Has nothing to learn with."""

    def __init__(self, scores: int):
        super().__init__()


def failing(scores):
    raise ValueError("no such width")


def no_network(scores):
    return scores


MISTAKES = {
    "Exploding": (
        CandidateError,
        r"ran away \(the loss in step 1 of 4 is not finite\): lower train.learning_rate, which",
    ),
    "Pair": (
        CandidateError,
        r"^train.architecture: \S+ answers 8 images with tuple, and a multiclass task of 3 labels",
    ),
    "Hungry": (NoMemoryError, r"memory ran out in training; lower train.batch_size, which is 64"),
    "Constant": (CandidateError, r"^train.architecture: test_training:Constant has no weights to train"),
    "failing": (
        CandidateError,
        r"^train.architecture: test_training:failing\(scores=3\) failed: ValueError: no such w",
    ),
    "no_network": (
        CandidateError,
        r"^train.architecture: test_training:no_network made an object of type int, not a torch.nn.Module",
    ),
    "Smal": (UserCodeError, r"^train.architecture: 'test_training:Smal': .* did you mean 'Small'\?"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    kind, match = MISTAKES[name]
    with pytest.raises(kind, match=match) as caught:
        learn(*data(30, "multiclass"), model(), architecture=f"test_training:{name}", epochs=1)
    assert "\n" not in str(caught.value)


def test_as_many_scores_as_labels():
    match = (
        r"answers 8 images with scores of shape \(8, 7\), and a multiclass task of 3 labels needs .*architecture_args"
    )
    with pytest.raises(CandidateError, match=match):
        learn(*data(30, "multiclass"), model(), architecture_args={"scores": 7})


def test_inputs_that_it_does_not_take():
    match = r"^train.architecture: .* does not take inputs of 1×8×8 .*; set train.preprocess.channels: 3 \("
    with pytest.raises(CandidateError, match=match):
        learn(*data(30, "multiclass"), model(), architecture_args={"scores": 3, "channels": 3})
