"""Batches of samples of one shape, and their images as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch

from robustcheck.data.samples import Samples, Shape
from robustcheck.models.grey_levels import shares_of

Member = TypeVar("Member")


def batches(
    members: Iterable[Member], shape_of: Callable[[Member], Shape], limit: int | None = None
) -> Iterator[list[Member]]:
    """Members whose images have one shape, in their order, at most `limit` at a time: only equal shapes make a batch.

    The limit stays the same for all, even if memory runs out meanwhile and `Chunks` works on fewer at once.
    """
    groups: dict[Shape, list[Member]] = {}
    for member in members:
        groups.setdefault(shape_of(member), []).append(member)
    for group in groups.values():
        size = limit or len(group)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def as_shares(samples: Samples, indexes: list[int], device: torch.device) -> torch.Tensor:
    """Stored images of one shape as float32 shares (N, C, H, W) of the full range."""
    stored = torch.from_numpy(np.stack([samples.image(index) for index in indexes]))
    if device.type == "cuda":  # as integers, and while the GPU works on
        stored = stored.pin_memory().to(device, non_blocking=True)
    return shares_of(stored, samples.maximum)
