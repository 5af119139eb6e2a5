"""Single steps along the clean image's gradient, and against it: what a barrier of scores does not stop.

A candidate whose margin is bent (m + sin m, or a wall before the border) has the gradients of what it hides, up to a
factor: small steps halt before the wall, and a step that lands behind it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustcheck.attacks.base import GradientAttack, State, Told
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.objectives import objective
from robustcheck.threats import Ball, Goal
from robustcheck.threats.ball import per_row

_WAYS = (1.0, -1.0, 0.5, -0.5)  # of the ball's radius; the last is adjudicated without being asked about


@dataclass(frozen=True, kw_only=True)
class SingleSteps(GradientAttack):
    """x' = project(x ± ε · u) and half of it, u the direction of steepest ascent at x: the gradient's sign in L∞."""

    name: str = "single-steps"
    steps: int = len(_WAYS)

    @classmethod
    def toward(cls, goal: Goal) -> SingleSteps:
        """Those that raise a goal's margin."""
        return cls(objective=objective("margin", goal))

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Starts at the image itself."""
        return {"images": images, "direction": torch.zeros_like(images)}

    def step(self, state: State, told: Told, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """The next of the steps, each from the clean image."""
        first = per_row(told.step == 0)
        direction = torch.where(first, ball.steepest(told.gradient), state["direction"])
        length = torch.tensor(_WAYS, device=clean.device)[told.step.to(clean.device)] * ball.radius
        return {"images": ball.project(clean + per_row(length) * direction, clean), "direction": direction}
