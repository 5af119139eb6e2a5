"""Images as inputs with fewer axes than they have: rows of numbers, and grey images without a channel axis."""

from __future__ import annotations

import torch

ROWS, GREY = 2, 3  # axes of (N, C·H·W), and of (N, H, W)


def with_axes(images: torch.Tensor, axes: int | None) -> torch.Tensor:
    """Images (N, C, H, W), or with their channels last, as an input with so many axes; unchanged for any other number.

    Raises:
        ValueError: they are not grey, but the input has no channel axis.
    """
    if axes == ROWS:
        return images.flatten(1)
    if axes == GREY:
        channels = next((axis for axis in (1, -1) if images.shape[axis] == 1), None)
        if channels is None:
            raise ValueError("its input has three axes, which are taken for (N, H, W)")
        return images.squeeze(channels)
    return images


def has_no_batch(takes: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    """Whether an input takes one image of this shape, or a grey one as (H, W), and has no axis before it.

    Of (1, H, W) the first axis is one: a batch of one grey image.
    """
    sizes, image = ([size for size in axes if size != 1] for axes in (takes, shape))
    return takes[:1] != (1,) and sizes == image


def with_a_channel(takes: tuple[int | None, ...], *, last: bool) -> tuple[int | None, ...]:
    """What a graph says that it takes, as images from which `with_axes` makes such inputs."""
    if len(takes) != GREY:
        return takes
    batch, height, width = takes
    return (batch, height, width, 1) if last else (batch, 1, height, width)
