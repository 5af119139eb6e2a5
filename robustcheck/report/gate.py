"""What one gate found, in the words that pytest's failure section, JUnit, the page and the terminal share."""

from __future__ import annotations

from collections.abc import Sequence

from robustcheck.report.facts import gate_facts
from robustcheck.report.queries import queries_text
from robustcheck.report.text import (
    bound_of,
    interval,
    levels,
    measured_value,
    metric_text,
    number,
    one_line,
    percent,
    support,
    support_count,
)
from robustcheck.results import Finding, GateResult, Metric, Outcome, Requirement, Surrogate, Verdict
from robustcheck.words import behind_bars, plural

BROKEN_LISTED = 5
PARTS_LISTED = 20

VERDICT_WORDS: dict[Verdict, str] = {
    "pass": "passed",
    "fail": "failed",
    "inconclusive": "inconclusive",
    "error": "could not be evaluated",
}
_NOT_MEASURED = Metric(value=None, samples=0)


def verdict_sentence(gate: GateResult) -> str:
    """Why a gate has its verdict, on one line; names the requirement that decided it."""
    if gate.verdict == "error":
        return f"could not be evaluated: {_reason(gate)}"
    decisive = _decisive(gate)
    if not decisive:
        return one_line(gate.error) if gate.error else f"the gate {VERDICT_WORDS[gate.verdict]}"
    if gate.verdict == "pass":
        return "; ".join(requirement_sentence(requirement, metric_of(gate, requirement)) for requirement in decisive)
    undecided = gate.verdict == "inconclusive"
    first = requirement_sentence(decisive[0], metric_of(gate, decisive[0]), undecided=undecided)
    if len(decisive) == 1:
        return first
    others = plural(len(decisive) - 1, "other requirement")
    state = "undecided" if undecided else "not met"
    return f"{first}; {others} {'is' if len(decisive) == 2 else 'are'} {state}"


def requirement_sentence(requirement: Requirement, metric: Metric, *, undecided: bool = False) -> str:
    """`accuracy 0.610 is below the required >= 0.7 (305 of 500; 95 % interval 0.566 to 0.653)`."""
    name, bound = one_line(requirement.metric), one_line(requirement.bound)
    if number(metric.value) == "undefined":
        return f"{name} is undefined on these samples, so the required {bound} cannot be judged"
    value = measured_value(metric, requirement)
    if undecided or requirement.met is None:
        if not (ends := interval(metric, requirement)):
            return f"{name} {value} has no interval that could decide the required {bound} ({support_count(metric)})"
        return (
            f"{name} {value}: its {percent(metric.confidence)} interval, {ends}, contains the required "
            f"{bound.lstrip('<>= ')} ({support_count(metric)}); more samples are needed (robustcheck plan)"
        )
    limit = bound_of(requirement)
    relation = "meets" if requirement.met else "is above" if limit and limit[0] == "<" else "is below"
    return f"{name} {value} {relation} the required {bound} ({support(metric, requirement)})"


def metric_of(gate: GateResult, requirement: Requirement) -> Metric:
    """The metric that a requirement is about; an undefined one if the gate did not measure it."""
    return gate.metrics.get(requirement.metric, _NOT_MEASURED)


def requirement_state(gate: GateResult, requirement: Requirement) -> str:
    """`met`, `not met`, `undecided` or `undefined`."""
    if number(metric_of(gate, requirement).value) == "undefined":
        return "undefined"
    if requirement.met is None or (gate.verdict == "inconclusive" and _straddles(gate, requirement)):
        return "undecided"
    return "met" if requirement.met else "not met"


def metrics_line(gate: GateResult) -> str:
    """All metrics of a gate on one line."""
    return "; ".join(metric_text(name, metric) for name, metric in gate.metrics.items()) or "nothing was measured"


def gate_text(gate: GateResult) -> str:
    """What one gate found, as plain text whose first line says why it has its verdict."""
    sections = [
        [verdict_sentence(gate)],
        behind_bars(gate.error)[1:] if gate.error else [],  # the first line of an error is in the verdict's sentence
        _requirement_lines(gate),
        _fact_lines(gate),
        _slice_lines(gate),
        _control_lines(gate),
        list(map(_finding_line, gate.findings)),
        _broken_lines(gate),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def warning_lines(gate: GateResult) -> list[str]:
    """`pgd: warning: … [poor-surrogate]`."""
    return [f"{one_line(gate.id)}: {_finding_line(finding)}" for finding in gate.findings if finding.severity != "note"]


def _reason(gate: GateResult) -> str:
    """Why a gate could not be evaluated."""
    if gate.error and gate.error.strip():
        return one_line(gate.error.strip().splitlines()[0])
    errors = [finding for finding in gate.findings if finding.severity == "error"]
    if errors:
        return one_line(errors[0].message)
    undefined = [name for name, metric in gate.metrics.items() if metric.value is None]
    return (
        f"{', '.join(map(one_line, undefined))} undefined on these samples" if undefined else "no reason was recorded"
    )


def _decisive(gate: GateResult) -> list[Requirement]:
    """The requirements that a gate's verdict rests on."""
    if gate.verdict == "pass":
        return list(gate.requirements)
    if gate.verdict == "fail":
        return [requirement for requirement in gate.requirements if requirement.met is False]
    return [item for item in gate.requirements if requirement_state(gate, item) in ("undecided", "undefined")]


def _straddles(gate: GateResult, requirement: Requirement) -> bool:
    """Whether the bound lies inside the metric's interval."""
    metric, bound = metric_of(gate, requirement), bound_of(requirement)
    return (
        bound is not None and metric.low is not None and metric.high is not None and metric.low < bound[1] < metric.high
    )


def _requirement_lines(gate: GateResult) -> list[str]:
    rows: list[tuple[str, str, str]] = []
    for requirement in gate.requirements:
        metric = metric_of(gate, requirement)
        measured = f"{measured_value(metric, requirement)} ({support(metric, requirement)})"
        required = f"{one_line(requirement.metric)} {one_line(requirement.bound)}"
        rows.append((required, measured, requirement_state(gate, requirement)))
    return _aligned([("required", "measured", ""), *rows]) if rows else []


def _aligned(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows]


def _fact_lines(gate: GateResult) -> list[str]:
    required = {requirement.metric for requirement in gate.requirements}
    others = [metric_text(name, metric) for name, metric in gate.metrics.items() if name not in required]
    lines = [f"{name.lower()}: {one_line(value)}" for name, value in gate_facts(gate)]
    measured = [f"also measured: {'; '.join(others)}"] if others else []
    return [*measured, *lines, *map(_surrogate_line, gate.surrogates)]


def _surrogate_line(one: Surrogate) -> str:
    measured = {
        "accuracy": one.accuracy,
        "agreement": one.agreement,
        "agreement on the attacked": one.agreement_attacked,
        "turned": one.turned,
    }
    values = "; ".join(metric_text(name, metric) for name, metric in measured.items() if metric is not None)
    return f"surrogate {one_line(one.path)}: {values}"


def _slice_lines(gate: GateResult) -> list[str]:
    """A line for each part of the samples."""
    lines = [
        f"{one_line(f'{part.column}={part.name}' if part.column else part.name)}: "
        + ", ".join(f"{one_line(name)} {_counted(metric)}" for name, metric in part.metrics.items())
        for part in gate.slices[:PARTS_LISTED]
    ]
    more = len(gate.slices) - len(lines)
    return [*lines, f"… and {more:,} more in report.json"] if more else lines


def _counted(metric: Metric) -> str:
    """`0.333 (3 of 9)`."""
    return number(metric.value) + ("" if metric.successes is None else f" ({support_count(metric)})")


def _control_lines(gate: GateResult) -> list[str]:
    """What was turned without the attack, the patch that was judged, and the cells of stickers' grid."""
    lines = [f"control: {metric_text(f'{one.name} turned', one.success)}" for one in gate.controls]
    if gate.patch is not None:
        files = ", ".join(one_line(file) for file in (gate.patch.picture, gate.patch.array) if file)
        lines.append(f"patch: {one_line(gate.patch.origin)}" + (f" ({files})" if files else ""))
    return lines + [
        f"distance {cell.distance:g}, angle {cell.angle:g}: turned {number(cell.success.value)}, "
        f"{number(cell.control.value)} without the attack"
        for cell in gate.cells
    ]


def _finding_line(finding: Finding) -> str:
    return f"{finding.severity}: {one_line(finding.message)} [{one_line(finding.code)}]"


def _broken_lines(gate: GateResult) -> list[str]:
    broken = [outcome for outcome in gate.samples if outcome.status == "broken"]
    if not broken:
        return []
    listed = broken[:BROKEN_LISTED]
    first = f"first {len(listed)} of {len(broken):,}" if len(broken) > len(listed) else f"{len(listed)}"
    return [f"broken samples ({first}):", *(f"  {_broken_line(gate, outcome)}" for outcome in listed)]


def _broken_line(gate: GateResult, outcome: Outcome) -> str:
    parts = [f"{one_line(outcome.sample)}: {one_line(outcome.clean)} -> {one_line(outcome.attacked)}"]
    if outcome.distance_levels is not None:
        parts.append(levels(outcome.distance_levels))
    if outcome.found_by and outcome.found_by != gate.id:
        parts.append(f"found by {one_line(outcome.found_by)}")
    if outcome.found_after is not None:
        parts.append(f"found after {queries_text(outcome.found_after)}")
    if outcome.counterexample:
        parts.append(one_line(outcome.counterexample))
    return ", ".join(parts)
