"""Parts of the samples: each subgroup, and of several findings each one; the worst of them may be required."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from robustcheck.evaluation.intervals import Intervals
from robustcheck.evaluation.metrics import Readings, measure, measure_finding
from robustcheck.policy import Bound
from robustcheck.policy.bounds import OF_SUBGROUPS, WORST_FINDING, WORST_SUBGROUP
from robustcheck.results import Metric, Slice

Measured = Callable[[Intervals], dict[str, Metric]]
"""The metrics of a part of the samples, with these intervals."""

_BETTER_LOW = frozenset({"attack_success"})


def subgroups(
    readings: Readings, columns: Mapping[str, np.ndarray], attacked: np.ndarray | None
) -> dict[tuple[str, str], Measured]:
    """Of each value of each column (N,), by column and value; values in order."""

    def of(members: np.ndarray) -> Measured:
        part, worth = readings.at(members), None if attacked is None else attacked[members]
        return lambda intervals: measure(part, attacked=worth, intervals=intervals)

    return {
        (column, str(value)): of(np.flatnonzero(values == value))
        for column, values in columns.items()
        for value in np.unique(values)
    }


def findings(readings: Readings, labels: Sequence[str]) -> dict[str, Measured]:
    """Of each of several findings, by label."""
    if readings.findings is None:
        return {}
    return {
        label: lambda intervals, number=number: measure_finding(readings, number, intervals)  # type: ignore[misc]
        for number, label in enumerate(labels)
    }


def slices(
    by_subgroup: Mapping[tuple[str, str], Measured], by_finding: Mapping[str, Measured], intervals: Intervals
) -> tuple[Slice, ...]:
    """All of them, for the report."""
    return (
        *(Slice(kind="finding", name=label, metrics=part(intervals)) for label, part in by_finding.items()),
        *(
            Slice(kind="subgroup", column=column, name=value, metrics=_only(part(intervals), OF_SUBGROUPS))
            for (column, value), part in by_subgroup.items()
        ),
    )


def required(
    bounds: Sequence[Bound],
    by_subgroup: Mapping[tuple[str, str], Measured],
    by_finding: Mapping[str, Measured],
    intervals: Intervals,
) -> dict[str, Metric]:
    """What bounds ask of parts of the samples, under the names that they give it."""
    names = {f"{column}={value}": part for (column, value), part in by_subgroup.items()}
    found = dict[str, Metric]()
    for bound in bounds:
        about, plain = bound.of
        if about == WORST_SUBGROUP:
            found[bound.metric] = _worst(names, plain, intervals)
        elif about == WORST_FINDING:
            found[bound.metric] = _worst(by_finding, plain, intervals)
        elif about:
            found[bound.metric] = replace(by_finding[about](intervals)[plain], slice=about)
    return found


def _worst(parts: Mapping[str, Measured], plain: str, intervals: Intervals) -> Metric:
    undefined = Metric(value=None, samples=0, confidence=intervals.confidence)
    each = {name: lambda given, part=part: part(given).get(plain, undefined) for name, part in parts.items()}
    worst = intervals.worst(each, largest=plain in _BETTER_LOW)
    return undefined if worst is None else replace(worst[1], slice=worst[0])


def _only(metrics: dict[str, Metric], names: Sequence[str]) -> dict[str, Metric]:
    return {name: metric for name, metric in metrics.items() if name in names}
