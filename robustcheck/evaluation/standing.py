"""What a gate's searches came to, and how it would be judged on that, or with more samples broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robustcheck.evaluation.controls import Controlled
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.measurement import Measurement
from robustcheck.evaluation.metrics.verdicts import Rule, compare, judge
from robustcheck.evaluation.outcomes import (
    finding_probabilities_of,
    finding_probabilities_with,
    most_adverse,
    most_adverse_of_findings,
    readings,
    scores_with,
)
from robustcheck.evaluation.search.found import Found
from robustcheck.evaluation.search.ledger import UNKNOWN, Entry, unknown
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.surrogates.loading import LoadedSurrogate
from robustcheck.policy import Gate
from robustcheck.results import Control, Outcome, Queries, Verdict
from robustcheck.threats import Goal


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a gate stands after its searches, or after some of them."""

    gate: Gate
    setting: Setting
    goal: Goal
    among: np.ndarray  # numbers of the samples that the gate may look at
    judged: np.ndarray  # (M,) of those that it is about
    attacked: list[int]  # those of them that were worth attacking
    broken: dict[int, Entry]
    positive_probabilities: np.ndarray | None  # (N,) of the positive label on all samples, under the attack
    finding_probabilities: np.ndarray | None = None  # (N, K) the same of each of several findings, if it is known
    found: Found
    loaded_surrogates: Sequence[LoadedSurrogate]
    controlled: tuple[Controlled, ...]
    intervals: Intervals
    rule: Rule

    def about(self, judged: np.ndarray) -> Standing:
        """The same, about only some of the samples (M,)."""
        seen = set(judged.tolist())
        return replace(
            self,
            judged=judged,
            attacked=[sample for sample in self.attacked if sample in seen],
            broken={sample: entry for sample, entry in self.broken.items() if sample in seen},
        )

    @property
    def by_estimate(self) -> Standing:
        """The same, judged by the point estimate if the gate may stop early.

        It is used to ask whether further broken samples would flip the verdict. With one sample fewer, the interval
        of a gate that stopped early had not yet decided it, so one more broken sample would always undo that.
        """
        return replace(self, rule="estimate") if self.setting.stop == "early" else self

    @property
    def controls(self) -> tuple[Control, ...]:
        """The controls, as reports have them."""
        return tuple(one.control for one in self.controlled)

    @property
    def queries(self) -> Queries:
        """What reached the oracle: all of it, and the most and the median of the samples that were attacked.

        A gate that is decided early has searched more samples than it is about: whole stages are searched.
        """
        if self.found.queries is None:
            return Queries()
        counts = self.found.queries[self.attacked] if self.attacked else np.zeros(1)
        return Queries(total=int(self.found.queries.sum()), max=int(counts.max()), median=float(np.median(counts)))

    @property
    def blind(self) -> set[int]:
        """Samples that held although no search could follow what it was told on at least half of its steps."""
        inherited = {sample for sample, followable in self.found.inherited.items() if followable}
        return set(self.held) - self.found.trace.followable - inherited

    @property
    def held(self) -> list[int]:
        """Samples that were attacked and held."""
        return [sample for sample in self.attacked if sample not in self.broken]

    def measurement(self, broken: dict[int, Entry]) -> Measurement:
        """What is measured if these samples are broken."""
        attackable = np.zeros(len(self.setting.labels), bool)
        attackable[self.attacked] = True
        return self.setting.measurement(
            readings(self.setting, broken, self.positive_probabilities, self.finding_probabilities),
            self.judged,
            self.intervals,
            attackable=attackable,
            controls=self.controls,
            among=None if len(self.judged) == len(self.among) else self.among,
        )

    def verdict_if_read(self, outcomes: Mapping[str, Outcome], *, by_estimate: bool, instead: bool = False) -> Verdict:
        """How the gate would be judged if samples, by name, had these outcomes from elsewhere; see `VerdictIf`."""
        names, head = self.setting.samples.names, self.setting.candidate.head
        more = {sample: outcomes[names[sample]] for sample in self.judged.tolist() if names[sample] in outcomes}
        known = {  # a report does not say how likely each of several findings was
            sample: replace(UNKNOWN, decision=decision, score=one.score)
            for sample, one in more.items()
            if self.finding_probabilities is None and (decision := head.named(one.attacked)) is not None
        }
        before = self.without_its_attack() if instead else self
        return (before.by_estimate if by_estimate else before).verdict_if(unknown(more) | known)

    def without_its_attack(self) -> Standing:
        """The same, had the attack turned nothing and raised no score."""
        several = None if self.finding_probabilities is None else most_adverse_of_findings(self.setting, [], {})
        return replace(
            self,
            broken={},
            positive_probabilities=most_adverse(self.setting, [], {}),
            finding_probabilities=several,
        )

    def verdict_if(self, broken_too: Mapping[int, Entry]) -> Verdict:
        """The verdict if these counterexamples were known as well; see `unknown`."""
        known, probabilities = self, finding_probabilities_of(broken_too)
        scores = {sample: entry.score for sample, entry in broken_too.items() if entry.score is not None}
        if self.positive_probabilities is not None and scores:
            known = replace(
                known, positive_probabilities=scores_with(self.setting, self.positive_probabilities, scores)
            )
        if self.finding_probabilities is not None and probabilities:
            worse = finding_probabilities_with(self.setting, self.finding_probabilities, probabilities)
            known = replace(known, finding_probabilities=worse)
        metrics = known.measurement(self.broken | dict(broken_too)).required(self.gate.bounds)
        return judge(compare(self.gate.bounds, metrics, self.rule), metrics)
