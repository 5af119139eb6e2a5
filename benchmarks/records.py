"""What contenders did in several rounds, in turn, and the heading of the tables that tell it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Generic, Protocol, TypeVar

from benchmarks import machine
from benchmarks.libraries import LIBRARIES

QUIET = 0.1  # the share of the machine that others may take before one is told


class Measured(Protocol):
    """What came out of a round."""

    versions: dict[str, str]


MeasuredT = TypeVar("MeasuredT", bound=Measured)


@dataclass(kw_only=True)
class Rounds(Generic[MeasuredT]):
    """What one contender did."""

    title: str
    rounds: list[MeasuredT] = field(default_factory=list)
    elsewhere: list[float] = field(default_factory=list)  # share of the machine that others took, in each round
    failure: str | None = None  # the last line of what went wrong

    def median(self, of: Callable[[MeasuredT], float]) -> float:
        """Over the rounds."""
        return median(of(one) for one in self.rounds)

    def tell(self, place: str, result: Callable[[MeasuredT], str]) -> None:
        """Say how the last round went, and whether it was disturbed."""
        last = self.failure or result(self.rounds[-1])
        if self.elsewhere[-1] > QUIET:
            last += f"; others took {self.elsewhere[-1]:.0%} of the machine: this is no measurement"
        print(f"{place}, {self.title}: {last}", file=sys.stderr)


RoundsT = TypeVar("RoundsT", bound=Rounds)


def in_turn(contenders: dict[str, RoundsT], rounds: int) -> Iterator[tuple[int, str, RoundsT]]:
    """Round, name and record of everyone who has not failed; each round begins with another one."""
    for number in range(rounds):
        turn = number % len(contenders)
        for name in [*contenders][turn:] + [*contenders][:turn]:
            if not contenders[name].failure:
                yield number, name, contenders[name]


def heading(
    title: str,
    module: str,
    began: datetime,
    command: str,
    records: Sequence[Rounds],
    given: argparse.Namespace,
    *,
    effort: str,
) -> str:
    """What ran, where, when and how.

    Args:
        title: of the page.
        module: of `benchmarks` that ran.
        began: when.
        command: its arguments.
        records: of all contenders.
        given: the same, parsed: threads, rounds, and which peers were wanted.
        effort: how hard everyone tried.
    """
    versions: dict[str, str] = {}
    for record in records:
        for one in record.rounds:
            versions |= one.versions
    share = max(share for record in records for share in record.elsewhere)
    absent = [LIBRARIES[name].package for name in given.peers if not LIBRARIES[name].installed]
    lines = [
        f"# {title}",
        f"Written by `benchmarks/{module}.py`; [README.md](README.md) says what the columns are.",
        f"- {machine.describe()}; threads: {given.threads}",
        f"- {began:%Y-%m-%d %H:%M} UTC: `python -m benchmarks.{module} {command}`",
        f"- other processes took at most {share:.0%} of it meanwhile",
        f"- {effort}, rounds: {given.rounds}",
        f"- {', '.join(f'{package} {version}' for package, version in sorted(versions.items()))}",
        *([f"- not installed, and so not compared: {', '.join(absent)}"] if absent else []),
    ]
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])
