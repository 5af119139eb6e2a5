"""A gate's searches: each attack of it in turn, on the samples that are left."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf

import numpy as np
import torch

from robustcheck.attacks import Attack, build
from robustcheck.attacks.base import once
from robustcheck.attacks.draws import key
from robustcheck.evaluation.engine import Engine, Hit, Trace
from robustcheck.evaluation.ledger import Entry
from robustcheck.evaluation.setting import Setting
from robustcheck.models import ScoreOracle, WhiteBox
from robustcheck.models.loading import as_shares, by_shape
from robustcheck.policy import Gate
from robustcheck.threats import Ball, Goal

_NEAR = 3.0  # times the difference that was seen between the losses of the two forms of a network


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
    losses: dict[int, float] = field(default_factory=dict)  # where the running attack left the samples that hold

    def run(self, samples: Sequence[int]) -> Found:
        """Search counterexamples of samples, and put them into the ledger."""
        gate, setting = self.gate, self.setting
        assert gate.attack is not None
        attacks = build(gate.attack, self.ball, self.goal, queries=gate.queries)
        access: WhiteBox | ScoreOracle = WhiteBox(setting.candidate)
        if gate.queries is not None:
            access = ScoreOracle(setting.candidate, samples=len(setting.samples), limit=gate.queries)
        trace, inherited = Trace(), dict[int, bool]()
        for number, attack in enumerate(attacks):
            through = setting.ledger.held(self._key(attack), float(self.ball.levels))
            left = self._standing(samples)
            inherited = {sample: through[sample] for sample in left if sample in through}
            left = [sample for sample in left if sample not in through]
            self.losses.clear()
            progress = partial(self._progress, (number + 1) * len(samples) - len(left), len(attacks) * len(samples))
            self._run(attack, access, left, trace, progress)
            self._look_closer(attack, left, trace)
            self._remember(attack, left, trace)
        queries = access.counts.numpy() if isinstance(access, ScoreOracle) else None
        return Found(trace=trace, inherited=inherited, queries=queries)

    def _standing(self, samples: Sequence[int]) -> list[int]:
        """The samples of which no counterexample is known."""
        known = self.setting.ledger.within(self.family, float(self.ball.levels))
        return [sample for sample in samples if sample not in known]

    def _key(self, attack: Attack) -> Hashable:
        """Under which searches stand for one another: the same attack of the same entry of the policy."""
        return self.family, self.gate.entry, attack.name

    def _remember(self, attack: Attack, searched: list[int], trace: Trace) -> None:
        """A minimum-norm search stands for every budget; one that goes down the ladder, for smaller ones."""
        if attack.minimum_norm:
            held, levels = searched, inf
        elif self.gate.descending:
            held, levels = self._standing(searched), float(self.ball.levels)
        else:
            return
        self.setting.ledger.hold(self._key(attack), levels, {sample: sample in trace.moved for sample in held})

    def _look_closer(self, attack: Attack, samples: list[int], trace: Trace) -> None:
        """Search on, with the artefact's own gradients, where a faster form of it came near a counterexample.

        Near is what the two may differ by: there the faster form can be wrong about which side a point is on.
        """
        searched = self.setting.candidate.searched
        if searched is None or attack.asks != "gradient" or attack.minimum_norm:
            return
        near = [
            sample for sample in self._standing(samples) if self.losses.get(sample, -inf) >= -_NEAR * searched.error
        ]
        exact = WhiteBox(self.setting.candidate, exact=True)
        self._run(once(attack), exact, near, trace, lambda _done: None)

    def _run(
        self,
        attack: Attack,
        access: WhiteBox | ScoreOracle,
        samples: list[int],
        trace: Trace,
        progress: Callable[[int], None],
    ) -> None:
        setting, gate = self.setting, self.gate
        shapes = [setting.samples.shape_of(sample) for sample in samples]
        names, before = setting.samples.names, 0
        for group in by_shape(shapes):
            Engine(
                attack=attack,
                access=access,
                candidate=setting.candidate,
                ball=self.ball.widest(shapes[group[0]]) if attack.minimum_norm else self.ball,
                goal=self.goal,
                labels=setting.labels,
                is_positive=setting.candidate.head.is_positive,
                load=lambda numbers: as_shares(setting.samples, numbers, setting.candidate.device),
                key=lambda sample, restart: key(setting.seed, f"{gate.id}/{attack.name}", names[sample], restart),
                found=self._record,
                progress=partial(_later, progress, before),
                aim=self._aim,
                warm=partial(setting.starts.known, self._key(attack)),
                held=partial(self._held, attack),
                trace=trace,
            ).run([samples[index] for index in group])
            before += len(group)

    def _progress(self, before: int, of: int, done: int) -> None:
        self.setting.progress(before + done, of)

    def _aim(self, sample: int, rank: int) -> int:
        """The label that is `rank` places behind the likeliest other than the true one, on the clean image."""
        order = self.setting.logits[sample].argsort(descending=True, stable=True)
        return int(order[order != self.setting.labels[sample]][rank])

    def _held(
        self, attack: Attack, samples: np.ndarray, images: torch.Tensor, clean: torch.Tensor, loss: torch.Tensor
    ) -> None:
        if attack.random_start:
            self.setting.starts.keep(self._key(attack), samples, images - clean)
        for sample, last in zip(samples.tolist(), loss.tolist(), strict=True):
            self.losses[sample] = max(last, self.losses.get(sample, -inf))

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
        if gate.descending:  # the next budget is smaller, and its search begins on the way here
            change = torch.from_numpy(hit.stored.astype(np.float32) - setting.samples.image(hit.sample))
            setting.starts.keep((self.family, gate.entry, hit.attack), np.array([hit.sample]), change[None])


def _later(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)
