"""One gate: search, adjudicate, measure, judge."""

from __future__ import annotations

import time
from collections.abc import Set
from dataclasses import replace
from math import floor
from typing import Literal

import numpy as np

from robustcheck.evaluation.ledger import Entry
from robustcheck.evaluation.metrics import Readings, measure
from robustcheck.evaluation.searching import Found, Search
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.verdicts import judge, require
from robustcheck.models.head import NO_ANSWER
from robustcheck.policy import FMNSpec, Gate
from robustcheck.results import Cost, CurvePoint, Finding, GateResult, Metric, Outcome, Queries, Threat
from robustcheck.threats import Goal, ball_of

EXAMPLES = 6  # samples a gate whose clean image is kept for the report

_LOST = Entry(
    decision=NO_ANSWER, distance=0, score=None, found_by="", attack="", restart=0, step=0, file=None, sha256=""
)


def run_gate(gate: Gate, setting: Setting, *, shared: bool) -> GateResult:
    """Evaluate a gate. Counterexamples of its family are used, and added to, if evidence is `shared`."""
    if gate.attack is None or gate.epsilon is None:
        return _unattacked(gate, setting)
    began, meter = time.perf_counter(), replace(setting.candidate.meter)
    ball = ball_of(gate.norm, gate.epsilon, setting.samples.bits)
    goal = _goal(gate, setting)
    family, levels = gate.family if shared else gate.id, float(ball.levels)
    worth = goal.open(setting.decisions, setting.labels)
    attacked: list[int] = worth.nonzero().flatten().tolist()
    found = Search(gate=gate, setting=setting, ball=ball, goal=goal, family=family).run(attacked)
    setting.ledger.add_scores(family, levels, found.trace.scores)
    broken = {sample: entry for sample, entry in setting.ledger.within(family, levels).items() if worth[sample]}
    scores = _most_adverse(setting, setting.ledger.scores_within(family, levels), broken)
    _keep_examples(gate, setting, broken)

    metrics = measure(_readings(setting, broken, scores), attacked=worth.numpy())
    requirements = require(gate.bounds, metrics)
    blind = _blind(attacked, broken, found)
    verdict, error = judge(requirements), None
    if not goal.applies(setting.labels).any():
        verdict, error = "error", f"no sample is of the kind that the goal {gate.goal} is about: nothing was attacked"
    elif verdict == "error":
        error = _undefined(gate, metrics)
    elif (
        verdict == "pass"
        and blind
        and judge(require(gate.bounds, _without(setting, broken, scores, blind, worth.numpy()))) != "pass"
    ):
        verdict = "error"
        error = (
            f"the attack had nothing to follow on {len(blind)} of the samples that held, "
            "and without them the gate would not pass; a candidate that hides its gradients is not shown to be robust"
        )
    return GateResult(
        id=gate.id,
        attack=gate.attack.name,
        parameters=gate.attack.model_dump(mode="json", exclude={"name"}),
        threat=threat(gate, setting.samples.bits),
        verdict=verdict,
        metrics=metrics,
        requirements=requirements,
        cost=Cost(
            seconds=round(time.perf_counter() - began, 3),
            forward=setting.candidate.meter.forward - meter.forward,
            gradient=setting.candidate.meter.gradient - meter.gradient,
            queries=_queries(found, attacked),
        ),
        findings=_findings(setting, found, blind),
        samples=_outcomes(gate, setting, broken, scores, found, set(attacked)),
        curve=_curve(setting, family, set(attacked)) if isinstance(gate.attack, FMNSpec) else (),
        error=error,
    )


def threat(gate: Gate, bits: int) -> Threat:
    """The threat model of a gate on images of so many bits, as reports say it."""
    assert gate.epsilon is not None
    levels = gate.epsilon.in_levels(bits)
    return Threat(
        goal=gate.goal,
        target=gate.target,
        knowledge=gate.knowledge,
        norm=gate.norm,
        epsilon=gate.epsilon.text,
        epsilon_share=float(levels / (2**bits - 1)),
        epsilon_levels=floor(levels) if gate.norm == "linf" else float(levels),
        queries=gate.queries,
    )


def _goal(gate: Gate, setting: Setting) -> Goal:
    head = setting.candidate.head
    return Goal(
        kind=gate.goal,
        labels=len(head.labels),
        target=None if gate.target is None else head.labels.index(gate.target),
        positive=head.positive,
        multilabel=head.multilabel,
    )


def _queries(found: Found, attacked: list[int]) -> Queries:
    """What reached the oracle about the samples that were attacked."""
    if found.queries is None or not attacked:
        return Queries()
    counts = found.queries[attacked]
    return Queries(total=int(counts.sum()), max=int(counts.max()), median=float(np.median(counts)))


def _unattacked(gate: Gate, setting: Setting) -> GateResult:
    scores = _most_adverse(setting, [], {})
    metrics = measure(_readings(setting, {}, scores), attacked=None)
    requirements = require(gate.bounds, metrics)
    verdict = judge(requirements)
    return GateResult(
        id=gate.id,
        attack=None,
        threat=None,
        verdict=verdict,
        metrics=metrics,
        requirements=requirements,
        samples=_outcomes(gate, setting, {}, scores),
        error=_undefined(gate, metrics) if verdict == "error" else None,
    )


def _keep_examples(gate: Gate, setting: Setting, broken: dict[int, Entry]) -> None:
    for sample in sorted(sample for sample, entry in broken.items() if entry.found_by == gate.id)[:EXAMPLES]:
        setting.evidence.clean(sample, setting.samples.image(sample))


def _most_adverse(setting: Setting, verified: list[dict[int, float]], broken: dict[int, Entry]) -> np.ndarray | None:
    """Probability (N,) of the positive label at each sample's most adverse verified image; the clean one is one."""
    if setting.scores is None:
        return None
    scores = setting.scores.numpy().astype(np.float64)
    counterexamples = {sample: entry.score for sample, entry in broken.items() if entry.score is not None}
    for sample, score in (item for search in (*verified, counterexamples) for item in search.items()):
        positive = setting.candidate.head.is_positive(int(setting.labels[sample]))
        scores[sample] = (min if positive else max)(scores[sample], score)
    return scores


def _readings(setting: Setting, broken: dict[int, Entry], scores: np.ndarray | None) -> Readings:
    after = setting.decisions.numpy().copy()
    for sample, entry in broken.items():
        after[sample] = entry.decision
    head = setting.candidate.head
    readings = Readings(
        labels=setting.labels.numpy(),
        before=setting.decisions.numpy(),
        after=after,
        scores=scores,
        positive=head.positive,
        findings=len(head.labels) if head.multilabel else None,
    )
    if scores is None:
        return readings
    # No answer has no score: as wrong as can be.
    worst = np.where(readings.positives, 0.0, 1.0)
    return replace(readings, scores=np.where(after == NO_ANSWER, worst, scores))


def _without(
    setting: Setting, broken: dict[int, Entry], scores: np.ndarray | None, blind: set[int], attacked: np.ndarray
) -> dict[str, Metric]:
    """The metrics if every sample that the attack could not search were broken."""
    lost = dict.fromkeys(blind, _LOST)
    return measure(_readings(setting, broken | lost, scores), attacked=attacked)


def _blind(attacked: list[int], broken: dict[int, Entry], found: Found) -> set[int]:
    """Samples that held while no search ever had anything to follow."""
    moved = found.trace.moved | {sample for sample, moved in found.inherited.items() if moved}
    return {sample for sample in attacked if sample not in broken and sample not in moved}


def _findings(setting: Setting, found: Found, blind: set[int]) -> tuple[Finding, ...]:
    findings, trace = [], found.trace
    if blind:
        message = (
            f"{len(blind)} samples held, but the attack never had anything to follow there: no finite "
            f"gradient but zero, and no scores that changed (first: {setting.samples.names[min(blind)]})"
        )
        findings.append(Finding(code="no-usable-gradient", severity="warning", message=message))
    if trace.not_finite:
        message = (
            f"{trace.gradients_not_finite} gradients, of {len(trace.not_finite)} samples, had NaN or infinity, which "
            "was not followed"
        )
        findings.append(Finding(code="gradient-not-finite", severity="warning", message=message))
    if trace.unstorable:
        message = (
            f"{trace.unstorable} proposals that the search saw read wrongly were not, once rounded to the stored depth "
            "and read by the artefact in full precision; the search went on"
        )
        findings.append(Finding(code="lost-in-rounding", severity="note", message=message))
    if trace.disagreed:
        message = (
            f"of these, {trace.disagreed} are read wrongly by the twin of the graph as they are stored, and not by "
            "ONNX Runtime, whose verdict counts"
        )
        findings.append(Finding(code="twin-disagreed", severity="note", message=message))
    if setting.candidate.chunks.halved_to:
        message = (
            f"memory ran out, and the batch was halved to {setting.candidate.chunks.halved_to}; no draw depends on it"
        )
        findings.append(Finding(code="batch-halved", severity="note", message=message))
    return tuple(findings)


def _undefined(gate: Gate, metrics: dict[str, Metric]) -> str:
    names = [
        bound.metric for bound in gate.bounds if bound.metric not in metrics or metrics[bound.metric].value is None
    ]
    return f"{', '.join(names)} cannot be measured on these samples: none of them is of the kind that it is about"


def _curve(setting: Setting, family: object, attacked: set[int]) -> tuple[CurvePoint, ...]:
    """Accuracy at each distance at which it falls, from the nearest counterexamples that are known."""
    nearest = setting.ledger.nearest(family)
    clean = setting.decisions == setting.labels
    distances = [entry.distance for sample, entry in nearest.items() if sample in attacked and clean[sample]]
    right, samples = int(clean.sum()), len(setting.labels)
    levels, lost = np.unique(distances, return_counts=True)
    left = (right - np.cumsum(lost)) / samples
    return tuple(
        CurvePoint(levels=float(level), accuracy=float(accuracy))
        for level, accuracy in zip((0.0, *levels), (right / samples, *left), strict=True)
    )


def _outcomes(
    gate: Gate,
    setting: Setting,
    broken: dict[int, Entry],
    scores: np.ndarray | None,
    found: Found | None = None,
    attacked: Set[int] = frozenset(),
) -> tuple[Outcome, ...]:
    outcomes, head = [], setting.candidate.head
    for sample, (label, clean) in enumerate(zip(setting.labels.tolist(), setting.decisions.tolist(), strict=True)):
        outcome = Outcome(
            sample=setting.samples.names[sample],
            label=head.name(label),
            clean=head.name(clean),
            attacked=head.name(clean),
            status="held" if label == clean else "wrong",
            score=None if scores is None else float(scores[sample]),
        )
        if found is not None and sample in attacked:
            queries = None if found.queries is None else int(found.queries[sample])
            outcome = replace(outcome, queries=queries)
            if (entry := broken.get(sample)) is not None:
                outcome = _broken_outcome(outcome, entry, head.name(entry.decision), gate)
            else:
                evidence: Literal["inherited", "searched"] = "inherited" if sample in found.inherited else "searched"
                outcome = replace(outcome, status="held", evidence=evidence)
        outcomes.append(outcome)
    return tuple(outcomes)


def _broken_outcome(outcome: Outcome, entry: Entry, attacked: str, gate: Gate) -> Outcome:
    return replace(
        outcome,
        attacked=attacked,
        status="broken",
        evidence="searched" if entry.found_by == gate.id else "inherited",
        score=entry.score,
        found_by=entry.found_by,
        attack=entry.attack,
        distance_levels=entry.distance,
        restart=entry.restart,
        step=entry.step,
        counterexample=entry.file,
        sha256=entry.sha256,
    )
