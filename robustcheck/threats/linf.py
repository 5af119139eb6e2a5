"""The L∞ ball: every pixel may change by at most so many stored grey levels."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import torch

from robustcheck.errors import EvaluationError
from robustcheck.models.grey_levels import nearest_levels, shares_of
from robustcheck.policy import Quantity
from robustcheck.threats.ball import ByLargestChange, per_row

_ON_LEVEL = 0.01  # of a level: float32 shares of 16-bit images are this exact


@dataclass(frozen=True, kw_only=True)
class LinfBall(ByLargestChange):
    """Images within `levels` grey levels of a clean one, and within the storable range [0, `maximum`]."""

    levels: int
    maximum: int

    @classmethod
    def of(cls, budget: Quantity, bits: int) -> LinfBall:
        """The ball that a budget admits at a stored depth: only the whole levels in it count.

        Raises:
            EvaluationError: it admits no change at all, is more than the range, or is a rounded fraction of it.
        """
        levels = floor(budget.in_levels(bits))
        if levels < 1:
            raise EvaluationError(
                f"epsilon {budget.text} is {budget.levels_in_words(bits)} of a grey level and admits no change to "
                f"these images of {bits} bits; one level is 1/{2**bits - 1}"
            )
        if levels > 2**bits - 1:
            raise EvaluationError(f"epsilon: found {budget.text}; an image of {bits} bits has {2**bits - 1}")
        if (mistaken := budget.a_hair_less(bits)) is not None:
            raise EvaluationError(f"epsilon {budget.text} is {mistaken}")
        return cls(levels=levels, maximum=2**bits - 1)

    @property
    def radius(self) -> float:
        """The radius as a share of the full range."""
        return self.levels / self.maximum

    def widest(self, _shape: tuple[int, int, int]) -> LinfBall:
        """The ball that holds every storable image."""
        return LinfBall(levels=self.maximum, maximum=self.maximum)

    # --- the search's world: shares of the full range ---

    def project(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The nearest point of the ball, for images and clean images (N, C, H, W) in shares of the range."""
        return (images - clean).clamp_(-self.radius, self.radius).add_(clean).clamp_(0, 1)

    def within(self, images: torch.Tensor, clean: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """The nearest points of balls with a radius (N,), one per row."""
        radius = per_row(radius)
        return torch.minimum(torch.maximum(images, clean - radius), clean + radius).clamp_(0, 1)

    def sample(self, clean: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Points of the ball from uniform numbers in [0, 1) of the images' shape."""
        return self.project(clean + (2 * uniform - 1) * self.radius, clean)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The direction (N, C, H, W) of unit L∞ norm in which a function with this gradient rises fastest."""
        return gradient.sign()

    def dual_norm(self, gradient: torch.Tensor) -> torch.Tensor:
        """L1 norms (N,): how fast a function with this gradient rises along `steepest`."""
        return gradient.abs().flatten(1).sum(dim=1)

    # --- the world of stored images: whole grey levels ---

    def aside(self, images: torch.Tensor, _clean: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Storable images beside points of the ball: each pixel is rounded to the side that `direction` has.

        Both neighbours of a point lie in the ball, because its border is on whole levels. Pixels without a direction,
        and those on a level up to float32's error, go to the nearest.
        """
        levels = images * self.maximum
        nearest = levels.round()
        off_level = (levels - nearest).abs() > _ON_LEVEL
        aside = torch.where(direction > 0, levels.ceil(), levels.floor())
        return shares_of(torch.where(off_level & (direction != 0), aside, nearest), self.maximum)

    def outward(self, images: torch.Tensor, clean: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Corners of the smallest balls of whole levels, at least one, that contain points.

        For minimum-norm searches, whose ball has no border. Pixels that went less than half way go to the side of
        `direction`, the others to the side that they are on.
        """
        reference = nearest_levels(clean, self.maximum)
        change = images * self.maximum - reference
        levels = per_row((self.norm(change) - _ON_LEVEL).ceil().clamp_min(1))
        side = torch.where(2 * change.abs() < levels, direction, change).sign()
        return shares_of((reference + side * levels).clamp_(0, self.maximum), self.maximum)

    def contains(self, stored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Which (N,) of the stored integer images lie in the ball, exactly."""
        return self._storable(stored) & (self.distance(stored, clean) <= self.levels)
