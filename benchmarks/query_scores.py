"""The peers that ask for scores: Square, and PGD on gradients that are estimated as NES does.

Each function is handed the network and what it may do, and returns the library's attack with its own defaults but for
what the comparison fixes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.query_job import Plan, QueryAttack

SAMPLES, SIGMA = 50, 0.001  # of an estimate: the authors'
_IMAGES_A_STEP_OF_ART_SQUARE = 3


def torchattacks_square(network: nn.Module, plan: Plan) -> QueryAttack:
    """`torchattacks.Square`: stripes, and a square a step until a sample is fooled; the clean image, and the result."""
    from torchattacks import Square

    def attack(images: Tensor, labels: Tensor, _starts: Tensor) -> Tensor:
        square = Square(network, norm="Linf", eps=plan.epsilon, n_queries=plan.queries - 3, seed=plan.seed)
        attacked: Tensor = square(images, labels)
        return attacked

    return attack


def art_square(network: nn.Module, plan: Plan) -> QueryAttack:
    """`SquareAttack` of ART: each step asks about all samples, and twice about each that is not fooled."""
    from art.attacks.evasion import SquareAttack

    def attack(images: Tensor, labels: Tensor, _starts: Tensor) -> Tensor:
        square = SquareAttack(
            art_classifier(network, images),
            norm=np.inf,
            eps=plan.epsilon,
            max_iter=plan.steps_of(_IMAGES_A_STEP_OF_ART_SQUARE, before=3),
            batch_size=plan.batch,
            verbose=False,
        )
        return torch.from_numpy(square.generate(x=images.numpy(), y=labels.numpy()))

    return attack


def foolbox_nes(network: nn.Module, plan: Plan) -> QueryAttack:
    """`LinfPGD` under `es_gradient_estimator`, which multiplies each sample's noise by the whole batch's loss."""
    from foolbox.attacks import LinfPGD

    return _foolbox_nes(LinfPGD, network, plan)


def foolbox_nes_apart(network: nn.Module, plan: Plan) -> QueryAttack:
    """The same with a loss a sample, as in batches of one, through the hook that Foolbox has for other losses."""
    import eagerpy as ep
    from foolbox.attacks import LinfPGD

    class Apart(LinfPGD):  # type: ignore[misc]
        def get_loss_fn(self, model: Any, labels: Any) -> Any:
            return lambda images: ep.crossentropy(model(images), labels).reshape((-1, 1, 1, 1))

    return _foolbox_nes(Apart, network, plan)


def _foolbox_nes(pgd: Any, network: nn.Module, plan: Plan) -> QueryAttack:
    from foolbox import PyTorchModel
    from foolbox.gradient_estimators import es_gradient_estimator

    model = PyTorchModel(network, bounds=(0, 1), device="cpu")
    estimating = es_gradient_estimator(pgd, samples=SAMPLES, sigma=SIGMA, bounds=(0, 1), clip=False)
    steps = plan.steps_of(SAMPLES + 1, before=1)  # it asks once more to tell success

    def attack(images: Tensor, labels: Tensor, _starts: Tensor) -> Tensor:
        search = estimating(steps=steps, abs_stepsize=_step_size(plan, steps), random_start=False)
        found: tuple[Tensor, Tensor, Tensor] = search(model, images, labels, epsilons=plan.epsilon)
        return found[1]  # clipped

    return attack


def art_nes(network: nn.Module, plan: Plan) -> QueryAttack:
    """`ProjectedGradientDescent` of ART on its `QueryEfficientGradientEstimationClassifier`, sample after sample.

    That takes what it is told for probabilities, so the network ends in a softmax.
    """
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import QueryEfficientGradientEstimationClassifier

    steps = plan.steps_of(SAMPLES, before=2)  # it asks twice more to log its success rate

    def attack(images: Tensor, labels: Tensor, _starts: Tensor) -> Tensor:
        asked = art_classifier(nn.Sequential(network, nn.Softmax(dim=1)), images)
        search = ProjectedGradientDescent(
            QueryEfficientGradientEstimationClassifier(asked, num_basis=SAMPLES // 2, sigma=SIGMA),
            norm=np.inf,
            eps=plan.epsilon,
            eps_step=_step_size(plan, steps),
            max_iter=steps,
            num_random_init=0,
            batch_size=plan.batch,
            verbose=False,
        )
        return torch.from_numpy(search.generate(x=images.numpy(), y=labels.numpy()))

    return attack


def art_classifier(network: nn.Module, images: Tensor) -> Any:
    """The network as ART wants it. ART makes doubles of some images; its users' networks have to take them."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=_Single(network).eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=2,
        clip_values=(0, 1),
        device_type="cpu",
    )


class _Single(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.network(images.float())
        return scores


def _step_size(plan: Plan, steps: int) -> float:
    """As for everyone's PGD: far enough to cross the ball, short enough to settle."""
    return min(2.5 * plan.epsilon / steps, plan.epsilon)
