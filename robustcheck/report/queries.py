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

    def accuracy_after(self, queries: int) -> float:
        """The accuracy that is left after so many queries a sample."""
        return next((step.accuracy for step in reversed(self.steps) if step.queries <= queries), self.steps[0].accuracy)

    def at_smaller_limits(self) -> list[tuple[int, float]]:
        """What was left after fewer queries: 100 a sample, 500, 1,000 and so on.

        A gate with such a limit would have measured as much, but for what it would have submitted at its end; `square`
        would have gone through its steps sooner, and left less.
        """
        return [(queries, self.accuracy_after(queries)) for queries in SMALLER_LIMITS if queries < self.limit]


def query_curve(gate: GateResult) -> QueryCurve | None:
    """The curve of a gate whose adversary asked; None if it has none, or none that can be drawn."""
    limit = gate.threat.queries if gate.threat else None
    if limit is None or not 1 <= limit <= MOST_QUERIES:
        return None
    steps = [step for step in gate.query_curve if 0 <= step.queries <= limit and math.isfinite(step.accuracy)]
    return QueryCurve(limit=limit, steps=tuple(sorted(steps, key=lambda step: step.queries))) if steps else None


def smaller_limits_text(gate: GateResult) -> str:
    """`0.712 at 100, 0.654 at 500`; nothing for a gate without a curve.

    What another gate found, at a smaller budget, this one might have found sooner.
    """
    curve = query_curve(gate)
    smaller = curve.at_smaller_limits() if curve else []
    said = ", ".join(f"{number(accuracy)} at {queries:,}" for queries, accuracy in smaller)
    reasons = ["square spreads its steps, and its restarts, over the whole limit"] if gate.attack == "square" else []
    if any(outcome.status == "broken" and outcome.evidence == "inherited" for outcome in gate.samples):
        reasons.append("other gates found some of these, at their own pace")
    return f"{said} (or less, because {', and '.join(reasons)})" if said and reasons else said


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
