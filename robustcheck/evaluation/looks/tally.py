"""Counting looks at an image: how many have to be as the adversary wants, and how many were."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from robustcheck.evaluation.looks.look import Seen

_TOLERANCE = 1e-9  # of a count: .9 of 100 is 90


def looks_needed(share: float, looks: int) -> int:
    """How many of `looks` make up `share`; at least one."""
    return max(1, ceil(share * looks - _TOLERANCE))


@dataclass(kw_only=True)
class Tally:
    """What was read so far, for N images."""

    looks: torch.Tensor  # (N,)
    wanted: torch.Tensor  # (N,) how often
    score: torch.Tensor  # (N,) sum
    scored: bool
    decisions: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # rows, readings, whether wanted, a look each

    @classmethod
    def of(cls, rows: int, device: torch.device) -> Tally:
        """Nothing yet, of so many images."""
        zero = torch.zeros(rows, dtype=torch.int64, device=device)
        return cls(looks=zero, wanted=zero.clone(), score=zero.double(), scored=True, decisions=[])

    def add(
        self, rows: torch.Tensor, decisions: torch.Tensor, wanted: torch.Tensor, scores: torch.Tensor | None
    ) -> None:
        """Looks (M, L) at these rows (M,)."""
        self.looks = self.looks.index_add(0, rows, torch.full_like(rows, wanted.shape[1]))
        self.wanted = self.wanted.index_add(0, rows, wanted.sum(dim=1))
        self.scored &= scores is not None
        if scores is not None:
            self.score = self.score.index_add(0, rows, scores.double().sum(dim=1))
        each = rows.repeat_interleave(wanted.shape[1])
        self.decisions.append((each, decisions.flatten(), wanted.flatten()))

    def seen(self, needed: int, cells: torch.Tensor | None = None) -> Seen:
        """The sum of it."""
        met = self.wanted >= needed
        rows, decisions, wanted = (torch.cat(column) for column in zip(*self.decisions, strict=True))
        counted = wanted | ~met[rows]
        kinds, which = decisions.unique(return_inverse=True)
        table = torch.zeros(len(met), len(kinds), dtype=torch.int64, device=met.device)
        table.index_put_((rows[counted], which[counted]), torch.ones_like(which[counted]), accumulate=True)
        return Seen(
            decision=kinds[table.argmax(dim=1)],
            wanted=met,
            score=self.score / self.looks if self.scored else None,
            share=self.wanted.double() / self.looks,
            cells=cells,
        )
