"""Metrics of decisions and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robustcheck.data.multilabel import has_finding
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.models.head import NO_ANSWER
from robustcheck.results import Control, Metric

Measure = Callable[[Intervals], Metric]
"""A metric of some samples, computed with these intervals when it is called."""


@dataclass(frozen=True, kw_only=True)
class Readings:
    """How N samples were read: indexes into the policy's labels, or sums of 2**k over the findings k that are there."""

    labels: np.ndarray  # (N,) true
    before: np.ndarray  # (N,) decided on the clean image
    after: np.ndarray  # (N,) decided under the attack
    positive_probabilities: np.ndarray | None  # (N,) of the positive label, under the attack
    positive: int | None
    finding_probabilities: np.ndarray | None = None  # (N, K) the same of each of several findings
    finding_count: int | None  # how many labels may be present together; None: each sample has one
    groups: np.ndarray | None = None  # (N,) which samples belong together; None: each is its own
    prevalence: tuple[float, ...] | None = None  # of the positive label, or of each finding, where it will be used

    @property
    def positives(self) -> np.ndarray:
        """Which samples (N,) have the positive label."""
        return np.zeros(len(self.labels), bool) if self.positive is None else self.has_label(self.labels, self.positive)

    def has_label(self, readings: np.ndarray, label: int) -> np.ndarray:
        """Which readings (N,) have a label. No answer has none."""
        if self.finding_count is None:
            return np.asarray(readings == label)
        return np.asarray((readings != NO_ANSWER) & has_finding(readings, label))

    def at(self, samples: np.ndarray) -> Readings:
        """The readings of some samples (M,), by number."""

        def some(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[samples]

        return replace(
            self,
            labels=self.labels[samples],
            before=self.before[samples],
            after=self.after[samples],
            positive_probabilities=some(self.positive_probabilities),
            finding_probabilities=some(self.finding_probabilities),
            groups=some(self.groups),
        )

    def prevalence_of(self, label: int) -> float | None:
        """The prevalence of a finding, or of the positive label; None if none is used."""
        if self.prevalence is None:
            return None
        return self.prevalence[label if self.finding_count is not None and len(self.prevalence) > 1 else 0]

    def hits(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Which samples with a label are read as having it, and which of the others are not."""
        has_it, read = self.has_label(self.labels, label), self.has_label(self.after, label)
        answered = self.after != NO_ANSWER  # no answer does not count as a negative reading
        return read[has_it], (~read & answered)[~has_it]

    def groups_of_hits(self, label: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The groups of the samples that `hits` are about."""
        has_it = self.has_label(self.labels, label)
        return None if self.groups is None else (self.groups[has_it], self.groups[~has_it])


def of_all(readings: Readings, attackable: np.ndarray | None, among: Readings | None = None) -> dict[str, Measure]:
    """Every metric that these readings define.

    Args:
        readings: of N samples.
        attackable: which of them (N,) the adversary was after; None without an attack.
        among: readings of the samples of which these are the first, if more may follow: a mean over labels is
            undefined until each of their labels was seen.
    """
    found: dict[str, Measure] = {
        "accuracy": lambda intervals: intervals.rate(readings.after == readings.labels, readings.groups),
        "balanced_accuracy": lambda intervals: _balanced(readings, among or readings, intervals),
    }
    if (positive := readings.positive) is not None:
        found |= _of_label(readings, positive)
        if (probabilities := readings.positive_probabilities) is not None:
            found["auroc"] = lambda intervals: intervals.auroc(probabilities, readings.positives, readings.groups)
    if attackable is not None:
        # Only a counterexample changes what a sample is read as.
        turned = (readings.after != readings.before)[attackable]
        groups = None if readings.groups is None else readings.groups[attackable]
        found["attack_success"] = lambda intervals: intervals.rate(turned, groups)
    return found


def of_finding(readings: Readings, label: int) -> dict[str, Measure]:
    """The metrics that are defined for one of several findings."""
    found = _of_label(readings, label)
    hits, groups = readings.hits(label), readings.groups_of_hits(label)
    if (probabilities := readings.finding_probabilities) is not None:
        has_it = readings.has_label(readings.labels, label)
        # No answer has no score: as wrong as can be.
        scores = np.where(readings.after == NO_ANSWER, np.where(has_it, 0.0, 1.0), probabilities[:, label])
        found["auroc"] = lambda intervals: intervals.auroc(scores, has_it, readings.groups)
    both = all(map(len, hits))
    found["balanced_accuracy"] = lambda intervals: intervals.mean(
        hits if both else (), samples=len(readings.labels), groups=groups if both and groups else None
    )
    return found


def of_controls(success: Measure, controls: Sequence[Control]) -> dict[str, Measure]:
    """What the controls turn, and how much of the attack's success they do not explain."""
    known = {one.name: one.success for one in controls if one.success.value is not None}
    if not known:
        return {}
    return {
        "control_success": lambda intervals: intervals.largest(known),
        "excess_success": lambda intervals: intervals.difference(success(intervals), *known.values()),
    }


def _of_label(readings: Readings, label: int) -> dict[str, Measure]:
    """Sensitivity and specificity, and the predictive values that they give at a prevalence."""
    found, spared = readings.hits(label)
    groups = readings.groups_of_hits(label) or (None, None)

    def sensitivity(intervals: Intervals) -> Metric:
        return intervals.rate(found, groups[0])

    def specificity(intervals: Intervals) -> Metric:
        return intervals.rate(spared, groups[1])

    metrics: dict[str, Measure] = {"sensitivity": sensitivity, "specificity": specificity}
    if (prevalence := readings.prevalence_of(label)) is not None:
        # A group may have samples of both rates, which their numbers alone do not show.
        number = None if readings.groups is None else len(np.unique(readings.groups))

        def of_both(metric: Metric) -> Metric:
            return replace(metric, groups=number)

        metrics["ppv"] = lambda at: of_both(at.ppv(sensitivity(at), specificity(at), prevalence))
        metrics["npv"] = lambda at: of_both(at.npv(sensitivity(at), specificity(at), prevalence))
    return metrics


def _balanced(readings: Readings, among: Readings, intervals: Intervals) -> Metric:
    shares, groups = of_each_label(readings, among)
    if not all(map(len, shares)):
        shares, groups = [], []
    known = None if readings.groups is None else groups
    return intervals.mean(shares, samples=len(readings.labels), groups=known)


def of_each_label(readings: Readings, among: Readings | None = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each label, which of its samples are right, and their groups; for a finding, also of those without it.

    Labels that are not `among` the samples (default: these) are left out, as are findings that all of those have, or
    none.
    """
    every_label = readings.labels if among is None else among.labels
    labels, shares, groups = readings.labels, list[np.ndarray](), list[np.ndarray]()
    every = np.arange(len(labels)) if readings.groups is None else readings.groups
    if readings.finding_count is None:
        members = [labels == label for label in np.unique(every_label)]
        return [(readings.after == labels)[one] for one in members], [every[one] for one in members]
    for finding in range(readings.finding_count):
        has_it, there = readings.has_label(labels, finding), readings.has_label(every_label, finding)
        if there.any() and not there.all():
            shares += readings.hits(finding)
            groups += [every[has_it], every[~has_it]]
    return shares, groups
