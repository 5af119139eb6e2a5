"""A report's counterexamples, shown to the candidate again: evidence that does not rest on the run that found it.

Nothing is searched. Of each broken sample the stored image is compared with its digest, its distance is measured from
the sample in the data, and the artefact reads it. Clean readings are compared too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from robustcheck.errors import ReportError
from robustcheck.evaluation.evaluation import Evaluation, Progress
from robustcheck.evaluation.evidence import pixels_sha256
from robustcheck.evaluation.outcomes import goal_of
from robustcheck.evaluation.setting import Setting
from robustcheck.models.loading import by_shape
from robustcheck.policy import Gate, Policy
from robustcheck.results import AuditReport, GateResult, Outcome
from robustcheck.results.replay import GateReplay, Replay
from robustcheck.threats import Ball, ball_of
from robustcheck.words import shown

_SAME_DISTANCE = 1e-6  # relative: a report's numbers are decimal

Stored = Callable[[str], np.ndarray | None]
"""The stored integers (C, H, W) of a counterexample's file, named as in the report; None if it is not there."""

_Known = tuple[Outcome, int, np.ndarray]  # a broken sample, its number in the data, and its counterexample


def replay(policy: Policy, report: AuditReport, stored: Stored, *, progress: Progress | None = None) -> Replay:
    """Check a report against its policy, candidate and data.

    Args:
        policy: that the report is about.
        report: what is stated.
        stored: reads the counterexamples' files.
        progress: told how far loading is.

    Raises:
        ReportError: it is about another policy, candidate or data.
        EvaluationError: candidate or data cannot be loaded.
    """
    _same("policy", report.policy.sha256, policy.sha256)
    evaluation = Evaluation(policy, progress=progress)
    setting = evaluation.setting
    assert evaluation.model is not None
    assert evaluation.data is not None
    _same("candidate", report.model.sha256 if report.model else "", evaluation.model.sha256)
    _same("data", report.data.sha256 if report.data else "", evaluation.data.sha256)
    gates = {gate.id: gate for gate in policy.gates}
    if forged := [result.id for result in report.gates if result.id not in gates]:
        raise ReportError(f"the report has a gate {shown(forged[0])}, which its policy has not")
    return Replay(gates=tuple(_gate(gates[result.id], result, setting, stored) for result in report.gates))


def _same(what: str, stated: str, found: str) -> None:
    if stated != found:
        raise ReportError(f"the report is about another {what}: its sha256 is {stated or 'not stated'}, here {found}")


def _gate(gate: Gate, result: GateResult, setting: Setting, stored: Stored) -> GateReplay:
    places = {name: place for place, name in enumerate(setting.samples.names)}
    amiss, known = list[str](), list[_Known]()
    for outcome in result.samples:
        place = places.get(outcome.sample)
        if place is None:
            amiss.append(f"{outcome.sample}: the data have no such sample")
            continue
        clean = setting.candidate.head.name(int(setting.decisions[place]))
        if clean != outcome.clean:
            amiss.append(f"{outcome.sample}: the clean image is read as {clean}, and the report says {outcome.clean}")
        if outcome.status == "broken":
            image = _image(outcome, place, setting, stored)
            if isinstance(image, str):
                amiss.append(f"{outcome.sample}: {image}")
            else:
                known.append((outcome, place, image))
    ball = None if gate.epsilon is None else ball_of(gate.norm, gate.epsilon, setting.samples.bits)
    note = _why_not_read(gate, setting)
    for same in by_shape([image.shape for _, _, image in known]):
        some = [known[index] for index in same]
        if ball is not None:
            amiss += _distances(ball, some, setting)
        if not note:
            amiss += _readings(gate, some, setting)
    stated = sum(outcome.status == "broken" for outcome in result.samples)
    read = 0 if note else len(known)
    return GateReplay(id=gate.id, stated=stated, read=read, amiss=tuple(amiss), note=note if stated else "")


def _image(outcome: Outcome, place: int, setting: Setting, stored: Stored) -> np.ndarray | str:
    """The counterexample of a sample, or what is wrong with its file."""
    image = None if outcome.counterexample is None else stored(outcome.counterexample)
    if image is None:
        return "its counterexample has no file, or one that is no stored image"
    if pixels_sha256(image) != outcome.sha256:
        return "the pixels in its file are not those whose digest the report states"
    if image.shape != setting.samples.shape_of(place) or int(image.max()) > setting.samples.maximum:
        return "its counterexample has another shape, or other levels, than samples have"
    return image


def _why_not_read(gate: Gate, setting: Setting) -> str:
    """What a single look at a counterexample does not show."""
    if gate.conditions is not None:
        return "they hold on a share of looks, each under conditions of its own"
    return "the candidate draws, and reads an image differently each time" if setting.candidate.randomness else ""


def _distances(ball: Ball, some: Sequence[_Known], setting: Setting) -> Iterator[str]:
    for outcome, place, image in some:  # one at a time: there are as many as there are broken samples
        pair = [torch.from_numpy(one.astype(np.int32))[None] for one in (image, setting.samples.image(place))]
        distance = float(ball.distance(*pair))
        if not bool(ball.contains(*pair)):
            yield f"{outcome.sample}: its counterexample lies outside of the budget, {distance:g} levels off"
        elif outcome.distance_levels is None or not math.isclose(
            distance, outcome.distance_levels, rel_tol=_SAME_DISTANCE
        ):
            stated = "nothing" if outcome.distance_levels is None else f"{outcome.distance_levels:g}"
            yield f"{outcome.sample}: its counterexample lies {distance:g} levels off, and the report says {stated}"


def _readings(gate: Gate, some: Sequence[_Known], setting: Setting) -> Iterator[str]:
    candidate, goal = setting.candidate, goal_of(gate, setting)
    step = candidate.chunks.limit
    for first in range(0, len(some), step):
        part = some[first : first + step]
        levels = torch.from_numpy(np.stack([image for _, _, image in part]).astype(np.float32))
        decisions = candidate.head.decide(candidate.logits(levels.to(candidate.device) / setting.samples.maximum))
        met = goal.met(decisions, setting.labels[[place for _, place, _ in part]].to(decisions.device))
        for (outcome, _, _), decision, wanted in zip(part, decisions.tolist(), met.tolist(), strict=True):
            name = candidate.head.name(decision)
            if name != outcome.attacked:
                yield f"{outcome.sample}: its counterexample is read as {name}, and the report says {outcome.attacked}"
            elif not wanted:
                yield f"{outcome.sample}: its counterexample is read as {name}, which is not what the adversary wants"
