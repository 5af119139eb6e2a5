"""FGSM: one steepest step from the image to the border of the ball.

Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustcheck.attacks.base import GradientAttack, State, Told
from robustcheck.attacks.draws import Draws
from robustcheck.threats import Ball


@dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack):
    """x' = project(x + ε · u), u the unit direction of steepest ascent: the gradient's sign in L∞."""

    name: str = "fgsm"
    steps: int = 1

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Starts at the image itself."""
        return {"images": images}

    def step(self, state: State, told: Told, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """One step to the border."""
        return {"images": ball.project(state["images"] + ball.radius * ball.steepest(told.gradient), clean)}
