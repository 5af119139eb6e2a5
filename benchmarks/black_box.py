"""What adversaries who may only ask leave at each number of queries: `python -m benchmarks.black_box`.

One search an attack, with the largest limit; what smaller limits would have left is read off its curve. PGD, which sees
gradients, stands beside them as what is there to be found, and noise as what any attack has to beat.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median_high
from typing import Any

import torch

from benchmarks.arguments import add_attacked, add_common
from benchmarks.candidates import CANDIDATES
from benchmarks.gating import accuracy, gated
from benchmarks.page import provenance, publish
from benchmarks.results import table
from benchmarks.training import ensure
from robustcheck.results import GateResult

LIMITS = (100, 300, 500, 1000, 2000, 3000, 5000, 10_000)

ATTACKS: dict[str, tuple[dict[str, Any], int]] = {
    "noise": ({"name": "noise"}, 10_000),
    "nes": ({"name": "nes"}, 10_000),
    "nes, stored": ({"name": "nes"}, 10_000),
    # A fixed step of .01 is a third of 8/255: around the best point of the ball it goes back and forth.
    "nes, fixed step .01": ({"name": "nes", "step_size": 0.01, "least_step": 1.0}, 10_000),
    "square": ({"name": "square"}, 5000),
    "square, stored": ({"name": "square"}, 5000),
    "partial_information, top-1": ({"name": "partial_information"}, 5000),
    "label_only": ({"name": "label_only"}, 5000),
    "label_only, stored": ({"name": "label_only"}, 5000),
    "label_only, 5 copies": ({"name": "label_only", "samples": 20, "copies": 5}, 5000),
    "hopskipjump": ({"name": "hopskipjump"}, 5000),
    "hopskipjump, stored": ({"name": "hopskipjump"}, 5000),
    "rays": ({"name": "rays"}, 5000),
}


def gates_of(names: Sequence[str], epsilon: str) -> list[dict[str, Any]]:
    """PGD's gate, and one an attack."""
    gates: list[dict[str, Any]] = [{"id": "pgd", "attack": {"name": "pgd", "steps": 40}, "epsilon": epsilon}]
    for number, name in enumerate(names):
        attack, queries = ATTACKS[name]
        oracle = {"oracle": "stored"} if name.endswith("stored") else {}
        gates.append({"id": f"gate-{number}", "attack": attack, "epsilon": epsilon, "queries": queries, **oracle})
    return gates


def row(name: str, gate: GateResult) -> list[str]:
    """Accuracy at each limit that the gate reached, and what its search submitted at the end."""
    told = []
    for limit in LIMITS:
        known = gate.threat is not None and gate.threat.queries is not None and limit <= gate.threat.queries
        left = min((point.accuracy for point in gate.query_curve if point.queries <= limit), default=None)
        told.append(f"{left:.3f}" if known and left is not None else "")
    found = [outcome.found_after for outcome in gate.samples if outcome.found_after is not None]
    median = str(median_high(found)) if found else ""  # what one of them needed, of an even number, too
    return [name, *told, f"{accuracy(gate):.3f}", median]


def section(name: str, epsilon: str, given: argparse.Namespace) -> str:
    """One candidate's table at one ε."""
    candidate = CANDIDATES[name]
    ensure(candidate, given.archive)
    gates = gated(candidate, gates_of(given.attacks, epsilon), given.archive, samples=given.images)
    samples = gates["pgd"].samples
    clean = sum(outcome.status != "wrong" for outcome in samples) / len(samples)
    head = ["", *(f"{limit:,}" for limit in LIMITS), "left in the end", "median queries to success"]
    return "\n\n".join(
        [
            f"## {candidate.title}, ε = {epsilon}, {len(samples)} X-rays",
            f"Clean accuracy {clean:.3f}; PGD-40 leaves {accuracy(gates['pgd']):.3f}.",
            table(head, [row(attack, gates[f"gate-{number}"]) for number, attack in enumerate(given.attacks)]),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.black_box", description=__doc__)
    add_attacked(parser)
    parser.add_argument(
        "--attacks",
        nargs="+",
        choices=list(ATTACKS),
        default=list(ATTACKS),
        metavar="NAME",
        help=f"of {'; '.join(ATTACKS)} (default: all)",
    )
    add_common(parser)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    return publish(
        [provenance("black_box", arguments, threads=given.threads)],
        (section(candidate, epsilon, given) for candidate in given.candidates for epsilon in given.epsilon),
        out=given.out,
    )


if __name__ == "__main__":
    sys.exit(main())
