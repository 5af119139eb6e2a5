"""Adam's step upwards (Kingma, Ba 2015, arXiv 1412.6980, algorithm 1), its size falling to 0 along a cosine."""

from __future__ import annotations

from math import pi

import torch

from robustcheck.attacks.base import State, per_row

_MEAN, _SQUARE, _EPSILON = 0.9, 0.99, 1e-8  # β₁; β₂, below the paper's .999: a few hundred steps are all there are


def moments(values: torch.Tensor) -> State:
    """What Adam remembers of values (N, …), before the first step."""
    return {"mean": torch.zeros_like(values), "square": torch.zeros_like(values)}


def ascend(
    state: State, gradient: torch.Tensor, step: torch.Tensor, *, size: float, steps: int
) -> tuple[torch.Tensor, State]:
    """The change (N, …) that step number `step` (N,), from 0 on, of so many makes; and the new moments."""
    mean = _MEAN * state["mean"] + (1 - _MEAN) * gradient
    square = _SQUARE * state["square"] + (1 - _SQUARE) * gradient.square()
    number = per_row((step + 1).float())
    length = size * (1 + (pi * per_row(step.float()) / steps).cos()) / 2
    unbiased = mean / (1 - _MEAN**number)
    change = length * unbiased / ((square / (1 - _SQUARE**number)).sqrt() + _EPSILON)
    return change, {"mean": mean, "square": square}
