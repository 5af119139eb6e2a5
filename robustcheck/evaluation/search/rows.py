"""The batch of a search: one row a restart of a sample, all rows independent of one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Self

import numpy as np
import torch

from robustcheck.attacks import State
from robustcheck.attacks.draws import Draws


@dataclass(kw_only=True)
class Rows:
    """What is known about each row: arrays on the host, tensors on the candidate's device, all of them (N, …)."""

    sample: np.ndarray
    restart: np.ndarray
    label: torch.Tensor
    aim: torch.Tensor
    step: torch.Tensor  # points asked about so far, by this restart
    keys: torch.Tensor  # of the row's draws
    clean: torch.Tensor
    state: State
    followable: torch.Tensor  # bool: there was something to follow at least once

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def draws(self) -> Draws:
        """The rows' random numbers."""
        return Draws(keys=self.keys)

    @property
    def could_follow(self) -> torch.Tensor:
        """Which rows (N,) had enough to follow: what they found, or did not, says something."""
        return self.followable

    def take(self, places: np.ndarray) -> Self:
        """The rows at these places (M,)."""
        index = torch.from_numpy(places).to(self.clean.device)
        given: dict[str, Any] = {}
        for name, values in self.parts():
            if isinstance(values, dict):
                given[name] = {part: rows[index] for part, rows in values.items()}
            else:
                given[name] = values[places if isinstance(values, np.ndarray) else index]
        return type(self)(**given)

    def put(self, places: np.ndarray, others: Self) -> None:
        """Let other rows (M) take these places (M,)."""
        index = torch.from_numpy(places).to(self.clean.device)
        for (_, mine), (_, theirs) in zip(self.parts(), others.parts(), strict=True):
            if isinstance(mine, dict):
                for part, rows in theirs.items():
                    mine[part][index] = rows
            else:
                mine[places if isinstance(mine, np.ndarray) else index] = theirs

    def parts(self) -> Iterator[tuple[str, Any]]:
        """All that is known, by name: arrays, tensors, and those of the state."""
        for one in fields(self):
            yield one.name, getattr(self, one.name)

    def filled(self, value: float) -> torch.Tensor:
        """A number (N,) for each row."""
        return torch.full((len(self),), value, device=self.clean.device)


@dataclass(kw_only=True)
class GradientRows(Rows):
    """Rows of a search that follows gradients."""

    last_turn: np.ndarray  # the turn after which the row has made its steps
    first: torch.Tensor  # loss at the first point
    highest: torch.Tensor  # loss so far
    earlier: torch.Tensor  # the same, before the last quarter of the steps
    best_margin: torch.Tensor  # the largest margin of the goal that the search has seen, if it looks at margins
    proposed: torch.Tensor  # minimum-norm searches: how far the last verified proposal is from the clean image
    lost: torch.Tensor  # int64: how often there was nothing to follow

    @classmethod
    def entering(cls, rows: Rows, *, last_turn: int) -> GradientRows:
        """Rows before their first gradient."""
        return cls(
            **vars(rows),
            last_turn=np.full(len(rows), last_turn),
            first=rows.filled(-inf),
            highest=rows.filled(-inf),
            earlier=rows.filled(-inf),
            best_margin=rows.filled(-inf),
            proposed=rows.filled(inf),
            lost=torch.zeros_like(rows.step),
        )

    @property
    def could_follow(self) -> torch.Tensor:
        """Which rows (N,) had something to follow on half of their steps: with less, a search is one of few steps."""
        return self.followable & (2 * self.lost <= self.step)


@dataclass(kw_only=True)
class QueryRows(Rows):
    """Rows of a search that asks an oracle."""

    attempt: np.ndarray  # how many images it has tried to start from; -1 once it is under way
    last_loss: torch.Tensor  # of the oracle's last answer

    @classmethod
    def entering(cls, rows: Rows, *, attempt: int) -> QueryRows:
        """Rows before their first query."""
        return cls(**vars(rows), attempt=np.full(len(rows), attempt), last_loss=rows.filled(inf))
