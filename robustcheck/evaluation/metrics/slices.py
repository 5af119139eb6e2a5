"""Parts of the samples: each subgroup and, of several findings, each one; a policy may require the worst of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robustcheck.data import Samples
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.readings import Measure, Readings, of_all, of_finding
from robustcheck.policy import Bound
from robustcheck.policy.bounds import LOWER_IS_BETTER, NEEDS_PREVALENCE, OF_FINDINGS, OF_SUBGROUPS
from robustcheck.results import Metric, Slice
from robustcheck.results.agreed import WORST_FINDING, WORST_SUBGROUP


@dataclass(frozen=True, kw_only=True)
class Part:
    """The metrics of some samples, and of the samples `among` which they are the first."""

    metrics: Mapping[str, Measure]
    among: Mapping[str, Measure] | None  # None: no more may follow

    def value(self, plain: str, intervals: Intervals) -> float | None:
        """The value of a metric; None if it is undefined on these samples."""
        return self.metrics[plain](intervals).value if plain in self.metrics else None

    def unseen(self, plain: str, intervals: Intervals) -> bool:
        """Whether a metric is undefined until more samples are looked at."""
        if self.among is None or plain not in self.metrics or self.value(plain, intervals) is not None:
            return False
        return self.among[plain](intervals).value is not None

    def emptied(self, plain: str, intervals: Intervals) -> bool:
        """Whether a predictive value is undefined because no sample is read so under attack, not for lack of samples.

        There are samples with and without the finding, and the attack may have turned each one that was read so.
        """
        if plain not in NEEDS_PREVALENCE or plain not in self.metrics or self.value(plain, intervals) is not None:
            return False
        return all(self.metrics[rate](intervals).samples for rate in ("sensitivity", "specificity"))


Subgroups = Mapping[tuple[str, str], Part]
"""Parts by column and value."""

LabelParts = Mapping[str, Part]
"""Parts by label."""


def members_of(samples: Samples) -> dict[tuple[str, str], np.ndarray]:
    """Which of all samples (N,) are in each subgroup: for each column, the values that occur, in order."""
    columns = {name: np.array(values) for name, values in samples.subgroups.items()}
    return {(column, str(value)): values == value for column, values in columns.items() for value in np.unique(values)}


def parts_by_subgroup(
    readings: Readings,
    members: Mapping[tuple[str, str], np.ndarray],
    attackable: np.ndarray | None,
    judged: np.ndarray,
    among: np.ndarray | None,
) -> Subgroups:
    """The metrics of each subgroup that has samples.

    Args:
        readings: of all samples (N,).
        members: which of them (N,) are in each subgroup.
        attackable: which of them (N,) the adversary was after; None without an attack.
        judged: numbers (M,) of those that were looked at.
        among: numbers of those that may be; None: no others.
    """

    def metrics(own: np.ndarray, every: np.ndarray | None) -> dict[str, Measure]:
        of_part = None if attackable is None else attackable[own]
        return of_all(readings.at(own), of_part, None if every is None else readings.at(every))

    found = dict[tuple[str, str], Part]()
    for name, which in members.items():
        own, every = judged[which[judged]], None if among is None else among[which[among]]
        if len(own if every is None else every):
            found[name] = Part(metrics=metrics(own, every), among=None if every is None else metrics(every, None))
    return found


def parts_by_label(
    readings: Readings, labels: Sequence[str], judged: np.ndarray, among: np.ndarray | None
) -> LabelParts:
    """The metrics of each of several findings; arguments as of `parts_by_subgroup`."""
    if readings.finding_count is None:
        return {}
    own, every = readings.at(judged), None if among is None else readings.at(among)
    return {
        label: Part(metrics=of_finding(own, number), among=None if every is None else of_finding(every, number))
        for number, label in enumerate(labels)
    }


def slices(by_subgroup: Subgroups, by_label: LabelParts, intervals: Intervals) -> tuple[Slice, ...]:
    """All parts, for the report."""

    def measured(part: Part, names: Sequence[str]) -> dict[str, Metric]:
        return {name: one(intervals) for name, one in part.metrics.items() if name in names}

    return (
        *(Slice(kind="finding", name=label, metrics=measured(part, OF_FINDINGS)) for label, part in by_label.items()),
        *(
            Slice(kind="subgroup", column=column, name=value, metrics=measured(part, OF_SUBGROUPS))
            for (column, value), part in by_subgroup.items()
        ),
    )


def required(bound: Bound, by_subgroup: Subgroups, by_label: LabelParts, intervals: Intervals) -> Metric:
    """What a bound asks of parts of the samples."""
    about, plain = bound.of
    if parts := _parts(bound, by_subgroup, by_label):
        return _worst(bound, parts, intervals)
    part = by_label[about].metrics
    return replace(part[plain](intervals), slice=about) if plain in part else _undefined(intervals)


def left_out(bound: Bound, by_subgroup: Subgroups, by_label: LabelParts, intervals: Intervals) -> list[str]:
    """Parts that a bound on the worst leaves out, for lack of samples that its metric is about."""
    plain = bound.of[1]
    return [
        name
        for name, part in _parts(bound, by_subgroup, by_label).items()
        if part.value(plain, intervals) is None and not part.emptied(plain, intervals)
    ]


def _parts(bound: Bound, by_subgroup: Subgroups, by_label: LabelParts) -> Mapping[str, Part]:
    """The parts, by name, that a bound on the worst part compares; none for any other bound."""
    about = bound.of[0]
    if about == WORST_SUBGROUP:
        return {f"{column}={value}": part for (column, value), part in by_subgroup.items()}
    return by_label if about == WORST_FINDING else {}


def _worst(bound: Bound, parts: Mapping[str, Part], intervals: Intervals) -> Metric:
    """The metric of the worst part, if all parts with samples for it are known, or the worst known is bad enough."""
    plain = bound.of[1]
    each = {name: part.metrics[plain] for name, part in parts.items() if plain in part.metrics}
    emptied = [name for name, part in parts.items() if part.emptied(plain, intervals)]
    unseen = [name for name, part in parts.items() if part.unseen(plain, intervals)]
    worst = intervals.worst(each, largest=plain in LOWER_IS_BETTER, unseen=len({*emptied, *unseen}))
    if emptied and (worst is None or bound.met_by(worst[1].value or 0.0)):
        return replace(_undefined(intervals), slice=emptied[0])
    return _undefined(intervals) if worst is None else replace(worst[1], slice=worst[0])


def _undefined(intervals: Intervals) -> Metric:
    return Metric(value=None, samples=0, confidence=intervals.confidence)
