"""Noise: random points at the border of the ball. Not an attack, but what any attack has to beat.

Carlini et al. 2019, arXiv 1902.06705, section 5.3: if random search finds more than an attack does, the attack is
broken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from robustcheck.attacks.base import Answers, Asked, QueryAttack, State
from robustcheck.attacks.draws import Draws
from robustcheck.threats import Ball


@dataclass(frozen=True, kw_only=True)
class Noise(QueryAttack):
    """Tries random directions up to the border: a corner of the L∞ ball, any point of the L2 sphere."""

    images_per_turn: int = 1
    name: str = "noise"
    adaptive: ClassVar[bool] = False

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """The state: how many turns there were; no point is left to propose, as each was queried."""
        return {"images": clean, "turn": torch.zeros(len(clean), dtype=torch.int64, device=clean.device)}

    def ask(self, state: State, clean: torch.Tensor, ball: Ball, draws: Draws) -> Asked:
        """Points at the border."""
        direction = self.directions(clean, draws, state["turn"]).flatten(0, 1)
        beside = clean.repeat_interleave(self.images_per_turn, dim=0)
        left = self.queries - state["turn"] * self.images_per_turn
        asked = torch.arange(self.images_per_turn, device=clean.device) < left.clamp_min(1)[:, None]
        images = ball.project(beside + ball.radius * ball.steepest(direction), beside)
        return Asked(images=images[asked.flatten()], asked=asked)

    def directions(self, clean: torch.Tensor, draws: Draws, turn: torch.Tensor) -> torch.Tensor:
        """Directions (N, Q, C, H, W) of any length in which points are tried in a row's turn (N,)."""
        return draws.normal((self.images_per_turn, *clean.shape[1:]), at=turn)

    def learn(
        self, state: State, queries: Asked, answers: Answers, clean: torch.Tensor, ball: Ball, draws: Draws
    ) -> State:
        """Count the turn; nothing is learned."""
        return {"images": state["images"], "turn": state["turn"] + 1}
