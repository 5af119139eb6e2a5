"""What the engine asks of an attack that follows gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from robustcheck.threats import LinfBall

State = dict[str, torch.Tensor]
"""What a search remembers, one row a sample. `images` (N, C, H, W) are the points that it asks about next; an attack
may keep more (momentum, step sizes). Rows are independent: the engine takes them out and puts others in their place."""

Uniform = Callable[[], torch.Tensor]
"""Numbers in [0, 1) of the shape of the rows' images, each row from the stream of its own sample and restart."""


class GradientAttack(Protocol):
    """A search that steps along gradients."""

    @property
    def steps(self) -> int:
        """Gradients a restart."""

    @property
    def restarts(self) -> int:
        """Independent starts a sample."""

    def start(self, clean: torch.Tensor, ball: LinfBall, uniform: Uniform) -> State:
        """Where rows begin, for clean images (N, C, H, W) in shares of the full range."""

    def step(self, state: State, gradient: torch.Tensor, clean: torch.Tensor, ball: LinfBall) -> State:
        """Where rows go next, by the gradient of the objective at `state["images"]`."""
