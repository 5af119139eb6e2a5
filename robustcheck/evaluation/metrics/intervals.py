"""Confidence intervals of what gates measure.

Rates have Clopper-Pearson's exact interval, Wilson's on request, or one that holds at every number of samples
(`anytime`). What is made of several rates (their mean, a difference, a predictive value, the worst of them) has the
interval that follows from theirs, each at a level so high that together they fail no more often than they may
(Bonferroni); they may depend on each other. Samples may come in groups, such as several images of each patient: a rate
then has the interval of as many independent samples as they are worth (`clusters`). For areas under ROC curves see
`auroc`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from math import sqrt
from typing import Literal

import numpy as np
from scipy.special import betaincinv, expit, logit, ndtri, stdtrit  # scipy.stats takes a second to import

from robustcheck.evaluation.metrics import anytime
from robustcheck.evaluation.metrics.clusters import effective_size, group_sizes, kish_size
from robustcheck.evaluation.metrics.roc import RocArea
from robustcheck.results import Metric

_FEW, _NEAR = 4, 0.15  # areas near 1: pairs amiss, of as many as the smaller class has samples, and their share

IntervalKind = Literal["clopper-pearson", "wilson", "anytime"]


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Two-sided intervals at a level of confidence.

    Groups, where they are given, say which samples belong together: an int array (N,) beside theirs, equal numbers for
    those of one group. Without them each sample is on its own.
    """

    confidence: float = 0.95
    kind: IntervalKind = "clopper-pearson"
    area: float | None = None  # in place of each that is measured: one that varies as little as it may

    def rate(self, hits: np.ndarray, groups: np.ndarray | None = None) -> Metric:
        """Share of true values (N,); undefined (value None) for none."""
        successes, samples = int(hits.sum()), len(hits)
        number = None if groups is None else len(np.unique(groups))
        metric = Metric(value=None, samples=samples, successes=successes, confidence=self.confidence, groups=number)
        if not samples:
            return metric
        worth = self._worth(hits, groups)
        low, high = self._ends(successes, samples, worth)
        return replace(metric, value=successes / samples, low=low, high=high, effective=worth)

    def mean(self, rates: Sequence[np.ndarray], *, samples: int, groups: Sequence[np.ndarray] | None = None) -> Metric:
        """Mean of several shares of true values; undefined without any.

        Args:
            rates: the values of each share.
            samples: how many there are in all; one may be in several shares.
            groups: those of the values of each share. One may be in several shares.
        """
        known: Sequence[np.ndarray | None] = [None] * len(rates) if groups is None else groups
        number = None if groups is None else len(np.unique(np.concatenate([*groups, np.zeros(0, int)])))
        undefined = Metric(value=None, samples=samples, confidence=self.confidence, groups=number)
        if not rates:
            return undefined
        # Fractions: a value that meets a bound exactly must not miss it by a rounding error.
        shares = [Fraction(int(hits.sum()), len(hits)) for hits in rates]
        simultaneous = self.simultaneous(len(rates))
        each = [
            simultaneous._ends(int(hits.sum()), len(hits), simultaneous._worth(hits, group))
            for hits, group in zip(rates, known, strict=True)
        ]
        return replace(
            undefined,
            value=float(sum(shares) / len(shares)),
            low=sum(low for low, _ in each) / len(each),
            high=sum(high for _, high in each) / len(each),
        )

    def difference(self, rate: Metric, *less: Metric) -> Metric:
        """One rate less the largest of others; undefined if one of them is."""
        undefined = Metric(value=None, samples=rate.samples, confidence=self.confidence, groups=rate.groups)
        if not rate.samples or not all(one.samples for one in less):
            return undefined
        (low, high), *ends = self._all(rate, *less)
        return replace(
            undefined,
            value=float(_share(rate) - max(map(_share, less))),
            low=low - max(most for _, most in ends),
            high=high - max(least for least, _ in ends),
        )

    def largest(self, rates: Mapping[str, Metric]) -> Metric:
        """The largest of rates that were measured already, one or several, all of them defined; as `worst`."""

        def again(rate: Metric, at: Intervals) -> Metric:
            low, high = at._ends(rate.successes or 0, rate.samples, rate.effective)
            return replace(rate, low=low, high=high, confidence=at.confidence)

        found = self.worst({name: partial(again, rate) for name, rate in rates.items()}, largest=True)
        assert found is not None
        return found[1]

    def ppv(self, sensitivity: Metric, specificity: Metric, prevalence: float) -> Metric:
        """Share of those with the finding among those in whom it is seen, where a share `prevalence` has it (Bayes).

        It grows with both rates, so it lies between what their least and their largest values give. Undefined where
        one of them is, or where it is seen in nobody.
        """
        return self._predictive(sensitivity, specificity, Fraction(str(prevalence)))

    def npv(self, sensitivity: Metric, specificity: Metric, prevalence: float) -> Metric:
        """Share of those without the finding among those in whom it is not seen; otherwise as `ppv`."""
        return self._predictive(specificity, sensitivity, 1 - Fraction(str(prevalence)))

    def _predictive(self, found: Metric, spared: Metric, prior: Fraction) -> Metric:
        undefined = Metric(value=None, samples=found.samples + spared.samples, confidence=self.confidence)
        if not found.samples or not spared.samples:
            return undefined
        value = bayes(_share(found), _share(spared), prior)
        if value is None:
            return undefined
        lows, highs = zip(*self._all(found, spared), strict=True)
        low, high = (bayes(Fraction(own), Fraction(other), prior) for own, other in (lows, highs))
        return replace(
            undefined,
            value=float(value),
            low=0.0 if low is None else float(low),
            high=1.0 if high is None else float(high),
        )

    def worst(
        self, slices: Mapping[str, Callable[[Intervals], Metric]], *, largest: bool = False, unseen: int = 0
    ) -> tuple[str, Metric] | None:
        """The lowest of the metrics of several slices, such as the accuracies of subgroups, and the slice's name.

        Its counts are the slice's, its interval is that of the lowest of all: the intervals of the slices hold
        together, so the lowest true value lies between the lowest of their lower and the lowest of their upper ends,
        whichever slice it is. The first of equal ones is named. Slices whose metric is undefined are left out; None if
        all are.

        Args:
            slices: each slice's metric, measured with the intervals that it is given.
            largest: the largest instead, of metrics that have to stay low.
            unseen: how many further slices nothing is known about, as no sample of theirs was looked at yet.
        """
        defined = {name: measure for name, measure in slices.items() if measure(self).value is not None}
        if not defined:
            return None
        each = {name: measure(self.simultaneous(len(defined) + unseen)) for name, measure in defined.items()}
        extreme = max if largest else min
        name = extreme(each, key=lambda one: each[one].value or 0.0)
        lows = [metric.low for metric in each.values() if metric.low is not None]
        highs = [metric.high for metric in each.values() if metric.high is not None]
        known = len(lows) == len(highs) == len(each)
        if unseen:
            lows, highs = [*lows, 0.0], [*highs, 1.0]
        return name, replace(
            each[name],
            low=extreme(lows) if known else None,
            high=extreme(highs) if known else None,
            confidence=self.confidence,
        )

    def auroc(self, scores: np.ndarray, positive: np.ndarray, groups: np.ndarray | None = None) -> Metric:
        """Share of (positive, negative) pairs that the score orders rightly, ties counted half (Mann-Whitney).

        The interval is one on the scale of the logit, with Student's quantile for the smaller class and the larger of
        two variances: DeLong, DeLong, Clarke-Pearson's (1988, Biometrics 44), which covers less than it says where
        samples are few and the area is near 1, and Hanley, McNeil's (1982, Radiology 143). In groups, the first
        variance is Obuchowski's (1997, Biometrics 53), and a class is as large as it is if all of its samples in a
        group always agree.

        Near 1, and near 0, that scale stretches without end, and no variance can be told from what hardly varies. An
        area A varies no more than the mean of as many independent pairs as the smaller class has samples, A (1 - A) by
        their number (Birnbaum, Klose 1957, Annals of Mathematical Statistics 28). So Clopper, Pearson's interval of
        that many has a say: where less than one of them is amiss, the far end is the nearer of both; where less than
        four are, and the area is near 1, the near end is the nearer to 1. Without groups, no far end is nearer than
        where all pairs are ordered alike. There is no interval that holds at every number of samples (`anytime`).

        Scores, positives (bool) and groups are (N,) each.
        """
        number = None if groups is None else len(np.unique(groups))
        undefined = Metric(value=None, samples=len(scores), confidence=self.confidence, groups=number)
        if positive.all() or not positive.any():
            return undefined
        area = RocArea.under(scores, positive) if self.area is None else RocArea.steadiest(self.area, positive)
        defined = replace(undefined, value=float(area.value))
        if self.kind == "anytime":
            return defined
        low, high = self._around(area, positive, groups)
        return replace(defined, low=low, high=high)

    def _around(self, area: RocArea, positive: np.ndarray, groups: np.ndarray | None) -> tuple[float, float]:
        value = float(area.value)
        if groups is None:
            smaller: float = min(int(positive.sum()), int((~positive).sum()))
        else:
            group, sizes = group_sizes(groups)
            own, others = group[positive], group[~positive]
            smaller = min(kish_size(group_sizes(of)[1]) for of in (own, others))
        exact = replace(self, kind="clopper-pearson").ends(np.array(value * smaller), np.array(smaller))
        least, most = map(float, exact)
        if not 0 < value < 1:
            return least, most
        if smaller == 1:
            return 0.0, 1.0
        variance = area.variance() if groups is None else area.variance_by(own, others, len(sizes))
        # Of one huge group beside small ones there is less than one degree: the interval is then nearly all there is.
        reach = float(stdtrit(smaller - 1, (1 + self.confidence) / 2)) * sqrt(variance) / (value * (1 - value))
        middle = float(logit(value))
        low, high = float(expit(middle - reach)), float(expit(middle + reach))
        # In groups, how much they agree is in the variance: they may be worth more than if all of theirs always did.
        nearest = ((1 - self.confidence) / 2) ** (1 / smaller) if groups is None else 1.0
        left = min(area.value, 1 - area.value)  # exact: what is amiss of the one label is as much of the other
        amiss = left * Fraction(smaller)
        hardly, few = amiss < 1, amiss < _FEW and left < _NEAR
        if value < 0.5:
            far, near = min(high, most) if hardly else high, min(low, least) if few else low
            return near, max(far, 1 - nearest)
        far, near = max(low, least) if hardly else low, max(high, most) if few else high
        return min(far, nearest), near

    def _worth(self, hits: np.ndarray, groups: np.ndarray | None) -> float | None:
        """How many independent samples these (N,) are worth; None: as many as they are."""
        if groups is None:
            return None
        group, sizes = group_sizes(groups)
        if self.kind == "anytime":
            return kish_size(sizes)  # what is estimated anew after each sample is wrong sooner or later
        of_groups = np.bincount(group, hits, len(sizes)).astype(np.int64)
        return float(effective_size(of_groups, sizes, self.confidence))

    def _all(self, *rates: Metric) -> tuple[tuple[float, float], ...]:
        """Ends of the intervals of rates that are defined, which hold together."""
        simultaneous = self.simultaneous(len(rates))
        return tuple(simultaneous._ends(one.successes or 0, one.samples, one.effective) for one in rates)

    def ends(
        self, successes: np.ndarray, samples: np.ndarray, worth: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Low and high ends (N,) of rates' intervals.

        Args:
            successes: (N,) of all samples.
            samples: (N,) from 1 on.
            worth: (N,) how many independent ones they are worth; None: as many as they are.
        """
        tail, size = (1 - self.confidence) / 2, samples if worth is None else worth
        hits, misses = successes * (size / samples), (samples - successes) * (size / samples)
        if self.kind == "anytime":
            return anytime.ends(hits, size, self.confidence)
        if self.kind == "wilson":
            z = float(ndtri(1 - tail))
            share, unit = successes / samples, z * z / size
            middle = (share + unit / 2) / (1 + unit)
            reach = z * np.sqrt(share * (1 - share) / size + unit / size / 4) / (1 + unit)
            low, high = np.maximum(0.0, middle - reach), np.minimum(1.0, middle + reach)
        else:  # where there are no successes, or no misses, an end is set below
            low = betaincinv(np.where(hits > 0, hits, 1), misses + 1, tail)
            high = betaincinv(hits + 1, np.where(misses > 0, misses, 1), 1 - tail)
        return np.where(hits > 0, low, 0.0), np.where(misses > 0, high, 1.0)

    @lru_cache(maxsize=4096)  # noqa: B019 (frozen, and small: gates that stop early ask for the same ones again)
    def _ends(self, successes: int, samples: int, worth: float | None = None) -> tuple[float, float]:
        size = None if worth is None else np.array(worth)
        low, high = self.ends(np.array(successes), np.array(samples), size)
        return float(low), float(high)

    def simultaneous(self, count: int) -> Intervals:
        """Intervals that all hold together with this confidence."""
        return replace(self, confidence=1 - (1 - self.confidence) / count)


def _share(rate: Metric) -> Fraction:
    """A rate that is defined, exactly."""
    return Fraction(rate.successes or 0, rate.samples)


def bayes(found: Fraction, spared: Fraction, prior: Fraction) -> Fraction | None:
    """Share of alarms that are true: of the share `prior` that has it, `found` alarm; of the rest, all but `spared`."""
    true, false = found * prior, (1 - spared) * (1 - prior)
    return true / (true + false) if true + false else None
