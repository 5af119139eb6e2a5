"""One gate: search, adjudicate, measure, judge."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import floor

import numpy as np
import torch

from robustcheck.attacks import build
from robustcheck.attacks.draws import stream
from robustcheck.data import Samples
from robustcheck.evaluation.engine import Engine, Hit, Trace
from robustcheck.evaluation.evidence import Evidence
from robustcheck.evaluation.ledger import Entry, Ledger
from robustcheck.evaluation.metrics import Readings, measure
from robustcheck.evaluation.verdicts import judge, require
from robustcheck.models import Candidate
from robustcheck.models.head import NO_ANSWER
from robustcheck.models.loading import as_shares, by_shape
from robustcheck.policy import Gate
from robustcheck.results import Cost, Finding, GateResult, Metric, Outcome, Threat
from robustcheck.threats import LinfBall

NO_ANSWER_NAME = "(no answer)"
EXAMPLES = 6  # samples a gate whose clean image is kept for the report

_LOST = Entry(decision=NO_ANSWER, distance=0, score=None, found_by="", restart=0, step=0, file=None, sha256="")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all gates of a policy share."""

    candidate: Candidate
    samples: Samples
    labels: torch.Tensor  # (N,) true
    decisions: torch.Tensor  # (N,) of the candidate on the clean images
    scores: torch.Tensor | None  # (N,) clean probability of the positive label
    seed: int
    ledger: Ledger
    evidence: Evidence
    progress: Callable[[int, int], None]  # samples done, of


def run_gate(gate: Gate, setting: Setting, *, shared: bool) -> GateResult:
    """Evaluate a gate. Counterexamples of its family are used, and added to, if evidence is `shared`."""
    if gate.attack is None or gate.epsilon is None:
        return _unattacked(gate, setting)
    began, meter = time.perf_counter(), replace(setting.candidate.meter)
    ball = LinfBall.of(gate.epsilon, setting.samples.bits)
    family = gate.family if shared else gate.id
    known = setting.ledger.within(family, ball.levels)
    right = (setting.decisions == setting.labels).nonzero().flatten().tolist()
    trace = _search(gate, setting, ball, family, [sample for sample in right if sample not in known])
    setting.ledger.add_scores(family, ball.levels, trace.scores)
    broken = setting.ledger.within(family, ball.levels)
    scores = _most_adverse(setting, setting.ledger.scores_within(family, ball.levels))
    _keep_examples(gate, setting, broken)

    metrics = measure(_readings(setting, broken, scores), attacked=True)
    requirements = require(gate.bounds, metrics)
    blind = _blind(right, broken, trace)
    findings = _findings(setting, trace, blind)
    verdict, error = judge(requirements), None
    if verdict == "error":
        error = _undefined(gate, metrics)
    elif (
        verdict == "pass" and blind and judge(require(gate.bounds, _without(setting, broken, scores, blind))) != "pass"
    ):
        verdict = "error"
        error = (
            f"the attack had no usable gradient on {len(blind)} of the samples that held, and without them the gate "
            "would not pass; a candidate that hides its gradients is not shown to be robust"
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
        ),
        findings=findings,
        samples=_outcomes(setting, broken, scores),
        error=error,
    )


def threat(gate: Gate, bits: int) -> Threat:
    """The threat model of a gate on images of so many bits, as reports say it."""
    assert gate.epsilon is not None
    levels = gate.epsilon.in_levels(bits)
    return Threat(
        goal=gate.goal,
        knowledge="white-box",
        norm=gate.norm,
        epsilon=gate.epsilon.text,
        epsilon_share=float(levels / (2**bits - 1)),
        epsilon_levels=floor(levels),
    )


def _unattacked(gate: Gate, setting: Setting) -> GateResult:
    scores = _most_adverse(setting, [])
    metrics = measure(_readings(setting, {}, scores), attacked=False)
    requirements = require(gate.bounds, metrics)
    verdict = judge(requirements)
    return GateResult(
        id=gate.id,
        attack=None,
        threat=None,
        verdict=verdict,
        metrics=metrics,
        requirements=requirements,
        samples=_outcomes(setting, {}, scores),
        error=_undefined(gate, metrics) if verdict == "error" else None,
    )


def _search(gate: Gate, setting: Setting, ball: LinfBall, family: object, samples: list[int]) -> Trace:
    trace = Trace()
    if gate.attack is None or not samples:
        return trace
    attack, device, finished = build(gate.attack, ball), setting.candidate.device, 0

    def record(hit: Hit) -> None:
        file, sha256 = setting.evidence.counterexample(gate.id, hit.sample, hit.stored)
        entry = Entry(
            decision=hit.decision,
            distance=hit.distance,
            score=hit.score,
            found_by=gate.id,
            restart=hit.restart,
            step=hit.step,
            file=file,
            sha256=sha256,
        )
        setting.ledger.add(family, hit.sample, entry)

    shapes = [setting.samples.shape_of(sample) for sample in samples]
    for group in by_shape(shapes):
        Engine(
            attack=attack,
            candidate=setting.candidate,
            ball=ball,
            labels=setting.labels,
            positive=setting.candidate.head.positive,
            load=lambda numbers: as_shares(setting.samples, numbers, device),
            stream=lambda sample, restart: stream(setting.seed, gate.id, setting.samples.names[sample], restart),
            found=record,
            progress=partial(_advance, setting, finished, len(samples)),
            trace=trace,
        ).run([samples[index] for index in group])
        finished += len(group)
    return trace


def _advance(setting: Setting, before: int, of: int, done: int) -> None:
    setting.progress(before + done, of)


def _keep_examples(gate: Gate, setting: Setting, broken: dict[int, Entry]) -> None:
    for sample in sorted(sample for sample, entry in broken.items() if entry.found_by == gate.id)[:EXAMPLES]:
        setting.evidence.clean(sample, setting.samples.image(sample))


def _most_adverse(setting: Setting, verified: list[dict[int, float]]) -> np.ndarray | None:
    """Probability (N,) of the positive label at each sample's most adverse verified image; the clean one is one."""
    if setting.scores is None:
        return None
    scores = setting.scores.numpy().astype(np.float64)
    positives = [label == setting.candidate.head.positive for label in setting.labels.tolist()]
    for sample, score in (item for scores_of_search in verified for item in scores_of_search.items()):
        scores[sample] = (min if positives[sample] else max)(scores[sample], score)
    return scores


def _readings(setting: Setting, broken: dict[int, Entry], scores: np.ndarray | None) -> Readings:
    after = setting.decisions.numpy().copy()
    for sample, entry in broken.items():
        after[sample] = entry.decision
    positive = setting.candidate.head.positive
    labels = setting.labels.numpy()
    if scores is not None:
        # No answer has no score: as wrong as can be.
        scores = np.where(after == NO_ANSWER, np.where(labels == positive, 0.0, 1.0), scores)
    return Readings(labels=labels, before=setting.decisions.numpy(), after=after, scores=scores, positive=positive)


def _without(
    setting: Setting, broken: dict[int, Entry], scores: np.ndarray | None, blind: set[int]
) -> dict[str, Metric]:
    """The metrics if every sample that the attack could not search were broken."""
    lost = dict.fromkeys(blind, _LOST)
    return measure(_readings(setting, broken | lost, scores), attacked=True)


def _blind(right: list[int], broken: dict[int, Entry], trace: Trace) -> set[int]:
    """Samples that held while the attack never had a gradient to follow."""
    return {sample for sample in right if sample not in broken and sample not in trace.moved}


def _findings(setting: Setting, trace: Trace, blind: set[int]) -> tuple[Finding, ...]:
    findings = []
    if blind:
        message = (
            f"{len(blind)} samples held, but none of their gradients was finite and not zero: the attack could not "
            f"search there (first: {setting.samples.names[min(blind)]})"
        )
        findings.append(Finding(code="no-usable-gradient", severity="warning", message=message))
    if trace.not_finite:
        message = f"{len(trace.not_finite)} samples had gradients with NaN or infinity, which were not followed"
        findings.append(Finding(code="gradient-not-finite", severity="warning", message=message))
    if trace.unstorable:
        message = f"{trace.unstorable} proposals were read wrongly only until they were rounded to the stored depth"
        findings.append(Finding(code="lost-in-rounding", severity="note", message=message + "; the search went on"))
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


def _outcomes(setting: Setting, broken: dict[int, Entry], scores: np.ndarray | None) -> tuple[Outcome, ...]:
    names = (*setting.candidate.head.labels, NO_ANSWER_NAME)  # NO_ANSWER is -1, the last of them
    outcomes = []
    for sample, (label, clean) in enumerate(zip(setting.labels.tolist(), setting.decisions.tolist(), strict=True)):
        entry = broken.get(sample)
        unbroken = Outcome(
            sample=setting.samples.names[sample],
            label=names[label],
            clean=names[clean],
            attacked=names[clean],
            status="held" if label == clean else "wrong",
            score=None if scores is None else float(scores[sample]),
        )
        outcomes.append(unbroken if entry is None else _broken_outcome(unbroken, entry, names[entry.decision]))
    return tuple(outcomes)


def _broken_outcome(unbroken: Outcome, entry: Entry, attacked: str) -> Outcome:
    return replace(
        unbroken,
        attacked=attacked,
        status="broken",
        score=entry.score,
        found_by=entry.found_by,
        distance_levels=entry.distance,
        restart=entry.restart,
        step=entry.step,
        counterexample=entry.file,
        sha256=entry.sha256,
    )
