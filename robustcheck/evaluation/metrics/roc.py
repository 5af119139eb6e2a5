"""The area under an ROC curve, and how it varies."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class RocArea:
    """Share of the pairs of P positives and M negatives that a score orders correctly, ties counted half."""

    value: Fraction
    of_positives: NDArray[np.float64]  # (P,) for each, the share of the negatives that it is ordered correctly against
    of_negatives: NDArray[np.float64]  # (M,)

    @classmethod
    def under(cls, scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> RocArea:
        """The area of scores (N,), where `positive` (N,) bool marks the positives; both kinds have to occur."""
        positives, negatives = int(positive.sum()), int((~positive).sum())
        ranks = _twice_mean_ranks(scores)
        twice_pairs = int(ranks[positive].sum()) - positives * (positives + 1)
        return cls(
            value=Fraction(twice_pairs, 2 * positives * negatives),
            of_positives=(ranks[positive] - _twice_mean_ranks(scores[positive])) / (2 * negatives),
            of_negatives=1 - (ranks[~positive] - _twice_mean_ranks(scores[~positive])) / (2 * positives),
        )

    @classmethod
    def steadiest(cls, value: float, positive: NDArray[np.bool_]) -> RocArea:
        """An area of this value with the least variance that scores of so many samples (N,) may have."""
        positives, negatives = int(positive.sum()), int((~positive).sum())
        return cls(
            value=Fraction(value).limit_denominator(2 * positives * negatives),
            of_positives=np.full(positives, value),
            of_negatives=np.full(negatives, value),
        )

    def variance(self) -> float:
        """The larger of DeLong's (1988) and Hanley, McNeil's (1982); there are two of each kind."""
        parts = (self.of_positives, self.of_negatives)
        delong = sum(float(shares.var(ddof=1)) / len(shares) for shares in parts)
        return max(delong, _exponential(float(self.value), *map(len, parts)))

    def variance_by(self, positives: NDArray[np.intp], negatives: NDArray[np.intp], groups: int) -> float:
        """The variance if samples come in groups: Obuchowski's (1997, Biometrics 53, equation 3) in place of DeLong's.

        Args:
            positives: (P,) which group each positive is in, numbered from 0.
            negatives: (M,) the same for the negatives.
            groups: how many there are; at least two with positives, and two with negatives.
        """
        kinds = ((self.of_positives, positives), (self.of_negatives, negatives))
        sums, counts = [], []
        for shares, group in kinds:
            sums.append(np.bincount(group, shares - float(self.value), groups) / len(shares))
            counts.append(len(np.unique(group)))
        own = sum(float(part @ part) * count / (count - 1) for part, count in zip(sums, counts, strict=True))
        both = 2 * float(sums[0] @ sums[1]) * groups / (groups - 1)
        return max(own + both, _exponential(float(self.value), len(positives), len(negatives)))


def _exponential(area: float, positives: int, negatives: int) -> float:
    """Variance of an area if scores are distributed exponentially (Hanley, McNeil 1982), in Newcombe's form."""
    others = (positives + negatives) / 2 - 1
    alike = 1 + others * (1 - area) / (2 - area) + others * area / (1 + area)
    return area * (1 - area) * alike / (positives * negatives)


def _twice_mean_ranks(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Twice the rank (N,) of each score, from 1 on; equal ones share their mean, so it is a whole number."""
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray((2 * np.cumsum(sizes) - (sizes - 1))[group])
