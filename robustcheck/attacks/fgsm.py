"""FGSM: one signed step from the image to a corner of the ball (Goodfellow et al. 2015, arXiv 1412.6572, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustcheck.attacks.base import State, Uniform
from robustcheck.threats import LinfBall


@dataclass(frozen=True, kw_only=True)
class FGSM:
    """x' = project(x + ε · sign ∇ₓ loss)."""

    steps: int = 1
    restarts: int = 1

    def start(self, clean: torch.Tensor, ball: LinfBall, uniform: Uniform) -> State:
        """At the image itself."""
        return {"images": clean}

    def step(self, state: State, gradient: torch.Tensor, clean: torch.Tensor, ball: LinfBall) -> State:
        """To the corner."""
        return {"images": ball.project(state["images"] + ball.radius * gradient.sign(), clean)}
