"""Parts of the samples: each subgroup, and of several findings each one; the worst of them may be required."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robustcheck.data import Samples
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.readings import Measure, Readings, of_all, of_finding
from robustcheck.policy import Bound
from robustcheck.policy.bounds import OF_FINDINGS, OF_SUBGROUPS, WORST_FINDING, WORST_SUBGROUP
from robustcheck.results import Metric, Slice


@dataclass(frozen=True, kw_only=True)
class Part:
    """The metrics of some samples, and of all samples `among` which they are the first, if more may follow."""

    metrics: Mapping[str, Measure]
    among: Mapping[str, Measure]

    def unseen(self, plain: str, intervals: Intervals) -> bool:
        """Whether a metric is undefined until more samples are looked at."""
        if plain not in self.metrics or self.metrics is self.among:
            return False
        return self.metrics[plain](intervals).value is None and self.among[plain](intervals).value is not None


Subgroups = Mapping[tuple[str, str], Part]
"""By column and value."""

Findings = Mapping[str, Part]
"""By label."""

_BETTER_LOW = frozenset({"attack_success"})


def columns_of(samples: Samples) -> dict[str, np.ndarray]:
    """Values (N,) of each column of subgroups."""
    return {name: np.array(values) for name, values in samples.subgroups.items()}


def subgroups_of(columns: Mapping[str, np.ndarray], among: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Which of all samples (N,) are of each subgroup: of each column, the values that some samples have, in order.

    Args:
        columns: values (N,) of all samples.
        among: numbers of these samples.
    """
    return {
        (column, str(value)): values == value
        for column, values in columns.items()
        for value in np.unique(values[among])
    }


def subgroups(
    readings: Readings,
    columns: Mapping[str, np.ndarray],
    attacked: np.ndarray | None,
    judged: np.ndarray,
    among: np.ndarray,
) -> Subgroups:
    """Of each of `subgroups_of`.

    Args:
        readings: of all samples (N,).
        columns: their values (N,).
        attacked: which of them (N,) the adversary was after; None without an attack.
        judged: numbers (M,) of those that were looked at.
        among: numbers of those that may be.
    """

    def metrics(members: np.ndarray, every: np.ndarray) -> dict[str, Measure]:
        worth = None if attacked is None else attacked[members]
        return of_all(readings.at(members), worth, readings.at(every))

    found = dict[tuple[str, str], Part]()
    for name, which in subgroups_of(columns, among).items():
        own, every = (numbers[which[numbers]] for numbers in (judged, among))
        whole = metrics(every, every)
        found[name] = Part(metrics=whole if judged is among else metrics(own, every), among=whole)
    return found


def findings(readings: Readings, labels: Sequence[str], judged: np.ndarray, among: np.ndarray) -> Findings:
    """Of each of several findings; arguments as of `subgroups`."""
    if readings.findings is None:
        return {}
    found = dict[str, Part]()
    for number, label in enumerate(labels):
        whole = of_finding(readings.at(among), number)
        own = whole if judged is among else of_finding(readings.at(judged), number)
        found[label] = Part(metrics=own, among=whole)
    return found


def slices(by_subgroup: Subgroups, by_finding: Findings, intervals: Intervals) -> tuple[Slice, ...]:
    """All of them, for the report."""

    def measured(part: Part, names: Sequence[str]) -> dict[str, Metric]:
        return {name: one(intervals) for name, one in part.metrics.items() if name in names}

    return (
        *(Slice(kind="finding", name=label, metrics=measured(part, OF_FINDINGS)) for label, part in by_finding.items()),
        *(
            Slice(
                kind="subgroup",
                column=column,
                name=value,
                metrics=measured(part, OF_SUBGROUPS),
            )
            for (column, value), part in by_subgroup.items()
        ),
    )


def required(bound: Bound, by_subgroup: Subgroups, by_finding: Findings, intervals: Intervals) -> Metric:
    """What a bound asks of parts of the samples."""
    about, plain = bound.of
    if parts := _parts(bound, by_subgroup, by_finding):
        return _worst(parts, plain, intervals)
    part = by_finding[about].metrics
    return replace(part[plain](intervals), slice=about) if plain in part else _undefined(intervals)


def left_out(bound: Bound, by_subgroup: Subgroups, by_finding: Findings, intervals: Intervals) -> list[str]:
    """Parts that the worst of a bound is not about, since its metric is undefined on their samples."""
    plain = bound.of[1]
    return [
        name
        for name, part in _parts(bound, by_subgroup, by_finding).items()
        if plain not in part.metrics or part.metrics[plain](intervals).value is None
    ]


def _parts(bound: Bound, by_subgroup: Subgroups, by_finding: Findings) -> Mapping[str, Part]:
    """Those that a bound is about the worst of, by name; none for another bound."""
    about = bound.of[0]
    if about == WORST_SUBGROUP:
        return {f"{column}={value}": part for (column, value), part in by_subgroup.items()}
    return by_finding if about == WORST_FINDING else {}


def _worst(parts: Mapping[str, Part], plain: str, intervals: Intervals) -> Metric:
    each = {name: part.metrics[plain] for name, part in parts.items() if plain in part.metrics}
    unseen = sum(part.unseen(plain, intervals) for part in parts.values())
    worst = intervals.worst(each, largest=plain in _BETTER_LOW, unseen=unseen)
    return _undefined(intervals) if worst is None else replace(worst[1], slice=worst[0])


def _undefined(intervals: Intervals) -> Metric:
    return Metric(value=None, samples=0, confidence=intervals.confidence)
