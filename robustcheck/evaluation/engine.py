"""The search loop: a batch that stays full, and no work for samples that are done.

Each row of the batch is one restart of one sample and carries its own step count. A row whose sample is broken leaves
at once; a row that has made its steps is adjudicated at its best point and leaves; a waiting sample, or the next
restart, takes its place. So nothing is computed for a sample that is done, and the batch is full until the last
samples. Rows are independent of one another: the batch's size and order change no result but by float reassociation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Protocol

import numpy as np
import torch

from robustcheck.attacks import Attack, Objective, Told
from robustcheck.attacks.draws import Draws
from robustcheck.evaluation.adjudication import Adjudicated, adjudicate
from robustcheck.evaluation.rows import Rows
from robustcheck.models import Candidate, ScoreOracle, WhiteBox
from robustcheck.models.process import full_precision
from robustcheck.threats import Ball, Goal

Start = tuple[int, int]
"""A sample, and which of its restarts."""

Warm = Callable[[Sequence[Start]], tuple[np.ndarray, torch.Tensor] | None]
"""Of some starts: which places (M,) have a known better point, and the changes (M, C, H, W), their largest pixel 1."""

_NEARER = 0.98  # of the last verified proposal's distance, from which a minimum-norm search proposes again


class Held(Protocol):
    """Takes the rows (M) that hold when they have made their steps, and their best points (M, C, H, W)."""

    def __call__(self, rows: Rows, images: torch.Tensor, /) -> None:
        """Remember them."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A verified counterexample, as the search found it."""

    sample: int
    attack: str
    stored: np.ndarray  # (C, H, W)
    decision: int
    distance: float  # grey levels
    score: float | None
    restart: int
    step: int


@dataclass(kw_only=True)
class Trace:
    """What the searches of a gate saw besides their hits."""

    scores: dict[int, float] = field(default_factory=dict)  # most adverse admissible probability of the positive label
    moved: set[int] = field(default_factory=set)  # samples for which there was something to follow at least once
    not_finite: set[int] = field(default_factory=set)  # samples that had a NaN or infinite gradient
    gradients_not_finite: int = 0  # how many gradients had
    unstorable: int = 0  # proposals that the search saw read wrongly, and the artefact on the stored image did not
    disagreed: int = 0  # of those, how many the twin of an ONNX graph sees read wrongly as they are stored


@dataclass(kw_only=True)
class Engine:
    """One search of one attack over samples of one shape."""

    attack: Attack
    access: WhiteBox | ScoreOracle
    candidate: Candidate
    ball: Ball
    goal: Goal
    labels: torch.Tensor  # (all samples,) true readings, on the CPU
    is_positive: Callable[[int], bool]  # whether a true reading has the positive label
    load: Callable[[list[int]], torch.Tensor]  # sample numbers to clean images on the candidate's device
    key: Callable[[int, int], int]  # of the draws of a sample's restart
    found: Callable[[Hit], None]
    progress: Callable[[int], None]  # how many samples of this search are done
    aim: Callable[[int, int], int] = lambda _sample, _rank: 0  # the label of that rank among a sample's others
    warm: Warm = lambda _starts: None
    held: Held = lambda _rows, _images: None
    margin: Objective | None = None  # of the goal, if rows are to remember how near they came
    near: float = inf  # below 0 by so much, a margin leaves it open which side of the border the point is on
    enough: float = -1.0  # grey levels: a counterexample as near as this ends a minimum-norm search
    trace: Trace = field(default_factory=Trace)
    _turn: int = 0
    _done: int = 0
    _distances: dict[int, float] = field(default_factory=dict)  # of the nearest counterexamples of this search

    def run(self, starts: Sequence[Start]) -> None:
        """Search from these on, until each sample is broken or has had all its restarts."""
        waiting = deque(starts)
        with full_precision(self.candidate.device):
            rows = self._enter(waiting, self.candidate.chunks.limit) if waiting else None
            while rows is not None and len(rows):
                self._turn += 1
                free = self._advance(rows, waiting)
                if len(free):
                    rows = self._refill(rows, free, waiting)
                    self.progress(self._done)

    def _advance(self, rows: Rows, waiting: deque[Start]) -> np.ndarray:
        """Ask about all rows' points, adjudicate, step; returns the places (M,) of rows that leave."""
        images = rows.state["images"]
        told = self._ask(rows, images)
        gone = np.zeros(len(rows), dtype=bool)
        proposing = self._proposing(rows, images, told)
        if len(proposing):
            index = torch.from_numpy(proposing).to(images.device)
            broken = self._judge(rows.take(proposing), images[index], told, proposing, fooled=True)
            if self.attack.minimum_norm:
                told = self._learn(rows, images, told, proposing, broken)
                broken &= np.array(
                    [self._near_enough(sample) for sample in rows.sample[proposing].tolist()], dtype=bool
                )
            gone[proposing[broken]] = True
            self._done += int(broken.sum())
        rows.state = self.attack.step(rows.state, told, rows.clean, self.ball, rows.draws)
        rows.step = rows.step + 1
        ending = np.flatnonzero((rows.ends <= self._turn) & ~gone)
        if len(ending):
            self._finish(rows.take(ending), told, ending, waiting)
            gone[ending] = True
        leaving = np.flatnonzero(gone)
        if len(leaving):
            self.trace.moved.update(rows.sample[leaving][rows.moved.cpu().numpy()[leaving]].tolist())
        return leaving

    def _ask(self, rows: Rows, images: torch.Tensor) -> Told:
        """What is found at the rows' points. What is not finite is noted, and not followed."""
        gradient: torch.Tensor | None = None
        if self.attack.asks == "gradient":
            assert isinstance(self.access, WhiteBox)
            logits, loss, gradient = self.access.gradient(images, rows.label, rows.aim, self.attack.objective)
            steepness = torch.linalg.vector_norm(gradient, torch.inf, dim=(1, 2, 3))
            usable = (steepness > 0) & (steepness < torch.inf)  # neither holds for a NaN
            if not usable.all() and not (finite := steepness.isfinite()).all():
                self.trace.not_finite.update(rows.sample[~finite.cpu().numpy()].tolist())
                self.trace.gradients_not_finite += int((~finite).sum())
                gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        else:
            logits = self.access.scores(torch.from_numpy(rows.sample), images)
            loss = self.attack.objective(self.candidate.head.at_operating_point(logits), rows.label, rows.aim)
            usable = loss.isfinite() & rows.last_loss.isfinite() & (loss != rows.last_loss)
            rows.last_loss = loss
        rows.moved |= usable
        if self.margin is not None:
            margin = self.margin(self.candidate.head.at_operating_point(logits), rows.label, rows.aim)
            rows.nearest = torch.maximum(rows.nearest, margin.nan_to_num(nan=torch.inf))  # it may be anywhere
        fooled = self.goal.met(self.candidate.head.decide(logits), rows.label)
        return Told(step=rows.step, loss=loss, fooled=fooled, gradient=gradient)

    def _proposing(self, rows: Rows, images: torch.Tensor, told: Told) -> np.ndarray:
        """Places of the rows whose points are worth adjudicating now."""
        worth = told.fooled
        if self.attack.minimum_norm and worth.any():
            distance = self.ball.norm(images - rows.clean)
            worth = worth & (distance < _NEARER * rows.proposed)
        return np.flatnonzero(worth.cpu().numpy())

    def _learn(self, rows: Rows, images: torch.Tensor, told: Told, proposing: np.ndarray, broken: np.ndarray) -> Told:
        """A minimum-norm search comes nearer from what was verified; what was refuted is no wrong reading to it."""
        index = torch.from_numpy(proposing).to(images.device)
        verified = torch.from_numpy(broken).to(images.device)
        near = index[verified]
        rows.proposed[near] = self.ball.norm(images[near] - rows.clean[near])
        fooled = told.fooled.clone()
        fooled[index[~verified]] = False
        return replace(told, fooled=fooled)

    def _near_enough(self, sample: int) -> bool:
        """Whether nothing depends any more on how near a counterexample of this sample can be."""
        return self._distances.get(sample, inf) <= self.enough

    def _finish(self, rows: Rows, told: Told, places: np.ndarray, waiting: deque[Start]) -> None:
        """Adjudicate rows that have made their steps; a sample that holds goes on with its next restart."""
        images = self.attack.best(rows.state)
        broken = self._judge(rows, images, told, places, fooled=False)
        holding = np.flatnonzero(~broken)
        again = rows.restart + 1 < self.attack.restarts
        if self.attack.minimum_norm:
            again &= np.array([not self._near_enough(sample) for sample in rows.sample.tolist()], dtype=bool)
        else:
            again &= ~broken
        waiting.extend(zip(rows.sample[again].tolist(), (rows.restart[again] + 1).tolist(), strict=True))
        self._done += len(rows) - int(again.sum())
        if len(holding):
            self.held(rows.take(holding), images[torch.from_numpy(holding).to(images.device)])

    def _judge(self, rows: Rows, images: torch.Tensor, told: Told, places: np.ndarray, *, fooled: bool) -> np.ndarray:
        """Adjudicate images, report the counterexamples; returns which rows (M,) are broken.

        Each image is proposed as the nearest storable one; if that holds, as its storable neighbour on the gradient's
        side, unless there is no gradient, that is the same image, or the row has stayed far from the border.

        Args:
            rows: (M) of the rows, those at `places`.
            images: (M, C, H, W) of them.
            told: of all rows.
            places: (M,).
            fooled: the search saw them read wrongly.
        """
        nearest = self.ball.nearest(images, rows.clean)
        broken = self._propose(rows, nearest)
        if fooled and not broken.all():
            refuted = torch.from_numpy(~broken).to(images.device)
            self._note_refuted(nearest[refuted], rows.label[refuted])
        if told.gradient is None:
            return broken
        rest = np.flatnonzero(~broken & (rows.nearest >= -self.near).cpu().numpy())
        if len(rest):
            left, there = rows.take(rest), torch.from_numpy(rest).to(images.device)
            direction = told.gradient[torch.from_numpy(places[rest]).to(images.device)]
            beside = self.ball.outward if self.attack.minimum_norm else self.ball.aside
            neighbours = beside(images[there], left.clean, direction)
            other = (neighbours != nearest[there]).flatten(1).any(dim=1).cpu().numpy()
            if other.any():
                index = torch.from_numpy(np.flatnonzero(other)).to(images.device)
                broken[rest[other]] = self._propose(left.take(np.flatnonzero(other)), neighbours[index])
        return broken

    def _note_refuted(self, stored: torch.Tensor, labels: torch.Tensor) -> None:
        """Count proposals (M, C, H, W) that the artefact refuted; of a twin's, those that are not lost in rounding."""
        self.trace.unstorable += len(stored)
        if self.candidate.network.twin is not None:
            decisions = self.candidate.head.decide(self.candidate.search_logits(stored, exact=True))
            self.trace.disagreed += int(self.goal.met(decisions, labels).sum())

    def _propose(self, rows: Rows, images: torch.Tensor) -> np.ndarray:
        verdict = adjudicate(self.candidate, self.ball, self.goal, images, rows.clean, rows.label)
        self._remember_scores(rows.sample.tolist(), verdict)
        for row in np.flatnonzero(verdict.broken).tolist():
            sample, distance = int(rows.sample[row]), float(verdict.distance[row])
            self._distances[sample] = min(distance, self._distances.get(sample, inf))
            self.found(
                Hit(
                    sample=sample,
                    attack=self.attack.name,
                    stored=verdict.stored[row],
                    decision=int(verdict.decision[row]),
                    distance=distance,
                    score=_finite(verdict.score, row),
                    restart=int(rows.restart[row]),
                    step=int(rows.step[row]),
                )
            )
        return verdict.broken

    def _remember_scores(self, samples: list[int], verdict: Adjudicated) -> None:
        """Keep, for AUROC, the score that hurts most: the lowest of a positive, the highest of a negative."""
        if verdict.score is None or self.attack.minimum_norm:  # whose proposals lie at any distance
            return
        for row, sample in enumerate(samples):
            score = _finite(verdict.score, row)
            if score is not None and verdict.admissible[row]:
                worse = min if self.is_positive(int(self.labels[sample])) else max
                self.trace.scores[sample] = worse(score, self.trace.scores.get(sample, score))

    def _refill(self, rows: Rows, free: np.ndarray, waiting: deque[Start]) -> Rows:
        """Put waiting searches into the places that rows left; with none left, the batch shrinks."""
        limit = self.candidate.chunks.limit  # which may have been halved
        spare = max(0, len(rows) - limit)
        entering = min(len(waiting), max(0, len(free) - spare))
        if entering:
            rows.put(free[:entering], self._enter(waiting, entering))
        stay = np.ones(len(rows), dtype=bool)
        stay[free[entering:]] = False
        return rows if stay.all() else rows.take(np.flatnonzero(stay))

    def _enter(self, waiting: deque[Start], most: int) -> Rows:
        """The next searches, before their first points."""
        entering = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        samples = [sample for sample, _ in entering]
        clean = self.load(samples)
        device = clean.device
        draws = Draws.of([self.key(sample, restart) for sample, restart in entering], device)
        images = clean
        if self.attack.random_start:
            images = self.ball.sample(clean, draws.uniform(clean.shape[1:]))
        images = self._warmed(images, clean, entering)
        aims = (
            [self.aim(sample, restart % self.attack.aims) for sample, restart in entering] if self.attack.aims else []
        )
        label = self.labels[samples].to(device)
        state = self.attack.start(images, clean, self.ball, draws)
        return Rows(
            sample=np.array(samples),
            restart=np.array([restart for _, restart in entering]),
            ends=np.full(len(entering), self._turn + self.attack.steps),
            label=label,
            aim=torch.tensor(aims, device=device) if aims else label,
            step=torch.zeros(len(entering), dtype=torch.int64, device=device),
            keys=draws.keys,
            clean=clean,
            # Clones: rows are replaced in place, and a state may name one tensor twice.
            state={name: values.clone() for name, values in state.items()},
            moved=torch.zeros(len(entering), dtype=torch.bool, device=device),
            last_loss=torch.full((len(entering),), torch.inf, device=device),
            nearest=torch.full((len(entering),), -torch.inf, device=device),
            proposed=torch.full((len(entering),), torch.inf, device=device),
        )

    def _warmed(self, images: torch.Tensor, clean: torch.Tensor, entering: list[Start]) -> torch.Tensor:
        """Searches begin where others ended, if that is known: changes whose largest pixel is 1, made as large as ε."""
        known = self.warm(entering)
        if known is None:
            return images
        which, changes = known
        index = torch.from_numpy(which).to(images.device)
        start = self.ball.project(clean[index] + changes.to(images.device) * self.ball.radius, clean[index])
        return images.index_copy(0, index, start)


def _finite(scores: torch.Tensor | None, row: int) -> float | None:
    score = None if scores is None else float(scores[row])
    return score if score is not None and np.isfinite(score) else None
