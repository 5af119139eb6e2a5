"""Whether what a report says of a gate follows from its own samples: counts, intervals, requirements, what its health
asks for, and the verdict, made again by what makes them in a run."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from robustcheck.evaluation.conclusion import judged_as, vacuous_in
from robustcheck.evaluation.health.comparing import compared, is_compared
from robustcheck.evaluation.metrics.verdicts import compare, judge
from robustcheck.evaluation.replay.checks_and_findings import of_warnings, of_words
from robustcheck.evaluation.replay.completeness import of_decision, of_parts, of_stop
from robustcheck.evaluation.replay.figures import compared_metrics, counted, is_area
from robustcheck.evaluation.replay.restating import AREA, among, may_stop, measurement, restated
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.standing import Standing
from robustcheck.evaluation.threat import threat_of
from robustcheck.models.head import NO_ANSWER_NAME
from robustcheck.policy import Gate, Policy
from robustcheck.results import AuditReport, GateResult, Outcome, Slice
from robustcheck.words import listed, shown


def faults_of_gate(
    gate: Gate, result: GateResult, others: Sequence[GateResult], setting: Setting, *, worded: bool
) -> Iterator[str]:
    """What is amiss with a gate's samples, figures, requirements, health, findings and verdict.

    Args:
        gate, result, setting: of the policy, what is stated of it, and what it is run on.
        others: what is stated of gates that it is compared with.
        worded: whether this version of robustcheck worded what it says.
    """
    if result.verdict != "error" and not is_as_asked(gate, result, setting):
        yield "its attack, parameters or threat model are not those of the policy"
    yield from of_stop(gate, result, setting)
    yield from of_words(result)
    sample_faults = list(_of_samples(gate, result, setting))
    yield from sample_faults
    standing = None
    if result.samples and not sample_faults:
        standing = restated(gate, result, setting)
        yield from dict.fromkeys(_of_figures(result, standing))
        yield from of_parts(result, standing)
        yield from of_decision(result, standing)
        yield from of_warnings(result, standing, worded=worded)
        yield from _beside_others(result, others, standing)
    yield from _of_verdict(gate, result, setting, standing)


def not_counted(gate: Gate, result: GateResult, setting: Setting, *, beside: bool) -> str:
    """Which figures of a gate are as they are stated, and why; "": none.

    `beside` says whether there are gates that it is compared with.
    """
    if not result.samples:
        return "it lists no samples" if result.metrics else ""
    figures = list[str]()
    if setting.candidate.randomness is not None:
        figures += sorted(name for name in result.metrics if is_area(name))
    elif not _knows_scores(gate, setting):
        figures += sorted(f"{name} (but that it is no larger)" for name in result.metrics if is_area(name))
        if any(is_area(name) for part in result.slices for name in part.metrics):
            figures.append(f"{AREA} of parts of the samples (but that it is no larger)")
    figures += [f"{one.name} (a control)" for one in result.controls]
    if beside and is_compared(gate) and not _is_put_beside(gate, setting):
        figures.append("how it stands beside the policy's other gates")
    if result.stopped is not None and result.stopped.decided:
        figures.append("with which sample it was decided")
    return listed(figures) if figures else ""


def unknown_gate(policy: Policy, report: AuditReport) -> str | None:
    """The id of a reported gate that the policy does not define; None if all are defined."""
    known = {gate.id for gate in policy.gates}
    return next((shown(gate.id) for gate in report.gates if gate.id not in known), None)


def is_as_asked(gate: Gate, result: GateResult, setting: Setting) -> bool:
    """Whether attack, parameters and threat model are those of the policy's gate; one that crashed has none."""
    drawing = setting.candidate.randomness is not None
    limits = None if gate.attack is None else threat_of(gate, setting.samples.bits, drawing=drawing)
    asked = _plain([gate.attack_name, gate.parameters, limits])
    return bool(asked == _plain([result.attack, result.parameters, result.threat]))


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return json.loads(json.dumps(value, default=asdict))


def _about(gate: Gate, result: GateResult, setting: Setting) -> np.ndarray:
    """Numbers of the samples that a gate lists."""
    every = among(gate, setting)
    stopped = result.stopped if may_stop(gate, setting) else None
    return every if stopped is None else every[: max(1, stopped.needed)]


def _of_samples(gate: Gate, result: GateResult, setting: Setting) -> Iterator[str]:
    """What is amiss with which samples there are, and with the words in them."""
    names = [outcome.sample for outcome in result.samples]
    if result.verdict == "error" and not names:
        return
    known = {name: number for number, name in enumerate(setting.samples.names)}
    yield from (f"{name}: the data have no such sample" for name in names if name not in known)
    if len(set(names)) != len(names):
        yield "it has a sample twice"
    about = _about(gate, result, setting)
    if len(names) != len(about):
        yield f"it has {len(names)} samples, and is about {len(about)}"
    elif others := {known[name] for name in names if name in known} - set(about.tolist()):
        yield f"it has {setting.samples.names[min(others)]}, which is not among the samples that it is about"
    for outcome in result.samples:
        yield from _of_shares(outcome)
    head = setting.candidate.head
    for outcome in result.samples:
        if head.named(outcome.clean) is None or head.named(outcome.attacked) is None:
            yield f"{outcome.sample}: it is read as what the candidate cannot say"


def _of_shares(outcome: Outcome) -> Iterator[str]:
    """What is amiss with a sample's score and share of looks, which is none where there was no answer."""
    for key, stated in (("score", outcome.score), ("share", outcome.share)):
        none = stated is None or (math.isnan(stated) and outcome.attacked == NO_ANSWER_NAME)
        if not none and not 0 <= (stated or 0) <= 1:
            yield f"{outcome.sample}: its {key} is stated as {stated}, which it cannot be"


def _of_figures(result: GateResult, standing: Standing) -> Iterator[str]:
    """What is amiss with metrics, of all samples and of parts of them."""
    gate, setting = standing.gate, standing.setting
    for name, (successes, samples) in _by_status(gate, result, setting).items():
        metric = result.metrics.get(name)
        if metric is not None and (metric.successes, metric.samples) != (successes, samples):
            yield counted(name, metric, successes, samples)
    measured, intervals = measurement(standing), standing.intervals
    drawn, exact = setting.candidate.randomness is not None, _knows_scores(gate, setting)
    of_label = {label: part.metrics for label, part in measured.by_label.items()}
    of_subgroup = {f"{column}={name}": part.metrics for (column, name), part in measured.by_subgroup.items()}
    every_part = {"": measured.plain} | of_label | of_subgroup
    measures = {name: metrics[AREA] for name, metrics in every_part.items() if AREA in metrics}
    every = measured.metrics(gate.bounds)
    yield from compared_metrics(every, result.metrics, None if exact else measures, intervals, drawn=drawn)
    here = {_part(one): one.metrics for one in measured.slices()}
    stated = {_part(one): one.metrics for one in result.slices}
    yield from (f"{part} is stated, and is no part of this gate's samples" for part in stated if part not in here)
    kinds, kinds_here = (
        Counter((one.kind, _part(one)) for one in parts) for parts in (result.slices, measured.slices())
    )
    yield from (f"{part} is stated once too often, as a {kind}" for kind, part in kinds - kinds_here if part in here)
    for part, metrics in here.items():
        own = {"": measures[part]} if part in measures else {}
        sentences = compared_metrics(metrics, stated.get(part, {}), None if exact else own, intervals, drawn=drawn)
        yield from (f"{part}: {sentence}" for sentence in sentences)


def _part(part: Slice) -> str:
    return part.name if part.column is None else f"{part.column}={part.name}"


def _knows_scores(gate: Gate, setting: Setting) -> bool:
    """Whether all scores that areas follow from are stated."""
    return gate.attack is None and not setting.candidate.head.multilabel


def _by_status(gate: Gate, result: GateResult, setting: Setting) -> dict[str, tuple[int, int]]:
    """Metrics counted from the samples' statuses and readings: successes, and of how many."""
    outcomes, found = result.samples, dict[str, tuple[int, int]]()
    if gate.attack is not None:
        attacked = [outcome for outcome in outcomes if outcome.evidence is not None]
        found["attack_success"] = sum(outcome.status == "broken" for outcome in attacked), len(attacked)
    if not setting.candidate.head.multilabel:
        right = [one for one in outcomes if one.status == "held" and one.attacked == one.label]
        found["accuracy"] = len(right), len(outcomes)
    return found


def _beside_others(result: GateResult, others: Sequence[GateResult], standing: Standing) -> Iterator[str]:
    """What is amiss with how a gate that passes stands beside those whose adversaries may do no more."""
    gate, setting = standing.gate, standing.setting
    passed = result.verdict in ("pass", "inconclusive")
    if not (passed and others and _is_put_beside(gate, setting) and is_as_asked(gate, result, setting)):
        return
    goal, head = standing.goal, setting.candidate.head
    beside = compared(
        replace(result, health=(), findings=()),
        others,
        (),
        strict=setting.strict,
        verdict_if=standing.verdict_if_read,
        wanted=None if goal.toward is None else head.name(goal.toward),
        multilabel=goal.multilabel,
    )
    told = {(check.name, check.outcome) for check in result.health}
    for check in beside.health:
        if (check.name, check.outcome) not in told:
            yield f"its health check {check.name} is not stated as {check.outcome}: {check.evidence}"
    if beside.verdict != result.verdict:
        yield f"its verdict is {result.verdict}, and beside other gates it is {beside.verdict}: {beside.error}"


def _is_put_beside(gate: Gate, setting: Setting) -> bool:
    """Whether a gate is compared with others, and how it would be judged then is known from what is stated."""
    known = not setting.candidate.head.multilabel and not any(is_area(bound.metric) for bound in gate.bounds)
    return is_compared(gate) and known


def _of_verdict(gate: Gate, result: GateResult, setting: Setting, standing: Standing | None) -> Iterator[str]:
    """What is amiss with requirements and verdict, by what is stated as measured; what is an error passes nothing."""
    if result.verdict == "error":
        if result.error is None:
            yield "its verdict is error, and it does not say why"
        return
    if result.error is not None:
        yield f"its verdict is {result.verdict}, and it says why that is an error"
    stopped = result.stopped if may_stop(gate, setting) else None
    decided = stopped is not None and stopped.decided
    unattacked = gate.attack is not None and not any(outcome.evidence for outcome in result.samples)
    certain = decided and setting.stop == "determined"  # whatever would have followed
    if unattacked and result.verdict in ("pass", "inconclusive") and not certain:
        yield f"its verdict is {result.verdict}, and nothing was attacked"
    met = compare(gate.bounds, result.metrics, "confident" if decided and setting.stop == "early" else setting.rule)
    if met != result.requirements:
        yield "its requirements are not those of the policy, compared with what is stated as measured"
    elif result.verdict != (verdict := judge(met, result.metrics)):
        yield f"its verdict is {result.verdict}, and by its requirements it is {verdict}"
    elif standing is not None and gate.attack is not None:
        undercut = next((one.message for one in result.findings if one.code == "undercut-by-control"), None)
        vacuous = vacuous_in(standing) if verdict == "pass" else None
        verdict, why = judged_as(standing, verdict, result.metrics, result.health, undercut, vacuous)
        if why is not None:
            yield f"its verdict is {result.verdict}, and with what it states it is {verdict}: {why}"
