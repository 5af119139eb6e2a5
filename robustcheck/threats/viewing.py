"""Viewing conditions: how a camera sees an image, as a distribution of differentiable transformations.

Expectation over transformation (Athalye, Engstrom, Ilyas, Kwok 2018, arXiv 1707.07397, section 2.1) averages over
draws of it. An image is turned, scaled, shifted and tilted in one step (a homography), resampled and blurred in one
more (a matrix along each axis), then its contrast and brightness change, grain is added, and it is compressed.
From afar, and from the side, each pixel is the mean of what it covers. Conditions that are not given cost nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import radians

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample

from robustcheck.models.grey_levels import shares_of
from robustcheck.policy import ConditionsSpec
from robustcheck.policy.viewing_spec import CAMERA_DISTANCE
from robustcheck.threats.ball import per_row
from robustcheck.threats.patch import means_of_parts

LOOK_DRAWS = 12  # uniform numbers from which a look is made

_SPARE = 1 / 3  # of a pixel: how much farther apart than pixels points that are read linearly may lie
_TINY = 1e-3
_KEPT_BYTES = 1 << 26  # of the matrices that resample axes of one length


@dataclass(frozen=True, kw_only=True)
class Looks:
    """N looks, each at an image of its own; None for conditions that do not vary."""

    rotation: torch.Tensor | None = None  # (N,) radians, clockwise
    scale: torch.Tensor | None = None  # (N,) 1 / distance
    right: torch.Tensor | None = None  # (N,) share of the width
    down: torch.Tensor | None = None  # (N,) share of the height
    tilt: torch.Tensor | None = None  # (N,) radians off the normal
    axis: torch.Tensor | None = None  # (N,) radians, of the axis that the image is tilted about; 0 is its width
    resampling: torch.Tensor | None = None  # (N,) share of the resolution
    blur: torch.Tensor | None = None  # (N,) standard deviation in pixels
    contrast: torch.Tensor | None = None  # (N,) factor
    brightness: torch.Tensor | None = None  # (N,) share of the full range
    noise: torch.Tensor | None = None  # (N,) standard deviation, share of the full range
    jpeg: torch.Tensor | None = None  # (N,) quality

    def some(self, places: slice) -> Looks:
        """A part of them."""
        return self._each(lambda values: values[places])

    def repeated(self, times: int) -> Looks:
        """The same looks at each of so many images; all looks at the first image come first."""
        return self._each(lambda values: values.repeat(times))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Looks:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Looks(**{name: None if value is None else change(value) for name, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """A distribution of looks: every condition is uniform between its ends and independent of the others."""

    spec: ConditionsSpec
    exported: tuple[float, float] = (0.0, 1.0)  # shares of the full range that JPEG's 8 bits span

    def draw(self, uniform: torch.Tensor) -> Looks:
        """Looks made of numbers (N, 12) in [0, 1)."""
        spec = self.spec
        looks = Looks(
            rotation=_between(spec.rotation, uniform[:, 0], radians(1)),
            scale=_between(spec.scale, uniform[:, 1]),
            right=_between(spec.translation, uniform[:, 2]),
            down=_between(spec.translation, uniform[:, 3]),
            tilt=_between(spec.perspective, uniform[:, 4], radians(1)),
            axis=_between(None if spec.perspective is None else (0.0, 360.0), uniform[:, 5], radians(1)),
            resampling=_between(spec.resampling, uniform[:, 6]),
            blur=_between(spec.blur, uniform[:, 7]),
            contrast=_between(spec.contrast, uniform[:, 8]),
            brightness=_between(spec.brightness, uniform[:, 9]),
            noise=_between(spec.noise, uniform[:, 10]),
        )
        quality = _between(spec.jpeg, uniform[:, 11])
        return looks if quality is None else replace(looks, jpeg=quality.round())


def grid_looks(distances: tuple[float, ...], angles: tuple[float, ...], device: torch.device) -> Looks:
    """Looks from each distance at each angle to the side, distance by distance."""
    pairs = torch.tensor([(distance, angle) for distance in distances for angle in angles], device=device)
    return Looks(
        scale=1 / pairs[:, 0],
        tilt=torch.deg2rad(pairs[:, 1]),
        axis=torch.full((len(pairs),), radians(90), device=device),
    )


def seen_from(places: Looks, looks: Looks) -> Looks:
    """Looks from these places: `places` sets the conditions that it has, `looks` all others."""
    return replace(looks, scale=places.scale, tilt=places.tilt, axis=places.axis)


def see(
    images: torch.Tensor,
    looks: Looks,
    grain: torch.Tensor | None = None,
    exported: tuple[float, float] = (0.0, 1.0),
) -> torch.Tensor:
    """Images (N, C, H, W), shares of the full range, as they are seen; what lies beyond their edges is black.

    Differentiable in the images. Compression passes gradients straight through.

    Args:
        images: one a look.
        looks: N.
        grain: (N, C, H, W) normal numbers, if there is noise.
        exported: shares of the full range that are black and white where images are compressed.
    """
    seen = images
    if (scale := looks.scale) is not None and bool((scale < 1).any()):
        # Each pixel of a look is the mean of what it covers: if it were read at single points, most would not count.
        seen = _along_axes(seen, lambda length: _means(1 / scale, length))
    if any(value is not None for value in (looks.rotation, looks.scale, looks.right, looks.down, looks.tilt)):
        seen = _warped(seen, looks)
    if looks.resampling is not None or looks.blur is not None:
        seen = _along_axes(seen, lambda length: _optics(looks, length, images.device))
    if looks.contrast is not None:
        seen = (seen - 0.5) * per_row(looks.contrast) + 0.5
    if looks.brightness is not None:
        seen = seen + per_row(looks.brightness)
    if looks.noise is not None and grain is not None:
        seen = seen + grain * per_row(looks.noise)
    seen = seen.clamp(0, 1)
    if looks.jpeg is not None:
        seen = seen + (_compressed(seen.detach(), looks.jpeg, *exported) - seen.detach())
    return seen


def _between(ends: tuple[float, float] | None, uniform: torch.Tensor, unit: float = 1.0) -> torch.Tensor | None:
    return None if ends is None else (ends[0] + (ends[1] - ends[0]) * uniform) * unit


def _warped(images: torch.Tensor, looks: Looks) -> torch.Tensor:
    """Images (N, C, H, W), turned, scaled, shifted and tilted.

    A pixel of a tilted image is the mean of as many points, spread evenly over it, as it covers image pixels.
    """
    shape = images.shape[2:]
    there = _homography(shape, looks, len(images), images.device)
    back = torch.linalg.inv(there)
    seen = _sampled(images, back)
    if looks.tilt is None:
        return seen
    points = (_footprint(shape, looks, there, back) - _SPARE).ceil().clamp_min(1).int()
    for across, along in points[(points > 1).any(dim=1)].unique(dim=0).tolist():
        rows = ((points[:, 0] == across) & (points[:, 1] == along)).nonzero().flatten()
        total = torch.zeros_like(images[rows])
        for right in range(across):
            for down in range(along):
                off_centre = (right + 0.5) / across - 0.5, (down + 0.5) / along - 0.5
                total = total + _sampled(images[rows], back[rows], off_centre)
        seen = seen.index_copy(0, rows, total / (across * along))
    return seen


def _homography(shape: torch.Size, looks: Looks, count: int, device: torch.device) -> torch.Tensor:
    """Where points of images of a shape (H, W) are seen, as matrices M (N, 3, 3).

    The image is a plane that turns about its middle, in front of a pinhole camera. In halves of its longer side, a
    point p of it is seen at (x, y) / w, with (x, y, w) = M p.
    """
    height, width = shape
    long = max(height, width) / 2
    zero = torch.zeros(count, device=device)
    one = torch.ones(count, device=device)
    turn = zero if looks.rotation is None else looks.rotation
    tilt = zero if looks.tilt is None else looks.tilt
    axis = zero if looks.axis is None else looks.axis
    distance = one if looks.scale is None else 1 / looks.scale
    right = zero if looks.right is None else looks.right * (width / long)
    down = zero if looks.down is None else looks.down * (height / long)

    rotation = _matrix([[turn.cos(), -turn.sin(), zero], [turn.sin(), turn.cos(), zero], [zero, zero, one]])
    # A rotation in space by `tilt` about an axis in the plane (Rodrigues), of which the plane needs two columns.
    x, y, less = axis.cos(), axis.sin(), 1 - tilt.cos()
    away = CAMERA_DISTANCE
    tilted = _matrix(
        [
            [tilt.cos() + x * x * less, x * y * less, zero],
            [x * y * less, tilt.cos() + y * y * less, zero],
            [-y * tilt.sin() / away, x * tilt.sin() / away, distance],
        ]
    )
    shifted = _matrix([[one, zero, right], [zero, one, down], [zero, zero, one]])
    return shifted @ tilted @ rotation


def _sampled(images: torch.Tensor, back: torch.Tensor, off_centre: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """Images (N, C, H, W), read for each pixel of a look at a point that lies so far, in pixels, off its centre.

    Args:
        images: that are looked at.
        back: maps where points are seen to where they lie (N, 3, 3).
        off_centre: right and down.
    """
    count, _, height, width = images.shape
    device, long = images.device, max(height, width) / 2
    across = ((torch.arange(width, device=device) + (0.5 + off_centre[0])) - width / 2) / long
    along = ((torch.arange(height, device=device) + (0.5 + off_centre[1])) - height / 2) / long
    pixels = torch.stack(
        [across.expand(height, width), along[:, None].expand(height, width), torch.ones(height, width, device=device)],
        dim=-1,
    ).view(1, -1, 3)
    points = pixels @ back.transpose(-1, -2)
    depth = points[..., 2:]  # 1 / w: what is behind the camera is not seen
    grid = points[..., :2] / depth.abs().clamp_min(1e-9)
    grid = torch.where(depth > 0, grid * torch.tensor([long / (width / 2), long / (height / 2)], device=device), 9.0)
    grid = grid.view(count, height, width, 2)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _footprint(shape: torch.Size, looks: Looks, there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """Most pixels of images (H, W) that one of a look covers, across and along (N, 2): at the corner farthest away.

    From afar images are means already (`_means`): what counts is how much further than these they are narrowed.

    Args:
        shape: of the images.
        looks: at them.
        there: maps where points lie to where they are seen (N, 3, 3).
        back: the other way (N, 3, 3).
    """
    high, wide = (length / max(shape) for length in shape)
    corners = torch.tensor([[x, y, 1] for x in (-wide, wide) for y in (-high, high)], device=back.device)
    depth = (corners @ there[:, 2, :, None]).clamp_min(0)  # (N, 4, 1): w; none of what is behind the camera
    # Of p, at (x, y) / w, the derivatives by x and by y, (N, 4, 2, 2).
    slopes = depth[..., None] * (back[:, None, :2, :2] - corners[:, :2, None] * back[:, None, 2:, :2])
    means = torch.ones_like(back[:, 0, 0]) if looks.scale is None else (1 / looks.scale).clamp_min(1)
    most: torch.Tensor = torch.linalg.vector_norm(slopes, dim=2).amax(dim=1)
    return most / means[:, None]


def _matrix(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _along_axes(images: torch.Tensor, matrices: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """Images (N, C, H, W) after matrices (N, length, length), for axes of so many pixels, are applied to each axis."""
    height, width = images.shape[2:]
    along = matrices(height)
    across = along if width == height else matrices(width)
    return along[:, None] @ images @ across[:, None].transpose(-1, -2)


def _means(widths: torch.Tensor, length: int) -> torch.Tensor:
    """Means over so many pixels (N,) around each pixel of the axis, as matrices; over one or fewer, the pixel itself.

    Parts of pixels count as parts.
    """
    places = torch.arange(length, device=widths.device, dtype=torch.float32)
    apart = (places[:, None] - places[None, :]).abs()
    weights = ((widths.clamp_min(1)[:, None, None] + 1) / 2 - apart).clamp(0, 1)
    return weights / weights.sum(dim=-1, keepdim=True)


def _optics(looks: Looks, length: int, device: torch.device) -> torch.Tensor:
    """Resampling and blur along an axis, as matrices (N, length, length)."""
    matrices: list[torch.Tensor] = []
    if looks.resampling is not None:
        sizes = (looks.resampling * length).round().clamp(1, length).int().tolist()
        matrices.append(torch.stack(list(map(_resampling(length, device), sizes))))
    if looks.blur is not None:
        places = torch.arange(length, device=device, dtype=torch.float32)
        apart = (places[:, None] - places[None, :]).square()
        weights = (-apart / (2 * looks.blur.clamp_min(_TINY).square())[:, None, None]).exp()
        matrices.append(weights / weights.sum(dim=-1, keepdim=True))
    return matrices[0] if len(matrices) == 1 else matrices[1] @ matrices[0]


@lru_cache(maxsize=8)
def _resampling(length: int, device: torch.device) -> Callable[[int], torch.Tensor]:
    """`_resampled` of an axis, which keeps the latest matrices on the device, within so many bytes."""
    return lru_cache(maxsize=max(1, _KEPT_BYTES // (4 * length**2)))(
        lambda size: _resampled(length, size).to(device)  # each copy to a GPU is waited for
    )


def _resampled(length: int, size: int) -> torch.Tensor:
    """Reduces to so many pixels, each the mean of what it covers, and interpolates back linearly: (length, length)."""
    down, places = means_of_parts(length, size), torch.arange(length, dtype=torch.float64)
    back = ((places + 0.5) * (size / length) - 0.5).clamp(0, size - 1)
    low = back.floor().long()
    beyond = (back - low)[:, None]
    return ((1 - beyond) * down[low] + beyond * down[(low + 1).clamp_max(size - 1)]).float()


def _compressed(images: torch.Tensor, quality: torch.Tensor, black: float, white: float) -> torch.Tensor:
    """Images (N, C, H, W) after JPEG compression in 8 bits, which span these shares of the full range."""
    shown = ((images - black) / (white - black)).clamp(0, 1)
    levels = (shown * 255).round().byte().cpu().numpy()
    read = [_through_jpeg(image, int(value)) for image, value in zip(levels, quality.tolist(), strict=True)]
    return black + (white - black) * shares_of(torch.from_numpy(np.stack(read)).to(images.device), 255)


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """One image (C, H, W); channels that are not colours are compressed one by one."""
    if len(image) not in (1, 3):
        return np.concatenate([_through_jpeg(channel[None], quality) for channel in image])
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)).save(file, "JPEG", quality=quality)
    read = np.asarray(Image.open(file))
    return read[None] if read.ndim == 2 else np.moveaxis(read, -1, 0)
