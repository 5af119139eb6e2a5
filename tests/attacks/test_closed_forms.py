"""Attacks against networks whose smallest adversarial perturbation is known."""

from __future__ import annotations

from math import ceil, floor

import numpy as np
import pytest
import torch
from building import candidate

from robustcheck.attacks import FGSM, PGD
from robustcheck.attacks.draws import stream
from robustcheck.evaluation.engine import Engine
from robustcheck.threats import LinfBall


class Linear(torch.nn.Module):
    """Logits of K labels, linear in the image. For two labels the optimum is margin / ‖w₁ - w₀‖₁ (Hölder)."""

    def __init__(self, labels: int, pixels: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(labels, pixels, generator=generator))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image - 0.5).flatten(1) @ self.weight.T


def _problem(labels: int, seed: int, count: int = 30) -> tuple[Linear, np.ndarray, torch.Tensor, np.ndarray]:
    """A network, stored images away from the range's ends, their labels, and each one's smallest budget in levels."""
    network = Linear(labels, 36, seed)
    rng = np.random.default_rng(seed)
    images = rng.integers(90, 166, (count, 1, 6, 6)).astype(np.uint8)
    logits = network(torch.from_numpy(images).float() / 255).detach()
    truth = logits.argmax(dim=1)
    smallest = np.full(count, np.inf)
    for row, label in enumerate(truth.tolist()):
        for other in set(range(labels)) - {label}:
            margin = float(logits[row, label] - logits[row, other])
            width = float((network.weight[label] - network.weight[other]).detach().abs().sum())
            smallest[row] = min(smallest[row], 255 * margin / width)
    return network, images, truth, smallest


def _broken(attack, network, images, truth, levels: int, batch: int) -> set[int]:
    hits = set()
    Engine(
        attack=attack,
        candidate=candidate(network, labels=[f"label {k}" for k in range(len(network.weight))], batch=batch),
        ball=LinfBall(levels=levels, maximum=255),
        labels=truth,
        positive=None,
        load=lambda numbers: torch.from_numpy(images[numbers]).float() / 255,
        stream=lambda sample, restart: stream(0, "gate", str(sample), restart),
        found=lambda hit: hits.add(hit.sample),
        progress=lambda _done: None,
    ).run(range(len(images)))
    return hits


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("levels", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_two_labels_are_turned_exactly_within_the_optimum(name, levels, batch):
    network, images, truth, smallest = _problem(labels=2, seed=levels)
    step = 2.5 * levels / 255 / 10
    attack = FGSM() if name == "fgsm" else PGD(steps=10, restarts=1, step_share=step, random_start=True)
    broken = _broken(attack, network, images, truth, levels, batch)
    assert {row for row in range(len(images)) if smallest[row] < levels * 0.999} == broken
    assert 0 < len(broken) < len(images)


@pytest.mark.parametrize("labels", [3, 5])
def test_more_labels_are_turned_within_a_quarter_of_the_optimum(labels):
    network, images, truth, smallest = _problem(labels=labels, seed=labels, count=60)
    for levels in (2, 4, 8, 16):
        attack = PGD(steps=40, restarts=1, step_share=2.5 * levels / 255 / 40, random_start=True)
        broken = _broken(attack, network, images, truth, levels, 64)
        for row in range(len(images)):
            if ceil(smallest[row] * 1.25) <= levels:
                assert row in broken
            if floor(smallest[row]) >= levels:
                assert row not in broken


def test_the_loss_of_a_sure_network_still_has_a_gradient_to_follow():
    network, images, truth, smallest = _problem(labels=2, seed=5)
    network.weight.data *= 1e4  # cross-entropy's gradient is exactly zero in float32 here
    logits = network(torch.from_numpy(images).float() / 255)
    assert (logits.softmax(dim=1).gather(1, truth[:, None]) == 1).all()
    attack = PGD(steps=10, restarts=1, step_share=2 / 255, random_start=False)
    broken = _broken(attack, network, images, truth, 8, 64)
    assert {row for row in range(len(images)) if smallest[row] < 7.99} == broken
    assert broken
