"""Accuracy against the size of the budget.

Each norm has its own plot, because the same ε means different things in L∞ and L2. A line joins the gates of one attack
with the same parameters.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from robustcheck.report.canvas import (
    Plot,
    Point,
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
from robustcheck.report.text import one_line, parameters_text
from robustcheck.report.threat import conditions_text, norm_text
from robustcheck.results import AuditReport, Budget, GateResult, Metric, Threat


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A gate that can be drawn."""

    gate: GateResult
    threat: Threat
    ball: Budget
    accuracy: Metric


def plots(report: AuditReport) -> list[Plot]:
    """One plot for each norm, of the gates that measured accuracy under an attack."""
    drawable = [measured for gate in report.gates if (measured := _drawable(gate))]
    norms: dict[str, list[_Measured]] = defaultdict(list)
    for measured in drawable:
        norms[measured.ball.norm].append(measured)
    unattacked = next((gate for gate in report.gates if gate.attack is None and "accuracy" in gate.metrics), None)
    return [_plot(norm, gates, unattacked) for norm, gates in norms.items()]


def _drawable(gate: GateResult) -> _Measured | None:
    threat, accuracy = gate.threat, accuracy_of(gate)
    # A report from elsewhere may have an epsilon of nothing.
    if threat is None or accuracy is None or threat.ball is None or not 0 < threat.ball.share < math.inf:
        return None
    return _Measured(gate=gate, threat=threat, ball=threat.ball, accuracy=accuracy)


def _plot(norm: str, gates: Sequence[_Measured], unattacked: GateResult | None) -> Plot:
    largest = max(measured.ball.share for measured in gates)
    clean = _clean_point(unattacked) if unattacked else None
    name = norm_text(norm)
    return Plot(
        heading=f"Accuracy against ε ({name})",
        axis=f"ε ({name}), share of the pixel range",
        x_ticks=_x_ticks(gates, largest),
        series=tuple(_series(name, index, group, largest, clean) for index, (name, group) in enumerate(_named(gates))),
        clean=clean,
    )


def _named(gates: Sequence[_Measured]) -> Iterator[tuple[str, list[_Measured]]]:
    """Gates by attack; if those of one attack differ in more than ε, the name says in what."""
    groups: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[_Measured]] = defaultdict(list)
    for measured in gates:
        gate = measured.gate
        parameters = tuple(parameters_text({name: value}) for name, value in gate.parameters.items())
        groups[gate.attack or "no attack", _adversary(measured), parameters].append(measured)
    for (attack, adversary, parameters), group in groups.items():
        alike = [key for key in groups if key[0] == attack]
        others = zip(*(key[1] for key in alike), strict=True)
        varied = [part for part, among in zip(adversary, others, strict=True) if len(set(among)) > 1]
        varied += [part for part in parameters if not all(part in key[2] for key in alike)]
        name = ", ".join(part for part in [attack, *varied] if part)
        yield one_line(name), sorted(group, key=lambda measured: measured.ball.share)


def _adversary(measured: _Measured) -> tuple[str, ...]:
    """The adversary, except for ε, in the words by which two lines can be told apart."""
    threat = measured.threat
    followed = (one.path + (f" ({one.trained})" if one.trained else "") for one in measured.gate.surrogates)
    return (
        threat.goal,
        threat.wanted[1] or "",
        threat.knowledge,
        "no query limit" if threat.queries is None else f"{threat.queries:,} queries",
        f"{threat.oracle} oracle" if threat.oracle else "",
        f"top {threat.top_k}" if threat.top_k else "",
        " and ".join(followed),
        conditions_text(threat),
    )


def _series(name: str, index: int, group: Sequence[_Measured], largest: float, clean: Point | None) -> Series:
    points = tuple(_point(measured, largest) for measured in group)
    corners = [*([clean] if clean else []), *points]
    line = " ".join(f"{'L' if order else 'M'}{corner.x} {corner.y}" for order, corner in enumerate(corners))
    line = " ".join(dict.fromkeys(filter(None, (_curve(measured, largest) for measured in group)))) or line
    return Series(name=name, style=style_of(index), line=line, points=points)


def _curve(measured: _Measured, largest: float) -> str:
    """The path of a minimum-norm attack's accuracy, which falls in steps, up to the largest ε that is drawn."""
    ball = measured.ball
    steps = [
        (point.levels * ball.share / ball.levels, point.accuracy)
        for point in measured.gate.curve
        if ball.levels > 0 and math.isfinite(point.levels) and point.levels >= 0
    ]
    drawn = [(share, accuracy) for share, accuracy in steps if share <= largest]
    if not drawn:
        return ""
    path = " ".join(f"H{place_x(share / largest)} V{place_y(accuracy)}" for share, accuracy in drawn)
    return f"M{place_x(0)} {place_y(drawn[0][1])} {path} H{place_x(1)}"


def _point(measured: _Measured, largest: float) -> Point:
    gate, ball, accuracy = measured.gate, measured.ball, measured.accuracy
    words = f"{one_line(gate.id)} at ε = {one_line(ball.epsilon)}: accuracy {accuracy_words(gate, accuracy)}"
    return gate_point(place_x(ball.share / largest), gate, accuracy, words)


def _clean_point(gate: GateResult) -> Point | None:
    accuracy = accuracy_of(gate)
    if accuracy is None:
        return None
    words = f"{one_line(gate.id)} without an attack: accuracy {accuracy_words(gate, accuracy)}"
    return gate_point(place_x(0), gate, accuracy, words)


def _x_ticks(gates: Iterable[_Measured], largest: float) -> tuple[Tick, ...]:
    """A tick at each ε, with the policy's words for it if there is room: the largest and 0 come first."""
    names: dict[float, str] = {}
    for measured in gates:
        names.setdefault(measured.ball.share, one_line(measured.ball.epsilon))
    places = [(place_x(share / largest), names[share]) for share in sorted(names, reverse=True)]
    return ticks([(place_x(0), "0"), *places])
