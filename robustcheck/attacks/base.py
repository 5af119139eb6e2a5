"""What the engine asks of an attack, and what it tells it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast

import torch

from robustcheck.attacks.draws import Draws
from robustcheck.attacks.objectives import Objective
from robustcheck.threats import Ball

State = dict[str, torch.Tensor]
"""What a search remembers, one row a sample. `images` (N, C, H, W) are the points that it asks about next; an attack
may keep more (momentum, step sizes, the best point). Rows are independent: the engine takes them out and puts others in
their place."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was found at `state["images"]`, a row a sample."""

    step: torch.Tensor  # (N,) int64: how many points of this restart were asked about before
    loss: torch.Tensor  # (N,) the objective, which the adversary raises
    fooled: torch.Tensor  # (N,) bool: the candidate reads the point as the adversary wants; not yet adjudicated
    gradient: torch.Tensor | None  # (N, C, H, W) of the loss, finite; None for attacks that ask for scores


class Attack(Protocol):
    """A search, as a pure function of rows."""

    @property
    def name(self) -> str:
        """What reports call it, such as `apgd-ce`."""

    @property
    def asks(self) -> Literal["gradient", "scores"]:
        """What it is told about a point."""

    @property
    def objective(self) -> Objective:
        """What it raises."""

    @property
    def steps(self) -> int:
        """Points that a restart asks about."""

    @property
    def restarts(self) -> int:
        """Independent starts a sample."""

    @property
    def aims(self) -> int:
        """How many other labels its restarts go for in turn, the likeliest first; 0 if it has no need of an aim."""

    @property
    def random_start(self) -> bool:
        """Whether it starts at a random point of the ball, which a better known point may stand for."""

    @property
    def minimum_norm(self) -> bool:
        """Whether it goes on from a counterexample to nearer ones."""

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """The state before the first point, which is `images` unless the attack begins in a way of its own."""

    def step(self, state: State, told: Told, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Where rows go next."""

    def best(self, state: State) -> torch.Tensor:
        """The points (N, C, H, W) that rows propose when they have made their steps."""


def shortened(attack: Attack, steps: int) -> Attack:
    """The same search with a single restart, and no more steps than this."""
    single: Attack = replace(cast("Any", attack), restarts=1, steps=min(steps, attack.steps))  # attacks are dataclasses
    return single


def per_row(values: torch.Tensor) -> torch.Tensor:
    """A number a row (N,) as (N, 1, 1, 1), to go with images."""
    return values.view(-1, 1, 1, 1)
