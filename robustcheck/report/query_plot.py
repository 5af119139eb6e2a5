"""Accuracy against the queries a sample: how soon an adversary that asks is through.

All gates share one plot, for a query is a query. Its axis is logarithmic: most samples that fall do so early.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from robustcheck.report.canvas import (
    Plot,
    Series,
    Tick,
    accuracy_of,
    accuracy_words,
    gate_point,
    place_x,
    place_y,
    style_of,
    ticks,
)
from robustcheck.report.queries import QueryCurve, queries_text, query_curve, range_text
from robustcheck.report.text import one_line
from robustcheck.results import AuditReport, GateResult, Metric


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A gate that can be drawn."""

    gate: GateResult
    curve: QueryCurve
    accuracy: Metric


def query_plot(report: AuditReport) -> Plot | None:
    """One plot for all gates whose adversary asked; None without any."""
    asked = [
        _Asked(gate=gate, curve=curve, accuracy=accuracy)
        for gate in report.gates
        if (curve := query_curve(gate)) and (accuracy := accuracy_of(gate))
    ]
    if not asked:
        return None
    limits = {one.curve.limit for one in asked}
    largest = max(2, *limits)  # an axis from 1 to 1 has no length
    return Plot(
        heading="Accuracy against queries",
        axis="queries a sample, on a logarithmic scale",
        x_ticks=_x_ticks(limits, largest),
        series=tuple(_series(one, index, largest) for index, one in enumerate(asked)),
    )


def _series(asked: _Asked, index: int, largest: int) -> Series:
    gate, curve = asked.gate, asked.curve
    end = place_x(_share(curve.limit, largest))
    falls = " ".join(f"H{place_x(_share(step.queries, largest))} V{place_y(step.accuracy)}" for step in curve.steps)
    return Series(
        name=one_line(gate.id),
        style=style_of(index),
        line=f"M{place_x(0)} {place_y(curve.accuracy_after(0))} {falls} H{end}",
        lower=_lower(curve, largest) if curve.elsewhere else None,
        points=(gate_point(end, gate, asked.accuracy, _words(asked)),),
    )


def _lower(curve: QueryCurve, largest: int) -> str:
    """The line if all that another gate broke had been broken at once."""
    places = sorted({*(step.queries for step in curve.steps), *curve.elsewhere})
    falls = " ".join(f"H{place_x(_share(place, largest))} V{place_y(curve.least_after(place))}" for place in places)
    return f"M{place_x(0)} {place_y(curve.least_after(0))} {falls} H{place_x(_share(curve.limit, largest))}"


def _words(asked: _Asked) -> str:
    """`nes: accuracy 0.712 after 100, 0.654 after 500, 0.610 after 1,000 queries (305 of 500), required >= 0.7`."""
    smaller = asked.curve.at_smaller_limits()
    told = [f"{range_text(least, most)} after {queries:,}" for queries, least, most in smaller]
    told.append(accuracy_words(asked.gate, asked.accuracy, f" after {queries_text(asked.curve.limit)}"))
    return f"{one_line(asked.gate.id)}: accuracy {', '.join(told)}"


def _x_ticks(limits: Iterable[int], largest: int) -> tuple[Tick, ...]:
    """Ticks at the gates' limits and at powers of ten, with words where there is room: the ends, then the limits."""
    powers = [10**power for power in range(len(str(largest)))]
    shown = dict.fromkeys([max(limits), 1, *sorted(limits, reverse=True), *powers])
    return ticks((place_x(_share(queries, largest)), f"{queries:,}") for queries in shown)


def _share(queries: int, largest: int) -> float:
    """The share of the axis at which so many queries are; no query is where one is."""
    return math.log10(max(queries, 1)) / math.log10(largest)
