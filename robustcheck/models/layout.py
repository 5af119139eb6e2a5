"""Images with their channels last in memory: a CPU convolves them faster, and only the last bits of scores differ."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from robustcheck.models.network import Forward, rows

_LAST_BITS = 1e-5  # as a share of the largest score, or of 0.1


def channels_last(inputs: torch.Tensor) -> torch.Tensor:
    """The same numbers (N, C, H, W) in that layout.

    `contiguous` would not do: images of one channel count as laid out either way, and convolutions take the other one.
    """
    return torch.empty_like(inputs, memory_format=torch.channels_last).copy_(inputs)


def takes_channels_last(forward: Forward, example: Iterable[torch.Tensor]) -> bool:
    """Whether a network scores inputs alike however they lie in memory.

    Args:
        forward: the network.
        example: batches of inputs (N, …) that fit, of each shape that it will be given.
    """
    return all(_alike(forward, inputs) for inputs in example)


def _alike(forward: Forward, inputs: torch.Tensor) -> bool:
    """On these inputs, together and the first one alone."""
    try:
        with torch.no_grad():
            return all(
                _close(rows(forward(some), len(some)), rows(forward(channels_last(some)), len(some)))
                for some in (inputs, inputs[:1])
            )
    except Exception:  # noqa: BLE001 (a network's code may rely on a layout; then it is asked as it is)
        return False


def _close(scores: torch.Tensor, others: torch.Tensor) -> bool:
    return bool((scores - others).abs().max() <= _LAST_BITS * scores.abs().max().clamp_min(0.1))  # a NaN is not close
