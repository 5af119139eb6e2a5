"""What contenders did in several rounds, in turn, and what the pages that tell it have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Generic, TypeVar

from benchmarks.libraries import LIBRARIES
from benchmarks.machine import QUIET, disturbance
from benchmarks.page import provenance

MeasuredT = TypeVar("MeasuredT")


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


def in_turn(contenders: Mapping[str, Rounds[Any]], rounds: int) -> Iterator[tuple[int, str, Rounds[Any]]]:
    """Round, name and record of everyone who has not failed; each round begins with another one."""
    for number in range(rounds):
        turn = number % len(contenders)
        for name in [*contenders][turn:] + [*contenders][:turn]:
            if not contenders[name].failure:
                yield number, name, contenders[name]


def disturbed(records: Sequence[Rounds[Any]]) -> str:
    """What others took of the machine while these were measured, as a sentence."""
    return disturbance(max(share for record in records for share in record.elsewhere), "in the noisiest round")


def heading(
    title: str, module: str, arguments: Sequence[str] | None, given: argparse.Namespace, *, effort: str
) -> list[str]:
    """What runs, where, when and how.

    Args:
        title: of the page.
        module: of `benchmarks` that runs.
        arguments: its own; None: those of the command line.
        given: the same, parsed: threads, rounds, and which peers are wanted.
        effort: how hard everyone tries.
    """
    there = [LIBRARIES[name].package for name in given.peers if LIBRARIES[name].installed]
    absent = [LIBRARIES[name].package for name in given.peers if not LIBRARIES[name].installed]
    said = [
        provenance(module, arguments, threads=given.threads, packages=["torchvision", *there]),
        f"{effort}; rounds: {given.rounds}.",
        *([f"Not installed, and so not compared: {', '.join(absent)}."] if absent else []),
        "[README.md](README.md) says what the columns are.",
    ]
    return [f"# {title}", " ".join(said)]
