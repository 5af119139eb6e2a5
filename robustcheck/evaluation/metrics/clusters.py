"""How many independent samples clustered ones, such as several images of each patient, are worth.

Korn, Graubard (1998, Survey Methodology 24) divide the number of samples by the design effect (the estimate's variance
relative to that of independent samples) and take the exact interval of that many. The design effect is estimated by
linearising the ratio of hits to samples. Their intervals ignore its uncertainty, which is large when clusters are few
or unequal, or hits are rare: they cover as little as .63 where they say .95. Here the number is divided by an upper
confidence bound of the design effect. `benchmarks/COVERAGE.md` has what both cover.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

_DOUBT = 0.1  # the bound of a design effect fails no more often than this


def group_sizes(groups: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Which of G groups, numbered from 0, each sample (N,) belongs to, and how many samples each group (G,) has."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return group.reshape(-1), sizes.astype(np.int64)


def kish_size(sizes: NDArray[np.int64]) -> float:
    """Effective size of samples in groups of these sizes (G,) if all of a group always agree (Kish 1965)."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def effective_size(hits: NDArray[np.integer], sizes: NDArray[np.int64], confidence: float) -> NDArray[np.float64]:
    """Effective size of samples in groups: how many independent ones would estimate the rate with equal variance.

    A group's part in the variance is the square of its residual, corrected for the group's own pull on the rate (HC2:
    MacKinnon, White 1985). The sum of these, divided by that of independent samples, estimates the design effect. It
    has as many degrees of freedom as effective parts (Satterthwaite 1946), less one, and its upper bound is that of a
    variance. If all hit or none, or all groups have the same rate, there is nothing to estimate from: groups then count
    as if they always agreed. That is also the most that is assumed, unless more was observed, as may happen if the rate
    depends on a group's size.

    Args:
        hits: (..., G), from 0 to sizes.
        sizes: (G,), from 1 on.
        confidence: of the interval that is wanted. A higher one needs a surer bound.

    Returns:
        (...), from less than 1 to the number of samples; exactly that if each is a group of its own.
    """
    samples, kish = int(sizes.sum()), kish_size(sizes)
    if kish == samples or len(sizes) == 1:
        return np.full(hits.shape[:-1], kish)
    share = hits.sum(-1, keepdims=True) / samples
    parts = (hits - share * sizes) ** 2 / (1 - sizes / samples)
    total, spread = parts.sum(-1), share[..., 0] * (1 - share[..., 0])
    told = (total > 1e-9) & (spread > 0)
    total, spread, squares = (np.where(told, one, 1.0) for one in (total, spread, (parts**2).sum(-1)))
    design = total / samples / spread
    freedom = np.maximum(total**2 / squares - 1, 0.1)  # with less, the bound is useless already
    doubt = min(_DOUBT, 2 * (1 - confidence))
    bound = design * freedom / (2 * gammaincinv(freedom / 2, doubt))  # chi-square's quantile
    most = samples / kish
    return samples / np.maximum(np.where(told, np.minimum(bound, np.maximum(design, most)), most), 1.0)
