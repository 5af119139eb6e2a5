"""Whether a report's figures are those of its own samples: counts, requirements and verdicts, computed again."""

from __future__ import annotations

from collections.abc import Iterator

from robustcheck.evaluation.metrics.verdicts import judge, require
from robustcheck.evaluation.setting import Setting
from robustcheck.models.head import NO_ANSWER
from robustcheck.policy import Gate, Policy
from robustcheck.results import AuditReport, GateResult, overall
from robustcheck.words import shown


def of_report(policy: Policy, report: AuditReport) -> Iterator[str]:
    """What is amiss with the report as a whole; its gates are the policy's."""
    told = [*(gate.id for gate in report.gates), *report.not_run]
    if sorted(told) != sorted(gate.id for gate in policy.gates):
        yield "its gates, and those that were not run, are not the policy's, each once"
    allow = policy.decision.inconclusive == "allow"
    verdict = overall([gate.verdict for gate in report.gates], interrupted=report.interrupted, allow=allow)
    if verdict != report.verdict:
        yield f"its verdict is {report.verdict}, and that of its gates {verdict}"


def of_gate(gate: Gate, result: GateResult, setting: Setting) -> Iterator[str]:
    """What is amiss with a gate's samples, counts, requirements and verdict."""
    names = [outcome.sample for outcome in result.samples]
    if len(set(names)) != len(names):
        yield "it has a sample twice"
    needed = len(setting.samples) if result.stopped is None else result.stopped.needed
    if names and gate.size is None and len(names) != needed:  # a patch may be trained on some of them
        yield f"it has {len(names)} samples, and is about {needed}"
    for name, (successes, samples) in _counts(gate, result, setting).items():
        metric = result.metrics.get(name)
        if metric is not None and (metric.successes, metric.samples) != (successes, samples):
            stated = f"{metric.successes} of {metric.samples}"
            yield f"{name} is stated as {stated}, and by its samples it is {successes} of {samples}"
        elif metric is not None and metric.value != (successes / samples if samples else None):
            yield f"{name} is stated as {metric.value}, and is {successes} of {samples}"
    early = result.stopped is not None and result.stopped.decided and setting.stop == "early"
    met = require(gate.bounds, result.metrics, "confident" if early else setting.rule)
    if met != result.requirements and result.verdict != "error":
        yield "its requirements are not those of the policy, compared with what is stated as measured"
    elif result.verdict not in ("error", judge(met, result.metrics)):
        yield f"its verdict is {result.verdict}, and by its requirements it is {judge(met, result.metrics)}"


def _counts(gate: Gate, result: GateResult, setting: Setting) -> dict[str, tuple[int, int]]:
    """Metrics that are counts of outcomes: how many, of how many."""
    head, outcomes = setting.candidate.head, result.samples
    found: dict[str, tuple[int, int]] = {}
    if gate.attack is not None:
        attacked = [outcome for outcome in outcomes if outcome.evidence is not None]
        found["attack_success"] = sum(outcome.status == "broken" for outcome in attacked), len(attacked)
    if head.multilabel or not outcomes:
        return found
    found["accuracy"] = sum(outcome.status == "held" for outcome in outcomes), len(outcomes)
    if head.positive is not None:
        positive, nothing = head.name(head.positive), head.name(NO_ANSWER)
        positives = [outcome for outcome in outcomes if outcome.label == positive]
        others = [outcome for outcome in outcomes if outcome.label != positive]
        found["sensitivity"] = sum(one.attacked == positive for one in positives), len(positives)
        found["specificity"] = sum(one.attacked not in (positive, nothing) for one in others), len(others)
    return found


def forged(policy: Policy, report: AuditReport) -> str | None:
    """A gate that its policy has not, as it is shown; None: there is none."""
    known = {gate.id for gate in policy.gates}
    return next((shown(gate.id) for gate in report.gates if gate.id not in known), None)
