"""What the plots of the report have in common: the sheet, its axis of accuracy, and the mark of a gate on it.

Coordinates are those of an SVG picture. A report from elsewhere may contain NaN, but nothing leaves the sheet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from robustcheck.report.text import bound_of, measured_value, one_line, support
from robustcheck.results import GateResult, Metric

WIDTH, HEIGHT = 640, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 14, 52
INSET = 12  # units between the frame and the first and last place on the horizontal axis
ROOM = 5.6  # units that half a character of a label needs, including the gap to its neighbour
SERIES_STYLES = 6  # colours, dashes and marks that the style sheet and the template know


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """The mark of a gate."""

    x: float
    y: float
    low: float | None  # y of the interval's ends
    high: float | None
    required: float | None  # y of the requirement on accuracy
    passed: bool
    words: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line and the gates on it."""

    name: str
    style: int  # from 1
    line: str  # SVG path
    points: tuple[Point, ...]
    lower: str | None = None  # SVG path of what the line may be at the least, where that is known to be less


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Everything that the template draws; coordinates in units of the view box."""

    heading: str
    axis: str  # what the horizontal one shows
    width: ClassVar[int] = WIDTH
    height: ClassVar[int] = HEIGHT
    left: ClassVar[int] = LEFT
    right: ClassVar[int] = WIDTH - RIGHT
    top: ClassVar[int] = TOP
    bottom: ClassVar[int] = HEIGHT - BOTTOM
    x_ticks: tuple[Tick, ...]
    clean: Point | None = None
    series: tuple[Series, ...]

    @property
    def y_ticks(self) -> tuple[Tick, ...]:
        """Those of accuracy."""
        return tuple(Tick(at=place_y(tenth / 10), label=f"{tenth / 10:.1f}") for tenth in range(0, 11, 2))

    @property
    def words(self) -> str:
        """All of it, for those who cannot see it."""
        points = [*([self.clean] if self.clean else []), *(point for one in self.series for point in one.points)]
        return ". ".join(point.words for point in points) + "."


def style_of(index: int) -> int:
    """The style of a line; if there are more lines than styles, these repeat."""
    return index % SERIES_STYLES + 1


def accuracy_of(gate: GateResult) -> Metric | None:
    """The accuracy of a gate that can be drawn."""
    accuracy = gate.metrics.get("accuracy")
    return accuracy if accuracy and accuracy.value is not None and math.isfinite(accuracy.value) else None


def gate_point(x: float, gate: GateResult, accuracy: Metric, words: str) -> Point:
    """A gate's mark, with its interval and what it requires."""
    requirement = next((item for item in gate.requirements if item.metric == "accuracy"), None)
    bound = bound_of(requirement) if requirement else None
    return Point(
        x=x,
        y=place_y(accuracy.value or 0.0),
        low=None if accuracy.low is None else place_y(accuracy.low),
        high=None if accuracy.high is None else place_y(accuracy.high),
        required=place_y(bound[1]) if bound else None,
        passed=gate.verdict == "pass",
        words=words,
    )


def accuracy_words(gate: GateResult, accuracy: Metric, where: str = "") -> str:
    """`0.610 (305 of 500; 95 % interval 0.566 to 0.653), required >= 0.7`, with `where` after the value."""
    requirement = next((item for item in gate.requirements if item.metric == "accuracy"), None)
    required = f", required {one_line(requirement.bound)}" if requirement else ""
    return f"{measured_value(accuracy, requirement)}{where} ({support(accuracy, requirement)}){required}"


def ticks(places: Iterable[tuple[float, str]]) -> tuple[Tick, ...]:
    """A tick at each place, the most telling first: a label that would run into an earlier one is left out."""
    made: list[Tick] = []
    for at, label in places:
        crowded = any(abs(at - tick.at) < ROOM * (len(label) + len(tick.label)) for tick in made if tick.label)
        made.append(Tick(at=at, label="" if crowded else label))
    return tuple(sorted(made, key=lambda tick: tick.at))


def place_x(share: float) -> float:
    """The x of a share of the horizontal axis."""
    first, last = LEFT + INSET, WIDTH - RIGHT - INSET
    return round(first + (last - first) * share, 1)


def place_y(value: float) -> float:
    """The y of an accuracy."""
    kept = min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
    return round(TOP + (HEIGHT - BOTTOM - TOP) * (1 - kept), 1)
