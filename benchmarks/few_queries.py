"""What attacks leave that may ask only a few times, beside noise and patterns: `python -m benchmarks.few_queries`.

One gate an attack and limit, each as it would be without patterns, which take the place of some that have hardly begun.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.arguments import add_attacked, add_common
from benchmarks.candidates import CANDIDATES
from benchmarks.gating import accuracy, gated
from benchmarks.page import provenance, publish
from benchmarks.results import table
from benchmarks.training import ensure
from robustcheck.policy import ATTACKS, SlowToBegin

LIMITS = (10, 25, 50, 75, 100, 150)
_SLOW = {name: spec for name, spec in ATTACKS.items() if issubclass(spec, SlowToBegin)}


def gates_of(epsilon: str) -> dict[tuple[str, int], dict[str, Any]]:
    """The gate of each row and limit; none where an attack needs more for its first step."""
    gates = {}
    for limit in LIMITS:
        attacks: dict[str, dict[str, Any]] = {
            "noise": {"name": "noise"},
            "patterns": {"name": _by_patterns(limit)},
            "nes": {"name": "nes"},
            **{name: {"name": name, "patterns": False} for name in _SLOW},
        }
        for row, attack in attacks.items():
            if limit >= ATTACKS[attack["name"]].model_validate(attack).least_queries:
                given = {"attack": attack, "epsilon": epsilon, "queries": limit}
                gates[row, limit] = {"id": f"{row}-{limit}", **given}
    return gates


def _by_patterns(queries: int) -> str:
    """An attack that may ask so often, and for which patterns stand then."""
    specs = {name: spec.model_validate({"name": name}) for name, spec in _SLOW.items()}
    return next(
        name
        for name, spec in specs.items()
        if spec.least_queries <= queries and spec.by_patterns(queries=queries, norm="linf", goal="untargeted")
    )


def section(name: str, epsilon: str, given: argparse.Namespace) -> str:
    """One candidate's table at one ε."""
    candidate, asked = CANDIDATES[name], gates_of(epsilon)
    ensure(candidate, given.archive)
    found = gated(candidate, list(asked.values()), given.archive, samples=given.images)
    rows = [
        [row, *(f"{accuracy(found[f'{row}-{limit}']):.3f}" if (row, limit) in asked else "" for limit in LIMITS)]
        for row in dict.fromkeys(row for row, _ in asked)
    ]
    count = len(next(iter(found.values())).samples)
    return "\n\n".join([
        f"## {candidate.title}, ε = {epsilon}, {count} X-rays",
        table(["queries", *map(str, LIMITS)], rows),
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_queries", description=__doc__)
    add_attacked(parser)
    add_common(parser)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    return publish(
        [provenance("few_queries", arguments, threads=given.threads)],
        (section(candidate, epsilon, given) for candidate in given.candidates for epsilon in given.epsilon),
        out=given.out,
    )


if __name__ == "__main__":
    sys.exit(main())
