"""How oracles ask the artefact on a CPU: images channels last in memory, layers fused; scores differ in last bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.fast.fused import fuse

if TYPE_CHECKING:
    from robustcheck.models.candidate import Candidate

NOTE = (
    "oracles give it images with channels last in memory: it is the same network, in float32, but for the last bits of "
    "its scores"
)
FUSED = "oracles have its convolutions do the batch norms and ReLUs that follow them, with weights laid out once"
_LAST_BITS = 1e-5  # as a share of the largest logit of a batch, or of 0.1

Ask = Callable[[torch.Tensor], torch.Tensor]
"""Images (N, C, H, W) to logits (N, K)."""


def channels_last(inputs: torch.Tensor) -> torch.Tensor:
    """Inputs (N, C, H, W) in channels-last layout.

    `contiguous` would not do: images of one channel count as laid out either way, and convolutions then take the other
    layout unless their weights also have this one.
    """
    return torch.empty_like(inputs, memory_format=torch.channels_last).copy_(inputs)


def as_oracles_ask(candidate: Candidate, batches: Iterable[torch.Tensor]) -> Candidate:
    """The candidate, asked in the fastest way in which its answers to these images (N, C, H, W) stay the same.

    It is faster on CPUs. A candidate that draws cannot be compared, and NHWC inputs have another layout already.
    """
    network = candidate.network
    on_cpu, draws = network.device.type == "cpu", candidate.randomness is not None
    if not network.convolves_as_laid_out or not on_cpu or draws or not candidate.preprocess.channels_first:
        return candidate
    compared = tuple(batches)
    for other in _faster(candidate):
        if all(alike(candidate.logits, other.oracle_logits, images) for images in compared):
            return other
    return candidate


def _faster(candidate: Candidate) -> Iterator[Candidate]:
    """Ways to ask it, the fastest first."""
    info = candidate.info
    laid_out = replace(candidate, asked_channels_last=True, info=replace(info, notes=(*info.notes, NOTE)))
    module = candidate.network.module
    if module is not None and (fused := fuse(module)):
        yield replace(laid_out, fused=fused, info=replace(info, notes=(*info.notes, NOTE, FUSED)))
    yield laid_out


def alike(ask: Ask, other: Ask, images: torch.Tensor) -> bool:
    """Whether two ways to ask give the same logits except for last bits, for images together and the first one alone.

    Also False if the other way fails: a network's code may rely on the layout of its inputs.
    """
    for some in (images, images[:1]):
        logits = ask(some)
        try:
            others = other(some)
        except CandidateError:
            return False
        if others.shape != logits.shape or not _close(logits, others):
            return False
    return True


def _close(logits: torch.Tensor, others: torch.Tensor) -> bool:
    return bool((logits - others).abs().max() <= _LAST_BITS * logits.abs().max().clamp_min(0.1))  # a NaN is not close
