"""The batch of a search: one row a restart of a sample, all rows independent of one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from robustcheck.attacks import State
from robustcheck.attacks.draws import Draws


@dataclass(kw_only=True)
class Rows:
    """What is known of each row. Arrays are the host's, tensors the candidate's device's; (N, …) all of them."""

    sample: np.ndarray
    restart: np.ndarray
    ends: np.ndarray  # the turn after which the row has made its steps, of searches that know
    attempt: np.ndarray  # how many images it has tried to start from; -1 once it is under way
    label: torch.Tensor
    aim: torch.Tensor
    step: torch.Tensor  # points asked about so far, by this restart
    keys: torch.Tensor  # of the row's draws
    clean: torch.Tensor
    state: State
    moved: torch.Tensor  # bool: there was something to follow at least once
    last_loss: torch.Tensor  # what an oracle told last
    first: torch.Tensor  # loss at the first point, of searches that follow gradients
    highest: torch.Tensor  # loss that was told so far, of searches that follow gradients
    earlier: torch.Tensor  # the same, before the last quarter of the steps
    nearest: torch.Tensor  # the largest margin of the goal that the search has seen, if it looks at margins
    proposed: torch.Tensor  # minimum-norm searches: how far the last verified proposal is from the clean image

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def draws(self) -> Draws:
        """The rows' random numbers."""
        return Draws(keys=self.keys)

    def take(self, places: np.ndarray) -> Rows:
        """The rows at these places (M,)."""
        index = torch.from_numpy(places).to(self.clean.device)
        given: dict[str, Any] = {}
        for name, values in self._fields():
            if isinstance(values, dict):
                given[name] = {part: rows[index] for part, rows in values.items()}
            else:
                given[name] = values[places if isinstance(values, np.ndarray) else index]
        return Rows(**given)

    def put(self, places: np.ndarray, others: Rows) -> None:
        """Let other rows (M) take these places (M,)."""
        index = torch.from_numpy(places).to(self.clean.device)
        for (_, mine), (_, theirs) in zip(self._fields(), others._fields(), strict=True):
            if isinstance(mine, dict):
                for part, rows in theirs.items():
                    mine[part][index] = rows
            else:
                mine[places if isinstance(mine, np.ndarray) else index] = theirs

    def _fields(self) -> Iterator[tuple[str, Any]]:
        """All that is known, by its name: arrays, tensors, and the state, which has several."""
        for one in fields(self):
            yield one.name, getattr(self, one.name)
