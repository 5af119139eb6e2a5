"""Beside AutoAttack's standard set: the ensemble may leave no more accuracy, in at most half the samples it asks about.

AutoAttack's targeted members cannot take two labels, for which the parts that can are run in its place.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robustcheck import load_policy, run

torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed (pip install '.[test]')")

POLICIES = Path(__file__).parents[2] / "policies"
SAMPLES = 64

TEN = """
import torch

class Ten(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(1, 12, 3, stride=2, padding=1), torch.nn.ReLU(),
            torch.nn.Conv2d(12, 24, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        )
        self.head = torch.nn.Linear(24 * 49, 10)

    def forward(self, image):
        return self.head(self.features((image - 0.5) / 0.25))
"""


class Counting(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.network(images)


class Normalised(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images - 0.5) / 0.25)


def _two(folder: Path, xrays: Path) -> tuple[Path, torch.nn.Module, np.ndarray, torch.Tensor, float]:
    """The hardened candidate, on X-rays, at 8/255."""
    text = (POLICIES / "pneumonia_mnist.yaml").read_text()
    text = text.replace("candidates/pneumonia_hardened", f"{POLICIES}/candidates/pneumonia_hardened")
    (folder / "networks.py").write_text((POLICIES / "networks.py").read_text())
    held = np.load(xrays)
    chosen = np.linspace(0, 623, SAMPLES).astype(int)
    images, labels = held["test_images"][chosen], held["test_labels"][chosen]
    np.savez(folder / "some.npz", test_images=images, test_labels=labels)
    text = re.sub(r"source: .*\n.*root: .*", "source: some.npz", text)
    gate = "gates:\n  - {id: gate, attack: ensemble, epsilon: 8/255, require: {accuracy: 0}}\n"
    (folder / "policy.yaml").write_text(text[: text.index("gates:")] + gate)
    scope: dict = {"__name__": "networks"}
    exec((POLICIES / "networks.py").read_text(), scope)
    network = scope["chest_cnn"]()
    network.load_state_dict(load_file(POLICIES / "candidates" / "pneumonia_hardened.safetensors"))
    return (
        folder / "policy.yaml",
        Normalised(network).eval(),
        images[:, None],
        torch.from_numpy(labels[:, 0].astype(np.int64)),
        8 / 255,
    )


def _ten(folder: Path, xrays: Path) -> tuple[Path, torch.nn.Module, np.ndarray, torch.Tensor, float]:
    """A random network of ten labels, which is right about each X-ray because its own reading is the truth."""
    (folder / "ten.py").write_text(TEN)
    scope: dict = {"__name__": "ten"}
    exec(TEN, scope)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = scope["Ten"]().eval()
    images = np.load(xrays)["test_images"][np.linspace(0, 623, SAMPLES).astype(int)]
    with torch.no_grad():
        labels = network(torch.from_numpy(images[:, None]).float() / 255).argmax(dim=1)
    save_file(network.state_dict(), folder / "ten.safetensors")
    np.savez(folder / "some.npz", test_images=images, test_labels=labels[:, None].numpy())
    names = [f"label {index}" for index in range(10)]
    (folder / "policy.yaml").write_text(
        "robustcheck: 1\n"
        f"model: {{path: ten.safetensors, architecture: 'ten:Ten', task: multiclass, labels: {names}}}\n"
        "data: {source: some.npz}\n"
        "gates:\n  - {id: gate, attack: ensemble, epsilon: 1/255, require: {accuracy: 0}}\n"
    )
    return folder / "policy.yaml", network, images[:, None], labels, 1 / 255


@pytest.mark.slow
@pytest.mark.xrays
@pytest.mark.parametrize("problem", [_two, _ten], ids=["two labels", "ten labels"])
def test_the_ensemble_leaves_no_more_for_half_the_samples(tmp_path, xrays, problem, record_testsuite_property):
    policy, network, images, labels, epsilon = problem(tmp_path, xrays)
    (gate,) = run(load_policy(policy)).gates
    ours = gate.metrics["accuracy"].value

    counting = Counting(network).eval()
    if int(labels.max()) > 1:
        attacks = [torchattacks.AutoAttack(counting, eps=epsilon, n_classes=10, seed=0)]
    else:
        attacks = [
            torchattacks.APGD(counting, eps=epsilon, loss="ce", seed=0),
            torchattacks.FAB(counting, eps=epsilon, n_classes=2, seed=0),
            torchattacks.Square(counting, eps=epsilon, n_queries=5000, seed=0),
        ]
    shares = torch.from_numpy(images).float() / 255
    with torch.no_grad():
        right = (network(shares).argmax(dim=1) == labels).nonzero().flatten()
    for attack in attacks:
        adversarial = attack(shares[right], labels[right])
        with torch.no_grad():
            right = right[network(adversarial).argmax(dim=1) == labels[right]]
    theirs = len(right) / SAMPLES
    record_testsuite_property(
        f"{policy.parent.name}: robust accuracy, samples, ours and theirs",
        f"{ours} {gate.cost.forward}, {theirs} {counting.seen}",
    )
    assert 0 < ours <= theirs
    assert gate.cost.forward <= counting.seen / 2, (gate.cost.forward, counting.seen)
