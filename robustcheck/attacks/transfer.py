"""PGD for another model than the one that is searched: with momentum and input diversity, which carry over better.

Momentum: Dong et al. 2018, arXiv 1710.06081, algorithm 1. Input diversity: Xie et al. 2019, arXiv 1803.06978, section
3.3; images are shrunk, never enlarged, so that networks of one input size see them too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from robustcheck.attacks.base import State, Told
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.pgd import PGD
from robustcheck.threats import Ball


@dataclass(frozen=True, kw_only=True)
class DiversePGD(PGD):
    """PGD that sometimes takes the gradient at a shrunken copy placed on black."""

    diversity: float = 0.5  # how likely a step sees it so
    smallest: float = 0.9  # share of its sides that is left at least
    name: str = "transfer"

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Start at a point of the ball; the models see another view of it."""
        state = super().start(images, clean, ball, draws)
        return {**state, "point": images, "images": self._view(images, draws, 1)}

    def step(self, state: State, told: Told, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """A step of PGD along the gradient at the point, which is that at the view, carried back."""
        with torch.enable_grad():
            point = state["point"].detach().requires_grad_()
            view = self._view(point, draws, told.step + 1)
        (gradient,) = torch.autograd.grad(view, point, told.gradient)
        moved = super().step({**state, "images": state["point"]}, replace(told, gradient=gradient), clean, ball, draws)
        return {**moved, "point": moved["images"], "images": self._view(moved["images"], draws, told.step + 2)}

    def best(self, state: State) -> torch.Tensor:
        """The last point."""
        return state["point"]

    def _view(self, images: torch.Tensor, draws: Draws, at: int | torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W), each as the models see it at a step, one for all or (N,)."""
        drawn = draws.uniform((4,), at=at)
        scale = 1 - (1 - self.smallest) * drawn[:, 1]
        scale = torch.where(drawn[:, 0] < self.diversity, scale, 1.0)
        offset = (2 * drawn[:, 2:] - 1) * (1 - scale)[:, None]
        pose = torch.zeros(len(images), 2, 3, device=images.device)
        pose[:, 0, 0] = pose[:, 1, 1] = 1 / scale
        pose[:, :, 2] = -offset / scale[:, None]
        grid = nn.functional.affine_grid(pose, list(images.shape), align_corners=False)
        return nn.functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
