"""After how many samples of an order an interval may decide: looked up for all numbers of them at once.

Measuring after each sample costs more than the searches of a single step. Rates of the first samples are sums, and the
ends of their intervals are computed together. Numbers that this rules out decide nothing; for those that it leaves, and
for metrics that it does not know, the measurement itself decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.measurement import Measurement
from robustcheck.evaluation.metrics.readings import Readings
from robustcheck.models.head import NO_ANSWER
from robustcheck.policy import Bound
from robustcheck.policy.bounds import LOWER_IS_BETTER
from robustcheck.results.agreed import WORST_SUBGROUP

_MARGIN = 1e-9  # of an end: other operations round it differently, and what may decide must not be left out

_Rate = tuple[np.ndarray, np.ndarray]  # (N,) bool each: which samples it is about, and which of those are hits
_Ends = tuple[np.ndarray, np.ndarray, np.ndarray]  # low, high, and where they are defined


def may_decide(measurement: Measurement, bounds: Sequence[Bound], counts: np.ndarray) -> np.ndarray:
    """Which (C,) of these numbers (C,) of first samples may decide bounds: all are met, or one is not.

    Args:
        measurement: of all samples, in their order.
        bounds: what is required.
        counts: from 1 on.
    """
    every = np.ones(len(counts), bool)
    met, missed = every, ~every
    for bound in bounds:
        ends = _ends_of(measurement, bound, counts)
        if ends is None:
            return every
        low, high, defined = ends
        over, under = low >= bound.value - _MARGIN, high <= bound.value + _MARGIN
        good, bad = (over, under) if bound.at_least else (under, over)
        met, missed = met & defined & good, missed | (defined & bad)
    return met | missed


def _ends_of(measurement: Measurement, bound: Bound, counts: np.ndarray) -> _Ends | None:
    """Ends (C,) of the interval of what a bound is about; None if only the measurement knows."""
    about, plain = bound.of
    judged, attackable = measurement.judged, measurement.attackable
    readings, worst = measurement.readings.at(judged), about == WORST_SUBGROUP
    # The number of parts with a known attack success grows with the samples, and with it the interval's width.
    if readings.finding_count is not None or about not in ("", WORST_SUBGROUP) or (worst and plain in LOWER_IS_BETTER):
        return None
    members = measurement.members.values() if worst else [np.ones(len(measurement.contents), bool)]
    attacked = None if attackable is None else attackable[judged]
    parts = [_rates(plain, readings, which[judged], attacked) for which in members]
    known = [rates for rates in parts if rates is not None]
    if len(known) < len(parts):
        return None
    # A part without any sample that its metric is about, now or to come, does not count.
    known = [rates for rates in known if rates and all(which.any() for which, _ in rates)]
    if not known:
        nothing = np.zeros(len(counts))
        return nothing, nothing, nothing.astype(bool)
    at = measurement.intervals.simultaneous(len(known))
    of_size = [[rates for rates in known if len(rates) == size] for size in sorted(set(map(len, known)))]
    each = [_means(rates, readings.groups, counts, at) for rates in of_size]
    low, high, defined = (np.concatenate(column) for column in zip(*each, strict=True))
    worst_low = np.asarray(np.where(defined, low, 0.0).min(axis=0))
    return worst_low, np.asarray(np.where(defined, high, 1.0).min(axis=0)), np.asarray(defined.any(axis=0))


def _rates(plain: str, readings: Readings, part: np.ndarray, attackable: np.ndarray | None) -> list[_Rate] | None:
    """The rates whose mean a metric of a part of the samples (N,) is; None if it is not such a mean."""
    positive, right = readings.positive, readings.after == readings.labels
    if plain == "accuracy":
        return [(part, right)]
    if plain == "balanced_accuracy":
        return [(part & (readings.labels == label), right) for label in np.unique(readings.labels[part])]
    if plain == "sensitivity" and positive is not None:
        return [(part & readings.positives, readings.after == positive)]
    if plain == "specificity" and positive is not None:
        return [(part & ~readings.positives, (readings.after != positive) & (readings.after != NO_ANSWER))]
    if plain == "attack_success" and attackable is not None:
        return [(part & attackable, readings.after != readings.before)]
    return None


def _means(
    parts: Sequence[Sequence[_Rate]], groups: np.ndarray | None, counts: np.ndarray, intervals: Intervals
) -> _Ends:
    """Ends (P, C) of the intervals of means of equally many rates each, for P parts and numbers (C,) of samples."""
    rates = [rate for part in parts for rate in part]
    samples = np.stack([np.cumsum(which)[counts - 1] for which, _ in rates])
    successes = np.stack([np.cumsum(which & hits)[counts - 1] for which, hits in rates])
    worth = samples
    if groups is not None:
        squares = np.stack([_squares(which, groups)[counts - 1] for which, _ in rates])
        worth = samples**2 / np.maximum(squares, 1)
    # Few of them differ: most samples are of another part.
    kinds, kind = np.unique(np.stack([successes, samples, worth]).reshape(3, -1), axis=1, return_inverse=True)
    low, high = intervals.simultaneous(len(parts[0])).ends(kinds[0], np.maximum(kinds[1], 1), np.maximum(kinds[2], 1))
    shape = (len(parts), len(parts[0]), len(counts))
    low, high = (np.asarray(one[kind.reshape(-1)].reshape(shape).mean(axis=1)) for one in (low, high))
    return low, high, np.asarray((samples > 0).reshape(shape).all(axis=1))


def _squares(which: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums (N,) over groups of the squares of how many of the first samples that `which` marks each has."""
    place = np.flatnonzero(which)
    by_group = np.argsort(groups[place], kind="stable")
    _, starts, sizes = np.unique(groups[place][by_group], return_index=True, return_counts=True)
    earlier = np.zeros(len(which), np.int64)  # samples of the same group before each
    earlier[place[by_group]] = np.arange(len(place)) - np.repeat(starts, sizes)
    return np.cumsum(np.where(which, 2 * earlier + 1, 0))
