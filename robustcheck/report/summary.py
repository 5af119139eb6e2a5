"""The terminal's summary, and the text of one gate, which pytest's failure section and JUnit share."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from robustcheck.report.cells import Required
from robustcheck.report.queries import queries_text, smaller_limits_text, success_text
from robustcheck.report.text import (
    bound_of,
    cost_text,
    count_of,
    counts,
    counts_text,
    interval,
    level,
    measured_value,
    metric_text,
    needed_text,
    number,
    one_line,
    parameters_text,
    plural,
    short_budget,
    support,
    threat_text,
)
from robustcheck.results import AuditReport, GateResult, Metric, Outcome, Requirement, Surrogate, Verdict
from robustcheck.words import behind_bars

BROKEN_LISTED = 5
PARTS_LISTED = 20

STYLES: dict[Verdict, str] = {
    "pass": "bold green",
    "fail": "bold red",
    "inconclusive": "bold yellow",
    "error": "bold magenta",
}
_NOT_MEASURED = Metric(value=None, samples=0)
_VERDICT_WORDS: dict[Verdict, str] = {
    "pass": "passed",
    "fail": "failed",
    "inconclusive": "inconclusive",
    "error": "could not be evaluated",
}


def verdict_sentence(gate: GateResult) -> str:
    """Why a gate has its verdict, on one line; names the requirement that decided it."""
    if gate.verdict == "error":
        return f"could not be evaluated: {_reason(gate)}"
    decisive = _decisive(gate)
    if not decisive:
        return one_line(gate.error) if gate.error else f"the gate {_VERDICT_WORDS[gate.verdict]}"
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
    value = measured_value(requirement, metric)
    if undecided or requirement.met is None:
        if not (ends := interval(metric, requirement)):
            return f"{name} {value} has no interval that could decide the required {bound} ({count_of(metric)})"
        return (
            f"{name} {value}: its {level(metric.confidence)} interval, {ends}, contains the required "
            f"{bound.lstrip('<>= ')} ({count_of(metric)}); more samples are needed (robustcheck plan)"
        )
    limit = bound_of(requirement)
    relation = "meets" if requirement.met else "is above" if limit and limit[0] == "<" else "is below"
    return f"{name} {value} {relation} the required {bound} ({support(metric, requirement)})"


def metric_of(gate: GateResult, requirement: Requirement) -> Metric:
    """The metric that a requirement is about; an undefined one where the gate did not measure it."""
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
        _error_lines(gate),
        _requirement_lines(gate),
        _fact_lines(gate),
        _slice_lines(gate),
        _control_lines(gate),
        [f"{finding.severity}: {one_line(finding.message)} [{one_line(finding.code)}]" for finding in gate.findings],
        _broken_lines(gate),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _slice_lines(gate: GateResult) -> list[str]:
    """A line a part of the samples."""
    lines = [
        f"{one_line(f'{part.column}={part.name}' if part.column else part.name)}: "
        + ", ".join(f"{one_line(name)} {_counted(metric)}" for name, metric in part.metrics.items())
        for part in gate.slices[:PARTS_LISTED]
    ]
    more = len(gate.slices) - len(lines)
    return [*lines, f"… and {more:,} more in report.json"] if more else lines


def _counted(metric: Metric) -> str:
    """`0.333 (3 of 9)`."""
    return number(metric.value) + ("" if metric.successes is None else f" ({count_of(metric)})")


def _control_lines(gate: GateResult) -> list[str]:
    """What was turned without the attack, and stickers' table of distances by angles."""
    lines = [f"control: {metric_text(f'{one.name} turned', one.success)}" for one in gate.controls]
    if gate.patch is not None:
        files = ", ".join(one_line(file) for file in (gate.patch.picture, gate.patch.array) if file)
        lines.append(f"patch: {one_line(gate.patch.origin)}" + (f" ({files})" if files else ""))
    return lines + [
        f"distance {cell.distance:g}, angle {cell.angle:g}: turned {number(cell.success.value)}, "
        f"{number(cell.control.value)} without the attack"
        for cell in gate.cells
    ]


def summary_line(report: AuditReport) -> str:
    """One sentence: how many gates ended how, and on what data."""
    found = Counter(gate.verdict for gate in report.gates)
    parts = [f"{plural(found['pass'], 'gate')} passed", f"{found['fail']} failed"]
    parts += [f"{found[rare]} {_VERDICT_WORDS[rare]}" for rare in ("inconclusive", "error") if found[rare]]
    if report.not_run:
        parts.append(f"{len(report.not_run)} not run")
    interrupted = " (interrupted)" if report.interrupted else ""
    return f"{report.verdict.upper()}{interrupted}: {', '.join(parts)}{_on_data(report)}"


def warnings_text(report: AuditReport) -> str:
    """What is said against gates that turn no build red, a line each: whoever sees a pass should see it, too."""
    let_through = ("pass", "inconclusive") if report.inconclusive == "allow" else ("pass",)
    return "".join(f"{line}\n" for gate in report.gates if gate.verdict in let_through for line in warning_lines(gate))


def warning_lines(gate: GateResult) -> list[str]:
    """`pgd: warning: … [poor-surrogate]`."""
    return [
        f"{one_line(gate.id)}: {finding.severity}: {one_line(finding.message)} [{one_line(finding.code)}]"
        for finding in gate.findings
        if finding.severity != "note"
    ]


def summary_table(report: AuditReport) -> Table:
    """The gates as a table for the terminal; a requirement a row."""
    title = Text(one_line(report.policy.name))
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=0)
    # The least widths let 80 columns do: names and numbers break between words.
    for name, least in {"gate": 10, "attack": 4, "threat": 5, "required": 11, "measured": 13}.items():
        table.add_column(name, overflow="fold", min_width=least)
    table.add_column("broken/\nheld/wrong", justify="right", no_wrap=True)
    table.add_column("time/s", justify="right", no_wrap=True)
    table.add_column(
        "verdict", no_wrap=True, min_width=max(map(len, ["verdict", *(gate.verdict for gate in report.gates)]))
    )
    for gate in report.gates:
        for row in _rows(gate):
            table.add_row(*row)
    for gate_id in report.not_run:
        table.add_row(Text(one_line(gate_id)), *[""] * 6, Text("not run", style="dim"))
    return table


def render(renderable: RenderableType, *, width: int, color: bool) -> str:
    """Text of anything that rich can show, `width` columns wide, with or without colours."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
    )
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def _reason(gate: GateResult) -> str:
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
    metric, bound = metric_of(gate, requirement), bound_of(requirement)
    return (
        bound is not None and metric.low is not None and metric.high is not None and metric.low < bound[1] < metric.high
    )


def _error_lines(gate: GateResult) -> list[str]:
    """The rest of an error whose first line is in the verdict's sentence."""
    return behind_bars(gate.error)[1:] if gate.error else []


def _requirement_lines(gate: GateResult) -> list[str]:
    rows: list[tuple[str, str, str]] = []
    for requirement in gate.requirements:
        metric = metric_of(gate, requirement)
        measured = f"{measured_value(requirement, metric)} ({support(metric, requirement)})"
        required = f"{one_line(requirement.metric)} {one_line(requirement.bound)}"
        rows.append((required, measured, requirement_state(gate, requirement)))
    return _aligned([("required", "measured", ""), *rows]) if rows else []


def _aligned(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows]


def _fact_lines(gate: GateResult) -> list[str]:
    required = {requirement.metric for requirement in gate.requirements}
    others = [metric_text(name, metric) for name, metric in gate.metrics.items() if name not in required]
    attack = one_line(gate.attack) if gate.attack else "none (clean images)"
    if gate.parameters:
        attack += f" ({parameters_text(gate.parameters)})"
    facts = {
        "also measured": "; ".join(others),
        "attack": attack,
        "threat model": threat_text(gate.threat) if gate.threat else "",
        "samples": counts_text(gate) if gate.samples else "",
        "samples needed": needed_text(gate),
        "queries to success": success_text(gate),
        "accuracy at smaller limits": smaller_limits_text(gate),
        "cost": cost_text(gate.cost),
    }
    lines = [f"{name}: {value}" for name, value in facts.items() if value]
    return [*lines, *map(_surrogate_line, gate.surrogates)]


def _surrogate_line(one: Surrogate) -> str:
    measured = {"accuracy": one.accuracy, "agreement": one.agreement, "turned": one.turned}
    values = "; ".join(metric_text(name, metric) for name, metric in measured.items())
    return f"surrogate {one_line(one.path)}: {values}"


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
        parts.append(f"{outcome.distance_levels:g} levels")
    if outcome.found_by and outcome.found_by != gate.id:
        parts.append(f"found by {one_line(outcome.found_by)}")
    if outcome.found_after is not None:
        parts.append(f"found after {queries_text(outcome.found_after)}")
    if outcome.counterexample:
        parts.append(one_line(outcome.counterexample))
    return ", ".join(parts)


def _on_data(report: AuditReport) -> str:
    data = report.data
    if data is None:
        return ""
    some = f"{data.samples:,} of {data.available:,}" if data.samples < data.available else f"{data.samples:,}"
    synthetic = " (SYNTHETIC data: says nothing about any patient)" if data.synthetic else ""
    return f", on {some} samples{synthetic}"


def _rows(gate: GateResult) -> Iterator[list[RenderableType]]:
    """A row a requirement; what is about the gate as a whole stands in the first."""
    found = counts(gate)
    broken = "-" if gate.attack is None else f"{found['broken']}"
    about = [
        one_line(gate.id),
        one_line(gate.attack) if gate.attack else "none",
        short_budget(gate.threat) if gate.threat else "",
    ]
    outcome = [f"{broken}/{found['held']}/{found['wrong']}" if gate.samples else "", f"{gate.cost.seconds:.1f}"]
    verdict = Text(gate.verdict, style=STYLES[gate.verdict])
    cells: list[tuple[RenderableType, Text]] = [
        (Required(item.metric, item.bound), Text(_measured_cell(gate, item))) for item in gate.requirements
    ]
    for order, (required, measured) in enumerate(cells or [(Text(), Text())]):
        if order:
            yield [*map(Text, ["", "", ""]), required, measured, *map(Text, ["", "", ""])]
        else:
            yield [*map(Text, about), required, measured, *map(Text, outcome), verdict]


def _measured_cell(gate: GateResult, requirement: Requirement) -> str:
    metric = metric_of(gate, requirement)
    value, ends = measured_value(requirement, metric), interval(metric, requirement)
    return f"{value} ({ends.replace(' to ', '-')})" if ends else value
