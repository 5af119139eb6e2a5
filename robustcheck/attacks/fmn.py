"""FMN: the fast minimum-norm attack (Pintor, Roli, Brendel, Biggio 2021, arXiv 2102.12827, algorithm 1).

Each row walks along the gradient in a ball of its own, which shrinks while the row is misread and grows while it is
not. So it ends at the border between the two, as near to the image as it can.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import ClassVar

import torch

from robustcheck.attacks.base import GradientAttack, State, Told
from robustcheck.attacks.draws import Draws
from robustcheck.threats import Ball
from robustcheck.threats.ball import per_row

_LAST_STEP = 0.01  # of the first: where the cosine ends
_PIXELS = 3 * 224**2  # in all channels: on larger images the first step is longer, so that it goes as far a pixel


@dataclass(frozen=True, kw_only=True)
class FMN(GradientAttack):
    """`steps` gradients; steps of length α (L2), and ε that changes by γ, both falling along a cosine."""

    step_share: float | None = None  # α₀, as a share of the full range; None: the range, or more on large images
    gamma: float = 0.05  # γ₀
    name: str = "fmn"
    minimum_norm: ClassVar[bool] = True
    keeps_best: ClassVar[bool] = True

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Starts at the image; no misread point is known yet."""
        unknown = torch.full((len(images),), torch.inf, device=images.device)
        return {"images": images, "best": images, "best_norm": unknown, "radius": unknown}

    def step(self, state: State, told: Told, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Algorithm 1, lines 4 to 14, for the point that was just asked about."""
        images = state["images"]
        norm = ball.norm(images - clean)
        better = told.fooled & (norm < state["best_norm"])
        best_norm = torch.where(better, norm, state["best_norm"])
        best = torch.where(per_row(better), images, state["best"])

        decay = (1 + (pi * told.step / self.steps).cos()) / 2
        gamma = self.gamma * decay
        # All steps together go about half as far as their number, and a large image has to be crossed as well.
        first = max(1.0, sqrt(images[0].numel() / _PIXELS)) if self.step_share is None else self.step_share
        step = first * (_LAST_STEP + (1 - _LAST_STEP) * decay)
        # Until a misread point is found, the ball reaches to where the loss, if it were linear, would be 0; and a
        # little farther than in the paper, because a loss that is linear is 0 there, on either side of it by chance.
        steepness, direction = _scaled(told.gradient)
        to_border = norm + told.loss.abs() / steepness / ball.dual_norm(direction).clamp_min(1)
        to_border = to_border * (1 + gamma)
        radius = torch.where(
            told.fooled,
            torch.minimum(state["radius"] * (1 - gamma), best_norm),
            torch.where(best_norm < torch.inf, state["radius"] * (1 + gamma), to_border),
        ).clamp_max(ball.radius)
        length = direction.flatten(1).norm(dim=1).clamp_min(1)
        ahead = images + direction * per_row(step / length)
        return {
            "images": ball.within(ahead, clean, radius),
            "best": best,
            "best_norm": best_norm,
            "radius": radius,
        }

    def best(self, state: State) -> torch.Tensor:
        """The nearest misread point that the search has seen; the image itself if there is none."""
        return state["best"]


def _scaled(gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's largest entry (N,), and gradients divided by it: no norm of those rounds to 0 or to infinity.

    A norm of theirs is 1 or more, but for a gradient of zero, which stays one.
    """
    largest = gradient.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return largest, gradient / per_row(largest)
