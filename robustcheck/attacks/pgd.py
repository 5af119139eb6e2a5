"""PGD: many steepest steps, each projected back into the ball (Madry et al. 2018, arXiv 1706.06083, section 2.1).

With `momentum` it follows a decaying sum of normalised gradients (Dong et al. 2018, arXiv 1710.06081, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Literal

import torch

from robustcheck.attacks.base import GradientAttack, State, Told
from robustcheck.attacks.draws import Draws
from robustcheck.threats import Ball
from robustcheck.threats.ball import per_row

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """xₜ₊₁ = project(xₜ + αₜ · u(∇ₓ loss)), u the unit direction of steepest ascent, from a point of the ball."""

    step_share: float  # α, as a share of the full range
    momentum: float = 0.0  # μ, the share of the sum of gradients that is kept
    schedule: Schedule = "constant"  # of αₜ, which falls to 0 with the others
    name: str = "pgd"

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Starts at a point of the ball."""
        return {"images": images, "sum": torch.zeros_like(images)} if self.momentum else {"images": images}

    def step(self, state: State, told: Told, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """One step and its projection."""
        kept: State = {}
        direction = told.gradient
        if self.momentum:
            direction = self.momentum * state["sum"] + _normalised(direction)
            kept = {"sum": direction}
        step = ball.steepest(direction).mul_(self._size(told.step)).add_(state["images"])
        return {"images": ball.project(step, clean), **kept}

    def _size(self, step: torch.Tensor) -> torch.Tensor | float:
        if self.schedule == "constant":
            return self.step_share
        left = 1 - step / self.steps
        return per_row(self.step_share * (left if self.schedule == "linear" else (1 - (pi * left).cos()) / 2))


def _normalised(gradient: torch.Tensor) -> torch.Tensor:
    """Gradients scaled to a mean absolute value of 1 a row: those of all steps weigh the same in their sum."""
    mean = gradient.abs().flatten(1).mean(dim=1)
    return gradient / per_row(mean.clamp_min(torch.finfo(torch.float32).tiny))
