"""How accuracy falls: with the budget, and with the queries a sample."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

import numpy as np

from robustcheck.evaluation.ledger import Entry
from robustcheck.evaluation.setting import Setting
from robustcheck.results import CurvePoint, QueryPoint


def budget_curve(setting: Setting, family: Hashable, attacked: set[int]) -> tuple[CurvePoint, ...]:
    """Accuracy at each distance at which it falls, from the nearest counterexamples that are known."""
    nearest = setting.ledger.nearest(family)
    distances = {sample: entry.distance for sample, entry in nearest.items() if sample in attacked}
    return tuple(CurvePoint(levels=level, accuracy=accuracy) for level, accuracy in _falls(setting, distances))


def query_curve(setting: Setting, broken: dict[int, Entry]) -> tuple[QueryPoint, ...]:
    """Accuracy at each number of queries a sample at which it falls: what a smaller limit would have left."""
    queries = {sample: entry.queries for sample, entry in broken.items() if entry.queries is not None}
    return tuple(QueryPoint(queries=int(count), accuracy=accuracy) for count, accuracy in _falls(setting, queries))


def _falls(setting: Setting, at: Mapping[int, float]) -> Iterator[tuple[float, float]]:
    """What is left of the clean accuracy from 0 on, when samples that were read rightly fall at these values."""
    right, samples = setting.decisions == setting.labels, len(setting.labels)
    values, lost = np.unique([float(value) for sample, value in at.items() if right[sample]], return_counts=True)
    left = (int(right.sum()) - np.cumsum(lost)) / samples
    yield 0.0, int(right.sum()) / samples
    yield from zip(values.tolist(), left.tolist(), strict=True)
