"""Metrics of decisions and scores, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.special import betaincinv  # scipy.stats takes a second to import

from robustcheck.results import Metric

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Readings:
    """How N samples were read; indexes into the policy's labels."""

    labels: np.ndarray  # (N,) true
    before: np.ndarray  # (N,) decided on the clean image
    after: np.ndarray  # (N,) decided under the attack
    scores: np.ndarray | None  # (N,) probability of the positive label under the attack
    positive: int | None


def measure(readings: Readings, *, attacked: np.ndarray | None) -> dict[str, Metric]:
    """Every metric that these readings define.

    Args:
        readings: of N samples.
        attacked: which of them (N,) the adversary was after; None without an attack.
    """
    right = readings.after == readings.labels
    metrics = {"accuracy": rate(right), "balanced_accuracy": _balanced(right, readings.labels)}
    if readings.positive is not None:
        is_positive = readings.labels == readings.positive
        read_positive = readings.after == readings.positive
        metrics["sensitivity"] = rate(read_positive[is_positive])
        # No answer is no negative read.
        metrics["specificity"] = rate((~read_positive & (readings.after >= 0))[~is_positive])
        if readings.scores is not None:
            metrics["auroc"] = _auroc(readings.scores, is_positive)
    if attacked is not None:
        metrics["attack_success"] = rate(~right[attacked])
    return metrics


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


def _balanced(right: np.ndarray, labels: np.ndarray) -> Metric:
    # Fractions: a value that meets a bound exactly must not miss it by a rounding error.
    shares = [Fraction(int(right[labels == label].sum()), int((labels == label).sum())) for label in np.unique(labels)]
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
