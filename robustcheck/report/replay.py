"""What came of a replay, for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from robustcheck.report.text import one_line
from robustcheck.results.replay import GateReplay, Replay
from robustcheck.words import listed, plural

MOST_AMISS_SHOWN = 5  # of what is amiss, a gate


def replay_table(replay: Replay) -> Table:
    """A row for each gate: how many counterexamples are stated, how many were read again, how much is amiss."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("gate", overflow="fold")
    for name in ("stated", "read again", "amiss"):
        table.add_column(name, justify="right", no_wrap=True)
    for gate in replay.gates:
        style = "bold red" if gate.amiss else ""
        table.add_row(
            Text(one_line(gate.id)), f"{gate.stated}", f"{gate.read}", Text(f"{len(gate.amiss)}", style=style)
        )
    return table


def replay_text(replay: Replay) -> str:
    """What is amiss, and what was not run, not read, not counted or not compared; a line for each."""
    lines = [one_line(sentence) for sentence in replay.amiss]
    if replay.not_run:
        lines.append(f"{_not_run(replay)}: {one_line(listed(replay.not_run))}")
    if as_stated := (*replay.as_stated, *replay.not_compared):
        lines.append(f"as stated, not compared: {listed(as_stated)}")
    lines = [f"the report: {line}" for line in lines]
    return "".join(f"{line}\n" for line in (*lines, *(line for gate in replay.gates for line in _lines(gate))))


def _not_run(replay: Replay) -> str:
    total = len(replay.gates) + len(replay.not_run)
    return f"{len(replay.not_run)} of the {plural(total, 'gate')} of the policy were not run"


def _lines(gate: GateReplay) -> list[str]:
    name = one_line(gate.id)
    left = {
        "not read again": gate.not_read,
        "clean readings are as stated": gate.not_compared,
        "as stated, not counted again": gate.not_counted,
    }
    lines = [f"{name}: {what}: {one_line(words)}" for what, words in left.items() if words]
    lines += [f"{name}: {one_line(sentence)}" for sentence in gate.amiss[:MOST_AMISS_SHOWN]]
    more = len(gate.amiss) - MOST_AMISS_SHOWN
    return [*lines, f"{name}: … and {more:,} more"] if more > 0 else lines


def replay_line(replay: Replay) -> str:
    """One sentence: whether the report's evidence is what it says, and what of it nothing was compared with."""
    stated, read = sum(gate.stated for gate in replay.gates), sum(gate.read for gate in replay.gates)
    amiss = len(replay.amiss) + sum(len(gate.amiss) for gate in replay.gates)
    found = f"{plural(stated, 'counterexample')} stated, {read:,} read again, {plural(amiss, 'thing')} amiss"
    held = sum(gate.held for gate in replay.gates)
    left = [_not_run(replay)] if replay.not_run else []
    left += [f"that {plural(held, 'sample')} held is taken as stated: run the policy again to check it"] if held else []
    return "; ".join([f"{'DIFFERS' if amiss else 'AGREES'}: {found}", *left])
