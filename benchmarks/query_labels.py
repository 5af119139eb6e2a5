"""The peers that ask for labels: HopSkipJump and the boundary attack, which go for the nearest image, not for a ball.

They start at another patient's image, as robustcheck does; it is found for them. Left to themselves they start at
noise, of which a candidate may know one label only: Foolbox then refuses the batch, and ART skips the sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.query_job import Plan, QueryAttack
from benchmarks.query_scores import art_classifier

_BOUNDARY_OF_FOOLBOX = 1.1  # images a step: one, and each tenth time another
_BOUNDARY_OF_ART = 33  # about so many: 20 beside the image, and nearer ones of those that are still read otherwise


def foolbox_hopskipjump_linf(network: nn.Module, plan: Plan) -> QueryAttack:
    """`HopSkipJumpAttack` of Foolbox in L∞: a batch searches until its last sample is done."""
    from foolbox.attacks import HopSkipJumpAttack

    return _foolbox_hopskipjump(HopSkipJumpAttack, network, plan, "linf", beside=22)


def foolbox_hopskipjump_l2(network: nn.Module, plan: Plan) -> QueryAttack:
    """`HopSkipJumpAttack` of Foolbox in L2, whose steps have length 1 over the batch, not over a sample."""
    from foolbox.attacks import HopSkipJumpAttack

    return _foolbox_hopskipjump(HopSkipJumpAttack, network, plan, "l2", beside=17)


def foolbox_hopskipjump_l2_apart(network: nn.Module, plan: Plan) -> QueryAttack:
    """The same with steps of length 1 a sample, as in batches of one."""
    from foolbox.attacks import HopSkipJumpAttack
    from foolbox.devutils import atleast_kd, flatten

    class Apart(HopSkipJumpAttack):  # type: ignore[misc]
        def approximate_gradients(self, *given: Any) -> Any:
            direction = super().approximate_gradients(*given)
            return direction / (atleast_kd(flatten(direction).norms.l2(axis=-1), direction.ndim) + 1e-12)

    return _foolbox_hopskipjump(Apart, network, plan, "l2", beside=19)


def art_hopskipjump_linf(network: nn.Module, plan: Plan) -> QueryAttack:
    """`HopSkipJump` of ART in L∞, sample after sample."""
    return _art_hopskipjump(network, plan, np.inf, beside=19)


def art_hopskipjump_l2(network: nn.Module, plan: Plan) -> QueryAttack:
    """`HopSkipJump` of ART in L2, sample after sample."""
    return _art_hopskipjump(network, plan, 2, beside=14)


def foolbox_boundary(network: nn.Module, plan: Plan) -> QueryAttack:
    """`BoundaryAttack` of Foolbox."""
    from foolbox.attacks import BoundaryAttack

    return _foolbox(BoundaryAttack(steps=plan.steps_of(_BOUNDARY_OF_FOOLBOX, before=3)), network)


def art_boundary(network: nn.Module, plan: Plan) -> QueryAttack:
    """`BoundaryAttack` of ART, sample after sample."""
    from art.attacks.evasion import BoundaryAttack

    def attack(images: Tensor, labels: Tensor, starts: Tensor) -> Tensor:
        steps = plan.steps_of(_BOUNDARY_OF_ART, before=4)
        search = BoundaryAttack(
            art_classifier(network, images), targeted=False, max_iter=steps, batch_size=plan.batch, verbose=False
        )
        return torch.from_numpy(search.generate(x=images.numpy(), y=labels.numpy(), x_adv_init=starts.numpy()))

    return attack


def _foolbox_hopskipjump(kind: Any, network: nn.Module, plan: Plan, norm: str, *, beside: int) -> QueryAttack:
    search = kind(
        steps=plan.iterations(beside=beside, before=beside),
        initial_gradient_eval_steps=plan.first_estimate,
        constraint=norm,
    )
    return _foolbox(search, network)


def _foolbox(search: Any, network: nn.Module) -> QueryAttack:
    from foolbox import PyTorchModel

    model = PyTorchModel(network, bounds=(0, 1), device="cpu")

    def attack(images: Tensor, labels: Tensor, starts: Tensor) -> Tensor:
        found: tuple[Tensor, Tensor, Tensor] = search(model, images, labels, epsilons=None, starting_points=starts)
        return found[0]  # as it is

    return attack


def _art_hopskipjump(network: nn.Module, plan: Plan, norm: float, *, beside: int) -> QueryAttack:
    from art.attacks.evasion import HopSkipJump

    def attack(images: Tensor, labels: Tensor, starts: Tensor) -> Tensor:
        search = HopSkipJump(
            art_classifier(network, images),
            norm=norm,
            max_iter=plan.iterations(beside=beside, before=4),
            init_eval=plan.first_estimate,
            batch_size=plan.batch,
            verbose=False,
        )
        return torch.from_numpy(search.generate(x=images.numpy(), y=labels.numpy(), x_adv_init=starts.numpy()))

    return attack
