"""A run for the terminal: a table of its gates, the warnings on those that passed, and a last line."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import replace

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

from robustcheck.report.gate import VERDICT_WORDS, metric_of, warning_lines
from robustcheck.report.text import LONGEST_PIECE, interval, measured_value, one_line, seconds, status_counts
from robustcheck.report.threat import short_budget, unlike_most
from robustcheck.report.wrapping import Words, fitted, named, phrases, required, whole
from robustcheck.results import AuditReport, GateResult, Requirement, Verdict
from robustcheck.words import as_output, plural

LEAST_COLUMNS = 60  # in less room a table is as wide all the same: lines that a terminal breaks lose nothing

_NAMES = ("gate", "attack", "threat", "required")  # columns of words that others chose
_TIME = "time/s"
# The columns that are left out, and whether figures break, too.
_EVER_NARROWER = (
    ((), False),
    ((_TIME,), False),
    ((_TIME,), True),
    ((_TIME, "attack"), True),
    ((_TIME, "attack", "threat"), True),
)

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
    allowed = {"inconclusive": " (allowed)"} if report.inconclusive == "allow" else {}
    parts += [
        f"{found[rare]} {VERDICT_WORDS[rare]}{allowed.get(rare, '')}"
        for rare in ("inconclusive", "error")
        if found[rare]
    ]
    if report.not_run:
        parts.append(f"{len(report.not_run)} not run")
    interrupted = f" ({_interrupted(report)})" if report.interrupted else ""
    return f"{report.verdict.upper()}{interrupted}: {', '.join(parts)}{_on_data(report)}"


def _interrupted(report: AuditReport) -> str:
    stopped = report.interruption
    if stopped is None:
        return "interrupted"
    return f"{one_line(stopped.gate)} was interrupted after {seconds(stopped.seconds)}"


def warnings_text(report: AuditReport) -> str:
    """What is said against gates that turn no build red, a line each: whoever sees a pass should see it, too."""
    let_through = ("pass", "inconclusive") if report.inconclusive == "allow" else ("pass",)
    return "".join(f"{line}\n" for gate in report.gates if gate.verdict in let_through for line in warning_lines(gate))


def summary_table(report: AuditReport) -> Table:
    """The gates as a table for the terminal, with a row for each requirement; it takes the room that it is given.

    Its words are spelt as the process's output can show them, before anything is measured.
    """
    title = Text(as_output(one_line(report.policy.name)))
    table = _Gates(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in (*_NAMES, "measured"):
        table.add_column(whole(heading))
    table.add_column(Words((("broken/",), ("held/", "wrong"))), justify="right")
    table.add_column(whole(_TIME), justify="right")
    table.add_column(whole("verdict"))
    for gate in report.gates:
        for row in _rows(gate):
            table.add_row(*row)
    for gate_id in report.not_run:
        table.add_row(named(as_output(gate_id)), *[whole("")] * 6, whole("not run", "dim"))
    return table


class _Gates(Table):
    """A table of gates that fits: nothing on its right is cut off, least of all the verdict.

    Where it is too wide, names break between their words; then time is left out; then figures break between their
    parts; then the attack is left out, and the threat.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table in so much room."""
        shown = copy(self)
        for left_out, breaking in _EVER_NARROWER:
            columns = [column for column in self.columns if str(column.header) not in left_out]
            narrowest, widest = zip(*(_widths(column, breaking=breaking) for column in columns), strict=True)
            room = options.max_width - (len(columns) - 1)  # between them stands a blank
            if (widths := fitted(narrowest, widest, room)) is not None:
                break
        else:
            widths = list(narrowest)
        shown.columns = [replace(column, width=width) for column, width in zip(columns, widths, strict=True)]
        yield from Table.__rich_console__(shown, console, options)


def _widths(column: Column, *, breaking: bool) -> tuple[int, int]:
    """The least width that a column needs, and the one that it would like."""
    heading, *cells = (cell for cell in (column.header, *column.cells) if isinstance(cell, Words))
    widest = max(heading.longest, *(cell.widest for cell in cells)) if cells else heading.longest
    if str(heading) in _NAMES:
        return min(LONGEST_PIECE, max(cell.narrowest for cell in (heading, *cells))), widest
    return max(cell.narrowest if breaking else cell.longest for cell in (heading, *cells)), widest


def render(renderable: RenderableType, *, width: int, color: bool) -> str:
    """Text of anything that rich can show, `width` columns wide but not fewer than 60, with or without colours."""
    console = Console(
        file=io.StringIO(),
        width=max(LEAST_COLUMNS, width),
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
    of = f"{data.samples:,} of " if data.samples < data.available else ""
    synthetic = " (SYNTHETIC data: says nothing about any patient)" if data.synthetic else ""
    return f", on {of}{plural(max(data.samples, data.available), 'sample')}{synthetic}"


def _rows(gate: GateResult) -> Iterator[list[Words]]:
    """A row for each requirement; what is about the gate as a whole stands in the first one."""
    found = status_counts(gate)
    broken = "-" if gate.attack is None else f"{found['broken']}"
    counts = (f"{broken}/", f"{found['held']}/", f"{found['wrong']}") if gate.samples else ("",)
    threat = ", ".join((short_budget(gate.threat), *unlike_most(gate.threat))) if gate.threat else ""
    about = [named(as_output(gate.id)), named(as_output(gate.attack or "none")), phrases(as_output(threat))]
    outcome = [Words((counts,)), whole(f"{gate.cost.seconds:.1f}"), whole(gate.verdict, STYLES[gate.verdict])]
    empty = whole("")
    cells = [
        (required(as_output(item.metric), as_output(item.bound)), _measured_cell(gate, item))
        for item in gate.requirements
    ]
    for order, (bound, measured) in enumerate(cells or [(empty, empty)]):
        yield [empty] * 3 + [bound, measured] + [empty] * 3 if order else [*about, bound, measured, *outcome]


def _measured_cell(gate: GateResult, requirement: Requirement) -> Words:
    """A value, and its interval behind it or below it."""
    metric = metric_of(gate, requirement)
    value, ends = measured_value(metric, requirement), interval(metric, requirement)
    if not ends:
        return whole(value)
    low, high = ends.split(" to ")
    return Words(((value,), (f" ({low}-", f"{high})")))
