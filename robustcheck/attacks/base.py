"""What a search asks of an attack, and what it tells it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from robustcheck.attacks.draws import Draws
from robustcheck.attacks.objectives import Objective
from robustcheck.threats import Ball

A_LEVEL = 1.01  # in levels, as float32 has them: between distances that are no farther apart there is no other
_CLOSER_STEPS = 10  # at least, where there are as many

State = dict[str, torch.Tensor]
"""What a search remembers, one row a sample. `images` (N, C, H, W) are the points that it asks about next; an attack
may keep more (momentum, step sizes, the best point). Rows are independent: the loop takes them out and puts others in
their place."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was found at `state["images"]`, one row per sample."""

    step: torch.Tensor  # (N,) int64: how many points of this restart were asked about before
    loss: torch.Tensor  # (N,) the objective, which the adversary raises
    fooled: torch.Tensor  # (N,) bool: the candidate reads the point as the adversary wants; not yet adjudicated
    gradient: torch.Tensor  # (N, C, H, W) of the loss, finite


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Images that rows ask about in one turn, in the order of the rows; a row may ask about several."""

    images: torch.Tensor  # (M, C, H, W); an oracle sees what of them lies in the range
    asked: torch.Tensor  # (N, Q) bool: which places of a row's turn are filled; M in all, row by row
    noise: torch.Tensor | None = None  # what the attack added, for it to learn from

    @property
    def rows(self) -> torch.Tensor:
        """Which row (M,) asks."""
        return self.asked.nonzero()[:, 0]

    @property
    def counts(self) -> torch.Tensor:
        """How many images a row (N,) asks about."""
        return self.asked.sum(dim=1)

    def table(self, answers: torch.Tensor) -> torch.Tensor:
        """Answers (M,) as (N, Q); 0 at places that are not filled."""
        return answers.new_zeros(self.asked.shape).masked_scatter_(self.asked, answers)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """An oracle's answers, one per queried image."""

    loss: torch.Tensor  # (M,) the objective; where only labels are told, 1 for a wanted reading and -1 for another
    fooled: torch.Tensor  # (M,) bool: the candidate reads the image as the adversary wants; not yet adjudicated
    shown: torch.Tensor  # (M,) bool: that, or the wanted label is among the best few that are told


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A search, as pure functions of rows."""

    objective: Objective  # what it raises
    name: str  # what reports call it, such as `apgd-ce`
    restarts: int = 1  # independent starts per sample
    target_count: int = 0  # labels, or findings, that its restarts go for in turn, the likeliest first; 0: none

    minimum_norm: ClassVar[bool] = False  # it goes on from a counterexample to nearer ones
    keeps_best: ClassVar[bool] = False  # its best point may be another than the one that its last step led to

    @abstractmethod
    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """The state before the first point, which is `images` unless the attack begins in a way of its own."""

    def best(self, state: State) -> torch.Tensor:
        """The points (N, C, H, W) that rows propose when they have made their search: `images`, where it ended."""
        return state["images"]


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """A search that follows the gradient at each row's point."""

    steps: int  # points that a restart asks about
    random_start: bool = False  # at a point of the ball, which a better known one may stand for; else at the image

    @abstractmethod
    def step(self, state: State, told: Told, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Where rows go next."""


@dataclass(frozen=True, kw_only=True)
class QueryAttack(Attack):
    """A search that queries an oracle.

    A row may send several images a turn, and stops before it would exceed its limit.
    """

    queries: int  # how often a restart may ask

    starts_misread: ClassVar[bool] = False  # it starts at another image, one that is read as the adversary wants
    adaptive: ClassVar[bool] = True  # what it is told decides where it goes

    @property
    @abstractmethod
    def images_per_turn(self) -> int:
        """How many images a row may ask about in a turn."""

    @abstractmethod
    def ask(self, state: State, clean: torch.Tensor, ball: Ball, draws: Draws) -> Asked:
        """What rows ask about next."""

    @abstractmethod
    def learn(
        self, state: State, queries: Asked, answers: Answers, clean: torch.Tensor, ball: Ball, draws: Draws
    ) -> State:
        """Where the answers lead."""


def closer(attack: GradientAttack) -> GradientAttack:
    """The same search where it came near before: with a single restart, and fewer steps."""
    return replace(attack, restarts=1, steps=min(attack.steps, max(_CLOSER_STEPS, attack.steps // 4)))


def of_rows(state: State, rows: torch.Tensor) -> State:
    """The state of some rows (N,) bool."""
    places = rows.nonzero().flatten()  # found once, not for each tensor
    return {name: values.index_select(0, places) for name, values in state.items()}


def with_rows(state: State, rows: torch.Tensor, others: State) -> State:
    """The state with that of some rows (N,) bool replaced, where `others` has it."""
    places = rows.nonzero().flatten()
    return {**state, **{name: state[name].index_copy(0, places, values) for name, values in others.items()}}


def halfway(low: torch.Tensor, high: torch.Tensor, level: float = 0.0) -> torch.Tensor:
    """Midpoint of two distances (N,), rounded to a multiple of `level` if one is given."""
    middle = (low + high) / 2
    return (middle / level + 0.5).floor() * level if level else middle


def one_a_row(images: torch.Tensor) -> Asked:
    """One image a row (N, C, H, W)."""
    return Asked(images=images, asked=torch.ones(len(images), 1, dtype=torch.bool, device=images.device))


def joined(*parts: tuple[torch.Tensor, Asked]) -> Asked:
    """Merge queries of disjoint row masks (N,) into one; noise is the last part's."""
    if len(parts) == 1:
        return parts[0][1]
    rows, last = parts[-1]
    asked = torch.zeros(len(rows), max(one.asked.shape[1] for _, one in parts), dtype=torch.bool, device=rows.device)
    for rows, one in parts:
        asked[rows, : one.asked.shape[1]] = one.asked
    number = asked.flatten().cumsum(dim=0).sub_(1).view_as(asked)
    images = last.images.new_empty(int(asked.sum()), *last.images.shape[1:])
    for rows, one in parts:
        images[number[rows][asked[rows]]] = one.images
    return Asked(images=images, asked=asked, noise=last.noise)
