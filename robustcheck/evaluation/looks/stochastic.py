"""A candidate that draws: the same image is read differently from call to call.

Its counterexamples are images that it misreads on most calls, and searches follow the mean of its gradients over some
(expectation over transformation; Athalye, Carlini, Wagner 2018, arXiv 1802.00420, section 5.3). Each call draws anew: a
defence may draw once for a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustcheck.attacks import Objective
from robustcheck.attacks.draws import Draws
from robustcheck.evaluation.looks.look import Seen, confirmed, read
from robustcheck.evaluation.looks.tally import Tally, looks_needed
from robustcheck.models import Candidate
from robustcheck.models.access import Gradients
from robustcheck.models.means import mean_of_gradients
from robustcheck.threats import Goal

MOST_CALLS = 0.51  # share of the calls on which a counterexample has to be misread: more than half
JUDGED_ON = 100  # calls
_BLOCK = 10  # of them, after which it is asked whether the others can still matter
DRAWS = 8  # calls whose gradients are averaged


@dataclass(frozen=True, kw_only=True)
class RepeatedCalls:
    """Some calls in turn; what holds on enough of them is asked about as often once more, as under conditions."""

    candidate: Candidate
    goal: Goal
    at_once: int = 1

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, _draws: Draws, _at: torch.Tensor) -> Seen:
        """A hundred calls, twice, or until too few of those to come could matter."""
        return confirmed(self._ask(images, labels), lambda held: self._ask(images[held], labels[held]))

    def _ask(self, images: torch.Tensor, labels: torch.Tensor) -> Seen:
        needed = looks_needed(MOST_CALLS, JUDGED_ON)
        rows, tally = torch.arange(len(images), device=images.device), Tally.of(len(images), images.device)
        for call in range(JUDGED_ON):
            one = read(self.candidate, self.goal, images[rows], labels[rows])
            scores = None if one.score is None else one.score[:, None]
            tally.add(rows, one.decision[:, None], one.wanted[:, None], scores)
            if (call + 1) % _BLOCK == 0:
                rows = rows[tally.wanted[rows] + (JUDGED_ON - call - 1) >= needed]
                if not len(rows):
                    break
        return tally.seen(needed)


@dataclass(frozen=True, kw_only=True)
class StochasticEOT:
    """Means over calls of a candidate that draws."""

    at_once: int = 1
    count: int = DRAWS
    holds_on: float = MOST_CALLS

    def gradient(
        self,
        access: Gradients,
        images: torch.Tensor,
        labels: torch.Tensor,
        aims: torch.Tensor,
        objective: Objective,
        _draws: Draws,
        _at: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, L, K) of L calls, mean losses (N,) and gradients (N, C, H, W) at images (N, C, H, W).

        Of the gradients each weighs the same, as each call does in the verdict: where a candidate draws one of several
        networks, the one whose logits are largest may be drawn too rarely to decide.
        """
        calls = [access.gradient(images, labels, aims, objective) for _ in range(self.count)]
        logits, losses, gradients = zip(*calls, strict=True)
        return torch.stack(logits, dim=1), torch.stack(losses, dim=1).mean(dim=1), mean_of_gradients(gradients)
