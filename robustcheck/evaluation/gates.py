"""One gate: search, adjudicate, measure, judge."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

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
    entries = setting.ledger.within(family, ball.levels)
    broken = {sample: entry for sample, entry in entries.items() if sample in set(right)}
    _keep_examples(gate, setting, broken)

    metrics = _measure(setting, broken, trace)
    requirements = require(gate.bounds, metrics)
    blind = _blind(right, broken, trace)
    findings = _findings(setting, trace, blind)
    verdict, error = judge(requirements), None
    if verdict == "error":
        error = _undefined(gate, metrics)
    elif (
        verdict == "pass" and blind and judge(require(gate.bounds, _measure_without(setting, broken, blind))) != "pass"
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
        threat=threat(gate, ball),
        verdict=verdict,
        metrics=metrics,
        requirements=requirements,
        cost=Cost(
            seconds=round(time.perf_counter() - began, 3),
            forward=setting.candidate.meter.forward - meter.forward,
            gradient=setting.candidate.meter.gradient - meter.gradient,
        ),
        findings=findings,
        samples=tuple(_outcome(setting, sample, broken.get(sample), trace) for sample in range(len(setting.labels))),
        error=error,
    )


def threat(gate: Gate, ball: LinfBall) -> Threat:
    """The threat model of a gate, as reports say it."""
    assert gate.epsilon is not None
    return Threat(
        goal=gate.goal,
        knowledge="white-box",
        norm=gate.norm,
        epsilon=gate.epsilon.text,
        epsilon_share=float(gate.epsilon.in_levels(ball.maximum.bit_length()) / ball.maximum),
        epsilon_levels=ball.levels,
    )


def _unattacked(gate: Gate, setting: Setting) -> GateResult:
    metrics = measure(_readings(setting, {}, Trace()), attacked=False)
    requirements = require(gate.bounds, metrics)
    verdict = judge(requirements)
    return GateResult(
        id=gate.id,
        attack=None,
        threat=None,
        verdict=verdict,
        metrics=metrics,
        requirements=requirements,
        samples=tuple(_outcome(setting, sample, None, Trace()) for sample in range(len(setting.labels))),
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


def _readings(setting: Setting, broken: dict[int, Entry], trace: Trace) -> Readings:
    after = setting.decisions.numpy().copy()
    scores = None if setting.scores is None else setting.scores.numpy().astype(np.float64)
    if scores is not None:
        for sample, score in trace.scores.items():
            scores[sample] = score
    for sample, entry in broken.items():
        after[sample] = entry.decision
        if scores is not None and entry.score is not None:
            scores[sample] = entry.score
    return Readings(
        labels=setting.labels.numpy(),
        before=setting.decisions.numpy(),
        after=after,
        scores=scores,
        positive=setting.candidate.head.positive,
    )


def _measure(setting: Setting, broken: dict[int, Entry], trace: Trace) -> dict[str, Metric]:
    return measure(_readings(setting, broken, trace), attacked=True)


def _measure_without(setting: Setting, broken: dict[int, Entry], blind: set[int]) -> dict[str, Metric]:
    """The metrics if every sample that the attack could not search were broken."""
    readings = _readings(setting, broken, Trace())
    for sample in blind:
        readings.after[sample] = NO_ANSWER
        if readings.scores is not None:
            readings.scores[sample] = 0.0 if readings.labels[sample] == readings.positive else 1.0
    return measure(readings, attacked=True)


def _blind(right: list[int], broken: dict[int, Entry], trace: Trace) -> set[int]:
    """Samples that held while the attack had nothing to follow, or a gradient that was NaN."""
    return {
        sample for sample in right if sample not in broken and (sample not in trace.moved or sample in trace.not_finite)
    }


def _findings(setting: Setting, trace: Trace, blind: set[int]) -> tuple[Finding, ...]:
    findings = []
    if blind:
        message = (
            f"{len(blind)} samples held, but their gradients were zero throughout, NaN or infinite: the attack could "
            f"not search there (first: {setting.samples.names[min(blind)]})"
        )
        findings.append(Finding(code="no-usable-gradient", severity="warning", message=message))
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


def _outcome(setting: Setting, sample: int, entry: Entry | None, trace: Trace) -> Outcome:
    def name(index: int) -> str:
        return NO_ANSWER_NAME if index == NO_ANSWER else setting.candidate.head.labels[index]

    label, clean = int(setting.labels[sample]), int(setting.decisions[sample])
    unbroken = Outcome(
        sample=setting.samples.names[sample],
        label=name(label),
        clean=name(clean),
        attacked=name(clean),
        status="held" if label == clean else "wrong",
        score=trace.scores.get(sample, None if setting.scores is None else float(setting.scores[sample])),
    )
    if entry is None:
        return unbroken
    return replace(
        unbroken,
        attacked=name(entry.decision),
        status="broken",
        score=entry.score,
        found_by=entry.found_by,
        distance_levels=entry.distance,
        restart=entry.restart,
        step=entry.step,
        counterexample=entry.file,
        sha256=entry.sha256,
    )
