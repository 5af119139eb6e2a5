"""Parts of the samples: each subgroup, and of several findings each one; the worst of them may be required."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from robustcheck.evaluation.intervals import Intervals
from robustcheck.evaluation.metrics import Measure, Readings, of_all, of_finding
from robustcheck.policy import Bound
from robustcheck.policy.bounds import OF_SUBGROUPS, WORST_FINDING, WORST_SUBGROUP
from robustcheck.results import Metric, Slice

Subgroups = Mapping[tuple[str, str], Mapping[str, Measure]]
"""By column and value: the metrics of the samples that have it."""

Findings = Mapping[str, Mapping[str, Measure]]
"""By label."""

_BETTER_LOW = frozenset({"attack_success"})


def subgroups(readings: Readings, columns: Mapping[str, np.ndarray], attacked: np.ndarray | None) -> Subgroups:
    """Of each value of each column (N,), values in order."""
    parts = {
        (column, str(value)): np.flatnonzero(values == value)
        for column, values in columns.items()
        for value in np.unique(values)
    }
    return {
        name: of_all(readings.at(members), None if attacked is None else attacked[members])
        for name, members in parts.items()
    }


def findings(readings: Readings, labels: Sequence[str]) -> Findings:
    """Of each of several findings."""
    if readings.findings is None:
        return {}
    return {label: of_finding(readings, number) for number, label in enumerate(labels)}


def slices(by_subgroup: Subgroups, by_finding: Findings, intervals: Intervals) -> tuple[Slice, ...]:
    """All of them, for the report."""

    def measured(part: Mapping[str, Measure]) -> dict[str, Metric]:
        return {name: one(intervals) for name, one in part.items()}

    return (
        *(Slice(kind="finding", name=label, metrics=measured(part)) for label, part in by_finding.items()),
        *(
            Slice(
                kind="subgroup",
                column=column,
                name=value,
                metrics=measured({name: one for name, one in part.items() if name in OF_SUBGROUPS}),
            )
            for (column, value), part in by_subgroup.items()
        ),
    )


def required(bound: Bound, by_subgroup: Subgroups, by_finding: Findings, intervals: Intervals) -> Metric:
    """What a bound asks of parts of the samples."""
    about, plain = bound.of
    if about == WORST_SUBGROUP:
        return _worst({f"{column}={value}": part for (column, value), part in by_subgroup.items()}, plain, intervals)
    if about == WORST_FINDING:
        return _worst(by_finding, plain, intervals)
    return replace(by_finding[about][plain](intervals), slice=about)


def _worst(parts: Mapping[str, Mapping[str, Measure]], plain: str, intervals: Intervals) -> Metric:
    each = {name: part[plain] for name, part in parts.items() if plain in part}
    worst = intervals.worst(each, largest=plain in _BETTER_LOW)
    if worst is None:
        return Metric(value=None, samples=0, confidence=intervals.confidence)
    return replace(worst[1], slice=worst[0])
