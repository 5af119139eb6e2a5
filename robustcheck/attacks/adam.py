"""Adam's step upwards (Kingma, Ba 2015, arXiv 1412.6980, algorithm 1), its size falling to 0 along a cosine.

ε is a share of a row's largest gradient, not a number as in the paper: the size of gradients depends on the scale of
the network's logits, which must decide nothing.
"""

from __future__ import annotations

from math import pi, sqrt

import torch

from robustcheck.attacks.base import State
from robustcheck.threats.ball import per_row

_MEAN, _SQUARE, _EPSILON = 0.9, 0.99, 1e-7  # β₁; β₂, below the paper's .999 because there are only a few hundred steps


def moments(values: torch.Tensor) -> State:
    """What Adam remembers about values (N, …), before the first step."""
    return {"mean": torch.zeros_like(values), "root": torch.zeros_like(values)}  # of the mean square


def ascend(
    state: State, gradient: torch.Tensor, step: torch.Tensor, *, size: float, steps: int
) -> tuple[torch.Tensor, State]:
    """The change (N, …) made by step number `step` (N,), from 0 on, of so many; and the new moments."""
    mean = _MEAN * state["mean"] + (1 - _MEAN) * gradient
    root = torch.hypot(sqrt(_SQUARE) * state["root"], sqrt(1 - _SQUARE) * gradient)  # squares round to 0 sooner
    number = per_row((step + 1).float())
    length = size * (1 + (pi * per_row(step.float()) / steps).cos()) / 2
    unbiased, usual = mean / (1 - _MEAN**number), root / (1 - _SQUARE**number).sqrt()
    least = _EPSILON * per_row(usual.flatten(1).amax(dim=1))
    change = length * unbiased / (usual + least).clamp_min(torch.finfo(usual.dtype).tiny)
    return change, {"mean": mean, "root": root}
