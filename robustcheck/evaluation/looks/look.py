"""What a viewer is and sees, and the two that look at images once, and as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from robustcheck.attacks.draws import Draws
from robustcheck.models import Candidate, Surrogates
from robustcheck.threats import Goal


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How N images were read."""

    decision: torch.Tensor  # (N,) readings; of several looks the most frequent one, of the wanted ones if it was met
    wanted: torch.Tensor  # (N,) bool: read as the adversary wants, on as many looks as it takes
    score: torch.Tensor | None  # (N,) probability of the positive label, the mean over looks
    finding_probabilities: torch.Tensor | None = None  # (N, K) of each finding, if there are several, and one look
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
        finding_probabilities=head.probabilities(logits) if head.multilabel else None,
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

        `draws` are those of their rows, and `at` (N,) says which proposal of its row each is.
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
