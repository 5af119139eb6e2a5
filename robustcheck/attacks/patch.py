"""The adversarial patch (Brown, Mané, Roy, Abadi, Gilmer 2017, arXiv 1712.09665, equation 1).

It maximises the expected log-probability of what the adversary wants, over images, locations and transformations; a
step follows the mean gradient of one draw of them. Rows are patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustcheck.attacks.adam import ascend, moments
from robustcheck.attacks.base import State
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.objectives import Objective

_GREY = 0.5


@dataclass(frozen=True, kw_only=True)
class PatchTraining:
    """Patches of values in [0, 1] that rise along the gradients that they are told."""

    objective: Objective
    steps: int
    step_size: float  # of the first step, a share of the full range

    def start(self, shape: tuple[int, int, int], draws: Draws, restart: int) -> State:
        """Patches (N, C, S, S) of a shape, one a row of the draws: grey, those of later restarts random."""
        rows = len(draws.keys)
        values = draws.uniform(shape) if restart else torch.full((rows, *shape), _GREY, device=draws.keys.device)
        return {"patches": values, **moments(values)}

    def step(self, state: State, gradient: torch.Tensor, number: int) -> State:
        """Patches after a step along the mean gradients (N, C, S, S) at the ones before."""
        step = torch.full((len(gradient),), number, device=gradient.device)
        change, learned = ascend(state, gradient, step, size=self.step_size, steps=self.steps)
        return {"patches": (state["patches"] + change).clamp_(0, 1), **learned}
