"""FGSM: one steepest step from the image to the border of the ball.

Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from robustcheck.attacks.base import State, Told
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.objectives import Objective
from robustcheck.threats import Ball


@dataclass(frozen=True, kw_only=True)
class FGSM:
    """x' = project(x + ε · u), u the unit direction of steepest ascent: the gradient's sign in L∞."""

    objective: Objective
    name: str = "fgsm"
    asks: Literal["gradient"] = "gradient"
    steps: int = 1
    restarts: int = 1
    random_start: bool = False
    minimum_norm: bool = False
    aims: int = 0

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """At the image itself."""
        return {"images": images}

    def step(self, state: State, told: Told, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """To the border."""
        return {"images": ball.project(state["images"] + ball.radius * ball.steepest(told.gradient), clean)}

    def best(self, state: State) -> torch.Tensor:
        """Where the step led."""
        return state["images"]
