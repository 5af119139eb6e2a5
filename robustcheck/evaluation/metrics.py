"""Metrics of decisions and scores, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.special import betaincinv  # scipy.stats takes a second to import

from robustcheck.models.head import NO_ANSWER
from robustcheck.results import Control, Metric

CONFIDENCE = 0.95


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


def measure(readings: Readings, *, attacked: np.ndarray | None) -> dict[str, Metric]:
    """Every metric that these readings define.

    Args:
        readings: of N samples.
        attacked: which of them (N,) the adversary was after; None without an attack.
    """
    right = readings.after == readings.labels
    metrics = {"accuracy": rate(right), "balanced_accuracy": _balanced(readings)}
    if readings.positive is not None:
        found, spared = readings.hits(readings.positive)
        metrics["sensitivity"], metrics["specificity"] = rate(found), rate(spared)
        if readings.scores is not None:
            metrics["auroc"] = _auroc(readings.scores, readings.positives)
    if attacked is not None:
        # Only a counterexample changes what a sample is read as.
        metrics["attack_success"] = rate((readings.after != readings.before)[attacked])
    return metrics


def with_controls(metrics: dict[str, Metric], controls: Sequence[Control]) -> dict[str, Metric]:
    """Metrics, and what of the attack's success the controls do not explain."""
    attack, known = metrics["attack_success"], [one.success for one in controls if one.success.value is not None]
    if not known:
        return metrics
    control = max(known, key=lambda success: success.value or 0.0)
    excess = None
    if attack.value is not None and control.value is not None:
        own, other = (Fraction(one.successes or 0, one.samples) for one in (attack, control))
        excess = float(own - other)
    return metrics | {"control_success": control, "excess_success": Metric(value=excess, samples=attack.samples)}


def rate(hits: np.ndarray) -> Metric:
    """Share of true values with its Clopper-Pearson interval, by quantiles of the beta distribution.

    Undefined (value None) for no values.
    """
    successes, samples = int(hits.sum()), len(hits)
    if not samples:
        return Metric(value=None, samples=0, successes=0)
    tail, misses = (1 - CONFIDENCE) / 2, samples - successes
    return Metric(
        value=successes / samples,
        low=float(betaincinv(successes, misses + 1, tail)) if successes else 0.0,
        high=float(betaincinv(successes + 1, misses, 1 - tail)) if misses else 1.0,
        successes=successes,
        samples=samples,
    )


def _balanced(readings: Readings) -> Metric:
    """Mean over the labels of the share that is right; of findings, over sensitivities and specificities.

    Findings that all samples have, or none, are left out.
    """
    labels, groups = readings.labels, list[np.ndarray]()
    if readings.findings is None:
        groups = [(readings.after == labels)[labels == label] for label in np.unique(labels)]
    for finding in range(readings.findings or 0):
        both = readings.hits(finding)
        groups += both if all(map(len, both)) else ()
    # Fractions: a value that meets a bound exactly must not miss it by a rounding error.
    shares = [Fraction(int(group.sum()), len(group)) for group in groups]
    return Metric(value=float(sum(shares) / len(shares)) if shares else None, samples=len(labels))


def _auroc(scores: np.ndarray, positive: np.ndarray) -> Metric:
    """Share of (positive, negative) pairs that the score orders rightly, ties counted half (Mann-Whitney)."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return Metric(value=None, samples=len(scores))
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    twice_mean_rank = 2 * np.cumsum(sizes) - (sizes - 1)  # of each group of equal scores; whole numbers
    twice_pairs = int(twice_mean_rank[group][positive].sum()) - positives * (positives + 1)
    return Metric(value=float(Fraction(twice_pairs, 2 * positives * negatives)), samples=len(scores))
