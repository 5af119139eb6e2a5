"""What an adversary's queries bought: the numbers that the facts of a gate, its text and the plot share.

A report may come from anybody: what is no number of queries that could have been asked is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from robustcheck.report.text import number
from robustcheck.results import GateResult, QueryPoint
from robustcheck.words import plural

MOST_QUERIES = 10**9  # far more than a policy may allow
SMALLER_LIMITS = tuple(lead * 10**power for power in range(2, 9) for lead in (1, 5))


@dataclass(frozen=True, kw_only=True)
class QueryCurve:
    """Accuracy against the queries a sample, up to the gate's limit."""

    limit: int
    steps: tuple[QueryPoint, ...]  # at least one, by queries
    elsewhere: tuple[int, ...] = ()  # what samples had cost another gate when that one broke them; here it may be less
    samples: int = 1  # that accuracy is a share of

    def accuracy_after(self, queries: int) -> float:
        """The accuracy that is left after so many queries a sample."""
        return next((step.accuracy for step in reversed(self.steps) if step.queries <= queries), self.steps[0].accuracy)

    def least_after(self, queries: int) -> float:
        """The same if all that another gate broke had been broken at once."""
        later = sum(after > queries for after in self.elsewhere)
        return max(0.0, self.accuracy_after(queries) - later / self.samples)

    def at_smaller_limits(self) -> list[tuple[int, float, float]]:
        """What was left after fewer queries, at least and at most: 100 a sample, 500, 1,000 and so on.

        A gate with such a limit would have measured as much, but for what it would have submitted at its end; `square`
        would have gone through its steps sooner, and left about as much.
        """
        smaller = [queries for queries in SMALLER_LIMITS if queries < self.limit]
        return [(queries, self.least_after(queries), self.accuracy_after(queries)) for queries in smaller]


def query_curve(gate: GateResult) -> QueryCurve | None:
    """The curve of a gate whose adversary asked; None if it has none, or none that can be drawn."""
    limit = gate.threat.queries if gate.threat else None
    if limit is None or not 1 <= limit <= MOST_QUERIES:
        return None
    steps = [step for step in gate.query_curve if 0 <= step.queries <= limit and math.isfinite(step.accuracy)]
    if not steps:
        return None
    elsewhere = [
        outcome.found_after
        for outcome in gate.samples
        # The curve falls for samples that were read correctly: a goal may attack others, too.
        if outcome.status == "broken" and outcome.evidence == "inherited" and outcome.clean == outcome.label
    ]
    accuracy = gate.metrics.get("accuracy")
    return QueryCurve(
        limit=limit,
        steps=tuple(sorted(steps, key=lambda step: step.queries)),
        elsewhere=tuple(after for after in elsewhere if after is not None and 0 < after <= limit),
        samples=max(1, accuracy.samples if accuracy else len(gate.samples)),
    )


def smaller_limits_text(gate: GateResult) -> str:
    """`0.712 at 100, 0.050 to 0.654 at 500`; nothing for a gate without a curve."""
    curve = query_curve(gate)
    smaller = curve.at_smaller_limits() if curve else []
    said = ", ".join(f"{range_text(least, most)} at {queries:,}" for queries, least, most in smaller)
    reasons = []
    if gate.attack == "square":
        reasons.append("about, because square spreads its steps, and its restarts, over the whole limit")
    if any(least < most for _, least, most in smaller):
        reasons.append(
            "a range where another gate broke samples: its queries count at most, none at least; evidence: isolated "
            "tells"
        )
    return f"{said} ({'; '.join(reasons)})" if said and reasons else said


def range_text(least: float, most: float) -> str:
    """`0.654`, or `0.050 to 0.654`."""
    return number(most) if least == most else f"{number(least)} to {number(most)}"


def success_text(gate: GateResult) -> str:
    """`median 312, most 4,807 (215 broken samples)`; nothing for a gate without a curve."""
    broken = [outcome.found_after for outcome in gate.samples if outcome.status == "broken"]
    found = [after for after in broken if after is not None and 0 <= after <= MOST_QUERIES]
    if not found or not query_curve(gate):
        return ""
    middle = f"{median(found):,.1f}".removesuffix(".0")
    known = f"{len(found):,} of " if len(found) < len(broken) else ""
    return f"median {middle}, most {max(found):,} ({known}{plural(len(broken), 'broken sample')})"


def queries_text(count: int) -> str:
    """`1 query`, `5,000 queries`."""
    return f"{count:,} {'query' if count == 1 else 'queries'}"
