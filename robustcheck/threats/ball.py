"""Where a counterexample of one image may lie: what searches and adjudication need from any such set.

Images are (N, C, H, W), with a clean one for each. Searches see them as shares of the full range; files store whole
grey levels, from 0 to `maximum`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from robustcheck.models.grey_levels import nearest_levels, shares_of

_BORDER = 1e-5  # of the radius: how far float32 points at a ball's border may be off it
_ROUNDING = 2.0**-22  # of the full range: the same for each pixel, which is more if a ball is small or images large


class Ball(ABC):
    """Images that may stand for a clean one, and the norm in which they differ from it."""

    maximum: int  # the largest value that can be stored

    if TYPE_CHECKING:  # a field of some and not of others: an attribute here would be its default there

        @property
        def levels(self) -> int | Fraction:
            """How far they may differ, in grey levels."""

    @property
    @abstractmethod
    def radius(self) -> float:
        """How far they may differ, as a share of the full range."""

    @abstractmethod
    def widest(self, shape: tuple[int, int, int]) -> Ball:
        """The one of its kind that holds every storable image of a shape (C, H, W)."""

    # --- the search's world: shares of the full range ---

    @abstractmethod
    def project(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The points of it that images are brought to."""

    @abstractmethod
    def within(self, images: torch.Tensor, clean: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """The points that images are brought to if each row may differ by a radius (N,) at most."""

    @abstractmethod
    def sample(self, clean: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Points of it from uniform numbers in [0, 1) of the images' shape."""

    @abstractmethod
    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The direction (N, C, H, W) of unit norm in which a function with this gradient rises fastest."""

    @abstractmethod
    def norm(self, change: torch.Tensor) -> torch.Tensor:
        """Norms (N,) of changes (N, C, H, W)."""

    @abstractmethod
    def norm_of_ones(self, pixels: int) -> float:
        """The norm of a change by 1 of each of so many pixels."""

    def slack(self, pixels: int) -> float:
        """How far beyond the radius float32 points of so many pixels may lie after they were brought to the border."""
        return _BORDER * self.radius + _ROUNDING * self.norm_of_ones(pixels)

    @abstractmethod
    def dual_norm(self, gradient: torch.Tensor) -> torch.Tensor:
        """How fast (N,) a function with this gradient rises along `steepest`."""

    # --- the world of stored images: whole grey levels ---

    @abstractmethod
    def rounded(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Storable images of it, as shares of the range, for points of it."""

    @abstractmethod
    def aside(self, images: torch.Tensor, clean: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Storable images beside points of it, on the side that `direction` has."""

    def outward(self, images: torch.Tensor, clean: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Storable images beside points of minimum-norm searches, which have room around them."""
        return self.aside(images, clean, direction)

    @abstractmethod
    def distance(self, stored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Distance (N,) in grey levels of stored integer images from the clean ones."""

    @abstractmethod
    def contains(self, stored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Which (N,) of the stored integer images lie in it, exactly."""

    def _storable(self, stored: torch.Tensor) -> torch.Tensor:
        """Which (N,) of the integer images can be stored."""
        flat = stored.flatten(1)
        return (flat >= 0).all(dim=1) & (flat <= self.maximum).all(dim=1)


class ByLargestChange(Ball):
    """A set in which images differ by the largest change of a pixel (L∞)."""

    def norm(self, change: torch.Tensor) -> torch.Tensor:
        """L∞ norms (N,) of changes (N, C, H, W)."""
        return change.abs().flatten(1).amax(dim=1)

    def norm_of_ones(self, _pixels: int) -> float:
        """The largest of them, which is 1."""
        return 1.0

    def rounded(self, images: torch.Tensor, _clean: torch.Tensor) -> torch.Tensor:
        """The nearest storable images, as shares of the range: the border is on whole levels."""
        return shares_of(nearest_levels(images, self.maximum), self.maximum)

    def distance(self, stored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Largest change (N,) in grey levels of stored integer images (N, C, H, W) from the clean ones."""
        return (stored.int() - clean.int()).abs().flatten(1).amax(dim=1)


def per_row(values: torch.Tensor) -> torch.Tensor:
    """Numbers (N,), one per row, as (N, 1, 1, 1), to broadcast over images."""
    return values.view(-1, 1, 1, 1)
