"""The adversarial patch (Brown, Mané, Roy, Abadi, Gilmer 2017, arXiv 1712.09665, equation 1).

It maximises the expected log-probability of what the adversary wants, over images, locations and transformations; a
step follows the mean gradient of one draw of them. Rows are patches. They stay within what the model sees, on any look:
beyond a window's ends nothing changes any more, and no gradient leads back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustcheck.attacks.adam import ascend, moments
from robustcheck.attacks.base import State
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.objectives import Objective


@dataclass(frozen=True, kw_only=True)
class PatchTraining:
    """Gradient ascent on patches, whose values are shares of the full range."""

    objective: Objective
    steps: int
    step_size: float  # of the first step, a share of what is visible
    visible: tuple[float, float] = (0.0, 1.0)  # the darkest and the brightest value that look different
    reach: tuple[float, float] = (0.0, 1.0)  # the same on any look, which may be darker or brighter

    def start(self, shape: tuple[int, int, int], draws: Draws, restart: int) -> State:
        """Patches (N, C, S, S) of a shape, one per row of the draws: grey at first, random in later restarts."""
        rows = len(draws.keys)
        values = draws.uniform(shape) if restart else torch.full((rows, *shape), 0.5, device=draws.keys.device)
        low, high = self.visible
        values = low + (high - low) * values
        return {"patches": values, **moments(values)}

    def step(self, state: State, gradient: torch.Tensor, number: int) -> State:
        """Patches after a step along the mean gradients (N, C, S, S) at the ones before."""
        step = torch.full((len(gradient),), number, device=gradient.device)
        low, high = self.visible
        change, learned = ascend(state, gradient, step, size=self.step_size * (high - low), steps=self.steps)
        return {"patches": (state["patches"] + change).clamp_(*self.reach), **learned}
