"""Intervals of a rate that hold at every number of samples at once, so that one may look after each and stop.

Robbins' method of mixtures (1970, Annals of Mathematical Statistics 41). After s hits in n samples, the likelihood
mixed over Beta(a, b), divided by that of a rate p,

    M(p) = B(a + s, b + n - s) / B(a, b) / (p^s (1 - p)^(n - s)),

is a martingale of mean 1 in n if p is the true rate. So the probability that it ever reaches 1 / alpha is at most alpha
(Ville 1939), and so is the probability that {p: M(p) < 1 / alpha} misses the truth at any n.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, xlog1py, xlogy

_PRIOR = (1.0, 1.0)  # a, b: uniform, no rate is favoured
_HALVINGS = 60  # of an interval within [0, 1]: to less than the spacing of floats beside 1


def ends(
    successes: ArrayLike, samples: ArrayLike, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the largest rate of the set, to 1e-9; (0, 1) without samples.

    Args:
        successes: (...), from 0 to samples; whole or, for samples that depend on each other, real.
        samples: (...), from 0 on.
        confidence: 1 - alpha, two-sided.

    Returns:
        (...) each, in [0, 1].
    """
    count = np.asarray(samples, float)
    hits = np.minimum(np.asarray(successes, float), count)  # real ones may exceed it by a rounding error
    misses, (a, b) = count - hits, _PRIOR
    share = np.divide(hits, count, out=np.full(hits.shape, 0.5), where=count > 0)
    # The logarithm of the likelihood falls on both sides of the share, so the set is an interval around it. Each edge
    # is kept on the outside: the wider of two that are within 1e-18 of each other.
    best = xlogy(hits, share) + xlog1py(misses, -share)
    least = betaln(a + hits, b + misses) - betaln(a, b) - best + np.log1p(-confidence)

    def edge(outside: float) -> NDArray[np.float64]:
        out, within = np.full(hits.shape, outside), share
        for _ in range(_HALVINGS):
            middle = (out + within) / 2
            held = xlogy(hits, middle) + xlog1py(misses, -middle) - best > least
            out, within = np.where(held, out, middle), np.where(held, middle, within)
        return out

    return np.where(hits > 0, edge(0.0), 0.0), np.where(misses > 0, edge(1.0), 1.0)
