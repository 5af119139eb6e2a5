"""Metrics of decisions and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustcheck.evaluation.intervals import Intervals
from robustcheck.models.head import NO_ANSWER
from robustcheck.results import Control, Metric


@dataclass(frozen=True, kw_only=True)
class Readings:
    """How N samples were read: indexes into the policy's labels, or sums of 2**k over the findings k that are there."""

    labels: np.ndarray  # (N,) true
    before: np.ndarray  # (N,) decided on the clean image
    after: np.ndarray  # (N,) decided under the attack
    scores: np.ndarray | None  # (N,) probability of the positive label under the attack
    positive: int | None
    findings: int | None = None  # how many labels may be present together; None: each sample has one

    @property
    def positives(self) -> np.ndarray:
        """Which samples (N,) have the positive label."""
        return np.zeros(len(self.labels), bool) if self.positive is None else self.has(self.labels, self.positive)

    def has(self, readings: np.ndarray, label: int) -> np.ndarray:
        """Which readings (N,) have a label. No answer has none."""
        if self.findings is None:
            return np.asarray(readings == label)
        return np.asarray((readings != NO_ANSWER) & (readings >> label & 1 == 1))

    def at(self, samples: np.ndarray) -> Readings:
        """Those of some samples (M,), by number."""
        return Readings(
            labels=self.labels[samples],
            before=self.before[samples],
            after=self.after[samples],
            scores=None if self.scores is None else self.scores[samples],
            positive=self.positive,
            findings=self.findings,
        )

    def hits(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the samples that have a label, and of those that have it not, which are read so."""
        has, read = self.has(self.labels, label), self.has(self.after, label)
        answered = self.after != NO_ANSWER  # no answer is no negative read
        return read[has], (~read & answered)[~has]


def measure(readings: Readings, *, attacked: np.ndarray | None, intervals: Intervals) -> dict[str, Metric]:
    """Every metric that these readings define.

    Args:
        readings: of N samples.
        attacked: which of them (N,) the adversary was after; None without an attack.
        intervals: that they have.
    """
    right = readings.after == readings.labels
    metrics = {
        "accuracy": intervals.rate(right),
        "balanced_accuracy": intervals.mean(of_each_label(readings), samples=len(right)),
    }
    if readings.positive is not None:
        found, spared = readings.hits(readings.positive)
        metrics["sensitivity"], metrics["specificity"] = intervals.rate(found), intervals.rate(spared)
        if readings.scores is not None:
            metrics["auroc"] = intervals.auroc(readings.scores, readings.positives)
    if attacked is not None:
        # Only a counterexample changes what a sample is read as.
        metrics["attack_success"] = intervals.rate((readings.after != readings.before)[attacked])
    return metrics


def with_controls(metrics: dict[str, Metric], controls: Sequence[Control], intervals: Intervals) -> dict[str, Metric]:
    """Metrics, and what of the attack's success the controls do not explain."""
    known = [one.success for one in controls if one.success.value is not None]
    if not known:
        return metrics
    control = max(known, key=lambda success: success.value or 0.0)
    excess = intervals.difference(metrics["attack_success"], control)
    return metrics | {"control_success": control, "excess_success": excess}


def of_each_label(readings: Readings) -> list[np.ndarray]:
    """Which samples are right, a label each; of findings, those that have one and those that have it not.

    Findings that all samples have, or none, are left out.
    """
    labels, groups = readings.labels, list[np.ndarray]()
    if readings.findings is None:
        return [(readings.after == labels)[labels == label] for label in np.unique(labels)]
    for finding in range(readings.findings):
        both = readings.hits(finding)
        groups += both if all(map(len, both)) else ()
    return groups
