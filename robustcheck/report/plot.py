"""Accuracy against the size of the budget, as coordinates of an SVG picture.

A norm has a plot of its own: the same ε means other things in L∞ and in L2. A line joins the gates of one attack.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustcheck.report.text import bound_of, measured_value, norm_text, number, one_line, support
from robustcheck.results import AuditReport, GateResult, Metric, Threat

WIDTH, HEIGHT = 640, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 14, 52
NEAREST_LABELS = 56  # units between tick labels, or they would run into each other
SERIES_STYLES = 6  # colours, dashes and marks that the style sheet and the template know


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One gate."""

    x: float
    y: float
    low: float | None  # y of the interval's ends
    high: float | None
    required: float | None  # y of the requirement on accuracy
    passed: bool
    words: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """The gates of one attack under one threat model, by ε."""

    name: str
    style: int  # from 1
    line: str  # SVG path
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Everything that the template draws; coordinates in units of the view box."""

    norm: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    clean: Point | None
    series: tuple[Series, ...]
    words: str  # all of it, for those who cannot see it


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A gate that can be drawn."""

    gate: GateResult
    threat: Threat
    accuracy: Metric
    value: float


def plots(report: AuditReport) -> list[Plot]:
    """One plot a norm, for the gates that measured accuracy under an attack."""
    drawable = [measured for gate in report.gates if (measured := _drawable(gate))]
    norms: dict[str, list[_Measured]] = defaultdict(list)
    for measured in drawable:
        norms[measured.threat.norm].append(measured)
    unattacked = next((gate for gate in report.gates if gate.attack is None and "accuracy" in gate.metrics), None)
    return [_plot(norm, gates, unattacked) for norm, gates in norms.items()]


def _drawable(gate: GateResult) -> _Measured | None:
    threat, accuracy = gate.threat, gate.metrics.get("accuracy")
    if threat is None or accuracy is None or accuracy.value is None:
        return None
    # A report that came from elsewhere may hold NaN, or an epsilon of nothing.
    if not math.isfinite(accuracy.value) or not 0 < threat.epsilon_share < math.inf:
        return None
    return _Measured(gate=gate, threat=threat, accuracy=accuracy, value=accuracy.value)


def _plot(norm: str, gates: Sequence[_Measured], unattacked: GateResult | None) -> Plot:
    largest = max(measured.threat.epsilon_share for measured in gates)
    clean = _clean_point(unattacked) if unattacked else None
    series = tuple(_series(name, index, group, largest, clean) for index, (name, group) in enumerate(_named(gates)))
    name = norm_text(norm)
    told = [point.words for point in ([clean] if clean else [])]
    told += [point.words for one in series for point in one.points]
    return Plot(
        norm=name,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        x_ticks=_x_ticks(gates, largest),
        y_ticks=tuple(Tick(at=_y(tenth / 10), label=f"{tenth / 10:.1f}") for tenth in range(0, 11, 2)),
        clean=clean,
        series=series,
        words=". ".join(told) + ".",
    )


def _named(gates: Sequence[_Measured]) -> list[tuple[str, list[_Measured]]]:
    """Gates by attack; where threat models of one attack differ in more than ε, the name says in what."""
    groups: dict[tuple[str, str, str, int | None], list[_Measured]] = defaultdict(list)
    for measured in gates:
        threat = measured.threat
        groups[measured.gate.attack or "", threat.goal, threat.knowledge, threat.queries].append(measured)
    named = []
    for (attack, goal, knowledge, queries), group in groups.items():
        alike = [key for key in groups if key[0] == attack]
        varied = [len({key[part] for key in alike}) > 1 for part in range(4)]
        parts = [attack or "no attack"]
        parts += [goal] if varied[1] else []
        parts += [knowledge] if varied[2] else []
        parts += ["no query limit" if queries is None else f"{queries:,} queries"] if varied[3] else []
        named.append((one_line(", ".join(parts)), sorted(group, key=lambda measured: measured.threat.epsilon_share)))
    return named


def _series(name: str, index: int, group: Sequence[_Measured], largest: float, clean: Point | None) -> Series:
    points = tuple(_point(measured, largest) for measured in group)
    corners = [*([clean] if clean else []), *points]
    line = " ".join(f"{'L' if order else 'M'}{corner.x} {corner.y}" for order, corner in enumerate(corners))
    line = next((curve for measured in group if (curve := _curve(measured, largest))), line)
    return Series(name=name, style=index % SERIES_STYLES + 1, line=line, points=points)


def _curve(measured: _Measured, largest: float) -> str:
    """Of a minimum-norm attack: accuracy at every ε up to the largest that is drawn, which falls in steps."""
    threat = measured.threat
    steps = [
        (point.levels * threat.epsilon_share / threat.epsilon_levels, point.accuracy)
        for point in measured.gate.curve
        if threat.epsilon_levels > 0 and math.isfinite(point.levels) and point.levels >= 0
    ]
    drawn = [(share, accuracy) for share, accuracy in steps if share <= largest]
    if not drawn:
        return ""
    path = " ".join(f"H{_x(share, largest)} V{_y(accuracy)}" for share, accuracy in drawn)
    return f"M{_x(0, largest)} {_y(drawn[0][1])} {path} H{_x(largest, largest)}"


def _point(measured: _Measured, largest: float) -> Point:
    return _at(
        _x(measured.threat.epsilon_share, largest),
        measured.gate,
        measured.accuracy,
        f"at ε = {one_line(measured.threat.epsilon)}",
    )


def _clean_point(gate: GateResult) -> Point | None:
    accuracy = gate.metrics["accuracy"]
    if accuracy.value is None or not math.isfinite(accuracy.value):
        return None
    return _at(_x(0, 1), gate, accuracy, "without an attack")


def _at(x: float, gate: GateResult, accuracy: Metric, where: str) -> Point:
    requirement = next((item for item in gate.requirements if item.metric == "accuracy"), None)
    bound = bound_of(requirement) if requirement else None
    shown = measured_value(requirement, accuracy) if requirement else number(accuracy.value)
    required = f", required {one_line(requirement.bound)}" if requirement else ""
    return Point(
        x=x,
        y=_y(accuracy.value or 0.0),
        low=None if accuracy.low is None else _y(accuracy.low),
        high=None if accuracy.high is None else _y(accuracy.high),
        required=_y(bound[1]) if bound else None,
        passed=gate.verdict == "pass",
        words=f"{one_line(gate.id)} {where}: accuracy {shown} ({support(accuracy)}){required}",
    )


def _x_ticks(gates: Iterable[_Measured], largest: float) -> tuple[Tick, ...]:
    """A tick at each ε, with the policy's words for it where there is room; the largest always has them."""
    names: dict[float, str] = {}
    for measured in gates:
        names.setdefault(measured.threat.epsilon_share, one_line(measured.threat.epsilon))
    ticks: list[Tick] = []
    last_labelled = math.inf
    for share in sorted(names, reverse=True):
        x = _x(share, largest)
        room = last_labelled - x >= NEAREST_LABELS and x - _x(0, 1) >= NEAREST_LABELS / 2
        ticks.append(Tick(at=x, label=names[share] if room or not ticks else ""))
        last_labelled = x if room else last_labelled
    return (Tick(at=_x(0, 1), label="0"), *reversed(ticks))


def _x(share: float, largest: float) -> float:
    inner = LEFT + 12
    return round(inner + (WIDTH - RIGHT - 12 - inner) * share / largest, 1)


def _y(value: float) -> float:
    kept = min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
    return round(TOP + (HEIGHT - BOTTOM - TOP) * (1 - kept), 1)
