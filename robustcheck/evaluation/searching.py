"""A gate's searches: each attack of it in turn, on the samples that are left."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf

import numpy as np
import torch

from robustcheck.attacks import Attack, Objective, build, objective
from robustcheck.attacks.base import shortened
from robustcheck.attacks.draws import key
from robustcheck.evaluation.engine import Engine, Held, Hit, Start, Trace, Warm
from robustcheck.evaluation.ledger import Entry
from robustcheck.evaluation.rows import Rows
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.starts import Ends
from robustcheck.models import ScoreOracle, WhiteBox
from robustcheck.models.loading import as_shares, by_shape
from robustcheck.policy import Gate
from robustcheck.threats import Ball, Goal

_NEAR = 3.0  # times the difference that was seen between the margins of the two forms of a network
_CLOSER_STEPS = 10  # at least, of a search that begins where another came near


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a gate's searches saw, besides the counterexamples, which are in the ledger."""

    trace: Trace
    inherited: dict[int, bool]  # samples that were not searched, since a search that stands for this one was through
    queries: np.ndarray | None  # (N,) that reached the oracle, a sample; None without an oracle


@dataclass(frozen=True, kw_only=True)
class Search:
    """The searches of one gate."""

    gate: Gate
    setting: Setting
    ball: Ball
    goal: Goal
    family: Hashable  # gates that share counterexamples; the gate's own if it shares none

    def run(self, samples: Sequence[int]) -> Found:
        """Search counterexamples of samples, and put them into the ledger."""
        gate, setting, attacks = self.gate, self.setting, self._attacks
        oracle = None
        if gate.queries is not None:
            oracle = ScoreOracle(setting.candidate, samples=len(setting.samples), limit=gate.queries)
        trace, through, searched = Trace(), dict[int, bool](), set[int]()
        for number, attack in enumerate(attacks):
            stands = setting.ledger.held(self._key(attack), float(self.ball.levels))
            # A minimum-norm search of its own is asked for distances, also where a counterexample is known.
            left = samples if attack.minimum_norm and len(attacks) == 1 else self._standing(samples)
            through |= {sample: stands[sample] for sample in left if sample in stands}
            left = [sample for sample in left if sample not in stands]
            searched.update(left)
            progress = partial(self._progress, (number + 1) * len(samples) - len(left), len(attacks) * len(samples))
            self._search(attack, oracle, left, trace, progress, enough=-1.0 if len(attacks) == 1 else None)
            self._remember(attack, left, trace)
        return Found(
            trace=trace,
            inherited={sample: moved for sample, moved in through.items() if sample not in searched},
            queries=None if oracle is None else oracle.counts.numpy(),
        )

    @cached_property
    def _attacks(self) -> tuple[Attack, ...]:
        gate = self.gate
        assert gate.attack is not None
        return build(gate.attack, self.ball, self.goal, queries=gate.queries, quick_first=gate.descending)

    def _standing(self, samples: Sequence[int]) -> list[int]:
        """The samples of which no counterexample is known."""
        known = self.setting.ledger.within(self.family, float(self.ball.levels))
        return [sample for sample in samples if sample not in known]

    def _key(self, attack: Attack) -> Hashable:
        """Under which searches stand for one another: the same attack of the same entry of the policy."""
        return self.family, self.gate.entry, attack.name

    def _remember(self, attack: Attack, searched: Sequence[int], trace: Trace) -> None:
        """A minimum-norm search stands for every budget; one that goes down the ladder, for smaller ones."""
        if attack.minimum_norm:
            held, levels = searched, inf
        elif self.gate.descending:
            held, levels = self._standing(searched), float(self.ball.levels)
        else:
            return
        self.setting.ledger.hold(self._key(attack), levels, {sample: sample in trace.moved for sample in held})

    def _search(
        self,
        attack: Attack,
        oracle: ScoreOracle | None,
        samples: Sequence[int],
        trace: Trace,
        progress: Callable[[int], None],
        *,
        enough: float | None,
    ) -> None:
        """One attack on samples; then again, with the artefact's own gradients, where it came near.

        Near is what a faster form and the artefact may differ by: there the faster form can be wrong about which side a
        point is on. Minimum-norm searches live there, so they follow the artefact from the beginning.
        """
        candidate, ends = self.setting.candidate, Ends()
        white_box = WhiteBox(candidate, exact=attack.minimum_norm)
        within = float(self.ball.levels) if enough is None else enough
        near = _NEAR * white_box.error
        looks = near > 0 and attack.asks == "gradient"
        self._run(
            attack,
            oracle or white_box,
            [(sample, 0) for sample in samples],
            trace,
            progress,
            warm=partial(self._warm, attack),
            held=partial(self._held, attack, ends, near if looks else None),
            margin=objective("margin", self.goal) if looks else None,
            near=near if looks else inf,
            enough=within,
        )
        again = [(sample, ends.restart(sample)) for sample in self._standing(samples) if sample in ends]
        self._run(
            shortened(attack, max(_CLOSER_STEPS, attack.steps // 4)),
            WhiteBox(candidate, exact=True),
            again,
            trace,
            lambda _done: None,
            warm=ends.known if attack.steps > 1 else _anew,
            enough=within,
        )

    def _run(
        self,
        attack: Attack,
        access: WhiteBox | ScoreOracle,
        starts: Sequence[Start],
        trace: Trace,
        progress: Callable[[int], None],
        *,
        warm: Warm,
        held: Held | None = None,
        margin: Objective | None = None,
        near: float = inf,
        enough: float,
    ) -> None:
        setting, gate, names = self.setting, self.gate, self.setting.samples.names
        shapes, before = [setting.samples.shape_of(sample) for sample, _ in starts], 0
        for group in by_shape(shapes):
            nearest: dict[int, Hit] = {}
            engine = Engine(
                attack=attack,
                access=access,
                candidate=setting.candidate,
                ball=self.ball.widest(shapes[group[0]]) if attack.minimum_norm else self.ball,
                goal=self.goal,
                labels=setting.labels,
                is_positive=setting.candidate.head.is_positive,
                load=lambda numbers: as_shares(setting.samples, numbers, setting.candidate.device),
                key=lambda sample, restart: key(setting.seed, f"{gate.id}/{attack.name}", names[sample], restart),
                found=partial(_keep_nearest, nearest),
                progress=partial(_later, progress, before),
                aim=self._aim,
                warm=warm,
                held=held or _forget,
                margin=margin,
                near=near,
                enough=enough,
                trace=trace,
            )
            try:
                engine.run([starts[index] for index in group])
            finally:  # what was found before an interruption is known
                for hit in nearest.values():
                    self._record(hit)
            before += len(group)

    def _progress(self, before: int, of: int, done: int) -> None:
        self.setting.progress(before + done, of)

    def _aim(self, sample: int, rank: int) -> int:
        """The label that is `rank` places behind the likeliest other than the true one, on the clean image."""
        order = self.setting.logits[sample].argsort(descending=True, stable=True)
        return int(order[order != self.setting.labels[sample]][rank])

    def _warm(self, attack: Attack, entering: Sequence[Start]) -> tuple[np.ndarray, torch.Tensor] | None:
        """First restarts begin where the same attack ended at another budget."""
        return self.setting.starts.known(
            self._key(attack), [sample if restart == 0 else None for sample, restart in entering]
        )

    def _held(self, attack: Attack, ends: Ends, near: float | None, rows: Rows, images: torch.Tensor) -> None:
        changes, margins = images - rows.clean, rows.nearest.tolist()
        if attack.random_start:
            first = np.flatnonzero(rows.restart == 0)  # later restarts may have other aims
            self.setting.starts.keep(self._key(attack), rows.sample[first], changes[torch.from_numpy(first)])
        if near is not None:
            for row, (sample, restart) in enumerate(zip(rows.sample.tolist(), rows.restart.tolist(), strict=True)):
                if margins[row] >= -near:
                    ends.keep(sample, restart, margins[row], changes[row])

    def _record(self, hit: Hit) -> None:
        gate, setting = self.gate, self.setting
        if not setting.ledger.improves(self.family, hit.sample, hit.distance):
            return
        file, sha256 = setting.evidence.counterexample(gate.id, hit.sample, hit.stored)
        entry = Entry(
            decision=hit.decision,
            distance=hit.distance,
            score=hit.score,
            found_by=gate.id,
            attack=hit.attack,
            restart=hit.restart,
            step=hit.step,
            file=file,
            sha256=sha256,
        )
        setting.ledger.add(self.family, hit.sample, entry)
        if gate.descending:  # the next budget is smaller, and its searches begin on the way here
            change = torch.from_numpy(hit.stored.astype(np.float32) - setting.samples.image(hit.sample))
            for attack in self._attacks:
                if attack.asks == "gradient" and not attack.minimum_norm:
                    setting.starts.keep(self._key(attack), np.array([hit.sample]), change[None])


def _keep_nearest(nearest: dict[int, Hit], hit: Hit) -> None:
    if hit.sample not in nearest or hit.distance < nearest[hit.sample].distance:
        nearest[hit.sample] = hit


def _anew(_starts: Sequence[Start]) -> None:
    """Nothing is known: a single step is one from the image."""


def _forget(_rows: Rows, _images: torch.Tensor) -> None:
    """Nobody asks where these rows ended."""


def _later(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)
