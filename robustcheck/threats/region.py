"""A region of the image, in which every pixel may be anything: stickers that are painted where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustcheck.data import Area
from robustcheck.threats.ball import ByLargestChange, per_row


@dataclass(frozen=True, kw_only=True)
class Region(ByLargestChange):
    """Images that differ from a clean one inside a mask only, and lie within the storable range [0, `maximum`].

    Distances are the largest pixel's, in grey levels.
    """

    area: Area  # the same on every image of a size
    maximum: int
    visible: tuple[float, float] = (0.0, 1.0)  # shares of the range, beyond which everything looks alike
    reach: tuple[float, float] = (0.0, 1.0)  # the same for any look, darker or brighter; searches stay in it

    @property
    def levels(self) -> int:
        """Any storable value is allowed."""
        return self.maximum

    @property
    def radius(self) -> float:
        """The radius as a share of the full range."""
        return 1.0

    def widest(self, _shape: tuple[int, int, int]) -> Region:
        """There is no wider one."""
        return self

    def project(self, images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The nearest points of the region, for images and clean images (N, C, H, W) in shares of the range."""
        return torch.where(self._mask(images), images.clamp(*self.reach), clean)

    def within(self, images: torch.Tensor, clean: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """The nearest points of the region that differ by at most a radius (N,), one per row."""
        radius = per_row(radius)
        return self.project(torch.minimum(torch.maximum(images, clean - radius), clean + radius), clean)

    def sample(self, clean: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Points of the region from uniform numbers in [0, 1) of the images' shape."""
        low, high = self.visible
        return self.project(low + (high - low) * uniform, clean)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """The direction (N, C, H, W) of unit L∞ norm in which a function with this gradient rises fastest."""
        return gradient.sign() * self._mask(gradient)

    def dual_norm(self, gradient: torch.Tensor) -> torch.Tensor:
        """L1 norms (N,) inside the mask."""
        return (gradient.abs() * self._mask(gradient)).flatten(1).sum(dim=1)

    def aside(self, images: torch.Tensor, clean: torch.Tensor, _direction: torch.Tensor) -> torch.Tensor:
        """The nearest storable images again: where values are free, one grey level decides nothing."""
        return self.rounded(images, clean)

    def contains(self, stored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Which (N,) of the stored integer images lie in the region, exactly."""
        allowed = (stored.int() == clean.int()) | self._mask(stored)
        return self._storable(stored) & allowed.flatten(1).all(dim=1)

    def mask(self, height: int, width: int) -> torch.Tensor:
        """Which pixels (H, W) may change."""
        return torch.from_numpy(self.area.mask("", height, width))

    def _mask(self, images: torch.Tensor) -> torch.Tensor:
        return self.mask(*images.shape[-2:]).to(images.device)
