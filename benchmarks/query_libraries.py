"""The peers' attacks that only ask, each with its own defaults but for what the comparison fixes.

Each function takes the network, images (N, C, H, W) in [0, 1], labels (N,), ε, how many queries a sample may cost, and
an image (N, C, H, W) of the other label for each to start from; it returns attacked images. Peers have no limit that
cannot be passed: the number of their steps is what comes nearest to it, and what they really asked is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Attack = Callable[[nn.Module, Tensor, Tensor, float, int, Tensor], Tensor]

HOP_ITERATION = 230  # queries that the first few iterations of HopSkipJump cost on average, searches included
SAMPLES = 50  # of an estimate


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A peer's attack."""

    title: str
    package: str
    attack: Attack


class _Float32(nn.Module):
    """ART hands doubles to networks of floats."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.float())


def _art(network: nn.Module, images: Tensor) -> Any:
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=_Float32(network),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=2,
        clip_values=(0, 1),
        device_type="cpu",
    )


def _foolbox(network: nn.Module) -> Any:
    from foolbox import PyTorchModel

    return PyTorchModel(network, bounds=(0, 1), device="cpu")


def torchattacks_square(
    network: nn.Module, images: Tensor, labels: Tensor, ε: float, queries: int, _: Tensor
) -> Tensor:
    """`torchattacks.Square`, which leaves out what it has turned."""
    from torchattacks import Square

    return Square(network, norm="Linf", eps=ε, n_queries=queries, n_restarts=1, loss="margin", seed=0)(images, labels)


def art_square(network: nn.Module, images: Tensor, labels: Tensor, ε: float, queries: int, _: Tensor) -> Tensor:
    """`SquareAttack` of ART, which asks twice a step."""
    from art.attacks.evasion import SquareAttack

    attack = SquareAttack(_art(network, images), norm=np.inf, eps=ε, max_iter=queries, batch_size=128, verbose=False)
    return torch.from_numpy(attack.generate(images.numpy(), np.eye(2)[labels.numpy()]))


def _hopskipjump_of_art(norm: float) -> Attack:
    def attack(network: nn.Module, images: Tensor, labels: Tensor, _: float, queries: int, starts: Tensor) -> Tensor:
        from art.attacks.evasion import HopSkipJump

        steps = max(1, queries // HOP_ITERATION)
        hop = HopSkipJump(_art(network, images), norm=norm, max_iter=steps, batch_size=128, verbose=False)
        found = hop.generate(images.numpy(), np.eye(2)[labels.numpy()], x_adv_init=starts.numpy())
        return torch.from_numpy(found).float()

    return attack


def _hopskipjump_of_foolbox(constraint: Any) -> Attack:
    def attack(network: nn.Module, images: Tensor, labels: Tensor, _: float, queries: int, starts: Tensor) -> Tensor:
        from foolbox.attacks import HopSkipJumpAttack

        hop = HopSkipJumpAttack(steps=max(1, queries // HOP_ITERATION), constraint=constraint)
        _raw, (found,), _is = hop(_foolbox(network), images, labels, epsilons=[None], starting_points=starts)
        return found

    return attack


def foolbox_boundary(
    network: nn.Module, images: Tensor, labels: Tensor, _: float, queries: int, starts: Tensor
) -> Tensor:
    """`foolbox.attacks.BoundaryAttack`, which asks about once a step."""
    from foolbox.attacks import BoundaryAttack

    boundary = BoundaryAttack(steps=queries)
    _raw, (found,), _is = boundary(_foolbox(network), images, labels, epsilons=[None], starting_points=starts)
    return found


def art_boundary(network: nn.Module, images: Tensor, labels: Tensor, _: float, queries: int, starts: Tensor) -> Tensor:
    """`BoundaryAttack` of ART, image after image."""
    from art.attacks.evasion import BoundaryAttack

    boundary = BoundaryAttack(_art(network, images), targeted=False, max_iter=queries // 25, verbose=False)
    found = boundary.generate(images.numpy(), np.eye(2)[labels.numpy()], x_adv_init=starts.numpy())
    return torch.from_numpy(found).float()


def foolbox_nes(network: nn.Module, images: Tensor, labels: Tensor, ε: float, queries: int, _: Tensor) -> Tensor:
    """`foolbox.attacks.LinfPGD` with its evolution strategies' estimator, whose losses are summed over the batch."""
    from foolbox.attacks import LinfPGD
    from foolbox.gradient_estimators import es_gradient_estimator

    estimated = es_gradient_estimator(LinfPGD, samples=SAMPLES, sigma=1e-3, bounds=(0, 1), clip=True)
    attack = estimated(steps=max(1, queries // (SAMPLES + 1)), abs_stepsize=ε / 4, random_start=False)
    with torch.no_grad():
        _raw, (found,), _is = attack(_foolbox(network), images, labels, epsilons=[ε])
    return found


PEERS: dict[str, dict[str, Contender]] = {
    "square": {
        "torchattacks": Contender(title="torchattacks Square", package="torchattacks", attack=torchattacks_square),
        "art": Contender(title="ART SquareAttack", package="adversarial-robustness-toolbox", attack=art_square),
    },
    "hopskipjump": {
        "foolbox": Contender(title="Foolbox HopSkipJump", package="foolbox", attack=_hopskipjump_of_foolbox("linf")),
        "art": Contender(
            title="ART HopSkipJump", package="adversarial-robustness-toolbox", attack=_hopskipjump_of_art(np.inf)
        ),
    },
    "hopskipjump-l2": {
        "foolbox": Contender(title="Foolbox HopSkipJump", package="foolbox", attack=_hopskipjump_of_foolbox("l2")),
        "art": Contender(
            title="ART HopSkipJump", package="adversarial-robustness-toolbox", attack=_hopskipjump_of_art(2)
        ),
        "foolbox-boundary": Contender(title="Foolbox Boundary", package="foolbox", attack=foolbox_boundary),
        "art-boundary": Contender(title="ART Boundary", package="adversarial-robustness-toolbox", attack=art_boundary),
    },
    "nes": {"foolbox": Contender(title="Foolbox PGD, estimated", package="foolbox", attack=foolbox_nes)},
}
