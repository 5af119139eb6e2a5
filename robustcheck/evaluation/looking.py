"""How images are looked at: once and as they are, or as they are seen under viewing conditions.

Searches average over looks (expectation over transformation; Athalye et al. 2018, arXiv 1707.07397). A proposal is
judged on looks that no search has had: each proposal of a sample on its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

import torch

from robustcheck.attacks import Objective
from robustcheck.attacks.draws import Draws
from robustcheck.models import Candidate, Surrogates
from robustcheck.policy import Gate, RP2Spec
from robustcheck.threats import Goal
from robustcheck.threats.viewing import NUMBERS, Conditions, Looks, cells, repeated, see

_SEARCHING, _JUDGING, _CONFIRMING, _GRAIN = 1, 2, 3, 4  # draws of a row are for one purpose each
_BLOCK = 20  # looks at an image, after which it is asked whether the others can still matter
_TOLERANCE = 1e-9  # of a count: .9 of 100 is 90


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How N images were read."""

    decision: torch.Tensor  # (N,) readings; of several looks the most frequent one, of the wanted ones if it was met
    wanted: torch.Tensor  # (N,) bool: read as the adversary wants, on as many looks as it takes
    score: torch.Tensor | None  # (N,) probability of the positive label, the mean over looks
    share: torch.Tensor | None = None  # (N,) of the looks, read as the adversary wants
    cells: torch.Tensor | None = None  # (N, L) bool: each look of a grid

    def updated(self, rows: torch.Tensor, again: Seen) -> Seen:
        """What was seen of these rows (M,) a second time stands for the first."""
        score, share = self.score, self.share
        return replace(
            self,
            decision=self.decision.index_copy(0, rows, again.decision),
            wanted=self.wanted.index_copy(0, rows, again.wanted),
            score=None if score is None or again.score is None else score.index_copy(0, rows, again.score),
            share=None if share is None or again.share is None else share.index_copy(0, rows, again.share),
        )


class Look(Protocol):
    """A way to look at images."""

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
    """As they are."""

    candidate: Candidate
    goal: Goal
    at_once: int = 1

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, _draws: Draws, _at: torch.Tensor) -> Seen:
        """One look."""
        logits = self.candidate.logits(images)
        decision = self.candidate.head.decide(logits)
        wanted = self.goal.met(decision, labels)
        return Seen(decision=decision, wanted=wanted, score=self.candidate.head.positive_probability(logits))


@dataclass(frozen=True, kw_only=True)
class StandsIn:
    """As they are, by other models in the candidate's place."""

    model: Surrogates
    goal: Goal
    at_once: int = 1

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, _draws: Draws, _at: torch.Tensor) -> Seen:
        """One look."""
        decision = self.model.decide(images)
        return Seen(decision=decision, wanted=self.goal.met(decision, labels), score=None)


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """Under conditions, each look drawn anew; what a camera sees is stored at the images' own depth.

    What holds is looked at once more, by as many others: a search proposes until something holds, and some of that held
    by chance. What is told of it comes from the second time.
    """

    candidate: Candidate
    goal: Goal
    conditions: Conditions
    maximum: int  # largest value that can be stored

    @property
    def at_once(self) -> int:
        """A block of them."""
        return min(_BLOCK, self.conditions.spec.judged_on)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, draws: Draws, at: torch.Tensor) -> Seen:
        """Twice as many looks as the policy says, or until too few of those to come could hold."""
        first = self.look(images, labels, draws.apart(_JUDGING), at)
        held = first.wanted.nonzero().flatten()
        if not len(held):
            return first
        others = Draws(keys=draws.keys[held]).apart(_CONFIRMING)
        return first.updated(held, self.look(images[held], labels[held], others, at[held]))

    def look(self, images: torch.Tensor, labels: torch.Tensor, draws: Draws, at: torch.Tensor) -> Seen:
        """As many looks as the policy says, or until too few of those to come could hold."""
        total = self.conditions.spec.judged_on
        needed = looks_needed(self.conditions.spec.holds_on, total)
        numbers = _numbers(draws, total, at)
        rows = torch.arange(len(images), device=images.device)
        tally = _Tally.of(len(images), images.device)
        for start in range(0, total, _BLOCK):
            size = min(_BLOCK, total - start)
            looks = self.conditions.draw(numbers[rows, start : start + size].flatten(0, 1))
            grain = _grain(self.conditions, draws, rows, images, size, at[rows] * total + start)
            tally.add(
                rows, *_read(self.candidate, self.goal, self.maximum, images[rows], labels[rows], looks, grain, size)
            )
            possible = tally.wanted[rows] + (total - start - size)
            rows = rows[possible >= needed]
            if not len(rows):
                break
        return tally.seen(needed)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """From a grid of places, the same ones each time."""

    candidate: Candidate
    goal: Goal
    looks: Looks
    count: int
    holds_on: float
    maximum: int

    @property
    def at_once(self) -> int:
        """All of them."""
        return self.count

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, _draws: Draws, _at: torch.Tensor) -> Seen:
        """One look from each."""
        tally, rows = _Tally.of(len(images), images.device), torch.arange(len(images), device=images.device)
        looks = repeated(self.looks, len(images))
        decisions, wanted, scores = _read(
            self.candidate, self.goal, self.maximum, images, labels, looks, None, self.count
        )
        tally.add(rows, decisions, wanted, scores)
        return tally.seen(looks_needed(self.holds_on, self.count), cells=wanted)


def looks_needed(share: float, looks: int) -> int:
    """On how many looks an image has to be read as wanted, if on a share of them."""
    return max(1, ceil(share * looks - _TOLERANCE))


def look_of(gate: Gate, candidate: Candidate, goal: Goal, *, maximum: int) -> Look:
    """How a gate's proposals are looked at."""
    if gate.conditions is None:
        return Once(candidate=candidate, goal=goal)
    if isinstance(spec := gate.attack, RP2Spec):
        return Grid(
            candidate=candidate,
            goal=goal,
            looks=cells(spec.distances, spec.angles, candidate.device),
            count=len(spec.distances) * len(spec.angles),
            holds_on=gate.conditions.holds_on,
            maximum=maximum,
        )
    return Fresh(candidate=candidate, goal=goal, conditions=Conditions(spec=gate.conditions), maximum=maximum)


class Gradients(Protocol):
    """Whose gradients are followed: the candidate's, or another model's."""

    def gradient(
        self, images: torch.Tensor, labels: torch.Tensor, aims: torch.Tensor, objective: Objective
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, K), losses (N,) and gradients (N, C, H, W) at images (N, C, H, W)."""


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Losses and gradients as means over looks."""

    conditions: Conditions
    count: int  # looks a step

    def gradient(
        self,
        access: Gradients,
        images: torch.Tensor,
        labels: torch.Tensor,
        aims: torch.Tensor,
        objective: Objective,
        draws: Draws,
        at: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, L, K) on L looks; mean losses (N,); gradients (N, C, H, W) of those in the images as they are."""
        rows = torch.arange(len(images), device=images.device)
        looks = self.conditions.draw(_numbers(draws.apart(_SEARCHING), self.count, at).flatten(0, 1))
        grain = _grain(self.conditions, draws.apart(_SEARCHING), rows, images, self.count, at)
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            seen = see(images.repeat_interleave(self.count, dim=0), looks, grain)
        logits, loss, gradient = access.gradient(
            seen.detach(), labels.repeat_interleave(self.count), aims.repeat_interleave(self.count), objective
        )
        (own,) = torch.autograd.grad(seen, images, gradient / self.count)
        shape = (len(images), self.count)
        return logits.view(*shape, -1), loss.view(shape).mean(dim=1), own


@dataclass(kw_only=True)
class _Tally:
    """What was read so far, of N images."""

    looks: torch.Tensor  # (N,)
    wanted: torch.Tensor  # (N,) how often
    score: torch.Tensor  # (N,) sum
    scored: bool
    decisions: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # rows, readings, whether wanted, a look each

    @classmethod
    def of(cls, rows: int, device: torch.device) -> _Tally:
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
            score=(self.score / self.looks).float() if self.scored else None,
            share=self.wanted.double() / self.looks,
            cells=cells,
        )


def _read(
    candidate: Candidate,
    goal: Goal,
    maximum: int,
    images: torch.Tensor,
    labels: torch.Tensor,
    looks: Looks,
    grain: torch.Tensor | None,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Readings, whether they are wanted, and scores, (N, L) each, of `count` looks at each image (N, C, H, W)."""
    seen = see(images.repeat_interleave(count, dim=0), looks, grain)
    logits = candidate.logits((seen * maximum).round() / maximum)
    decisions = candidate.head.decide(logits)
    wanted = goal.met(decisions, labels.repeat_interleave(count))
    scores = candidate.head.positive_probability(logits)
    shape = (len(images), count)
    return decisions.view(shape), wanted.view(shape), None if scores is None else scores.view(shape)


def _numbers(draws: Draws, looks: int, at: torch.Tensor) -> torch.Tensor:
    """Uniform numbers (N, looks, 12)."""
    return draws.uniform((looks, NUMBERS), at)


def _grain(
    conditions: Conditions, draws: Draws, rows: torch.Tensor, images: torch.Tensor, looks: int, at: torch.Tensor
) -> torch.Tensor | None:
    """Normal numbers (M · looks, C, H, W) for these rows (M,), if the conditions have noise."""
    if not conditions.grainy:
        return None
    return Draws(keys=draws.apart(_GRAIN).keys[rows]).normal((looks, *images.shape[1:]), at).flatten(0, 1)
