"""A run for the terminal: a table of its gates, the warnings on those that passed, and a last line."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from robustcheck.report.cells import Required
from robustcheck.report.gate import VERDICT_WORDS, metric_of, warning_lines
from robustcheck.report.text import interval, measured_value, one_line, status_counts
from robustcheck.report.threat import short_budget
from robustcheck.results import AuditReport, GateResult, Requirement, Verdict
from robustcheck.words import as_output, plural

STYLES: dict[Verdict, str] = {
    "pass": "bold green",
    "fail": "bold red",
    "inconclusive": "bold yellow",
    "error": "bold magenta",
}


def summary_line(report: AuditReport) -> str:
    """One sentence: how many gates ended how, and on what data."""
    found = Counter(gate.verdict for gate in report.gates)
    parts = [f"{plural(found['pass'], 'gate')} passed", f"{found['fail']} failed"]
    parts += [f"{found[rare]} {VERDICT_WORDS[rare]}" for rare in ("inconclusive", "error") if found[rare]]
    if report.not_run:
        parts.append(f"{len(report.not_run)} not run")
    interrupted = " (interrupted)" if report.interrupted else ""
    return f"{report.verdict.upper()}{interrupted}: {', '.join(parts)}{_on_data(report)}"


def warnings_text(report: AuditReport) -> str:
    """What is said against gates that turn no build red, a line each: whoever sees a pass should see it, too."""
    let_through = ("pass", "inconclusive") if report.inconclusive == "allow" else ("pass",)
    return "".join(f"{line}\n" for gate in report.gates if gate.verdict in let_through for line in warning_lines(gate))


def summary_table(report: AuditReport) -> Table:
    """The gates as a table for the terminal, with a row for each requirement."""
    title = Text(one_line(report.policy.name))
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=0)
    # With these widths 80 columns are enough: names and numbers break between words.
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


def _on_data(report: AuditReport) -> str:
    data = report.data
    if data is None:
        return ""
    some = f"{data.samples:,} of {data.available:,}" if data.samples < data.available else f"{data.samples:,}"
    synthetic = " (SYNTHETIC data: says nothing about any patient)" if data.synthetic else ""
    return f", on {some} samples{synthetic}"


def _rows(gate: GateResult) -> Iterator[list[RenderableType]]:
    """A row for each requirement; what is about the gate as a whole stands in the first one."""
    found = status_counts(gate)
    broken = "-" if gate.attack is None else f"{found['broken']}"
    about = [
        one_line(gate.id),
        one_line(gate.attack) if gate.attack else "none",
        as_output(short_budget(gate.threat)) if gate.threat else "",
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
