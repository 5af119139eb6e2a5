"""Images with their channels last in memory: a CPU convolves them faster, and only the last bits of scores differ."""

from __future__ import annotations

from collections.abc import Callable

import torch

from robustcheck.errors import EvaluationError

NOTE = (
    "those who ask are answered with the images' channels last in memory: by the same network, in float32, with scores "
    "that may differ in their last bits"
)
_LAST_BITS = 1e-5  # as a share of the largest score, or of 0.1

Ask = Callable[[torch.Tensor], torch.Tensor]
"""Images (N, C, H, W) to logits (N, K)."""


def channels_last(inputs: torch.Tensor) -> torch.Tensor:
    """The same numbers (N, C, H, W) in that layout.

    `contiguous` would not do: images of one channel count as laid out either way, and convolutions then take the other
    one unless their weights are laid out so, too.
    """
    return torch.empty_like(inputs, memory_format=torch.channels_last).copy_(inputs)


def alike(ask: Ask, other: Ask, images: torch.Tensor) -> bool:
    """Whether two ways to ask lead to the same logits but for last bits, for images together and the first one alone.

    False, too, if the other way leads to an error: a network's code may rely on how its inputs lie.
    """
    try:
        return all(_close(ask(some), other(some)) for some in (images, images[:1])[: len(images)])
    except EvaluationError:
        return False


def _close(logits: torch.Tensor, others: torch.Tensor) -> bool:
    return bool((logits - others).abs().max() <= _LAST_BITS * logits.abs().max().clamp_min(0.1))  # a NaN is not close
