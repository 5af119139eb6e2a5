"""How many samples a requirement on a rate needs for its rule to say yes with a given power.

With the supposed true rate, the hits of n samples are Bin(n, rate), and the rule says yes from some number of hits on.
So the power is exactly a tail of that distribution. It is not monotone in n but a saw-tooth, because hits are whole: it
rises with n, and falls whenever the rule wants one hit more. What is needed is therefore the smallest n from which on
the power is never too small again, not the first tooth that reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy.special import betainc, ndtri

from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.verdicts import Rule
from robustcheck.policy import Bound

MAX_SAMPLES = 10_000_000  # samples that are asked about
_DIGITS = 12  # to which sums of decimals are right
_FINER = 1.02  # ratio of the numbers of samples that are tried first
_AROUND = 4  # hits between what the normal law and the interval want, and a little more
_TEETH = 32  # divided by the margin: 16 times how far apart the last two failures should be; see `needed`


def supposed(bound: Bound, margin: float) -> float:
    """The true value that a plan supposes: a margin from the bound, on its good side, and between 0 and 1."""
    true = bound.value + (margin if bound.at_least else -margin)
    return min(1.0, max(0.0, round(true, _DIGITS)))


def never_met(bound: Bound, rule: Rule) -> bool:
    """Whether no number of samples is enough: no finite sample's interval lies wholly at the end of the range."""
    return rule == "confident" and bound.value == (1.0 if bound.at_least else 0.0)


@dataclass(frozen=True, kw_only=True)
class Power:
    """The power of a requirement on a rate, as a function of the number of samples."""

    bound: Bound
    true: float  # the supposed rate
    rule: Rule
    intervals: Intervals

    def at(self, samples: np.ndarray) -> np.ndarray:
        """How likely (N,) it is that so many samples (N,), 1 or more, meet the bound."""
        wanted = self.needed_hits(samples)
        rate = self.true if self.bound.at_least else 1 - self.true
        # P(Bin(n, p) >= k) is the regularised incomplete beta function Iₚ(k, n - k + 1), for k of 1 to n.
        inside = np.clip(wanted, 1, samples)
        tail = betainc(inside, samples - inside + 1, rate)
        return np.where(wanted <= 0, 1.0, np.where(wanted > samples, 0.0, tail))

    def needed_hits(self, samples: np.ndarray) -> np.ndarray:
        """How many good samples (N,), of so many (N,), make the rule say yes; one more than that if it never does.

        Hits are good if the bound is a lower one, misses if it is an upper one.
        """
        too_few, enough = self._bracket(samples)
        while (enough - too_few > 1).any():
            middle = np.maximum((too_few + enough) // 2, 0)
            met = self._met(middle, samples)
            enough, too_few = np.where(met, middle, enough), np.where(met, too_few, middle)
        return enough

    def _bracket(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (N,) of good samples that are too few, and enough; near each other if the normal law is close."""
        share = self.bound.value if self.bound.at_least else 1 - self.bound.value
        quantile = float(ndtri((1 + self.intervals.confidence) / 2)) if self.rule == "confident" else 0.0
        guess = samples * share + quantile * np.sqrt(samples * share * (1 - share))
        low = np.floor(guess - _AROUND - quantile**2).astype(np.int64)
        high = np.ceil(guess + _AROUND + quantile**2).astype(np.int64)
        low_fails = (low >= 0) & ~self._met(np.clip(low, 0, samples), samples)
        high_passes = (high <= samples) & self._met(np.clip(high, 0, samples), samples)
        return np.where(low_fails, low, -1), np.where(high_passes, high, samples + 1)

    def _met(self, good: np.ndarray, samples: np.ndarray) -> np.ndarray:
        hits = good if self.bound.at_least else samples - good
        low = high = hits / samples
        if self.rule == "confident":
            low, high = self.intervals.ends(hits, samples)
        return np.asarray(low >= self.bound.value if self.bound.at_least else high <= self.bound.value)

    def needed(self, power: float) -> int | None:
        """The smallest number of samples from which on the power is at least this; None if more than `MAX_SAMPLES`.

        Numbers 2 % apart are tried up to that; then every one after the last failure, until none has failed for as long
        as a tooth can matter. A tooth is as high as one number of hits is likely, φ(z) / √(n p (1 - p)), and a
        sample more raises the power by φ(z) margin / 2 √(n p (1 - p)): after 2 / margin of them it is above the tooth.
        """
        if never_met(self.bound, self.rule):
            return None
        tried = np.unique(np.ceil(_FINER ** np.arange(ceil(np.log(MAX_SAMPLES) / np.log(_FINER)) + 1)).astype(np.int64))
        failing = np.flatnonzero(self.at(tried) < power)
        if len(failing) and tried[failing[-1]] >= MAX_SAMPLES:
            return None
        last = int(tried[failing[-1]]) if len(failing) else 0
        # At 0 and 1 all samples are alike, and there are no teeth.
        behind = ceil(_TEETH / abs(self.true - self.bound.value)) if 0 < self.true < 1 else 0
        while True:
            block = np.arange(last + 1, last + 2 + max(behind, ceil(last * (_FINER - 1)) + 1))
            failing = np.flatnonzero(self.at(block) < power)
            if not len(failing):
                return last + 1
            last = int(block[failing[-1]])
