"""Confidence intervals of what gates measure.

Rates have Clopper-Pearson's exact interval, or Wilson's on request. What is made of several rates (their mean, or a
difference) has the interval that follows from theirs, each at a level so high that together they fail no more often
than they may (Bonferroni). What the area under an ROC curve has is said at `auroc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import sqrt
from typing import Literal

import numpy as np
from scipy.special import betaincinv, expit, logit, ndtri, stdtrit  # scipy.stats takes a second to import

from robustcheck.results import Metric

Kind = Literal["clopper-pearson", "wilson"]


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Two-sided intervals at a level of confidence."""

    confidence: float = 0.95
    kind: Kind = "clopper-pearson"

    def rate(self, hits: np.ndarray) -> Metric:
        """Share of true values (N,); undefined (value None) for none."""
        successes, samples = int(hits.sum()), len(hits)
        if not samples:
            return Metric(value=None, samples=0, successes=0, confidence=self.confidence)
        low, high = self._ends(successes, samples)
        return Metric(
            value=successes / samples,
            low=low,
            high=high,
            successes=successes,
            samples=samples,
            confidence=self.confidence,
        )

    def mean(self, groups: Sequence[np.ndarray], *, samples: int) -> Metric:
        """Mean of the shares of true values of several groups; undefined without any."""
        if not groups:
            return Metric(value=None, samples=samples, confidence=self.confidence)
        # Fractions: a value that meets a bound exactly must not miss it by a rounding error.
        shares = [Fraction(int(group.sum()), len(group)) for group in groups]
        each = [self._together(len(groups))._ends(int(group.sum()), len(group)) for group in groups]
        return Metric(
            value=float(sum(shares) / len(shares)),
            low=sum(low for low, _ in each) / len(each),
            high=sum(high for _, high in each) / len(each),
            samples=samples,
            confidence=self.confidence,
        )

    def difference(self, rate: Metric, less: Metric) -> Metric:
        """One rate less another; undefined if one of them is."""
        if not rate.samples or not less.samples:
            return Metric(value=None, samples=rate.samples, confidence=self.confidence)
        counts = [(one.successes or 0, one.samples) for one in (rate, less)]
        own, other = (Fraction(*count) for count in counts)
        (low, high), (least, most) = (self._together(2)._ends(*count) for count in counts)
        return Metric(
            value=float(own - other),
            low=low - most,
            high=high - least,
            samples=rate.samples,
            confidence=self.confidence,
        )

    def auroc(self, scores: np.ndarray, positive: np.ndarray) -> Metric:
        """Share of (positive, negative) pairs that the score orders rightly, ties counted half (Mann-Whitney).

        The interval is one on the scale of the logit, with Student's quantile for the smaller class and the larger of
        two variances: DeLong, DeLong, Clarke-Pearson's (1988, Biometrics 44), which covers less than it says where
        samples are few and the area is near 1, and Hanley, McNeil's (1982, Radiology 143). Where all pairs are ordered
        alike it is the exact one of as many pairs as share no sample.

        Args:
            scores: (N,).
            positive: (N,) bool.
        """
        positives, negatives = int(positive.sum()), int((~positive).sum())
        undefined = Metric(value=None, samples=len(scores), confidence=self.confidence)
        if not positives or not negatives:
            return undefined
        ranks = _twice_mean_ranks(scores)
        twice_pairs = int(ranks[positive].sum()) - positives * (positives + 1)
        area = Fraction(twice_pairs, 2 * positives * negatives)
        # Of each sample, the share of those of the other kind that it is ordered rightly against.
        of_positives = (ranks[positive] - _twice_mean_ranks(scores[positive])) / (2 * negatives)
        of_negatives = 1 - (ranks[~positive] - _twice_mean_ranks(scores[~positive])) / (2 * positives)
        low, high = self._around(float(area), of_positives, of_negatives)
        return replace(undefined, value=float(area), low=low, high=high)

    def _around(self, area: float, *shares: np.ndarray) -> tuple[float, float]:
        fewest = min(map(len, shares))
        if not 0 < area < 1:
            certain = ((1 - self.confidence) / 2) ** (1 / fewest)
            return (certain if area == 1 else 0.0), (1 - certain if area == 0 else 1.0)
        if fewest == 1:
            return 0.0, 1.0
        variance = max(
            sum(float(share.var(ddof=1)) / len(share) for share in shares), _variance(area, *map(len, shares))
        )
        reach = float(stdtrit(fewest - 1, (1 + self.confidence) / 2)) * sqrt(variance) / (area * (1 - area))
        middle = float(logit(area))
        return float(expit(middle - reach)), float(expit(middle + reach))

    def ends(self, successes: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Low and high ends (N,) of rates' intervals: so many successes (N,), of so many samples (N,), 1 or more."""
        tail, misses = (1 - self.confidence) / 2, samples - successes
        if self.kind == "wilson":
            z = float(ndtri(1 - tail))
            share, unit = successes / samples, z * z / samples
            middle = (share + unit / 2) / (1 + unit)
            reach = z * np.sqrt(share * (1 - share) / samples + unit / samples / 4) / (1 + unit)
            low, high = np.maximum(0.0, middle - reach), np.minimum(1.0, middle + reach)
        else:  # where there are no successes, or no misses, an end is set below
            low = betaincinv(np.maximum(successes, 1), misses + 1, tail)
            high = betaincinv(successes + 1, np.maximum(misses, 1), 1 - tail)
        return np.where(successes > 0, low, 0.0), np.where(misses > 0, high, 1.0)

    def _ends(self, successes: int, samples: int) -> tuple[float, float]:
        low, high = self.ends(np.array(successes), np.array(samples))
        return float(low), float(high)

    def _together(self, count: int) -> Intervals:
        """Intervals that all hold together with this confidence."""
        return replace(self, confidence=1 - (1 - self.confidence) / count)


def _variance(area: float, positives: int, negatives: int) -> float:
    """Of an ROC area if scores are distributed exponentially (Hanley, McNeil 1982), in Newcombe's form."""
    others = (positives + negatives) / 2 - 1
    alike = 1 + others * (1 - area) / (2 - area) + others * area / (1 + area)
    return area * (1 - area) * alike / (positives * negatives)


def _twice_mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Twice the rank (N,) of each score, from 1 on; equal ones share their mean, so it is a whole number."""
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray((2 * np.cumsum(sizes) - (sizes - 1))[group])
