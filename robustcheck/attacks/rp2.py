"""Robust physical perturbations (RP₂; Eykholt et al. 2018, arXiv 1707.08945, equations 2 and 3).

Stickers inside a mask are painted so that they turn the image on average over how it is seen, and change little, are
smooth, and can be printed:

    max E[log p(wanted | seen(x + M·δ))] - λ ‖M·δ‖₁ - a · TV - b · NPS

The loop averages over looks. The non-printability score is each pixel's distance from the nearest ink; the product of
the distances from all inks, which the paper takes from Sharif et al. 2016, vanishes the faster the more inks there are.
What the paper sums over pixels is a mean over the mask here, and total variation, which grows with the side of an image
that is stored larger, a sum by the root of its pixels: weights mean the same whatever the resolution. Values are shares
of what is visible.

Gradients are scaled, so that the largest one that a row has met is as steep as that of a common network, whose
log-probability changes by some tens where all of the mask goes from black to white (40 for the CNN on X-rays that ships
with robustcheck). What stickers should not be weighs the same then, however large a candidate's logits are, and however
smooth it is: as in the paper, a sticker on one with small logits would stay the clean image. The gradient still fades
as an image is turned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustcheck.attacks.adam import ascend, moments
from robustcheck.attacks.base import GradientAttack, State, Told
from robustcheck.attacks.draws import Draws
from robustcheck.threats import Ball, Region
from robustcheck.threats.ball import per_row

_STEEPEST = 40.0  # L1 norm inside the mask that a row's largest gradient is taken to have; see above


@dataclass(frozen=True, kw_only=True)
class RP2(GradientAttack):
    """Adam on the objective less what stickers should not be; the last point is proposed."""

    step_size: float  # a share of what is visible
    size_weight: float  # λ
    smoothness: float
    printability: float
    inks: tuple[float, ...]
    name: str = "rp2"

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Start at the clean image, cut to visible values inside the mask: far behind a window no gradient is left."""
        seen = ball.project(images, clean)
        return {"images": seen, "steepest": torch.zeros_like(images[:, 0, 0, 0]), **moments(images)}

    def step(self, state: State, told: Told, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """A step inside the mask."""
        assert isinstance(ball, Region)
        images = state["images"].detach().requires_grad_()
        mask = ball.mask(*images.shape[-2:]).to(images.device)
        low, high = ball.visible
        with torch.enable_grad():
            seen, before = ((values - low) / (high - low) for values in (images, ball.project(clean, clean)))
            penalty = self.penalty(seen, before, mask).sum()
        inside = told.gradient * mask
        steepest = torch.maximum(state["steepest"], inside.abs().flatten(1).sum(dim=1) * (high - low))
        # Divided first: the largest float32 is no more than 40 times the inverse of the smallest. A zero stays one.
        scaled = inside / per_row(steepest.clamp_min(torch.finfo(steepest.dtype).tiny)) * _STEEPEST
        gradient = scaled - torch.autograd.grad(penalty, images)[0] * mask
        change, learned = ascend(state, gradient, told.step, size=self.step_size * (high - low), steps=self.steps)
        return {"images": ball.project(images.detach() + change, clean), "steepest": steepest, **learned}

    def penalty(self, images: torch.Tensor, clean: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What stickers on images (N, C, H, W), in a mask (H, W), should not be, (N,): large, rough, far from inks."""
        pixels = mask.sum() * images.shape[1]
        size = ((images - clean).abs() * mask).flatten(1).sum(dim=1) / pixels
        down = (images[..., 1:, :] - images[..., :-1, :]).abs() * (mask[1:, :] & mask[:-1, :])
        right = (images[..., :, 1:] - images[..., :, :-1]).abs() * (mask[:, 1:] & mask[:, :-1])
        rough = (down.flatten(1).sum(dim=1) + right.flatten(1).sum(dim=1)) / (pixels * images.shape[1]).sqrt()
        nearest = (images - self.inks[0]).abs()
        for ink in self.inks[1:]:
            nearest = torch.minimum(nearest, (images - ink).abs())
        away = (nearest * mask).flatten(1).sum(dim=1) / pixels
        return self.size_weight * size + self.smoothness * rough + self.printability * away
