"""Before anything is attacked: which samples a requirement is about, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import floor

import numpy as np

from robustcheck.evaluation.metrics.clusters import group_sizes, kish_size
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.readings import Readings, of_each_label
from robustcheck.evaluation.planning.expectation import NO_RATES, Kinds, expected
from robustcheck.evaluation.setting import Setting
from robustcheck.policy import Bound
from robustcheck.policy.bounds import NEEDS_ATTACK, NEEDS_PREVALENCE
from robustcheck.results import Metric
from robustcheck.results.agreed import WORST_FINDING, WORST_SUBGROUP

_SOME = 0.5  # a value: whether a metric is defined does not depend on it


@dataclass(frozen=True, kw_only=True)
class PlannedPart:
    """The samples of a requirement; if it is about several parts, those that say least about their metric."""

    kinds: Kinds
    worth: int  # independent samples that they are worth at least; without groups, their number
    defined: bool  # whether they have the metric
    groups: int | None = None  # that they are in
    name: str | None = None  # None: they are all samples
    among: int = 1  # parts that have the metric, whose intervals have to hold together
    left_out: int = 0  # parts that do not have it

    def expected(self, plain: str, value: float, intervals: Intervals) -> Metric:
        """What is to be expected of as many samples as they are worth; a single one may give anything."""
        whole = expected(plain, value, self.kinds, intervals)
        if not self.defined:
            return replace(whole, value=None, low=None, high=None)
        if self.worth == self.kinds.samples:
            return whole
        few = expected(plain, value, self.kinds.of(self.worth), intervals)
        return replace(whole, low=0.0, high=1.0) if few.value is None else few


def part_of(
    bound: Bound,
    true: float,
    setting: Setting,
    readings: Readings,
    judged: np.ndarray,
    attacked: Sequence[int],
    intervals: Intervals,
) -> PlannedPart:
    """What a bound is about. Of several parts whose metric is defined, the one that lacks the most samples.

    Args:
        bound: of a metric of all samples, or of a part of them.
        true: the value that is supposed.
        setting: says which samples are in which subgroup.
        readings: of all samples (N,).
        judged: numbers (M,) of those that the gate judges.
        attacked: numbers of those that the adversary is after.
        intervals: of one part alone.
    """
    plain = bound.of[1]
    parts = list(_parts(bound, setting, readings, judged, attacked))
    defined = [part for part in parts if part.defined]
    simultaneous = intervals.simultaneous(max(1, len(defined)))

    def uncertain(part: PlannedPart) -> float:
        if plain not in NO_RATES:  # all parts need as many
            return -part.worth
        metric = part.expected(plain, true, simultaneous)
        return 1.0 if metric.low is None or metric.high is None else metric.high - metric.low

    least = max(defined or parts, key=uncertain)
    return replace(least, among=max(1, len(defined)), left_out=len(parts) - len(defined) if defined else 0)


def _parts(
    bound: Bound, setting: Setting, readings: Readings, judged: np.ndarray, attacked: Sequence[int]
) -> Iterator[PlannedPart]:
    """All parts that a bound is about."""
    (about, plain), labels = bound.of, setting.candidate.head.labels
    if about == WORST_SUBGROUP:
        for name, which in setting.members.items():
            if not which[judged].any():
                continue
            part = _part(plain, readings, judged[which[judged]], attacked, readings.positive, of_finding=False)
            yield replace(part, name="=".join(name))
    elif about:
        for number, label in enumerate(labels):
            if about in (WORST_FINDING, label):
                yield replace(_part(plain, readings, judged, attacked, number, of_finding=True), name=label)
    else:
        whole = _part(plain, readings, judged, attacked, readings.positive, of_finding=False)
        # If a label has no sample, there is no mean over the labels; see `Measurement`.
        several = setting.candidate.head.multilabel or len(np.unique(readings.labels[judged])) == len(labels)
        yield replace(whole, defined=whole.defined and (several or plain != "balanced_accuracy"))


def _part(
    plain: str, readings: Readings, numbers: np.ndarray, attacked: Sequence[int], label: int | None, *, of_finding: bool
) -> PlannedPart:
    part = readings.at(numbers)
    has = np.zeros(len(numbers), bool) if label is None else part.has_label(part.labels, label)
    which = {"sensitivity": has, "specificity": ~has}.get(plain, np.ones(len(numbers), bool))
    if plain in NEEDS_ATTACK:
        which = np.isin(numbers, attacked)
    samples, positives = int(which.sum()), int(has.sum())
    class_sizes = (positives, len(numbers) - positives) if of_finding else tuple(map(len, of_each_label(part)[0]))
    kinds = Kinds(samples=samples, positives=positives, class_sizes=class_sizes)
    if plain in NEEDS_PREVALENCE and label is not None:
        hits = part.hits(label)
        clean = (float(hits[0].mean()), float(hits[1].mean())) if all(map(len, hits)) else None
        kinds = replace(kinds, prevalence=readings.prevalence_of(label), clean=clean)
    probabilities = readings.finding_probabilities if of_finding else readings.positive_probabilities
    scored = plain != "auroc" or probabilities is not None
    whole = PlannedPart(
        kinds=kinds,
        worth=samples,
        defined=scored and samples > 0 and expected(plain, _SOME, kinds, Intervals()).value is not None,
    )
    if part.groups is None:
        return whole
    # How much the images of a group agree under attack is not known yet: in the worst case always.
    sizes = group_sizes(part.groups[which])[1]
    return replace(whole, worth=max(1, floor(kish_size(sizes))) if samples else 0, groups=len(sizes))
