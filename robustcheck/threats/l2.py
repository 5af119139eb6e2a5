"""The L2 ball: the root of the summed squares of all pixels' changes is at most so many grey levels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, prod, sqrt

import torch
from torch import nn

from robustcheck.errors import EvaluationError
from robustcheck.models.grey_levels import nearest_levels, shares_of
from robustcheck.policy import Quantity
from robustcheck.threats.ball import Ball, per_row

_TINY = 1e-12
_HALVINGS = 20  # of the search for the scale at which a rounded change fits
_AT_BORDER = 0.01  # of the radius: at most so much counts as float32's error
_FULL = 0.99  # of the squares aimed at: a stored change with less leaves room for single pixels
_LARGEST_SCALE = 64.0  # a change whose pixels are all below half a level has to grow to be stored at all


@dataclass(frozen=True, kw_only=True)
class L2Ball(Ball):
    """Images within `levels` of a clean one in L2, and within the storable range [0, `maximum`]."""

    levels: Fraction
    maximum: int

    @classmethod
    def of(cls, budget: Quantity, bits: int) -> L2Ball:
        """The ball that a budget admits at a stored depth; it need not be a whole number of levels.

        Raises:
            EvaluationError: it is less than one level, and so admits no change at all.
        """
        levels = budget.in_levels(bits)
        if levels < 1:
            raise EvaluationError(
                f"epsilon {budget.text} is {budget.levels_in_words(bits)} of a grey level in L2 and admits no change "
                f"to these images of {bits} bits; one pixel changed by one level is 1/{2**bits - 1}"
            )
        return cls(levels=levels, maximum=2**bits - 1)

    @property
    def radius(self) -> float:
        """The radius as a share of the full range."""
        return float(self.levels / self.maximum)

    def widest(self, shape: tuple[int, int, int]) -> L2Ball:
        """The ball that holds every storable image (C, H, W)."""
        return L2Ball(levels=Fraction(self.maximum * ceil(sqrt(prod(shape)))), maximum=self.maximum)

    # --- the search's world: shares of the full range ---

    def project(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Onto the ball, then into the range, which only shortens the change."""
        return self.within(images, clean, torch.tensor(self.radius, device=images.device))

    def within(self, images: torch.Tensor, clean: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """Points of balls with a radius (N,), one per row or one for all."""
        change = images - clean
        length = self.norm(change).clamp_min(_TINY)
        return (clean + change * per_row((radius / length).clamp_max(1))).clamp_(0, 1)

    def sample(self, clean: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Points of the ball from uniform numbers in [0, 1) of the images' shape: a direction at random, to the border.

        In many dimensions almost all of a ball's volume lies at its border.
        """
        return self.project(
            clean + self.steepest(torch.special.ndtri(uniform.clamp(1e-7, 1 - 1e-7))) * self.radius, clean
        )

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The direction (N, C, H, W) of unit L2 norm in which a function with this gradient rises fastest."""
        flat = gradient.flatten(1)
        # Twice, because the squares of a small gradient underflow: scaled to a largest pixel of 1 they do not.
        flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return nn.functional.normalize(flat, dim=1).view_as(gradient)

    def norm(self, change: torch.Tensor) -> torch.Tensor:
        """L2 norms (N,) of changes (N, C, H, W).

        Line by line first: summed at once in float32, the squares of millions of pixels are off by a thousandth.
        """
        lines = torch.linalg.vector_norm(change, dim=3).flatten(1)
        length: torch.Tensor = torch.linalg.vector_norm(lines, dim=1, dtype=torch.float64).to(change.dtype)
        return length

    def norm_of_ones(self, pixels: int) -> float:
        """The root of their number."""
        return sqrt(pixels)

    def dual_norm(self, gradient: torch.Tensor) -> torch.Tensor:
        """L2 norms (N,): how fast a function with this gradient rises along `steepest`."""
        return self.norm(gradient)

    # --- the world of stored images: whole grey levels ---

    def rounded(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Storable images of the ball in the direction of points of it, as shares of the range."""
        reference = nearest_levels(clean, self.maximum)
        return self._fitted(images * self.maximum - reference, reference)

    def aside(self, images: torch.Tensor, clean: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Storable images beside points of the ball: half a level towards `direction` before they are rounded."""
        reference = nearest_levels(clean, self.maximum)
        return self._fitted(images * self.maximum + direction.sign() / 2 - reference, reference)

    def _fitted(self, change: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """A multiple of each change that, rounded to whole levels, goes as far as the change and no farther.

        Rounding makes some changes longer than the ball is wide, and removes small ones. As the scale grows, the length
        of the rounded change never falls, so the best scale is found by halving. The length aimed at is that of the
        change, so that a minimum-norm search stays as near as it came, but never beyond the ball.

        Pixels that changed alike are rounded alike at every scale, all or none of them. If that leaves room, they use
        it one by one.
        """
        whole, squares = floor(self.levels**2), self._squares(change)
        slack = min(self.slack(change[0].numel()) * self.maximum, _AT_BORDER * float(self.levels))
        at_border = squares.sqrt() >= float(self.levels) - slack
        squares = torch.where(at_border, whole, squares.clamp(1, whole))  # float32 may have taken a little of it
        low = torch.zeros_like(squares)
        high = torch.full_like(squares, _LARGEST_SCALE)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = self._squares(self._scaled(change, middle, reference) - reference) <= squares
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        stored = self._scaled(change, low, reference)
        short = (self._squares(stored - reference) < _FULL * squares).nonzero().flatten()
        if len(short):
            left, clean = change[short], reference[short]
            filled = self._filled(stored[short], self._scaled(left, high[short], clean), left, clean, squares[short])
            stored = stored.index_copy(0, short, filled)
        return shares_of(stored, self.maximum)

    def _filled(
        self,
        stored: torch.Tensor,
        larger: torch.Tensor,
        change: torch.Tensor,
        reference: torch.Tensor,
        squares: torch.Tensor,
    ) -> torch.Tensor:
        """Images with as many pixels of larger ones as fit: first those that change most, then in their order."""
        before, after = ((levels - reference).double().flatten(1).square() for levels in (stored, larger))
        growing = change.abs().flatten(1).masked_fill(after == before, -1)
        order = growing.argsort(dim=1, descending=True, stable=True)
        needed = (after - before).gather(1, order).long().cumsum(dim=1)
        fits = needed <= (squares - before.sum(dim=1)).long()[:, None]  # whole numbers, and so exact
        return torch.where(torch.zeros_like(fits).scatter(1, order, fits).view_as(stored), larger, stored)

    def _scaled(self, change: torch.Tensor, scale: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return (reference + (change * per_row(scale).float()).round()).clamp_(0, self.maximum)

    def _squares(self, change: torch.Tensor) -> torch.Tensor:
        return change.double().flatten(1).square().sum(dim=1)

    def distance(self, stored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Distance (N,) in grey levels, float64, of stored integer images (N, C, H, W) from the clean ones."""
        return self._squares(stored.int() - clean.int()).sqrt()

    def contains(self, stored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Which (N,) of the stored integer images lie in the ball, exactly: squares of whole numbers are compared."""
        return self._storable(stored) & (self._squares(stored.int() - clean.int()) <= floor(self.levels**2))
