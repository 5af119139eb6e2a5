"""What every format is loaded into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch


class Forward(Protocol):
    """The network proper: input tensor (N, …) on the network's device to raw scores (N, K) or (N,)."""

    def __call__(self, inputs: torch.Tensor, /) -> torch.Tensor:
        """Ask."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A loaded artefact."""

    forward: Forward
    device: torch.device
    no_gradients: str | None = None  # why it gives none; None if it does
    channels: int | None = None  # that its first layer takes, where it tells
    notes: tuple[str, ...] = field(default=())


def freeze(module: torch.nn.Module) -> None:
    """Weights need no gradients: only the image does, and that saves a third of a step."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def first_line(error: BaseException) -> str:
    """The first line of a library's message: enough for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
