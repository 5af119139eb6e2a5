"""The batch of a search: one row a restart of a sample, all rows independent of one another."""

from __future__ import annotations

from dataclasses import dataclass

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
        return Rows(
            sample=self.sample[places],
            restart=self.restart[places],
            ends=self.ends[places],
            attempt=self.attempt[places],
            label=self.label[index],
            aim=self.aim[index],
            step=self.step[index],
            keys=self.keys[index],
            clean=self.clean[index],
            state={name: rows[index] for name, rows in self.state.items()},
            moved=self.moved[index],
            last_loss=self.last_loss[index],
            highest=self.highest[index],
            earlier=self.earlier[index],
            nearest=self.nearest[index],
            proposed=self.proposed[index],
        )

    def put(self, places: np.ndarray, others: Rows) -> None:
        """Let other rows (M) take these places (M,)."""
        index = torch.from_numpy(places).to(self.clean.device)
        for arrays, others_arrays in (
            (self.sample, others.sample),
            (self.restart, others.restart),
            (self.ends, others.ends),
            (self.attempt, others.attempt),
        ):
            arrays[places] = others_arrays
        for mine, theirs in (
            (self.label, others.label),
            (self.aim, others.aim),
            (self.step, others.step),
            (self.keys, others.keys),
            (self.clean, others.clean),
            (self.moved, others.moved),
            (self.last_loss, others.last_loss),
            (self.highest, others.highest),
            (self.earlier, others.earlier),
            (self.nearest, others.nearest),
            (self.proposed, others.proposed),
            *((self.state[name], rows) for name, rows in others.state.items()),
        ):
            mine[index] = theirs
