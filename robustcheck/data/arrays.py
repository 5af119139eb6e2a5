"""Images that lie in memory as one array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcheck.data.samples import Images, Indexes, Listing, PixelSpace, Shape, Stored, Wanted
from robustcheck.digests import pixels_sha256
from robustcheck.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayImages:
    """Images of one size, uint8 or uint16, in a view (N, C, H, W) of any memory layout."""

    array: Stored
    space: PixelSpace
    notes: tuple[str, ...] = ()
    late_notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.array)

    def shape_of(self, index: int) -> Shape:  # noqa: ARG002 - all are of one size
        """The shape (C, H, W) of every image."""
        channels, height, width = self.array.shape[1:]
        return channels, height, width

    def image(self, index: int) -> Stored:
        """A copy of one image (C, H, W), in C order."""
        return np.array(self.array[index], order="C")

    def content_sha256(self, index: int) -> str:
        """Digest of one image's pixels, (C, H, W) in C order, little-endian."""
        return pixels_sha256(self.array[index])


def array_listing(
    array: NDArray[Any],
    labels: Indexes,
    wanted: Wanted,
    *,
    names: Sequence[str],
    split: str | None,
    what: str,
) -> Listing:
    """A listing of images that are in memory.

    Args:
        array: integers (N, H, W), (N, C, H, W) or (N, H, W, C), C being 1 or 3.
        labels: (N,).
        wanted: says their depth and Hounsfield units.
        names: (N,).
        split: where the source has splits.
        what: the array, as a message names it.

    Raises:
        DataError: not integers, not of such a shape, or not as many labels as images.
    """
    if len(labels) != len(array):
        raise DataError(f"{what} holds {len(array)} images, but there are {len(labels)} labels")
    array = _channels_first(array, what)
    space = PixelSpace(bits=_depth(array.dtype, wanted.bits, what), hounsfield=wanted.hounsfield)

    def take(indexes: Indexes) -> Images:
        chosen = array if len(indexes) == len(array) else array[indexes]
        _check_range(chosen, space, [names[index] for index in indexes], what)
        return ArrayImages(array=chosen.astype(np.uint8 if space.bits <= 8 else np.uint16, copy=False), space=space)

    return Listing(names=names, labels=labels, take=take, split=split)


def _channels_first(array: NDArray[Any], what: str) -> NDArray[Any]:
    """The images as (N, C, H, W)."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape[1:]:
        raise DataError(
            f"{what} has the shape {array.shape}; (N, H, W), (N, H, W, C) or (N, C, H, W) is allowed, with 1 or 3 "
            "channels C: a policy judges images, not volumes"
        )
    return array


def _depth(dtype: np.dtype[Any], bits: int | None, what: str) -> int:
    """How many bits integers of a type store, by what the policy says; None: it says nothing."""
    if dtype.kind not in "iu":
        raise DataError(
            f"{what} holds {dtype}, which is not a pixel space: budgets are measured in stored integers; "
            "store uint8, or uint16 with data.bits"
        )
    container = 8 if dtype == np.uint8 else 16
    if bits is None and container == 16:
        raise DataError(f"{what} holds {dtype}: set data.bits to how many of its bits are used, such as 12 or 16")
    if bits is not None and not 1 <= bits <= container:
        raise DataError(f"{what} holds {dtype}, but data.bits is {bits}: 1 to {container} are allowed")
    return bits or container


def _check_range(array: NDArray[Any], space: PixelSpace, names: Sequence[str], what: str) -> None:
    if array.dtype == np.uint8 and space.bits == 8:
        return
    maximum = (1 << space.bits) - 1
    wrong = np.flatnonzero((array.max(axis=(1, 2, 3)) > maximum) | (array.min(axis=(1, 2, 3)) < 0))
    if len(wrong):
        image = array[wrong[0]]
        raise DataError(
            f"{what}: {names[wrong[0]]} holds values from {image.min()} to {image.max()}; with {space.bits} "
            f"bits, {space.values} are allowed{space.advice(int(image.min()))}"
        )
