"""The loop of all searches: a batch that stays full, and no work for samples that are done.

Each row of the batch is one restart of one sample. A row whose sample is broken leaves at once; a row that has finished
its search is adjudicated at its best point and leaves; a waiting sample, or the next restart, takes its place. So
nothing is computed for a sample that is done, and the batch is full until the last samples. Rows are independent of one
another: the batch's size and order change results only by float reassociation.

`gradient_loop` asks about gradients, `query_loop` asks oracles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Generic, TypeVar

import numpy as np
import torch

from robustcheck.attacks.base import Attack
from robustcheck.attacks.draws import Draws
from robustcheck.data.multilabel import present
from robustcheck.evaluation.looks.look import Viewer
from robustcheck.evaluation.progress import Progress
from robustcheck.evaluation.search.adjudication import (
    Adjudicated,
    adjudicate,
    finite,
    keep_worst,
    more_adverse_of_findings,
)
from robustcheck.evaluation.search.found import Trace
from robustcheck.evaluation.search.ledger import Counterexample
from robustcheck.evaluation.search.rows import Rows
from robustcheck.models import Candidate
from robustcheck.models.process_settings import full_precision
from robustcheck.threats import Ball, Goal

Start = tuple[int, int]
"""A sample, and which of its restarts."""

_SIGN_OF_LIFE = 50  # turns after which progress is reported although nothing is done

AttackT = TypeVar("AttackT", bound=Attack)
RowsT = TypeVar("RowsT", bound=Rows)


@dataclass(frozen=True, kw_only=True)
class Hit(Counterexample):
    """A verified counterexample, as the search found it."""

    sample: int
    stored: np.ndarray  # (C, H, W)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What any search is given: the candidate, the samples, and what takes its results."""

    candidate: Candidate
    viewer: Viewer  # how proposals are looked at
    goal: Goal
    labels: torch.Tensor  # (all samples,) true readings, on the CPU
    load: Callable[[list[int]], torch.Tensor]  # sample numbers to clean images on the candidate's device
    key: Callable[[int, int], int]  # of the draws of a sample's restart
    on_hit: Callable[[Hit], None]
    progress: Progress  # in samples of this search
    on_leave: Callable[[Sequence[int]], None] = lambda _samples: None  # whose restarts are over, whatever was found
    aim: Callable[[int, int], int] = lambda _sample, _rank: 0  # the label of that rank among a sample's others
    trace: Trace = field(default_factory=Trace)


@dataclass(kw_only=True)
class Loop(ABC, Generic[AttackT, RowsT]):
    """One search of one attack over samples of one shape."""

    attack: AttackT
    task: Task
    ball: Ball
    _turn: int = 0
    _done: int = 0
    _distances: dict[int, float] = field(default_factory=dict)  # of the nearest counterexamples of this search

    @property
    @abstractmethod
    def limit(self) -> int:
        """How many rows there may be."""

    @abstractmethod
    def _entering(self, rows: Rows) -> RowsT:
        """Rows that enter now, with what this kind of turn knows about each."""

    @abstractmethod
    def _advance(self, rows: RowsT, waiting: deque[Start]) -> np.ndarray:
        """Take a turn of all rows; return the places (M,) of those that leave."""

    def _starts(self, clean: torch.Tensor, _draws: Draws, _entering: list[Start]) -> torch.Tensor:
        """Where searches begin: at the clean images (N, C, H, W)."""
        return clean

    def _queries(self, _sample: int) -> int | None:
        """What a sample has cost, if an oracle counts."""
        return None

    def run(self, starts: Sequence[Start]) -> None:
        """Search from these starts, until each sample is broken or has had all its restarts."""
        waiting = deque(starts)
        with full_precision(self.task.candidate.device):
            rows = self._enter(waiting, self.limit) if waiting else None
            while rows is not None and len(rows):
                self._turn += 1
                free = self._advance(rows, waiting)
                if len(free):
                    self.task.trace.followable.update(rows.sample[free][rows.could_follow.cpu().numpy()[free]].tolist())
                    self.task.on_leave(rows.sample[free].tolist())
                    rows = self._refill(rows, free, waiting)
                if len(free) or self._turn % _SIGN_OF_LIFE == 0:
                    self.task.progress.done(self._done)

    def _again(self, rows: Rows, which: np.ndarray, waiting: deque[Start]) -> None:
        """Let the next restart of some rows (N,) wait, if there is one; rows without one are done."""
        again = which & (rows.restart + 1 < self.attack.restarts)
        waiting.extend(zip(rows.sample[again].tolist(), (rows.restart[again] + 1).tolist(), strict=True))
        self._done += len(rows) - int(again.sum())

    def _propose(self, rows: Rows, images: torch.Tensor, after: np.ndarray | None = None) -> np.ndarray:
        """Adjudicate storable images of rows, report the counterexamples; return which rows (N,) are broken.

        Args:
            rows: (N,) of them.
            images: (N, C, H, W) of theirs.
            after: (N,) how many images the same turn asked about after this one; they do not count as its cost
                (default: none).
        """
        verdict = adjudicate(self.task.viewer, self.ball, images, rows.clean, rows.label, rows.draws, rows.step)
        if verdict.cells is not None:
            self.task.trace.cells.update(zip(rows.sample.tolist(), verdict.cells, strict=True))
        self._remember_scores(rows.sample.tolist(), verdict)
        steps, findings = rows.step.tolist() if verdict.broken.any() else [], verdict.finding_probabilities
        for row in np.flatnonzero(verdict.broken).tolist():
            sample, distance = int(rows.sample[row]), float(verdict.distance[row])
            self._distances[sample] = min(distance, self._distances.get(sample, inf))
            asked, beyond = self._queries(sample), 0 if after is None else int(after[row])
            self.task.on_hit(
                Hit(
                    sample=sample,
                    attack=self.attack.name,
                    stored=verdict.stored[row].copy(),  # a view would keep those of the whole turn in memory
                    decision=int(verdict.decision[row]),
                    distance=distance,
                    score=finite(verdict.score, row),
                    finding_probabilities=None if findings is None else findings[row].copy(),
                    restart=int(rows.restart[row]),
                    step=steps[row],
                    queries=None if asked is None else asked - beyond,
                    share=None if verdict.share is None else float(verdict.share[row]),
                )
            )
        return verdict.broken

    def _note_refuted(self, stored: torch.Tensor, labels: torch.Tensor, *, twin: bool) -> None:
        """Count proposals (M, C, H, W) that the artefact refuted; with a twin, also those not lost in rounding."""
        self.task.trace.refuted += len(stored)
        if twin and self.task.candidate.network.twin is not None:
            decisions = self.task.candidate.head.decide(self.task.candidate.search_logits(stored, exact=True))
            self.task.trace.disagreed += int(self.task.goal.met(decisions, labels).sum())

    def _remember_scores(self, samples: list[int], verdict: Adjudicated) -> None:
        """Keep, for AUROC, the most adverse score."""
        if self.attack.minimum_norm:  # its proposals may lie at any distance
            return
        if verdict.finding_probabilities is not None:
            self._remember_finding_probabilities(samples, verdict.finding_probabilities, verdict.admissible)
        if verdict.score is None:
            return
        for row, sample in enumerate(samples):
            score = finite(verdict.score, row)
            if score is not None and verdict.admissible[row]:
                positive = self.task.candidate.head.is_positive(int(self.task.labels[sample]))
                keep_worst(self.task.trace.scores, sample, score, positive=positive)

    def _remember_finding_probabilities(
        self, samples: list[int], probabilities: np.ndarray, admissible: np.ndarray
    ) -> None:
        """Keep the most adverse probability (N, K) of each of several findings."""
        worst = self.task.trace.finding_probabilities
        there = present(self.task.labels[samples].numpy(), probabilities.shape[1])
        for row in np.flatnonzero(admissible & np.isfinite(probabilities).all(axis=1)).tolist():
            known = worst.get(samples[row], probabilities[row])
            worst[samples[row]] = more_adverse_of_findings(known, probabilities[row], there[row])

    def _refill(self, rows: RowsT, free: np.ndarray, waiting: deque[Start]) -> RowsT:
        """Put waiting searches into the places that rows left; with none left, the batch shrinks."""
        spare = max(0, len(rows) - self.limit)  # the batch may have been halved
        entering = min(len(waiting), max(0, len(free) - spare))
        if entering:
            rows.put(free[:entering], self._enter(waiting, entering))
        stay = np.ones(len(rows), dtype=bool)
        stay[free[entering:]] = False
        return rows if stay.all() else rows.take(np.flatnonzero(stay))

    def _enter(self, waiting: deque[Start], most: int) -> RowsT:
        """Make rows of the next waiting searches, before their first points."""
        entering = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        samples = [sample for sample, _ in entering]
        clean = self.task.load(samples)
        device = clean.device
        draws = Draws.of([self.task.key(sample, restart) for sample, restart in entering], device)
        images = self._starts(clean, draws, entering)
        aims = (
            [self.task.aim(sample, restart % self.attack.target_count) for sample, restart in entering]
            if self.attack.target_count
            else []
        )
        label = self.task.labels[samples].to(device)
        state = self.attack.start(images, clean, self.ball, draws)
        rows = Rows(
            sample=np.array(samples),
            restart=np.array([restart for _, restart in entering]),
            label=label,
            aim=torch.tensor(aims, device=device) if aims else label.clone(),
            step=torch.zeros(len(entering), dtype=torch.int64, device=device),
            keys=draws.keys,
            clean=clean,
            # Clones: rows are replaced in place, and a state may name one tensor twice.
            state={name: values.clone() for name, values in state.items()},
            followable=torch.zeros(len(entering), dtype=torch.bool, device=device),
        )
        return self._entering(rows)
