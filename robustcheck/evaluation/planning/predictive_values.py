"""Predictive values before anything is attacked: which sensitivity and specificity are supposed, and how sure they are.

A predictive value does not say which rates it is made of. Equal rates are supposed. If these would be worse than
chance, because nearly any rates give more than is supposed, the rate that matters less stays as on clean images.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import sqrt

import numpy as np

from robustcheck.evaluation.metrics.intervals import Intervals, bayes
from robustcheck.results import Metric

_CHANCE = 0.5  # of equal rates


@dataclass(frozen=True, kw_only=True)
class Predictive:
    """`ppv` or `npv` at a prevalence, supposed to have this value."""

    metric: str
    value: float
    prevalence: float
    clean: tuple[float, float] | None = None  # sensitivity and specificity, unattacked

    @property
    def _prior(self) -> float:
        """The prevalence of what is predicted."""
        return self.prevalence if self.metric == "ppv" else 1 - self.prevalence

    @property
    def _equal(self) -> float:
        """What both rates are if they are equal: r prior / (r prior + (1 - r) (1 - prior)) = value."""
        value, prior = self.value, self._prior
        return value * (1 - prior) / (value * (1 - prior) + (1 - value) * prior) if 0 < value < 1 else value

    @property
    def _rates(self) -> tuple[float, float]:
        """The share found of what is predicted, and the share spared of the rest."""
        equal, value, prior = self._equal, self.value, self._prior
        found = 0.0 if self.clean is None else self.clean[0 if self.metric == "ppv" else 1]
        if equal >= _CHANCE or not value or not found:
            return equal, equal
        odds = value * (1 - prior) / ((1 - value) * prior)  # found / (1 - spared), which is less than 1 here
        return (found, 1 - found / odds) if found <= odds else (odds, 0.0)

    @property
    def rates(self) -> tuple[float, float]:
        """Sensitivity and specificity."""
        found, spared = self._rates
        return (found, spared) if self.metric == "ppv" else (spared, found)

    @property
    def note(self) -> str:
        """What is supposed, for people."""
        sensitivity, specificity = self.rates
        if sensitivity == specificity:
            return f"assumed: sensitivity and specificity {sensitivity:.3f}"
        better = "anything better than chance has more"
        return f"assumed: sensitivity {sensitivity:.3f} and specificity {specificity:.3f}; {better}"

    def expected(self, positives: int, negatives: int, intervals: Intervals) -> Metric:
        """The metric of so many samples; hits need not be whole, because rounded ones would give another value."""
        undefined = Metric(value=None, samples=positives + negatives, confidence=intervals.confidence)
        if not positives or not negatives:
            return undefined
        sizes = np.array([positives, negatives])
        lows, highs = intervals.simultaneous(2).ends(np.array(self.rates) * sizes, sizes)
        low, high = self._of(lows), self._of(highs)
        return Metric(
            value=self.value,
            samples=positives + negatives,
            low=0.0 if low is None else float(low),
            high=1.0 if high is None else float(high),
            confidence=intervals.confidence,
        )

    def _of(self, rates: np.ndarray) -> Fraction | None:
        """The predictive value from sensitivity and specificity (2,)."""
        sensitivity, specificity = (Fraction(float(rate)) for rate in rates)
        found, spared = (sensitivity, specificity) if self.metric == "ppv" else (specificity, sensitivity)
        return bayes(found, spared, Fraction(self._prior))

    def error(self, positives: int, negatives: int) -> float:
        """Standard error of log (value / (1 - value)), which is log found - log (1 - spared) and a number."""
        found, spared = self._rates
        if not 0 < self.value < 1:
            return 0.0
        own, others = (positives, negatives) if self.metric == "ppv" else (negatives, positives)
        return sqrt((1 - found) / found / own + spared / (1 - spared) / others)
