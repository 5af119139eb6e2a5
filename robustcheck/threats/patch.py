"""Patches: where they may lie on an image, and how they are put there.

The operator A(p, x, l, t) of Brown, Mané, Roy, Abadi, Gilmer 2017 (arXiv 1712.09665, equation 1): a patch p on an image
x, at a location l, turned and scaled by t. Lengths are in pixels. The top left corner of an image is at (0, 0), and the
centre of its first pixel at (½, ½).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, cos, pi, radians, sin, sqrt
from typing import Literal

import torch
from torch.nn.functional import grid_sample

from robustcheck.errors import EvaluationError
from robustcheck.policy import PatchSpec, Size
from robustcheck.threats.ball import per_row

Outline = Literal["square", "circle"]

PLACEMENT_DRAWS = 5  # uniform numbers from which a placement is made
_APART = radians(5)  # between two angles at which room is looked for
_TEXELS = 2  # pixels of a texture, along a side, for one of an image, which shows the mean of what is about its centre
_SPARE = 1 / 3  # share of these by which a texture may be finer, as where a scale makes it smaller, and stay as it is
_EDGE = 2**-10  # pixels by which squares are shifted: more than coordinates are rounded by


@dataclass(frozen=True, kw_only=True)
class Placements:
    """How N patches lie, each on an image of its own."""

    x: torch.Tensor  # (N,) of the centre, from the left
    y: torch.Tensor  # (N,) of the centre, from the top
    side: torch.Tensor  # (N,) of the square, or the circle's diameter
    angle: torch.Tensor  # (N,) radians, clockwise as one looks at the image
    finest: int | None = None  # pixels of a texture, along its side, that these images show; None: all


def lay(textures: torch.Tensor, images: torch.Tensor, at: Placements, outline: Outline) -> torch.Tensor:
    """Images (N, C, H, W) with textures (N, C, S, S) on them: bilinear between a texture's pixels, sharp at its edge.

    Differentiable in the textures. A texture of S pixels that lies unturned on S whole pixels is copied. One that is
    finer than these images show, or still far finer where it lies, is shrunk by averaging: otherwise it would be seen
    at single points instead of as what a pixel covers.
    """
    if at.finest is not None and textures.shape[-1] > at.finest:
        textures = shrunk(textures, at.finest)
    right, down = _on_patch(images.shape, at)
    grid = torch.stack([right, down], dim=-1) / per_row(at.side / 2)
    side, shown = textures.shape[-1], (_TEXELS * at.side).ceil().int()
    too_fine = side > shown * (1 + _SPARE)
    if bool(too_fine.any()):
        seen = torch.empty_like(images)
        sides = torch.where(too_fine, shown, side)
        for fewer in sides.unique().tolist():
            rows = (sides == fewer).nonzero().flatten()
            seen = seen.index_copy(0, rows, _read(shrunk(textures[rows], fewer), grid[rows]))
    else:
        seen = _read(textures, grid)
    return torch.where(_inside(right, down, at, outline)[:, None], seen, images)


def shrunk(textures: torch.Tensor, side: int) -> torch.Tensor:
    """Textures (N, C, S, S) with fewer pixels, (N, C, side, side), each the mean of what it covers, parts included."""
    means = means_of_parts(textures.shape[-1], side).to(textures)
    return means @ textures @ means.T


def means_of_parts(length: int, size: int) -> torch.Tensor:
    """The matrix (size, length), float64, that makes of an axis fewer pixels, each the mean of what it covers."""
    ends = torch.arange(size + 1, dtype=torch.float64) * (length / size)
    pixels = torch.arange(length, dtype=torch.float64)
    overlaps = torch.minimum(ends[1:, None], pixels + 1) - torch.maximum(ends[:-1, None], pixels)
    return overlaps.clamp_min(0) * (size / length)


def _read(textures: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return grid_sample(textures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def covered(shape: torch.Size, at: Placements, outline: Outline) -> torch.Tensor:
    """Which pixels (N, H, W) of images of a shape (N, C, H, W) lie under patches: those whose centres do.

    An unturned square covers as many pixels along a side as the side is long, wherever its own centre is: pixel centres
    on its left and upper edges belong to it, those on its right and lower edges do not.
    """
    return _inside(*_on_patch(shape, at), at, outline)


@dataclass(frozen=True, kw_only=True)
class Placing:
    """Where a patch may lie."""

    size: Size
    outline: Outline = "circle"
    location: tuple[float, float] | None = None  # of the centre, shares of the image's sides; None: anywhere
    rotation: float = 0.0  # degrees each way
    scale: float = 0.0  # share of the side each way
    resolution: float | None = None  # pixels of a texture that are seen for each of the image, along a side; None: all

    @classmethod
    def of(cls, spec: PatchSpec, size: Size) -> Placing:
        """The placing that a policy asks for."""
        location = None if spec.location == "random" else spec.location
        # A given patch may be twice as fine as one that is trained; a control is as fine as the image.
        resolution = max(1.0, spec.resolution * (1 if spec.patch is None else 2))
        return cls(
            size=size,
            outline=spec.shape,
            location=location,
            rotation=spec.rotation,
            scale=spec.scale,
            resolution=resolution,
        )

    def side(self, height: int, width: int) -> float:
        """The nominal side of the patch on an image of so many pixels; for a circle the diameter.

        Raises:
            EvaluationError: at its largest it is longer than the image's shorter side, or at its smallest it may lie
                between the centres of pixels and cover none.
        """
        side = self.nominal(height, width)
        # An unturned square covers a pixel wherever it lies (see `covered`), others if the circle in them does.
        least = 1 if self.outline == "square" and not self.rotation else sqrt(2)
        if (smallest := side * (1 - self.scale)) < least:
            raise EvaluationError(
                f"a patch of {self.size.text} is {smallest:.2g} pixels wide at its smallest scale on an image of "
                f"{height}×{width} (height × width), and may lie between pixels, covering none; give a larger size"
            )
        largest = side * (1 + self.scale)
        if self.outline == "square":
            turned = radians(min(self.rotation, 45))
            largest *= cos(turned) + sin(turned)
        if largest > min(height, width) + 1e-6:
            how = "scale, turned" if self.outline == "square" and self.rotation else "scale"
            raise EvaluationError(
                f"a patch of {self.size.text} is {largest:.3g} pixels wide at its largest {how}, and an image of "
                f"{height}×{width} (height × width) has no room for it; give a smaller size or scale"
            )
        if self.location is not None:
            for share, length in zip(self.location, (width, height), strict=True):
                if min(share, 1 - share) * length < largest / 2 - 1e-6:
                    raise EvaluationError(
                        f"a patch of {self.size.text} with its middle at {list(self.location)} does not lie wholly "
                        f"on an image of {height}×{width} (height × width); give another location, or a smaller size"
                    )
        return side

    def nominal(self, height: int, width: int) -> float:
        """The side that its size gives on an image of so many pixels, whether or not there is room for it."""
        if self.size.pixels is not None:
            return float(self.size.pixels)
        assert self.size.area is not None
        return sqrt(float(self.size.area) * height * width * (4 / pi if self.outline == "circle" else 1))

    def draw(self, uniform: torch.Tensor, height: int, width: int, keep_out: torch.Tensor | None = None) -> Placements:
        """Placements of N patches, each wholly on its image, evenly among all possible ones.

        Args:
            uniform: (N, 5) numbers in [0, 1): angle, scale, two for the location, and one in case it has to be another.
            height: of the images.
            width: of the images.
            keep_out: (N, H, W) pixels that may not be covered. A patch that would is moved: its centre to the middle of
                a pixel, any from which it does not.

        Raises:
            NoPlaceError: there is none for one of them.
        """
        angle = (2 * uniform[:, 0] - 1) * radians(self.rotation)
        nominal = self.side(height, width)
        finest = None if self.resolution is None else max(1, round(nominal * self.resolution))
        side = nominal * (1 + (2 * uniform[:, 1] - 1) * self.scale)
        half = side / 2
        reach = half if self.outline == "circle" else half * (angle.cos().abs() + angle.sin().abs())
        if self.location is not None:
            x, y = (
                torch.full_like(side, share * length)
                for share, length in zip(self.location, (width, height), strict=True)
            )
        else:
            x, y = (
                torch.where(2 * reach < length, reach + number * (length - 2 * reach), length / 2)
                for number, length in ((uniform[:, 2], width), (uniform[:, 3], height))
            )
        placements = Placements(x=x, y=y, side=side, angle=angle, finest=finest)
        if keep_out is None or not bool(keep_out.any()):
            return placements
        shape = torch.Size((len(side), 1, height, width))
        over = (covered(shape, placements, self.outline) & keep_out).flatten(1).any(dim=1).nonzero().flatten()
        if not len(over):
            return placements
        if self.location is not None:
            raise NoPlaceError(int(over[0]))
        hindered = Placements(x=x[over], y=y[over], side=side[over], angle=angle[over])
        free = self._free(keep_out[over], hindered, reach[over])
        counts = free.flatten(1).cumsum(dim=1)
        if (counts[:, -1] == 0).any():
            raise NoPlaceError(int(over[(counts[:, -1] == 0).nonzero()[0]]))
        rank = (uniform[over, 4] * counts[:, -1]).floor().long().clamp_max(counts[:, -1] - 1)
        chosen = torch.searchsorted(counts, rank[:, None] + 1).squeeze(1)
        x, y = x.index_copy(0, over, chosen % width + 0.5), y.index_copy(0, over, chosen // width + 0.5)
        return replace(placements, x=x, y=y)

    def check_room(self, height: int, width: int, keep_out: torch.Tensor | None = None) -> None:
        """Refuse an image on which not every draw has a place.

        A square is tried every few degrees, and so much larger that it contains those turned by less.

        Args:
            height: of the image.
            width: of the image.
            keep_out: (H, W) pixels that may not be covered.

        Raises:
            EvaluationError: it is too small.
            NoPlaceError: too much of it may not be covered.
        """
        half = self.side(height, width) * (1 + self.scale) / 2
        if keep_out is None or not bool(keep_out.any()):
            return
        turned = radians(min(self.rotation, 45)) if self.outline == "square" else 0.0
        steps = ceil(turned / _APART)
        between = turned / (2 * steps) if steps else 0.0
        angle = torch.linspace(-turned, turned, 2 * steps + 1, device=keep_out.device)
        reach = half * (cos(turned) + sin(turned))  # of those that are drawn; the larger ones need not lie on the image
        x, y = (
            torch.full_like(angle, share * length)
            for share, length in zip(self.location or (0.0, 0.0), (width, height), strict=True)
        )
        side = torch.full_like(angle, 2 * half * (cos(between) + sin(between)))
        at = Placements(x=x, y=y, side=side, angle=angle)
        if self.location is None:
            room = self._free(keep_out[None], at, (at.side / 2 * (angle.cos() + angle.sin().abs())).clamp_max(reach))
        else:
            room = ~(covered(torch.Size((len(angle), 1, height, width)), at, self.outline) & keep_out)
            room = room.flatten(1).all(dim=1)[:, None, None]
        if not bool(room.flatten(1).any(dim=1).all()):
            raise NoPlaceError(0)

    def _free(self, keep_out: torch.Tensor, at: Placements, reach: torch.Tensor) -> torch.Tensor:
        """Which pixels (M, H, W) may be the centres of patches that cover nothing of `keep_out` (M or 1, H, W)."""
        count, (height, width) = len(at.side), keep_out.shape[1:]
        half = ceil(float(reach.max()))
        size = 2 * half + 1
        middle = torch.full_like(at.x, size / 2)
        centred = Placements(x=middle, y=middle, side=at.side, angle=at.angle)
        footprints = covered(torch.Size((count, 1, size, size)), centred, self.outline).float()
        # How many pixels a footprint would cover that it may not, at each centre: a correlation, by Fourier transforms.
        padded = (height + size, width + size)
        product = torch.fft.rfft2(keep_out.float(), padded) * torch.fft.rfft2(footprints, padded).conj()
        over = torch.fft.irfft2(product, padded).roll((half, half), dims=(1, 2))[:, :height, :width]
        x, y = (torch.arange(length, device=at.x.device) + 0.5 for length in (width, height))
        fits_x, fits_y = (
            (centres >= reach[:, None]) & (centres <= length - reach[:, None])
            for centres, length in ((x, width), (y, height))
        )
        free: torch.Tensor = (over < 0.5) & fits_x[:, None, :] & fits_y[:, :, None]
        return free


class NoPlaceError(ValueError):
    """A patch cannot lie anywhere on an image without covering what it may not; `row` is which one."""

    def __init__(self, row: int) -> None:
        self.row = row
        super().__init__(f"no place for the patch on image {row}")


def _on_patch(shape: torch.Size, at: Placements) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the centre of each pixel lies, in pixels right and down of the patch's own, as the patch is turned.

    Of an unturned one these are differences of numbers that float32 has, and exact wherever they come near an edge.
    """
    height, width = shape[2:]
    across = torch.arange(width, device=at.x.device) + 0.5 - at.x[:, None]
    along = torch.arange(height, device=at.x.device) + 0.5 - at.y[:, None]
    across, along, angle = across[:, None, :], along[:, :, None], at.angle[:, None, None]
    cosine, sine = angle.cos(), angle.sin()
    return cosine * across + sine * along, cosine * along - sine * across


def _inside(right: torch.Tensor, down: torch.Tensor, at: Placements, outline: Outline) -> torch.Tensor:
    half = (at.side / 2)[:, None, None]
    if outline == "circle":
        return right.square() + down.square() <= half.square()
    low, high = -half - _EDGE, half - _EDGE
    return (right >= low) & (right < high) & (down >= low) & (down < high)
