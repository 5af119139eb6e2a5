"""Whether a report's figures are those of its own samples: counts, intervals, requirements and verdicts, computed
again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from robustcheck.evaluation.metrics.measurement import Measurement
from robustcheck.evaluation.metrics.readings import Readings
from robustcheck.evaluation.metrics.verdicts import judge, require
from robustcheck.evaluation.outcomes import readings as clean_readings
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.threat import threat
from robustcheck.models.multilabel_head import AND, AnyHead
from robustcheck.policy import Gate, PatchSpec, Policy
from robustcheck.results import AuditReport, GateResult, Metric, Slice, overall
from robustcheck.words import listed, shown

REL_TOLERANCE = 1e-6  # a report's numbers are decimal

_TELLS_NO_RATE = "auroc"  # follows from scores at images of which not all are counterexamples


def of_report(policy: Policy, report: AuditReport) -> Iterator[str]:
    """What is amiss with the report as a whole; its gates are the policy's."""
    text = report.policy.text
    if text is not None and hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() != report.policy.sha256:
        yield "its policy's text is not the one whose digest it states"
    told = [*(gate.id for gate in report.gates), *report.not_run]
    if sorted(told) != sorted(gate.id for gate in policy.gates):
        yield "its gates, and those that were not run, are not the policy's, each once"
    allow = policy.decision.inconclusive == "allow"
    verdict = overall([gate.verdict for gate in report.gates], interrupted=report.interrupted, allow=allow)
    if verdict != report.verdict:
        yield f"its verdict is {report.verdict}, and that of its gates {verdict}"


def of_gate(gate: Gate, result: GateResult, setting: Setting) -> Iterator[str]:
    """What is amiss with a gate's samples, figures, requirements and verdict."""
    if result.verdict != "error" and _asked(gate, setting) != _plain([result.attack, result.parameters, result.threat]):
        yield "its attack, parameters or threat model are not those of the policy"
    with_samples = list(_of_samples(gate, result, setting))
    yield from with_samples
    if result.samples and not with_samples:
        yield from dict.fromkeys(_of_figures(gate, result, setting))
    stopped = result.stopped if _may_stop(gate, setting) else None
    certain = stopped is not None and stopped.decided and setting.stop == "determined"  # whatever would have followed
    unattacked = gate.attack is not None and not any(outcome.evidence for outcome in result.samples)
    if unattacked and result.verdict in ("pass", "inconclusive") and not certain:
        yield f"its verdict is {result.verdict}, and nothing was attacked"
    early = stopped is not None and stopped.decided and setting.stop == "early"
    met = require(gate.bounds, result.metrics, "confident" if early else setting.rule)
    if met != result.requirements and result.verdict != "error":
        yield "its requirements are not those of the policy, compared with what is stated as measured"
    elif result.verdict not in ("error", judge(met, result.metrics)):
        yield f"its verdict is {result.verdict}, and by its requirements it is {judge(met, result.metrics)}"


def not_counted(result: GateResult, setting: Setting) -> str:
    """Which figures of a gate are as they are stated, and why; "": none."""
    if not result.samples:
        return "it lists no samples" if result.metrics else ""
    if not _readable(setting.candidate.head):
        return f"all figures, as the names of labels have {AND.strip()} in them"
    areas = sorted(name for name in result.metrics if _is_area(name))
    parts = any(_is_area(name) for part in result.slices for name in part.metrics)
    figures = [*areas, *(["auroc of parts of the samples"] if parts else [])]
    figures += [f"{one.name} (a control)" for one in result.controls]
    if result.stopped is not None and result.stopped.decided:
        figures.append("with which sample it was decided")
    return listed(figures) if figures else ""


def forged(policy: Policy, report: AuditReport) -> str | None:
    """A gate that its policy has not, as it is shown; None: there is none."""
    known = {gate.id for gate in policy.gates}
    return next((shown(gate.id) for gate in report.gates if gate.id not in known), None)


def _asked(gate: Gate, setting: Setting) -> Any:
    """Attack, parameters and threat model of the policy's gate."""
    limits = None if gate.attack is None else threat(gate, setting.samples.bits)
    return _plain([gate.attack_name, gate.parameters, limits])


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return json.loads(json.dumps(value, default=asdict))


def _may_stop(gate: Gate, setting: Setting) -> bool:
    return setting.stop != "never" and gate.may_stop_early


def _about(gate: Gate, result: GateResult, setting: Setting) -> np.ndarray:
    """Numbers of the samples that a gate lists."""
    if isinstance(gate.attack, PatchSpec):
        return PatchTask.of(gate, setting).judged
    stopped = result.stopped if _may_stop(gate, setting) else None
    return setting.order if stopped is None else setting.order[: max(1, stopped.needed)]


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


def _of_figures(gate: Gate, result: GateResult, setting: Setting) -> Iterator[str]:
    """What is amiss with metrics, of all samples and of parts of them; the samples are those that the gate is about."""
    for name, (successes, samples) in _by_status(gate, result, setting).items():
        metric = result.metrics.get(name)
        if metric is not None and (metric.successes, metric.samples) != (successes, samples):
            yield _counted(name, metric, successes, samples)
    if not _readable(setting.candidate.head):
        return
    measurement = _measurement(gate, result, setting)
    here = measurement.metrics(gate.bounds)
    yield from _compared({name: one for name, one in here.items() if not _is_area(name)}, result.metrics)
    stated = {_part(one): one.metrics for one in result.slices}
    for part in measurement.slices():
        metrics = {name: one for name, one in part.metrics.items() if not _is_area(name)}
        yield from (f"{_part(part)}: {sentence}" for sentence in _compared(metrics, stated.get(_part(part), {})))


def _part(part: Slice) -> str:
    return part.name if part.column is None else f"{part.column}={part.name}"


def _is_area(metric: str) -> bool:
    return metric.rpartition(".")[2] == _TELLS_NO_RATE


def _compared(here: Mapping[str, Metric], stated: Mapping[str, Metric]) -> Iterator[str]:
    """What is amiss with metrics that can be counted again."""
    for name, metric in here.items():
        if (told := stated.get(name)) is None:
            yield f"{name} is not stated"
        elif (told.successes, told.samples) != (metric.successes, metric.samples) and metric.successes is not None:
            yield _counted(name, told, metric.successes, metric.samples)
        elif not _same(told.value, metric.value):
            is_there = metric.value if metric.successes is None else f"{metric.successes} of {metric.samples}"
            yield f"{name} is stated as {told.value}, and is {is_there}"
        elif not _same(told.low, metric.low) or not _same(told.high, metric.high):
            yield f"the interval of {name} is stated as {told.low} to {told.high}, and is {metric.low} to {metric.high}"
        elif (told.samples, told.groups, told.slice) != (metric.samples, metric.groups, metric.slice):
            yield f"{name} is stated about other samples than it is"


def _counted(name: str, metric: Metric, successes: int, samples: int) -> str:
    stated = f"{metric.successes} of {metric.samples}"
    return f"{name} is stated as {stated}, and by its samples it is {successes} of {samples}"


def _same(stated: float | None, here: float | None) -> bool:
    if stated is None or here is None:
        return stated is here
    return math.isclose(stated, here, rel_tol=REL_TOLERANCE, abs_tol=REL_TOLERANCE)


def _by_status(gate: Gate, result: GateResult, setting: Setting) -> dict[str, tuple[int, int]]:
    """What is said of each sample in one word, counted: how many, of how many."""
    outcomes, found = result.samples, dict[str, tuple[int, int]]()
    if gate.attack is not None:
        attacked = [outcome for outcome in outcomes if outcome.evidence is not None]
        found["attack_success"] = sum(outcome.status == "broken" for outcome in attacked), len(attacked)
    if not setting.candidate.head.multilabel:
        right = [one for one in outcomes if one.status == "held" and one.attacked == one.label]
        found["accuracy"] = len(right), len(outcomes)
    return found


def _measurement(gate: Gate, result: GateResult, setting: Setting) -> Measurement:
    """Measures what the report says that samples were read as, before the attack and under it."""
    known = {name: number for number, name in enumerate(setting.samples.names)}
    numbers = np.array([known[outcome.sample] for outcome in result.samples])
    attacked = np.zeros(len(setting.labels), bool)
    attacked[numbers] = [outcome.evidence is not None for outcome in result.samples]
    may_stop, judged = _may_stop(gate, setting), np.sort(numbers)
    return Measurement(
        readings=_readings(result, setting, numbers),
        labels=setting.candidate.head.labels,
        members=setting.members,
        judged=judged,
        attacked=None if gate.attack is None else attacked,
        intervals=setting.sequential if may_stop else setting.intervals,
        controls=() if gate.attack is None else result.controls,
        among=setting.order if may_stop and len(judged) < len(setting.order) else None,
    )


def _readings(result: GateResult, setting: Setting, numbers: np.ndarray) -> Readings:
    head, read = setting.candidate.head, clean_readings(setting, {}, None)
    before, after = read.before.copy(), read.after.copy()
    before[numbers] = [head.named(outcome.clean) for outcome in result.samples]
    after[numbers] = [head.named(outcome.attacked) for outcome in result.samples]
    return replace(read, before=before, after=after)


def _readable(head: AnyHead) -> bool:
    """Whether the names of readings tell which they are."""
    return not head.multilabel or not any(AND in label for label in head.labels)
