"""From measurements to the tables that people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.job import Measurement
from benchmarks.records import Rounds, disturbed


@dataclass(kw_only=True)
class Record(Rounds[Measurement]):
    """What one contender did to one candidate."""

    kind: str  # ours | peer | floor

    @property
    def seconds(self) -> float:
        """Median over the rounds."""
        return self.median(lambda one: one.seconds)

    @property
    def answer_seconds(self) -> float:
        """Median over the rounds, from the weights' file to the accuracies."""
        return self.median(lambda one: one.answer_seconds)

    @property
    def robust(self) -> list[float]:
        """Accuracy left at each ε: the mean over the rounds, which start from different random points."""
        return [fmean(accuracies) for accuracies in zip(*(one.robust for one in self.rounds), strict=True)]


def section(title: str, records: Sequence[Record], levels: Sequence[int]) -> str:
    """The tables of one candidate, as Markdown."""
    done = [record for record in records if record.rounds]
    failed = [f"{record.title} failed: {record.failure}" for record in records if record.failure]
    parts = [f"## {title}", *failed]
    if done:
        parts += [_measured(done, levels), _compared(done, levels), disturbed(done)]
    return "\n\n".join(part for part in parts if part)


def _measured(records: Sequence[Record], levels: Sequence[int]) -> str:
    head = ["", "seconds", "to the answer", "forward", "gradient", "peak MiB", "clean", *(f"{n}/255" for n in levels)]
    return table(head, [_row(record) for record in records])


def _row(record: Record) -> list[str]:
    seconds = [one.seconds for one in record.rounds]
    spread = f" ({min(seconds):.1f}–{max(seconds):.1f})" if len(seconds) > 1 else ""
    return [
        record.title,
        f"{record.seconds:.1f}{spread}",
        f"{record.answer_seconds:.1f}",
        f"{record.median(lambda one: one.forward):.0f}",
        f"{record.median(lambda one: one.gradient):.0f}",
        f"{record.median(lambda one: one.peak_mib):.0f}",
        *(f"{accuracy:.3f}" for accuracy in (record.rounds[0].clean, *record.robust)),
    ]


def _compared(records: Sequence[Record], levels: Sequence[int]) -> str:
    """Ours against the fastest peer, and against the peer that leaves least accuracy at each ε."""
    ours, peers, floor = ([record for record in records if record.kind == kind] for kind in ("ours", "peer", "floor"))
    if not ours or not peers:
        return ""
    fastest = min(peers, key=lambda record: record.seconds)
    soonest = min(peers, key=lambda record: record.answer_seconds)
    lowest = [min(accuracies) for accuracies in zip(*(peer.robust for peer in peers), strict=True)]
    head = ["", "fastest peer", "bare loop", "peer's answer", *(f"{level}/255" for level in levels)]
    rows = [
        [
            record.title,
            f"{fastest.seconds / record.seconds:.2f}",
            f"{floor[0].seconds / record.seconds:.2f}" if floor else "",
            f"{soonest.answer_seconds / record.answer_seconds:.2f}",
            *(f"{mine - theirs:+.4f}" for mine, theirs in zip(record.robust, lowest, strict=True)),
        ]
        for record in ours
    ]
    peer = f"the fastest peer ({fastest.title})" if len(peers) > 1 else f"{fastest.title}, the only peer here,"
    caption = (
        f"How many times our seconds {peer} and the bare loop take, and how many times ours a peer takes at the least "
        "to the answer; then, at each ε, our accuracy less the lowest peer's."
    )
    return f"{caption}\n\n{table(head, rows)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown whose columns also line up in a terminal."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * (widths[0] + 2)}", *(f"{'-' * (width + 1)}:" for width in widths[1:])]
    return "\n".join([line(head), f"|{'|'.join(rule)}|", *map(line, rows)])
