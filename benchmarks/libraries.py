"""The peers: each library's PGD in the L∞ ball, with its own defaults but for what the comparison fixes.

Each function is handed the network and the settings, and returns the library's attack as a function of images (N, C, H,
W) in [0, 1], labels (N,) and ε to attacked images. Step size is 2.5 · ε / steps, from one random start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import TypeAlias

import torch
from torch import Tensor, nn

Attack: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard everyone tries."""

    steps: int
    batch: int

    def step_size(self, epsilon: float) -> float:
        """As robustcheck's default: far enough to cross the ball, short enough to settle."""
        return 2.5 * epsilon / self.steps


def torchattacks(network: nn.Module, effort: Effort) -> Attack:
    """`torchattacks.PGD`."""
    from torchattacks import PGD

    def attack(images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        alpha = effort.step_size(epsilon)
        pgd = PGD(network, eps=epsilon, alpha=alpha, steps=effort.steps, random_start=True)
        attacked: Tensor = pgd(images, labels)
        return attacked

    return _in_batches(attack, effort.batch)


def foolbox(network: nn.Module, effort: Effort) -> Attack:
    """`foolbox.attacks.LinfPGD`, which asks about each image once more to tell success."""
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfPGD

    model = PyTorchModel(network, bounds=(0, 1), device="cpu")

    def attack(images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        pgd = LinfPGD(abs_stepsize=effort.step_size(epsilon), steps=effort.steps, random_start=True)
        found: tuple[Tensor, Tensor, Tensor] = pgd(model, images, labels, epsilons=epsilon)
        return found[1]  # clipped

    return _in_batches(attack, effort.batch)


def art(network: nn.Module, effort: Effort) -> Attack:
    """`ProjectedGradientDescent` of ART, which asks about each image twice more to log its success rate."""
    import numpy as np
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    def attack(images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        classifier = PyTorchClassifier(
            model=network,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=2,
            clip_values=(0, 1),
            device_type="cpu",
        )
        pgd = ProjectedGradientDescent(
            classifier,
            norm=np.inf,
            eps=epsilon,
            eps_step=effort.step_size(epsilon),
            max_iter=effort.steps,
            num_random_init=1,
            batch_size=effort.batch,
            verbose=False,
        )
        return torch.from_numpy(pgd.generate(x=images.numpy(), y=labels.numpy()))

    return attack  # it makes its batches itself


def adv_lib(network: nn.Module, effort: Effort) -> Attack:
    """`pgd_linf` of adversarial-library, which returns the last image that fooled, and the clean one if none did."""
    # It imports visdom for a logger that is not used here, and visdom cannot be built with a current setuptools.
    if "visdom" not in sys.modules and find_spec("visdom") is None:
        sys.modules["visdom"] = ModuleType("visdom")
    from adv_lib.attacks import pgd_linf

    def attack(images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        size = effort.step_size(epsilon)
        attacked: Tensor = pgd_linf(network, images, labels, epsilon, steps=effort.steps, absolute_step_size=size)
        return attacked

    return _in_batches(attack, effort.batch)


def bare(network: nn.Module, effort: Effort) -> Attack:
    """The floor: gradient, sign, clamp, and nothing else. It looks at no result and stops for none."""

    def attack(images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        size = effort.step_size(epsilon)
        low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
        attacked = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
        for _ in range(effort.steps):
            attacked.requires_grad_()
            (gradient,) = torch.autograd.grad(log_odds(network(attacked), labels).sum(), attacked)
            attacked = torch.clamp(attacked.detach() + size * gradient.sign(), low, high)
        return attacked

    return _in_batches(attack, effort.batch)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds (N,) against the label, which is what robustcheck ascends as well."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.logsumexp(dim=1) - logits.gather(1, labels[:, None]).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Library:
    """A peer, and where its attack comes from."""

    title: str
    package: str  # as pip knows it
    module: str  # as Python does
    build: Callable[[nn.Module, Effort], Attack]

    @property
    def installed(self) -> bool:
        """Whether it is there to compare with."""
        return find_spec(self.module) is not None


def _in_batches(attack: Attack, size: int) -> Attack:
    def attack_all(images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        parts = zip(images.split(size), labels.split(size), strict=True)
        return torch.cat([attack(some, theirs, epsilon) for some, theirs in parts])

    return attack_all


LIBRARIES = {
    "torchattacks": Library(title="torchattacks", package="torchattacks", module="torchattacks", build=torchattacks),
    "foolbox": Library(title="Foolbox", package="foolbox", module="foolbox", build=foolbox),
    "art": Library(title="ART", package="adversarial-robustness-toolbox", module="art", build=art),
    "adv-lib": Library(title="adversarial-library", package="adv-lib", module="adv_lib", build=adv_lib),
}
BARE = Library(title="bare loop", package="torch", module="torch", build=bare)
