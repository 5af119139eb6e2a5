"""How images are looked at, and whose gradients searches follow: once and as they are, or by means over draws.

`conditions` has what is seen under viewing conditions, `stochastic` what a candidate draws itself, and `choice` says
which of them a gate takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

import torch

from robustcheck.attacks import Objective
from robustcheck.attacks.draws import Draws
from robustcheck.models import Candidate, Surrogates
from robustcheck.threats import Goal

_TOLERANCE = 1e-9  # of a count: .9 of 100 is 90


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How N images were read."""

    decision: torch.Tensor  # (N,) readings; of several looks the most frequent one, of the wanted ones if it was met
    wanted: torch.Tensor  # (N,) bool: read as the adversary wants, on as many looks as it takes
    score: torch.Tensor | None  # (N,) probability of the positive label, the mean over looks
    chances: torch.Tensor | None = None  # (N, K) of each finding, if there are several, and one look
    share: torch.Tensor | None = None  # (N,) of the looks, read as the adversary wants
    cells: torch.Tensor | None = None  # (N, L) bool: each look of a grid

    def updated(self, rows: torch.Tensor, again: Seen) -> Seen:
        """Replace these rows (M,) by what a second showing saw."""
        score, share, cells = self.score, self.share, self.cells
        return replace(
            self,
            decision=self.decision.index_copy(0, rows, again.decision),
            wanted=self.wanted.index_copy(0, rows, again.wanted),
            score=None if score is None or again.score is None else score.index_copy(0, rows, again.score),
            share=None if share is None or again.share is None else share.index_copy(0, rows, again.share),
            cells=None if cells is None or again.cells is None else cells.index_copy(0, rows, again.cells),
        )


def read(candidate: Candidate, goal: Goal, images: torch.Tensor, labels: torch.Tensor) -> Seen:
    """How the artefact reads images (N, C, H, W) of true readings (N,), in one forward pass."""
    logits, head = candidate.logits(images), candidate.head
    decision = head.decide(logits)
    return Seen(
        decision=decision,
        wanted=goal.met(decision, labels),
        score=head.positive_probability(logits),
        chances=head.chances(logits) if head.multilabel else None,
    )


def confirmed(first: Seen, look_again: Callable[[torch.Tensor], Seen]) -> Seen:
    """What was seen, with a second round of looks where the first held: a search proposes until one holds by luck.

    Args:
        first: what was seen.
        look_again: from rows (M,) that held to what is seen of them.
    """
    held = first.wanted.nonzero().flatten()
    return first.updated(held, look_again(held)) if len(held) else first


class Viewer(Protocol):
    """Looks at images, as often as it takes, and says how they are read."""

    @property
    def at_once(self) -> int:
        """Looks at one image that go through the network together."""

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, draws: Draws, at: torch.Tensor, /) -> Seen:
        """How the artefact reads stored images (N, C, H, W), shares of the range, of true readings (N,).

        Args:
            images: that are looked at.
            labels: of them.
            draws: of their rows.
            at: (N,) which proposal of its row each is.
        """


@dataclass(frozen=True, kw_only=True)
class Once:
    """Images are looked at once, and as they are."""

    candidate: Candidate
    goal: Goal
    at_once: int = 1

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, _draws: Draws, _at: torch.Tensor) -> Seen:
        """One look."""
        return read(self.candidate, self.goal, images, labels)


@dataclass(frozen=True, kw_only=True)
class SurrogateViewer:
    """Images are looked at once, and as they are, by other models in the candidate's place."""

    surrogates: Surrogates
    goal: Goal
    at_once: int = 1

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, _draws: Draws, _at: torch.Tensor) -> Seen:
        """One look."""
        decision = self.surrogates.decide(images)
        return Seen(decision=decision, wanted=self.goal.met(decision, labels), score=None)


class Gradients(Protocol):
    """A model whose gradients are followed: the candidate, or another."""

    def gradient(
        self, images: torch.Tensor, labels: torch.Tensor, aims: torch.Tensor, objective: Objective
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, K), losses (N,) and gradients (N, C, H, W) at images (N, C, H, W)."""


class EOT(Protocol):
    """Expectation over transformation: losses and gradients as means over what is drawn."""

    @property
    def at_once(self) -> int:
        """Images that go through the network together for each row."""

    @property
    def count(self) -> int:
        """Draws of a step."""

    @property
    def holds_on(self) -> float:
        """Share of the draws on which a counterexample has to hold."""

    def gradient(
        self,
        access: Gradients,
        images: torch.Tensor,
        labels: torch.Tensor,
        aims: torch.Tensor,
        objective: Objective,
        draws: Draws,
        at: torch.Tensor,
        /,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, L, K) on L draws, mean losses (N,) and gradients (N, C, H, W) at images (N, C, H, W).

        Args:
            access: whose.
            images: that are asked about.
            labels: true readings (N,).
            aims: of their rows (N,).
            objective: what is raised.
            draws: of their rows.
            at: (N,) which step of its row each is.
        """


def images_a_row(viewer: Viewer, eot: EOT | None) -> int:
    """How many images of a row go through the network together, where a search follows means or a proposal is seen."""
    return viewer.at_once if eot is None else max(eot.at_once, viewer.at_once)


def looks_needed(share: float, looks: int) -> int:
    """How many of `looks` make up `share`; at least one."""
    return max(1, ceil(share * looks - _TOLERANCE))


@dataclass(kw_only=True)
class Tally:
    """What was read so far, of N images."""

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
