"""One gate: search, adjudicate, measure, judge."""

from __future__ import annotations

import time
from collections.abc import Set
from dataclasses import replace
from math import floor

import numpy as np

from robustcheck.evaluation.curves import budget_curve, query_curve
from robustcheck.evaluation.findings import blind_spots, findings
from robustcheck.evaluation.ledger import Entry
from robustcheck.evaluation.metrics import Readings, measure, rate
from robustcheck.evaluation.searching import Found, Search
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.surrogates import LoadedSurrogate
from robustcheck.evaluation.verdicts import judge, require
from robustcheck.models import Surrogates
from robustcheck.models.head import NO_ANSWER
from robustcheck.policy import FMNSpec, Gate, TransferSpec
from robustcheck.results import Cost, Evidence, GateResult, Metric, Outcome, Queries, Surrogate, Threat
from robustcheck.threats import Goal, ball_of

EXAMPLES = 6  # samples a gate whose clean image is kept for the report

_LOST = Entry(decision=NO_ANSWER, distance=0, score=None, found_by="", attack="", restart=0, step=0)


def run_gate(gate: Gate, setting: Setting, *, shared: bool) -> GateResult:
    """Evaluate a gate. Counterexamples of its family are used, and added to, if evidence is `shared`."""
    if gate.attack is None or gate.epsilon is None:
        return _unattacked(gate, setting)
    began = time.perf_counter()
    ball = ball_of(gate.norm, gate.epsilon, setting.samples.bits)
    goal = _goal(gate, setting)
    family, levels = gate.family if shared else gate.id, float(ball.levels)
    worth = goal.open(setting.decisions, setting.labels)
    attacked: list[int] = worth.nonzero().flatten().tolist()
    surrogates = setting.surrogates(gate.attack) if isinstance(gate.attack, TransferSpec) else ()
    meters = [setting.candidate.meter, *(one.candidate.meter for one in surrogates)]
    before = [replace(meter) for meter in meters]
    found = Search(
        gate=gate,
        setting=setting,
        ball=ball,
        goal=goal,
        family=family,
        surrogates=Surrogates([one.candidate for one in surrogates]) if surrogates else None,
    ).run(attacked)
    setting.ledger.add_scores(family, levels, found.trace.scores)
    broken = {sample: entry for sample, entry in setting.ledger.within(family, levels).items() if worth[sample]}
    scores = _most_adverse(setting, setting.ledger.scores_within(family, levels), broken)
    _keep_examples(gate, setting, broken)

    metrics = measure(_readings(setting, broken, scores), attacked=worth.numpy())
    requirements = require(gate.bounds, metrics)
    blind = blind_spots(attacked, broken, found)
    stand_ins = tuple(_surrogate(one, setting, found) for one in surrogates)
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
            f"and without them the gate would not pass; {_lesson(gate, unstarted=blind <= found.trace.unstarted)}"
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
            forward=sum(now.forward - then.forward for now, then in zip(meters, before, strict=True)),
            gradient=sum(now.gradient - then.gradient for now, then in zip(meters, before, strict=True)),
            queries=_queries(found, attacked),
        ),
        findings=findings(setting, found, blind, stand_ins),
        samples=_outcomes(gate, setting, broken, scores, found, set(attacked)),
        curve=budget_curve(setting, family, set(attacked)) if isinstance(gate.attack, FMNSpec) else (),
        query_curve=query_curve(setting, broken) if gate.asks else (),
        surrogates=stand_ins,
        error=error,
    )


def _lesson(gate: Gate, *, unstarted: bool) -> str:
    """What samples that nothing could be done about do not show."""
    if unstarted:
        return "a search that never started shows nothing: raise queries, or add samples of the other labels"
    if gate.asks:
        return "answers that never change show nothing about other adversaries"
    if gate.knowledge == "transfer":
        return "a surrogate without gradients shows nothing about the candidate"
    return "a candidate that hides its gradients is not shown to be robust"


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
        oracle=gate.oracle if gate.asks else None,
        top_k=gate.top_k,
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


def _surrogate(surrogate: LoadedSurrogate, setting: Setting, found: Found) -> Surrogate:
    """How good a stand-in it is, for the report."""
    decisions = surrogate.candidate.head.decide(surrogate.logits)
    turned = np.array([sample in found.trace.turned for sample in sorted(found.searched)], dtype=bool)
    return Surrogate(
        path=surrogate.path,
        format=surrogate.candidate.info.format,
        sha256=surrogate.candidate.info.sha256,
        trained=surrogate.trained,
        accuracy=rate((decisions == setting.labels).numpy()),
        agreement=rate((decisions == setting.decisions).numpy()),
        turned=rate(turned),
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


def _undefined(gate: Gate, metrics: dict[str, Metric]) -> str:
    names = [
        bound.metric for bound in gate.bounds if bound.metric not in metrics or metrics[bound.metric].value is None
    ]
    return f"{', '.join(names)} cannot be measured on these samples: none of them is of the kind that it is about"


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
                outcome = replace(outcome, status="held", evidence=_evidence(sample, found))
        outcomes.append(outcome)
    return tuple(outcomes)


def _evidence(sample: int, found: Found) -> Evidence:
    """What speaks for a sample that held."""
    if sample in found.trace.unstarted:
        return "unstarted"
    return "inherited" if sample in found.inherited else "searched"


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
        found_after=entry.queries,
        counterexample=entry.file,
        sha256=entry.sha256,
    )
