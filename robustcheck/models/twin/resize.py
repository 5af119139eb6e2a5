"""ONNX's Resize, all of it, as a linear function of the image: an interpolation matrix per axis.

Sizes and places are those of ONNX Runtime (`upsamplebase.h`), which computes them in float32. Exact ones would do for
what is interpolated, but many pixels lie halfway between two, or at one, and rounding decides which is the nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isclose
from typing import Any

import numpy as np
import torch
from onnx import NodeProto
from torch import Tensor, fx, nn
from torch.nn import functional

from robustcheck.models.twin.builder import Builder, NotFollowedError, attribute, call, computes, input_of

_RADIUS = {"linear": 1, "cubic": 2}
_TIE = 1e-6  # pixels: so near the middle of two, ONNX Runtime takes a place for it
_MOST_WEIGHTS = 2**26  # of a matrix: from 8192 pixels to as many


@dataclass(frozen=True, kw_only=True)
class How:
    """What a node says about how it resizes (ONNX operator Resize, opset 10 to the newest; Upsample)."""

    mode: str  # nearest, linear or cubic
    coordinates: str  # the attribute coordinate_transformation_mode
    nearest: str = "round_prefer_floor"  # the attribute nearest_mode; "simple": as before it was one
    cubic_a: float = -0.75  # the attribute cubic_coeff_a
    exclude_outside: bool = False  # pixels outside the image have no weight; else the border's stand for them
    extrapolation: float = 0.0  # what lies outside a crop
    antialias: bool = False  # the filter is as wide as a pixel of a smaller image
    axes: Sequence[int] | None = None  # which axes the sizes are about; None: all
    aspect: str = "stretch"  # the attribute keep_aspect_ratio_policy
    scales: tuple[float, ...] | None = None  # known beforehand


class Resize(nn.Module):
    """Resizes any axes."""

    def __init__(self, how: How) -> None:
        super().__init__()
        self.how = how
        self._known: dict[tuple[Any, ...], tuple[Tensor, Tensor | None]] = {}

    def forward(
        self, image: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
    ) -> Tensor:
        """Resize to the sizes, or by the scales."""
        axes = [axis % image.ndim for axis in self.how.axes] if self.how.axes is not None else list(range(image.ndim))
        shape = [image.shape[axis] for axis in axes]
        if sizes is not None and sizes.numel():
            factors, target = self._to_sizes(shape, sizes.tolist())
        else:
            told = [1.0] * len(axes) if scales is None else scales.tolist()
            factors = list(self.how.scales or told)
            target = [int(_float32(size * factor)) for size, factor in zip(shape, factors, strict=True)]
        if target == shape:
            return image
        crop = self.how.coordinates == "tf_crop_and_resize"
        corners = roi.tolist() if crop and roi is not None else [0.0] * len(axes) + [1.0] * len(axes)
        if self._is_bilinear(axes, shape, target, factors):
            corner = self.how.coordinates == "align_corners"
            return functional.interpolate(image, target[-2:], mode="bilinear", align_corners=corner)
        kind, answer = image.dtype, image
        with torch.autocast(image.device.type, enabled=False):  # images must not lose bits on their way in
            answer = image if kind is torch.float64 else image.float()
            for place, axis in enumerate(axes):
                if target[place] == shape[place] and (factors[place] == 1 or self.how.antialias):
                    continue
                span = corners[place], corners[place + len(axes)]
                answer = self._along(answer, axis, shape[place], target[place], factors[place], span)
        return answer.to(kind) if kind.is_floating_point else answer.round().to(kind)

    def _to_sizes(self, shape: list[int], sizes: list[int]) -> tuple[list[float], list[int]]:
        factors = [_float32(size / was) for size, was in zip(sizes, shape, strict=True)]
        if self.how.aspect == "stretch":
            return factors, [int(size) for size in sizes]
        factor = min(factors) if self.how.aspect == "not_larger" else max(factors)
        return [factor] * len(shape), [int(_float32(factor * was) + 0.5) for was in shape]

    def _is_bilinear(self, axes: list[int], shape: list[int], target: list[int], factors: list[float]) -> bool:
        """Whether torch's own bilinear interpolation, which is faster than matrices, does the same."""
        how = self.how
        if how.mode != "linear" or how.antialias or how.exclude_outside or axes not in ([0, 1, 2, 3], [2, 3]):
            return False
        if len(axes) == 4 and target[:2] != shape[:2]:
            return False
        exact = all(
            isclose(new, was * factor, rel_tol=1e-6) for new, was, factor in zip(target, shape, factors, strict=True)
        )
        return exact and how.coordinates in ("half_pixel", "align_corners", "pytorch_half_pixel") and min(target) > 1

    def _along(
        self, image: Tensor, axis: int, size: int, target: int, factor: float, span: tuple[float, float]
    ) -> Tensor:
        weights, outside = self._weights(size, target, factor, span, image.device)
        if self.how.mode == "nearest":
            answer = image.index_select(axis, weights)
        else:
            answer = image.movedim(axis, -1).matmul(weights.T).movedim(-1, axis)
        if outside is None:
            return answer
        shape = [1] * image.ndim
        shape[axis] = -1
        return torch.where(outside.view(shape), self.how.extrapolation, answer)

    def _weights(
        self, size: int, target: int, factor: float, span: tuple[float, float], device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        key = (size, target, factor, span, device)
        if key not in self._known:
            if self.how.mode != "nearest" and size * target > _MOST_WEIGHTS:
                raise NotFollowedError(f"Resize from {size} to {target} pixels takes a matrix that is too large")
            weights, outside = _weights(self.how, size, target, factor, span)
            there = None if outside is None else torch.from_numpy(outside).to(device)
            self._known[key] = torch.from_numpy(weights).to(device), there
        return self._known[key]


def _weights(
    how: How, size: int, target: int, factor: float, span: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The interpolation matrix (target, size), or for nearest the indexes (target,); and which pixels are outside."""
    where = _source(how.coordinates, size, target, factor, span)
    outside = (where < 0) | (where > size - 1) if how.coordinates == "tf_crop_and_resize" else None
    if how.mode == "nearest":
        rounded = {
            "round_prefer_floor": np.ceil(where - 0.5 - _TIE),
            "round_prefer_ceil": np.floor(where + 0.5 + _TIE),
            "floor": np.floor(where),
            "ceil": np.ceil(where),
            "simple": np.ceil(where) if factor < 1 else np.floor(where),
        }[how.nearest]
        return rounded.clip(0, size - 1).astype(np.int64), outside
    narrow = min(factor, 1.0) if how.antialias else 1.0
    reach = ceil(_RADIUS[how.mode] / narrow)
    taps = np.floor(where).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    weights = _filter(how.mode, (taps - where[:, None]) * narrow, how.cubic_a)
    if how.exclude_outside:
        weights[(taps < 0) | (taps >= size)] = 0
    if how.exclude_outside or how.antialias:
        weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((target, size))
    rows = np.broadcast_to(np.arange(target)[:, None], taps.shape)
    np.add.at(matrix, (rows, taps.clip(0, size - 1)), weights)
    return matrix.astype(np.float32), outside


def _source(coordinates: str, size: int, target: int, factor: float, span: tuple[float, float]) -> np.ndarray:
    """Where (target,) each pixel of the answer lies in the image: each step is rounded as ONNX Runtime rounds it."""
    place: np.ndarray = np.arange(target, dtype=np.float32)
    was, now, scale, half = (np.float32(number) for number in (size, target, factor, 0.5))
    start, end = (np.float32(corner) for corner in span)
    where: np.ndarray
    match coordinates:
        case "half_pixel":
            where = (place + half) / scale - half
        case "pytorch_half_pixel":
            where = (place + half) / scale - half if target > 1 else place
        case "tf_half_pixel_for_nn":
            where = (place + half) / scale
        case "asymmetric":
            where = place / scale
        case "align_corners":
            where = place * (was - 1) / (now - 1) if target > 1 else place
        case "tf_crop_and_resize" if target > 1:
            where = start * (was - 1) + place * (end - start) * (was - 1) / (now - 1)
        case "tf_crop_and_resize":
            where = np.array([0.5 * float(start + end) * (size - 1)])
        case "half_pixel_symmetric":
            offset = was / 2 * (1 - now / (scale * was))
            where = float(offset) + (place.astype(np.float64) + 0.5) / float(scale) - 0.5
        case _:
            raise NotFollowedError(f"Resize by {coordinates}")
    return where.astype(np.float32).astype(np.float64)  # what follows is exact


def _float32(number: float) -> float:
    return float(np.float32(number))


def _filter(mode: str, distance: np.ndarray, a: float) -> np.ndarray:
    """Weights at distances in pixels: a triangle, or the cubic of Keys 1981."""
    x: np.ndarray = np.abs(distance)
    if mode == "linear":
        return (1 - x).clip(0, 1)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _resize(builder: Builder, node: NodeProto, how: How, roi: int = 0, scales: int = 0, sizes: int = 0) -> fx.Node:
    """A node that resizes, by the places of its other inputs; 0 for those that this opset does not have."""
    others = [input_of(builder, node, place) if place else None for place in (roi, scales, sizes)]
    return call(builder, node, Resize(how), builder.get_value(node.input[0]), *others)


@computes("Resize", since=11)
def _resize_11(builder: Builder, node: NodeProto) -> fx.Node:
    how = How(
        mode=attribute(node, "mode", "nearest"),
        coordinates=attribute(node, "coordinate_transformation_mode", "half_pixel"),
        nearest=attribute(node, "nearest_mode", "round_prefer_floor"),
        cubic_a=attribute(node, "cubic_coeff_a", -0.75),
        exclude_outside=bool(attribute(node, "exclude_outside", 0)),
        extrapolation=attribute(node, "extrapolation_value", 0.0),
        antialias=bool(attribute(node, "antialias", 0)),
        axes=attribute(node, "axes"),
        aspect=attribute(node, "keep_aspect_ratio_policy", "stretch"),
    )
    return _resize(builder, node, how, roi=1, scales=2, sizes=3)


@computes("Resize", since=10)
@computes("Upsample", since=9)
def _resize_10(builder: Builder, node: NodeProto) -> fx.Node:
    how = How(mode=attribute(node, "mode", "nearest"), coordinates="asymmetric", nearest="simple")
    return _resize(builder, node, how, scales=1)


@computes("Upsample", since=7)
def _upsample_7(builder: Builder, node: NodeProto) -> fx.Node:
    scales = tuple(attribute(node, "scales"))
    how = How(mode=attribute(node, "mode", "nearest"), coordinates="asymmetric", nearest="simple", scales=scales)
    return _resize(builder, node, how)
