"""Tables in a gate's section of the page: parts of the samples, controls, stickers' grid, surrogates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from robustcheck.report.text import confidence_of, interval, number, support_count
from robustcheck.results import GateResult, Metric, Slice, Surrogate
from robustcheck.results.agreed import WORST_FINDING, WORST_SUBGROUP
from robustcheck.words import plural

MeasuredCell = tuple[str, str, str]
"""Value, interval, count."""


@dataclass(frozen=True, kw_only=True)
class GridView:
    """Distances by angles: for each cell the attack's share, and that without it."""

    angles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]  # a distance, and its cells


@dataclass(frozen=True, kw_only=True)
class SlicesView:
    """Parts of the samples: a row for each, and a column for each metric."""

    title: str
    note: str
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[MeasuredCell, ...]], ...]  # a part, its size, and a cell for each metric


def surrogate_row(surrogate: Surrogate) -> tuple[Surrogate, tuple[MeasuredCell, ...]]:
    """What stood in for the candidate, and its metrics."""
    metrics = (surrogate.accuracy, surrogate.agreement, surrogate.agreement_attacked, surrogate.turned)
    return surrogate, tuple(_measured(metric) for metric in metrics)


def _measured(metric: Metric | None) -> MeasuredCell:
    return ("", "", "") if metric is None else (number(metric.value), interval(metric), support_count(metric))


def control_rows(gate: GateResult) -> Iterator[tuple[str, str, str, str]]:
    """The attack, then its controls: name, share of the attacked samples that it turned, its interval and its count."""
    success = gate.metrics.get("attack_success")
    if not gate.controls or success is None:
        return
    attack = "the patch" if gate.threat and gate.threat.capability == "patch" else "the attack"
    for name, metric in [(attack, success), *((one.name, one.success) for one in gate.controls)]:
        yield name, number(metric.value), interval(metric) or "not computed", support_count(metric)


def grid_view(gate: GateResult) -> GridView | None:
    """A row for each distance, and a column for each angle."""
    if not gate.cells:
        return None
    cells = {(cell.distance, cell.angle): cell for cell in gate.cells}
    distances, angles = (list(dict.fromkeys(axis)) for axis in zip(*cells, strict=True))

    def shares(distance: float, angle: float) -> tuple[str, str]:
        cell = cells.get((distance, angle))
        return (number(cell.success.value), number(cell.control.value)) if cell else ("", "")

    return GridView(
        angles=tuple(f"{angle:g}°" for angle in angles),
        rows=tuple((f"{distance:g}", tuple(shares(distance, angle) for angle in angles)) for distance in distances),
    )


def slices_views(gate: GateResult) -> Iterator[SlicesView]:
    """Findings, then subgroups column by column."""
    kinds = dict.fromkeys((part.kind, part.column) for part in gate.slices)
    for kind, column in kinds:
        parts = [part for part in gate.slices if (part.kind, part.column) == (kind, column)]
        names = tuple(dict.fromkeys(name for part in parts for name in part.metrics))
        rows = ((part.name, _size(part), tuple(_cell(part.metrics.get(name)) for name in names)) for part in parts)
        title, worst, several = f"By {column}", WORST_SUBGROUP, "all subgroups of all columns"
        if kind == "finding":
            title, worst, several = "By finding", WORST_FINDING, "all findings"
        note = (
            f"Each of these is a {confidence_of(gate)} interval. The interval of {worst}, if it is required, holds for "
            f"{several} together and is wider."
        )
        yield SlicesView(title=title, note=note, metrics=names, rows=tuple(rows))


def _size(part: Slice) -> str:
    return plural(max((metric.samples for metric in part.metrics.values()), default=0), "sample")


def _cell(metric: Metric | None) -> MeasuredCell:
    """A metric's value, interval and count; one that is no rate is of as many samples as the row says."""
    if metric is None:
        return "", "", ""
    return number(metric.value), interval(metric), "" if metric.successes is None else support_count(metric)
