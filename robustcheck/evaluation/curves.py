"""How accuracy falls: with the budget, and with the queries a sample."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Set

import numpy as np

from robustcheck.evaluation.search.ledger import Entry
from robustcheck.evaluation.setting import Setting
from robustcheck.results import CurvePoint, QueryPoint


def budget_curve(setting: Setting, family: Hashable, judged: np.ndarray, attacked: Set[int]) -> tuple[CurvePoint, ...]:
    """Accuracy on these samples (M,) at each distance at which it falls, from the nearest known counterexamples."""
    nearest = setting.memory.ledger.nearest(family)
    distances = {sample: entry.distance for sample, entry in nearest.items() if sample in attacked}
    return tuple(CurvePoint(levels=level, accuracy=accuracy) for level, accuracy in _falls(setting, judged, distances))


def query_curve(setting: Setting, judged: np.ndarray, broken: dict[int, Entry]) -> tuple[QueryPoint, ...]:
    """Accuracy on these samples (M,) at each number of queries at which it falls: what a smaller limit would leave."""
    queries = {sample: entry.queries for sample, entry in broken.items() if entry.queries is not None}
    return tuple(
        QueryPoint(queries=int(count), accuracy=accuracy) for count, accuracy in _falls(setting, judged, queries)
    )


def _falls(setting: Setting, judged: np.ndarray, at: Mapping[int, float]) -> Iterator[tuple[float, float]]:
    """What is left of the clean accuracy, from 0 on, if samples that were read correctly fall at these values."""
    right, samples = setting.decisions == setting.labels, len(judged)
    clean = int(right[judged].sum())
    values, lost = np.unique([float(value) for sample, value in at.items() if right[sample]], return_counts=True)
    left = (clean - np.cumsum(lost)) / samples
    yield 0.0, clean / samples
    yield from zip(values.tolist(), left.tolist(), strict=True)
