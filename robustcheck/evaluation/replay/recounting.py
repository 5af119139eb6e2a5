"""Whether what a report says of a gate follows from its own samples: counts, intervals, requirements, what its health
asks for, and the verdict, made again by what makes them in a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from robustcheck.evaluation.conclusion import checks_of, judged_as, vacuous_in
from robustcheck.evaluation.findings import NOTHING_TO_FOLLOW, findings
from robustcheck.evaluation.health.checks import OF_GRADIENTS, same_answers
from robustcheck.evaluation.health.comparing import compared, is_compared
from robustcheck.evaluation.metrics.verdicts import compare, judge
from robustcheck.evaluation.replay.restating import among, may_stop, measurement, restated
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.standing import Standing
from robustcheck.evaluation.threat import threat_of
from robustcheck.evaluation.weak_passes import weak_passes
from robustcheck.models.multilabel_head import AND, AnyHead
from robustcheck.policy import Gate, Policy
from robustcheck.results import AuditReport, GateResult, Metric, Slice
from robustcheck.words import listed, shown

REL_TOLERANCE = 1e-6  # a report's numbers are decimal

_AREA = "auroc"  # the most adverse scores of a search are not all stated


def faults_of_gate(gate: Gate, result: GateResult, others: Sequence[GateResult], setting: Setting) -> Iterator[str]:
    """What is amiss with a gate's samples, figures, requirements, health, findings and verdict.

    Args:
        gate: of the policy.
        result: what is stated of it.
        others: what is stated of gates that it is compared with.
        setting: of the policy.
    """
    if result.verdict != "error" and not is_as_asked(gate, result, setting):
        yield "its attack, parameters or threat model are not those of the policy"
    sample_faults = list(_of_samples(gate, result, setting))
    yield from sample_faults
    standing = None
    if result.samples and not sample_faults and _readable(setting.candidate.head):
        standing = restated(gate, result, setting)
        yield from dict.fromkeys(_of_figures(result, standing))
        yield from _of_warnings(result, standing)
        yield from _beside_others(result, others, standing)
    yield from _of_verdict(gate, result, setting, standing)


def not_counted(gate: Gate, result: GateResult, setting: Setting, *, beside: bool) -> str:
    """Which figures of a gate are as they are stated, and why; "": none.

    Args:
        gate: the policy's.
        result: what is stated of it.
        setting: of the policy.
        beside: whether there are gates that it is compared with.
    """
    if not result.samples:
        return "it lists no samples" if result.metrics else ""
    if not _readable(setting.candidate.head):
        return f"all figures, as the names of labels have {AND.strip()} in them"
    figures = list[str]()
    if setting.candidate.randomness is not None:
        figures += sorted(name for name in result.metrics if _is_area(name))
    elif not _knows_scores(gate, setting):
        figures += sorted(f"{name} (but that it is no larger)" for name in result.metrics if _is_area(name))
        if any(_is_area(name) for part in result.slices for name in part.metrics):
            figures.append(f"{_AREA} of parts of the samples (but that it is no larger)")
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
    head = setting.candidate.head
    if _readable(head):
        for outcome in result.samples:
            if head.named(outcome.clean) is None or head.named(outcome.attacked) is None:
                yield f"{outcome.sample}: it is read as what the candidate cannot say"


def _of_figures(result: GateResult, standing: Standing) -> Iterator[str]:
    """What is amiss with metrics, of all samples and of parts of them."""
    gate, setting = standing.gate, standing.setting
    for name, (successes, samples) in _by_status(gate, result, setting).items():
        metric = result.metrics.get(name)
        if metric is not None and (metric.successes, metric.samples) != (successes, samples):
            yield _counted(name, metric, successes, samples)
    measured, exact = measurement(standing), _knows_scores(gate, setting)
    drawn = setting.candidate.randomness is not None
    yield from _compared(measured.metrics(gate.bounds), result.metrics, exact=exact, drawn=drawn)
    here = {_part(one): one.metrics for one in measured.slices()}
    stated = {_part(one): one.metrics for one in result.slices}
    yield from (f"{part} is stated, and is no part of this gate's samples" for part in stated if part not in here)
    for part, metrics in here.items():
        sentences = _compared(metrics, stated.get(part, {}), exact=exact, drawn=drawn)
        yield from (f"{part}: {sentence}" for sentence in sentences)


def _part(part: Slice) -> str:
    return part.name if part.column is None else f"{part.column}={part.name}"


def _is_area(metric: str) -> bool:
    return metric.rpartition(".")[2] == _AREA


def _knows_scores(gate: Gate, setting: Setting) -> bool:
    """Whether all scores that areas follow from are stated."""
    return gate.attack is None and not setting.candidate.head.multilabel


def _compared(here: Mapping[str, Metric], stated: Mapping[str, Metric], *, exact: bool, drawn: bool) -> Iterator[str]:
    """What is amiss with metrics, of which areas are the largest that they may be unless they are `exact`.

    Those of a candidate that draws follow from draws of its own, and are not compared.
    """
    yield from (f"{name} is stated, and is none of this gate's metrics" for name in stated if name not in here)
    for name, metric in here.items():
        if drawn and _is_area(name):
            continue
        at_most, told = _is_area(name) and not exact, stated.get(name)
        if told is None:
            if not at_most:  # of searches that others stand for, scores are not known
                yield f"{name} is not stated"
        elif at_most and not _same(told.value, metric.value):
            if told.value is not None and (metric.value is None or told.value > metric.value):
                yield f"{name} is stated as {told.value}, and is at most {metric.value} with the scores that are known"
        elif (sentence := _differs(name, told, metric)) is not None:
            yield sentence


def _differs(name: str, told: Metric, here: Metric) -> str | None:
    """What is stated of a metric that can be counted again, and is otherwise; None: nothing."""
    if (told.successes, told.samples) != (here.successes, here.samples) and here.successes is not None:
        return _counted(name, told, here.successes, here.samples)
    if not _same(told.value, here.value):
        is_there = here.value if here.successes is None else f"{here.successes} of {here.samples}"
        return f"{name} is stated as {told.value}, and is {is_there}"
    if told.confidence != here.confidence:
        return f"the interval of {name} is stated to hold with {told.confidence}, and does with {here.confidence}"
    if not _same(told.low, here.low) or not _same(told.high, here.high):
        return f"the interval of {name} is stated as {told.low} to {told.high}, and is {here.low} to {here.high}"
    if (told.samples, told.groups, told.slice) != (here.samples, here.groups, here.slice):
        return f"{name} is stated about other samples than it is"
    if not _same(told.effective, here.effective):
        return f"{name} is stated to rest on {told.effective} independent samples, and rests on {here.effective}"
    return None


def _counted(name: str, metric: Metric, successes: int, samples: int) -> str:
    stated = f"{metric.successes} of {metric.samples}"
    return f"{name} is stated as {stated}, and by its samples it is {successes} of {samples}"


def _same(stated: float | None, here: float | None) -> bool:
    if stated is None or here is None:
        return stated is here
    return math.isclose(stated, here, rel_tol=REL_TOLERANCE, abs_tol=REL_TOLERANCE)


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


def _of_warnings(result: GateResult, standing: Standing) -> Iterator[str]:
    """Health checks and findings that a run states of such samples, and that are not there."""
    gate, setting = standing.gate, standing.setting
    measured, told = measurement(standing), {one.code for one in result.findings}
    here = measured.findings(gate.bounds)
    if gate.attack is not None:
        drawn, examined = setting.candidate.randomness, {check.name: check.outcome for check in result.health}
        wanted = checks_of(gate, drawn)
        yield from (f"its health check {name} is missing" for name in wanted if name not in examined)
        answers = same_answers(drawn)
        if answers.name in wanted and examined.get(answers.name, answers.outcome) != answers.outcome:
            yield f"its health check {answers.name} is stated as {examined[answers.name]}, and is {answers.outcome}"
        success = measured.plain["attack_success"](setting.intervals)
        here += findings(standing, surrogates=result.surrogates, success=success, health=result.health)
        passed = judge(compare(gate.bounds, result.metrics, standing.rule), result.metrics) == "pass"
        if passed and (vacuous := vacuous_in(standing)) is not None:
            here += (vacuous.finding(standing.goal),)
        if result.verdict == "pass":
            here += tuple(weak_passes(standing, result.health, result.cost))
    if NOTHING_TO_FOLLOW in told:  # which is said in place of what these checks say
        told.update(OF_GRADIENTS)
    warned = dict.fromkeys(one.code for one in here if one.severity != "note")  # notes may be about the machine
    yield from (f"{code} is not among its findings, and what it states calls for it" for code in warned.keys() - told)


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
    known = not setting.candidate.head.multilabel and not any(_is_area(bound.metric) for bound in gate.bounds)
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


def _readable(head: AnyHead) -> bool:
    """Whether the names of readings tell which they are."""
    return not head.multilabel or not any(AND in label for label in head.labels)
