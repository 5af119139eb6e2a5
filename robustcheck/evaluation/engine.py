"""The search loop: a batch that stays full, and no work for samples that are done.

Each row of the batch is one restart of one sample and carries its own step count. A row whose sample is broken leaves
at once; a row that has made its steps is adjudicated at its last point and leaves; a waiting sample, or the next
restart, takes the place. So nothing is computed for a sample that is done, and the batch is full until the last
samples. Rows are independent of one another: the batch's size and order change no result but by float reassociation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from robustcheck.attacks import GradientAttack, State, log_odds
from robustcheck.evaluation.adjudication import Adjudicated, adjudicate
from robustcheck.models import Candidate, WhiteBox
from robustcheck.threats import LinfBall

_REFILL = 16  # a batch is refilled when one place in so many is free: joining rows copies all of them


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A verified counterexample, as the search found it."""

    sample: int
    stored: np.ndarray  # (C, H, W)
    decision: int
    distance: float  # grey levels
    score: float | None
    restart: int
    step: int


@dataclass(kw_only=True)
class Trace:
    """What a search saw besides its hits."""

    scores: dict[int, float] = field(default_factory=dict)  # most adverse admissible probability of the positive label
    moved: set[int] = field(default_factory=set)  # samples that had a finite gradient to follow at least once
    not_finite: set[int] = field(default_factory=set)  # samples that had a NaN or infinite gradient
    unstorable: int = 0  # proposals that were read wrongly before rounding and rightly after


@dataclass(kw_only=True)
class _Rows:
    """The batch: one row a search. All tensors share their first dimension."""

    sample: torch.Tensor  # (N,) on the CPU, as are restart and step
    restart: torch.Tensor
    step: torch.Tensor
    label: torch.Tensor  # (N,) on the candidate's device, as are clean and state
    clean: torch.Tensor
    state: State

    def __len__(self) -> int:
        return len(self.sample)

    def take(self, keep: torch.Tensor) -> _Rows:
        """The rows where `keep` (N,) on the CPU is true."""
        there = keep.to(self.clean.device)
        return _Rows(
            sample=self.sample[keep],
            restart=self.restart[keep],
            step=self.step[keep],
            label=self.label[there],
            clean=self.clean[there],
            state={name: rows[there] for name, rows in self.state.items()},
        )

    def join(self, other: _Rows) -> _Rows:
        return _Rows(
            sample=torch.cat([self.sample, other.sample]),
            restart=torch.cat([self.restart, other.restart]),
            step=torch.cat([self.step, other.step]),
            label=torch.cat([self.label, other.label]),
            clean=torch.cat([self.clean, other.clean]),
            state={name: torch.cat([rows, other.state[name]]) for name, rows in self.state.items()},
        )


@dataclass(kw_only=True)
class Engine:
    """One search of one attack over samples of one shape."""

    attack: GradientAttack
    candidate: Candidate
    ball: LinfBall
    labels: torch.Tensor  # (all samples,) on the CPU
    positive: int | None
    load: Callable[[list[int]], torch.Tensor]  # sample numbers to clean images on the candidate's device
    stream: Callable[[int, int], np.random.Generator]  # of a sample's restart
    found: Callable[[Hit], None]
    progress: Callable[[int], None]  # how many samples of this search are done
    trace: Trace = field(default_factory=Trace)

    def run(self, samples: Sequence[int]) -> None:
        """Search until each sample is broken or has had all its restarts."""
        access = WhiteBox(self.candidate)
        waiting = deque((sample, 0) for sample in samples)
        rows: _Rows | None = None
        done = 0
        while waiting or rows:
            rows = self._fill(rows, waiting)
            images = rows.state["images"]
            logits, gradient = access.gradient(images, rows.label, log_odds)
            fooled = (self.candidate.head.decide(logits) != rows.label).cpu()
            if fooled.any():
                broken = torch.zeros(len(rows), dtype=torch.bool)
                where = fooled.to(gradient.device)
                broken[fooled] = self._judge(rows.take(fooled), gradient[where], fooled=True)
                done += int(broken.sum())
                rows, gradient = rows.take(~broken), gradient[(~broken).to(gradient.device)]
            if len(rows):
                gradient = self._usable(rows, gradient)
                rows.state = self.attack.step(rows.state, gradient, rows.clean, self.ball)
                rows.step = rows.step + 1
                rows, finished = self._finish(rows, gradient, waiting)
                done += finished
            self.progress(done)

    def _fill(self, rows: _Rows | None, waiting: deque[tuple[int, int]]) -> _Rows:
        """Put waiting searches into the free places."""
        limit = self.candidate.chunks.limit
        free = limit - (len(rows) if rows else 0)
        if rows and (not waiting or free < max(1, limit // _REFILL)):
            return rows
        entering = [waiting.popleft() for _ in range(min(free, len(waiting)))]
        numbers = [sample for sample, _ in entering]
        clean = self.load(numbers)

        def uniform() -> torch.Tensor:
            draws = [
                self.stream(sample, restart).random(clean.shape[1:], dtype=np.float32) for sample, restart in entering
            ]
            return torch.from_numpy(np.stack(draws)).to(clean.device)

        sample = torch.tensor(numbers)
        new = _Rows(
            sample=sample,
            restart=torch.tensor([restart for _, restart in entering]),
            step=torch.zeros(len(entering), dtype=torch.int64),
            label=self.labels[sample].to(clean.device),
            clean=clean,
            state=self.attack.start(clean, self.ball, uniform),
        )
        return rows.join(new) if rows else new

    def _usable(self, rows: _Rows, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient with NaN and infinity as 0, after noting which samples had any and which had one to follow."""
        flat = gradient.flatten(1)
        finite = flat.isfinite().all(dim=1).cpu()
        self.trace.not_finite.update(rows.sample[~finite].tolist())
        if not finite.all():
            gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            flat = gradient.flatten(1)
        self.trace.moved.update(rows.sample[finite & flat.any(dim=1).cpu()].tolist())
        return gradient

    def _finish(self, rows: _Rows, gradient: torch.Tensor, waiting: deque[tuple[int, int]]) -> tuple[_Rows, int]:
        """Adjudicate rows that have made their steps; returns those that go on, and how many samples are done."""
        over = rows.step >= self.attack.steps
        if not over.any():
            return rows, 0
        ending = rows.take(over)
        broken = self._judge(ending, gradient[over.to(gradient.device)], fooled=False)
        done = int(broken.sum())
        for sample, restart in zip(ending.sample[~broken].tolist(), ending.restart[~broken].tolist(), strict=True):
            if restart + 1 < self.attack.restarts:
                waiting.append((sample, restart + 1))
            else:
                done += 1
        return rows.take(~over), done

    def _judge(self, rows: _Rows, gradient: torch.Tensor, *, fooled: bool) -> torch.Tensor:
        """Adjudicate the rows' images, report the counterexamples; returns which rows are broken (N,).

        Each image is proposed as it is, which rounds it to the nearest storable one; and, if that holds, as its
        storable neighbour on the gradient's side.
        """
        broken = self._propose(rows, rows.state["images"])
        if fooled:
            self.trace.unstorable += int((~broken).sum())
        if not broken.all():
            rest = (~broken).to(gradient.device)
            images = rows.state["images"][rest]
            broken[~broken] = self._propose(rows.take(~broken), self.ball.storable(images, gradient[rest]))
        return broken

    def _propose(self, rows: _Rows, images: torch.Tensor) -> torch.Tensor:
        verdict = adjudicate(self.candidate, self.ball, images, rows.clean, rows.label)
        self._remember_scores(rows.sample.tolist(), verdict)
        for row in verdict.broken.nonzero().flatten().tolist():
            self.found(
                Hit(
                    sample=int(rows.sample[row]),
                    stored=verdict.stored[row],
                    decision=int(verdict.decision[row]),
                    distance=float(verdict.distance[row]),
                    score=_finite(verdict.score, row),
                    restart=int(rows.restart[row]),
                    step=int(rows.step[row]),
                )
            )
        return verdict.broken

    def _remember_scores(self, samples: list[int], verdict: Adjudicated) -> None:
        """Keep, for AUROC, the score that hurts most: the lowest of a positive, the highest of a negative."""
        if verdict.score is None:
            return
        for row, sample in enumerate(samples):
            score = _finite(verdict.score, row)
            if score is not None and verdict.admissible[row]:
                worse = min if int(self.labels[sample]) == self.positive else max
                self.trace.scores[sample] = worse(score, self.trace.scores.get(sample, score))


def _finite(scores: torch.Tensor | None, row: int) -> float | None:
    score = None if scores is None else float(scores[row])
    return score if score is not None and np.isfinite(score) else None
