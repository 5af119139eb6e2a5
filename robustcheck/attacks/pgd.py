"""PGD: many signed steps, each projected back into the ball (Madry et al. 2018, arXiv 1706.06083, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustcheck.attacks.base import State, Uniform
from robustcheck.threats import LinfBall


@dataclass(frozen=True, kw_only=True)
class PGD:
    """xₜ₊₁ = project(xₜ + α · sign ∇ₓ loss), from a uniform point of the ball (or from the image)."""

    steps: int
    restarts: int
    step_share: float  # α, as a share of the full range
    random_start: bool

    def start(self, clean: torch.Tensor, ball: LinfBall, uniform: Uniform) -> State:
        """At a uniform point of the ball, or at the image."""
        return {"images": ball.sample(clean, uniform()) if self.random_start else clean}

    def step(self, state: State, gradient: torch.Tensor, clean: torch.Tensor, ball: LinfBall) -> State:
        """One signed step and its projection."""
        return {"images": ball.project(state["images"] + self.step_share * gradient.sign(), clean)}
