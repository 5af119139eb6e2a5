"""APGD: projected gradient ascent with momentum whose step size halves when progress stalls.

Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
arXiv 2003.01690, algorithm 1, with the paper's parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import ClassVar

import torch

from robustcheck.attacks.base import GradientAttack, State, Told
from robustcheck.attacks.draws import Draws
from robustcheck.threats import Ball
from robustcheck.threats.ball import per_row

_FIRST_PERIOD, _SHORTER_BY, _SHORTEST = 22, 3, 6  # percent of the steps between checkpoints (section 3.2)
_FIRST_STEP = 2.0  # of ε
_STALLED = -torch.inf


@dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack):
    """One restart: `steps` gradients, the best point is kept and returned to at every halving.

    Rows are at different steps; each has its own step size, counters and checkpoints.
    """

    momentum: float = 0.75  # α: weight of the new step against the last one
    rho: float = 0.75  # share of the steps since the last checkpoint that have to have raised the loss
    name: str = "apgd-ce"
    random_start: bool = True
    keeps_best: ClassVar[bool] = True

    @cached_property
    def _since_checkpoint(self) -> torch.Tensor:
        """(steps + 1,) how many steps each checkpoint looks back on; 0 where there is none."""
        table = torch.zeros(self.steps + 1, dtype=torch.int64)
        at, period, last = 0, _FIRST_PERIOD, 0
        while (step := ceil(Fraction((at := at + period) * self.steps, 100))) < self.steps:
            if step > last:  # few steps may have two checkpoints at one
                table[step] = step - last
            last, period = step, max(period - _SHORTER_BY, _SHORTEST)
        return table

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Starts at a point of the ball; nothing is known about it yet."""
        unknown = torch.full((len(images),), _STALLED, device=images.device)
        return {
            "images": images,
            "before": images,
            "best": images,
            "best_gradient": torch.zeros_like(images),
            "best_loss": unknown,
            "last_loss": unknown,
            "size": torch.full_like(unknown, _FIRST_STEP * ball.radius),
            "rises": torch.zeros_like(unknown),
            "size_then": torch.full_like(unknown, _FIRST_STEP * ball.radius),  # at the last checkpoint
            "best_then": unknown,
        }

    def step(self, state: State, told: Told, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Algorithm 1, lines 5 to 16, for the point that was just asked about."""
        images, first = state["images"], told.step == 0
        rises = state["rises"] + (~first & (told.loss > state["last_loss"]))
        better = told.loss > state["best_loss"]
        best_loss = torch.where(better, told.loss, state["best_loss"])
        best = torch.where(per_row(better), images, state["best"])
        best_gradient = torch.where(per_row(better), told.gradient, state["best_gradient"])

        gradient, size = told.gradient, state["size"]
        size_then, best_then = state["size_then"], torch.where(first, told.loss, state["best_then"])
        since = self._since_checkpoint.to(images.device)[told.step]
        due = since > 0
        if due.any():
            stalled = rises < self.rho * since  # condition 1
            stuck = (size_then == size) & (best_then >= best_loss)  # condition 2
            halve = due & (stalled | stuck)
            size_then, best_then = torch.where(due, size, size_then), torch.where(due, best_loss, best_then)
            rises = torch.where(due, 0, rises)
            size = torch.where(halve, size / 2, size)
            images = torch.where(per_row(halve), best, images)
            gradient = torch.where(per_row(halve), best_gradient, gradient)
        ahead = ball.project(images + per_row(size) * ball.steepest(gradient), clean)
        mixed = images + self.momentum * (ahead - images) + (1 - self.momentum) * (images - state["before"])
        following = torch.where(per_row(first), ahead, ball.project(mixed, clean))
        return {
            "images": following,
            "before": images,
            "best": best,
            "best_gradient": best_gradient,
            "best_loss": best_loss,
            "last_loss": told.loss,
            "size": size,
            "rises": rises,
            "size_then": size_then,
            "best_then": best_then,
        }

    def best(self, state: State) -> torch.Tensor:
        """The point of the highest loss."""
        return state["best"]
