"""From what a gate's searches found to its result: measured, judged, and said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from robustcheck.evaluation.account import Account
from robustcheck.evaluation.controls import Controlled
from robustcheck.evaluation.findings import blind_spots, findings
from robustcheck.evaluation.health.checks import (
    MEND,
    OF_BALLS,
    OF_GRADIENTS,
    in_turn,
    not_relied_on,
    of_gradients,
    same_answers,
)
from robustcheck.evaluation.idle import Idle
from robustcheck.evaluation.metrics.chance import read_alike
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.measurement import Measurement
from robustcheck.evaluation.metrics.verdicts import Rule, compare, judge
from robustcheck.evaluation.outcomes import (
    chances_of,
    chances_with,
    outcomes,
    readings,
    scores_with,
    undefined,
)
from robustcheck.evaluation.search.found import Found
from robustcheck.evaluation.search.ledger import UNKNOWN, Entry, unknown
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.surrogates.loading import LoadedSurrogate
from robustcheck.evaluation.surrogates.standing_in import as_reported
from robustcheck.evaluation.threat import threat
from robustcheck.policy import Gate
from robustcheck.results import Control, Cost, Finding, GateResult, HealthCheck, Metric, Outcome, Queries, Verdict
from robustcheck.threats import Goal
from robustcheck.words import listed, plural

_STRENGTHEN = "raise its steps or draws"


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What a gate's searches came to."""

    gate: Gate
    setting: Setting
    goal: Goal
    among: np.ndarray  # numbers of the samples that the gate may look at
    judged: np.ndarray  # (M,) of those that it is about
    attacked: list[int]  # those of them that were worth attacking
    broken: dict[int, Entry]
    scores: np.ndarray | None  # (N,) of all samples, under the attack
    chances: np.ndarray | None = None  # (N, K) the same of each of several findings, if it is known
    found: Found
    surrogates: Sequence[LoadedSurrogate]
    controlled: tuple[Controlled, ...]
    intervals: Intervals
    rule: Rule

    def result(self, cost: Cost, health: tuple[HealthCheck, ...] = ()) -> GateResult:
        """Measured and judged; a pass needs an attack that nothing shows to be broken."""
        gate, setting = self.gate, self.setting
        measurement = self.measurement(self.broken)
        metrics = measurement.metrics(gate.bounds)
        requirements = compare(gate.bounds, metrics, self.rule)
        surrogates = as_reported(self.surrogates, setting, self.goal, self.attacked, self.found)
        undercut, by_metrics = self._undercut(), judge(requirements, metrics)
        idle = self.idle() if by_metrics == "pass" else None
        verdict, error = self.judged_as(by_metrics, metrics, health, undercut, idle)
        every = outcomes(gate, setting, self.broken, self.scores, self.found, set(self.attacked))
        return GateResult(
            id=gate.id,
            attack=gate.attack_name,
            parameters=gate.parameters,
            threat=threat(gate, setting.samples.bits),
            verdict=verdict,
            metrics=metrics,
            slices=measurement.slices(),
            requirements=requirements,
            cost=cost,
            findings=(
                *([Finding(code="undercut-by-control", severity="error", message=undercut)] if undercut else ()),
                *([self._told(idle)] if idle else ()),
                *findings(
                    gate, setting, self.found, self.blind, surrogates, metrics["attack_success"], self.controls, health
                ),
                *measurement.findings(gate.bounds),
            ),
            health=health,
            samples=tuple(every[sample] for sample in self.judged.tolist()),
            surrogates=surrogates,
            controls=self.controls,
            error=error,
        )

    def judged_as(
        self,
        verdict: Verdict,
        metrics: Mapping[str, Metric],
        health: Sequence[HealthCheck],
        undercut: str | None,
        idle: Idle | None,
    ) -> tuple[Verdict, str | None]:
        """The verdict, given what the metrics alone would say; and the reason, if it is an error."""
        gate, setting, blind = self.gate, self.setting, self.blind
        if not self.goal.applies(setting.labels[self.among]).any():
            return "error", _nothing_to_attack(gate)
        if verdict == "fail":  # what was found is verified, whatever was not
            return verdict, None
        if not self.goal.open(setting.decisions, setting.labels)[self.among].any():
            return "error", _nothing_right_to_attack(gate)
        if verdict == "error":
            return verdict, undefined(gate, metrics)
        # Before what the attack had to follow: a candidate that is fed wrongly often gives it nothing.
        if setting.strict and (alike := read_alike(readings(setting, {}, None))):
            return "error", alike
        if setting.strict and idle and idle.every:
            return "error", self._told(idle).message
        # Nothing was searched there, which no policy may overlook.
        if blind and self.verdict_if(unknown(blind)) != verdict:
            return "error", (
                f"the attack had nothing to follow on {len(blind)} of the samples that held, and without them the gate "
                f"would not pass; {_lesson(gate, unstarted=blind <= self.found.trace.unstarted)}"
            )
        if setting.strict and (reason := self._distrusted(metrics, health, undercut)):
            return "error", reason
        return verdict, None

    def _distrusted(
        self, metrics: Mapping[str, Metric], health: Sequence[HealthCheck], undercut: str | None
    ) -> str | None:
        """Why what the attack did not turn shows nothing."""
        if shown := [check for check in health if check.outcome == "broken"]:
            return not_relied_on(shown)
        if undercut:
            return undercut
        if stronger := self._stronger_controls(metrics):
            return (
                f"{stronger[0].name} turned {stronger[0].success.successes} of {stronger[0].success.samples} samples, "
                f"and the attack {metrics['attack_success'].successes}: an attack weaker than its control shows "
                f"nothing; {_STRENGTHEN}"
            )
        return None

    @property
    def controls(self) -> tuple[Control, ...]:
        """The controls, as reports have them."""
        return tuple(one.control for one in self.controlled)

    def _stronger_controls(self, metrics: Mapping[str, Metric]) -> list[Control]:
        """Controls that turn clearly more than the attack does: their intervals lie above its own.

        A patch that is given was not searched for, and may be as weak as it likes.
        """
        if self.gate.knowledge == "none":
            return []
        most = metrics["attack_success"].high
        return [one for one in self.controls if most is not None and (one.success.low or 0.0) > most]

    def _undercut(self) -> str | None:
        """What controls turned that would change a verdict of pass: the gate's own adversary may do the same."""
        if not self.controlled:
            return None
        held, judged = set(self.held), self.by_estimate
        before = judged.verdict_if({})
        each = [one for one in self.controlled if one.admitted == "each" and held & one.turned.keys()]
        lost = {sample: entry for one in each for sample, entry in one.turned.items() if sample in held}
        if lost and judged.verdict_if(lost) not in ("pass", before):
            who = listed(one.control.name for one in each)
            mend = _STRENGTHEN if any(one.control.name != "no attack" for one in each) else "the conditions alone do it"
            return (
                f"{who} turned {len(lost)} of {plural(len(held), 'sample')} that held, which the adversary may do as "
                f"well, and without them the gate would not pass; {mend}"
            )
        for one in self.controlled:
            instead = replace(judged, broken={}).verdict_if(one.turned) if one.admitted == "all" else "pass"
            if instead not in ("pass", before):
                return (
                    f"{one.control.name}, which the adversary may lay on all images as well, turned "
                    f"{len(one.turned)} of {plural(len(self.attacked), 'sample')}, and in the attack's place the gate "
                    f"would not pass; {_STRENGTHEN}"
                )
        return None

    def idle(self) -> Idle | None:
        """What no attack could have failed, on all samples that the gate may look at, however few decided it."""
        setting, bounds = self.setting, self.gate.bounds
        attackable = self.goal.open(setting.decisions, setting.labels).numpy()[self.among]
        every = replace(self, judged=self.among, attacked=self.among[attackable].tolist())

        def required(lost: Mapping[int, Entry]) -> Mapping[str, Metric]:
            return every.measurement(dict(lost)).required(bounds)

        return Idle.among(bounds, required, every.attacked, setting.rule)

    def _told(self, idle: Idle) -> Finding:
        severity: Literal["error", "warning"] = "error" if idle.every else "warning"
        return Finding(code="holds-whatever-is-turned", severity=severity, message=idle.message(self.goal))

    @property
    def by_estimate(self) -> Conclusion:
        """This conclusion, judged by the point estimate if the gate may stop early.

        It is used to ask whether further broken samples would flip the verdict. A gate that stopped early has just been
        decided by its interval: one sample less, and it would not be yet.
        """
        return replace(self, rule="estimate") if self.setting.stop == "early" else self

    def measurement(self, broken: dict[int, Entry]) -> Measurement:
        """What is measured if these samples are broken."""
        attackable = np.zeros(len(self.setting.labels), bool)
        attackable[self.attacked] = True
        return self.setting.measurement(
            readings(self.setting, broken, self.scores, self.chances),
            self.judged,
            self.intervals,
            attacked=attackable,
            controls=self.controls,
            among=None if len(self.judged) == len(self.among) else self.among,
        )

    def about(self, judged: np.ndarray) -> Conclusion:
        """This conclusion, about some of the samples (M,) alone."""
        seen = set(judged.tolist())
        return replace(
            self,
            judged=judged,
            attacked=[sample for sample in self.attacked if sample in seen],
            broken={sample: entry for sample, entry in self.broken.items() if sample in seen},
        )

    @property
    def queries(self) -> Queries:
        """What reached the oracle about the samples that were attacked."""
        if self.found.queries is None or not self.attacked:
            return Queries()
        counts = self.found.queries[self.attacked]
        return Queries(total=int(counts.sum()), max=int(counts.max()), median=float(np.median(counts)))

    @property
    def blind(self) -> set[int]:
        """Samples that held while no search ever had anything to follow."""
        return blind_spots(self.attacked, self.broken, self.found)

    @property
    def held(self) -> list[int]:
        """Samples that were attacked and held."""
        return [sample for sample in self.attacked if sample not in self.broken]

    def verdict_if_read(self, outcomes: Mapping[str, Outcome], *, by_estimate: bool, instead: bool = False) -> Verdict:
        """How the gate would be judged if samples, by name, had become what they became elsewhere; see `VerdictIf`."""
        names, head = self.setting.samples.names, self.setting.candidate.head
        more = {sample: outcomes[names[sample]] for sample in self.judged.tolist() if names[sample] in outcomes}
        known = {  # of several findings a report does not say how likely each was
            sample: replace(UNKNOWN, decision=decision, score=one.score)
            for sample, one in more.items()
            if self.chances is None and (decision := head.named(one.attacked)) is not None
        }
        before = replace(self, broken={}) if instead else self
        return (before.by_estimate if by_estimate else before).verdict_if(unknown(more) | known)

    def verdict_if(self, broken_too: Mapping[int, Entry]) -> Verdict:
        """How the gate would be judged if these counterexamples were known, too; see `unknown`."""
        known, chances = self, chances_of(broken_too)
        scores = {sample: entry.score for sample, entry in broken_too.items() if entry.score is not None}
        if self.scores is not None and scores:
            known = replace(known, scores=scores_with(self.setting, self.scores, scores))
        if self.chances is not None and chances:
            known = replace(known, chances=chances_with(self.setting, self.chances, chances))
        metrics = known.measurement(self.broken | dict(broken_too)).required(self.gate.bounds)
        return judge(compare(self.gate.bounds, metrics, self.rule), metrics)


def conclude(
    conclusion: Conclusion, account: Account, examine: Callable[[Conclusion, Cost], tuple[HealthCheck, ...]]
) -> GateResult:
    """The result of a gate whose attack is examined first; what that costs is told apart from what its searches do.

    Args:
        conclusion: what the searches came to.
        account: opened before them.
        examine: whether an attack that follows the candidate's own gradients worked, after searches of this cost.
    """
    searched_for, drawn = account.cost(conclusion.queries), conclusion.setting.candidate.randomness
    if conclusion.gate.knowledge == "white-box":
        health = examine(conclusion, searched_for)
    else:
        health = () if drawn is None else (same_answers(drawn),)
    return conclusion.result(account.cost(conclusion.queries, searched=searched_for), health)


def checks_of(gate: Gate, drawn: float | None) -> tuple[str, ...]:
    """Names of the health checks that `conclude` makes of a gate with an attack, on a candidate that draws or not."""
    if gate.knowledge == "white-box":
        return OF_GRADIENTS if gate.epsilon is None else OF_BALLS
    return () if drawn is None else OF_GRADIENTS[-1:]


def examine_gradients(conclusion: Conclusion, cost: Cost) -> tuple[HealthCheck, ...]:
    """Whether the gradients of patches and stickers mean anything; the controls beside them show the rest."""
    attacked = in_turn(conclusion.attacked, conclusion.gate, conclusion.setting)
    return of_gradients(conclusion.setting, conclusion.goal, conclusion.found.trace, attacked, conclusion.blind, cost)


def _nothing_to_attack(gate: Gate) -> str:
    if gate.target is not None:
        return f"every sample is labelled {gate.target}, which is the target: nothing was attacked"
    return f"no sample is of the kind that the goal {gate.goal} is about: nothing was attacked"


def _nothing_right_to_attack(gate: Gate) -> str:
    about = "" if gate.goal == "untargeted" else f" that the goal {gate.goal} is about"
    return f"no sample{about} is read rightly before the attack: nothing was attacked"


def _lesson(gate: Gate, *, unstarted: bool) -> str:
    """What samples that nothing could be done about do not show."""
    if unstarted:
        return "a search that never started shows nothing: raise queries, or add samples of the other labels"
    if gate.asks:
        return "answers that never change show nothing about other adversaries"
    if gate.knowledge == "transfer":
        return "a surrogate without gradients shows nothing about the candidate"
    return f"a candidate that hides its gradients is not shown to be robust: {MEND}"
