"""The layout of weights in memory: CPUs convolve faster where a pixel's channels lie together.

The weights, their precision and what is computed of them stay the artefact's; only the order of additions differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from robustcheck.models.network import Network, rows

_ALIKE = 1e-5  # of the largest score: what another order of additions changes


def channels_together(network: Network, inputs: Sequence[torch.Tensor]) -> Network:
    """The network in that layout, if it takes it and answers the same; else as it was.

    Networks may rely on the usual layout, as those do that `view` what a convolution gives.

    Args:
        network: around a module on the CPU.
        inputs: batches (N, …) to try it on.
    """
    module = network.module
    assert module is not None
    usual = _answers(network, inputs)
    module.to(memory_format=torch.channels_last)
    try:
        alike = all(_alike(one, other) for one, other in zip(usual, _answers(network, inputs), strict=True))
    except Exception:  # noqa: BLE001 (a candidate's code may raise anything)
        alike = False
    if not alike:
        module.to(memory_format=torch.contiguous_format)
    return replace(network, tried=None)


def _answers(network: Network, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [rows(network.forward(batch), len(batch)) for batch in inputs]


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(
        torch.isclose(one, other, rtol=_ALIKE, atol=_ALIKE * float(one.abs().max()), equal_nan=True).all()
    )
