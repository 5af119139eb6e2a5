"""A plan of a policy: what its gates need and have, and how long they will take, before any of them is run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from robustcheck.errors import EvaluationError
from robustcheck.evaluation.adversary import goal_of, worth_attacking
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.failures import as_evaluation_error
from robustcheck.evaluation.health.examination import is_asked_with_noise, is_examined
from robustcheck.evaluation.health.predicting import OVERHEAD
from robustcheck.evaluation.health.probing import FEWEST_WITH_NOISE
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.readings import Readings
from robustcheck.evaluation.metrics.verdicts import Rule
from robustcheck.evaluation.outcomes import most_adverse, most_adverse_of_findings, readings
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.planning.expectation import MAX_APPROXIMATE, NO_RATES, approximate_samples, predictive
from robustcheck.evaluation.planning.parts import PlannedPart, part_of
from robustcheck.evaluation.planning.power import MAX_SAMPLES, Power, never_met, supposed
from robustcheck.evaluation.planning.stepping import Stopwatch
from robustcheck.evaluation.planning.timing import Timing
from robustcheck.evaluation.planning.workload import of_patch, of_search
from robustcheck.evaluation.progress import Listener
from robustcheck.evaluation.search.ledger import Entry
from robustcheck.evaluation.search.searching import Search
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.vacuous import Vacuous, turned_in_a_finding
from robustcheck.models import Surrogates
from robustcheck.models.process_settings import fitting_threads, freed_memory_kept, full_precision, left_as_found
from robustcheck.policy import Bound, Gate, PatchSpec, Policy
from robustcheck.policy.bounds import NEEDS_PREVALENCE
from robustcheck.results import Metric
from robustcheck.results.plan import GatePlan, Plan, RequirementPlan

_UNTRAINED = "without training surrogates, each of which is taken to cost what the candidate does"
_UNTIMED = "the candidate has no gradients, so no step could be timed"
_UNDEFINED = Metric(value=None, samples=0)


@fitting_threads()
def plan(policy: Policy, *, margin: float = 0.05, power: float = 0.9, progress: Listener | None = None) -> Plan:
    """Plan every gate of a policy: the samples are read and the candidate is asked about them, and nothing is attacked.

    Args:
        policy: what is asked.
        margin: how far from its bound, on its good side, each metric's true value is supposed to be.
        power: with the samples that it needs, a gate with these true values passes with at least this probability.
        progress: told how far loading is.

    Raises:
        EvaluationError: the samples or the candidate cannot be loaded.
    """
    began = time.perf_counter()
    evaluation = Evaluation(policy, progress=progress)
    setting = evaluation.setting
    loading = time.perf_counter() - began
    planner = _Planner(setting=setting, margin=margin, power=power, watch=Stopwatch(setting=setting))
    with left_as_found(), freed_memory_kept(), full_precision(setting.candidate.device):
        gates = tuple(replace(planner, setting=setting.about(gate.finding)).gate(gate) for gate in policy.gates)
    return Plan(
        name=policy.name,
        margin=margin,
        power=power,
        rule=setting.rule,
        confidence=setting.intervals.confidence,
        interval=setting.intervals.kind,
        samples=len(setting.samples),
        groups=None if setting.samples.groups is None else len(np.unique(setting.samples.groups)),
        device=str(setting.candidate.device),
        loading=loading,
        gates=gates,
        order=evaluation.order,
        steps=tuple(planner.watch.known.values()),
    )


@dataclass(frozen=True, kw_only=True)
class _Scope:
    """Which samples a gate is about."""

    every: Readings  # of all samples
    judged: np.ndarray  # (M,) numbers of those that are judged
    attacked: list[int]  # of these
    task: PatchTask | None = None


@dataclass(frozen=True, kw_only=True)
class _Planner:
    setting: Setting
    margin: float
    power: float
    watch: Stopwatch

    def gate(self, gate: Gate) -> GatePlan:
        """One gate; if it cannot be evaluated, the reason is that of its result."""
        budget = gate.epsilon or gate.size
        planned = GatePlan(id=gate.id, attack=gate.attack_name, budget=budget.text if budget else None, attacked=0)
        try:
            with as_evaluation_error():
                scope = self._scope(gate)
                intervals = self.setting.anytime_intervals if gate.may_stop_early else self.setting.intervals
                requirements = tuple(self._requirement(bound, scope, intervals) for bound in gate.bounds)
                planned = replace(planned, attacked=len(scope.attacked), requirements=requirements)
                if gate.attack is None:
                    return planned
                if not scope.attacked:
                    return replace(planned, notes=("no sample that its goal is about is read correctly",))
                costed = self._costed(gate, scope, planned)
                return replace(costed, notes=(*self._vacuous(gate, scope, intervals), *costed.notes))
        except EvaluationError as error:
            return replace(planned, error=str(error), seconds=None)

    def _scope(self, gate: Gate) -> _Scope:
        setting = self.setting
        # The area of a finding is measured if images are looked at once, and as they are.
        seen = gate.attack is None or (setting.candidate.randomness is None and gate.conditions is None)
        known = seen and not isinstance(gate.attack, PatchSpec)
        probabilities = most_adverse_of_findings(setting, [], {}) if known else None
        every = readings(setting, {}, most_adverse(setting, [], {}), probabilities)
        if not isinstance(gate.attack, PatchSpec):
            judged = np.arange(len(setting.labels))
            attacked = [] if gate.attack is None else worth_attacking(goal_of(gate, setting), setting, judged)
            return _Scope(every=every, judged=judged, attacked=attacked)
        task = PatchTask.of(gate, setting)
        task.check()
        return _Scope(every=every, judged=task.judged, attacked=task.attacked, task=task)

    # --- samples ---

    def _vacuous(self, gate: Gate, scope: _Scope, intervals: Intervals) -> Iterator[str]:
        """Requirements that no attack can fail."""
        setting, every = self.setting, scope.every
        attackable = np.isin(np.arange(len(setting.labels)), scope.attacked)

        def required(lost: Mapping[int, Entry]) -> Mapping[str, Metric]:
            read = readings(setting, dict(lost), every.positive_probabilities, every.finding_probabilities)
            return setting.measurement(read, scope.judged, intervals, attackable=attackable).required(gate.bounds)

        goal = goal_of(gate, setting)
        in_a_finding = turned_in_a_finding(goal, setting, scope.attacked)
        vacuous = Vacuous.among(gate.bounds, required, scope.attacked, setting.rule, in_a_finding=in_a_finding)
        if vacuous is not None:
            yield vacuous.message(goal)

    def _requirement(self, bound: Bound, scope: _Scope, intervals: Intervals) -> RequirementPlan:
        rule, metric = self.setting.rule, bound.of[1]
        measurement = self.setting.measurement(scope.every, scope.judged, intervals)
        clean = measurement.metrics([bound]).get(bound.metric, _UNDEFINED)
        true, never, by_law = supposed(bound, self.margin), never_met(bound, rule), metric in NO_RATES
        part = part_of(bound, true, self.setting, scope.every, scope.judged, scope.attacked, intervals)
        intervals = intervals.simultaneous(part.among)
        power, needed = None, None
        if by_law and part.defined:
            needed = approximate_samples(bound, true, part.kinds, power=self.power, rule=rule, intervals=intervals)
        elif not by_law:
            rate = Power(bound=bound, true=true, rule=rule, intervals=intervals)
            needed = rate.needed(self.power)
            power = float(rate.at(np.array([part.worth]))[0]) if part.worth else None
        interval = part.expected(metric, true, intervals)
        return RequirementPlan(
            metric=bound.metric,
            bound=str(bound),
            supposed=true,
            needed=needed,
            about=by_law,
            never=never,
            samples=part.kinds.samples,
            groups=part.groups,
            worth=part.worth,
            slice=part.name,
            among=part.among,
            enough=needed is not None and part.defined and part.worth >= needed,
            power=power,
            low=interval.low,
            high=interval.high,
            clean=clean.value,
            notes=(*self._notes(bound, true, part, needed), *_already(bound, clean, rule)),
        )

    def _notes(self, bound: Bound, true: float, part: PlannedPart, needed: int | None) -> Iterator[str]:
        """What to say about a requirement besides its numbers."""
        metric, never = bound.of[1], never_met(bound, self.setting.rule)
        if part.among > 1:
            how = "least certain" if metric in NO_RATES else "smallest"
            yield f"of {part.name}, the {how} of {part.among}"
        if part.left_out:
            alone = f"of {part.name}, " if part.among == 1 else ""
            yield f"{alone}without {part.left_out} in which it is undefined"
        if not part.defined:
            yield "undefined on these samples"
        if part.worth == 1 < part.kinds.samples:
            yield "all of one group, so worth one sample" if part.groups == 1 else "worth one independent sample"
        if metric in NEEDS_PREVALENCE and part.defined and not never:
            yield predictive(metric, true, part.kinds).note
        if never:
            yield f"no number of samples shows {bound.metric} {bound} with confidence"
        elif not math.isclose(abs(true - bound.value), self.margin):
            yield f"{true:g} is assumed: no true value is {self.margin:g} from the bound"
        if part.defined and needed is None and not never:
            yield f"more than {MAX_APPROXIMATE if metric in NO_RATES else MAX_SAMPLES:,} samples are needed"

    # --- time ---

    def _costed(self, gate: Gate, scope: _Scope, planned: GatePlan) -> GatePlan:
        setting, work = self.setting, scope.task or Search.of(gate, self.setting, shared=False)
        bill = of_patch(work) if isinstance(work, PatchTask) else of_search(work, len(scope.attacked))
        planned, surrogates = replace(planned, forward=bill.forward, gradient=bill.gradient), None
        if gate.surrogates is not None and gate.surrogates.train:
            planned = replace(planned, notes=(_UNTRAINED,))
            if setting.candidate.network.no_gradients:
                return replace(planned, seconds=None, notes=(_UNTRAINED, _UNTIMED))
        elif gate.surrogates is not None:
            surrogates = Surrogates([one.candidate for one in setting.load_surrogates(gate.surrogates)])
        timing = Timing(work=work, bill=bill, attacked=scope.attacked, surrogates=surrogates)
        overhead = _overhead(gate, len(scope.attacked))
        return replace(planned, seconds=(1 + overhead) * timing.seconds(self.watch))


def _overhead(gate: Gate, attacked_count: int) -> float:
    """What health checks put through the network at most, as a share of what the gate's searches do."""
    if is_asked_with_noise(gate) and attacked_count:
        return max(float(OVERHEAD), min(FEWEST_WITH_NOISE, attacked_count) / attacked_count)
    return float(OVERHEAD) if is_examined(gate) else 0.0


def _already(bound: Bound, clean: Metric, rule: Rule) -> tuple[str, ...]:
    """What the unattacked metric shows already: an attack leaves no more of it."""
    if clean.value is None or clean.low is None or not bound.at_least:
        return ()
    if not bound.met_by(clean.value):
        return (f"the clean {bound.of[1]} {clean.value:.3f} is below it",)
    if rule == "confident" and clean.low < bound.value:
        return (f"the interval of the clean {bound.of[1]} begins below it, at {clean.low:.3f}",)
    return ()
