"""Spatially correlated noise for query attacks.

The gradients of networks that see images are smoother than independent pixels, so that a question along a smooth
direction tells more about them (Guo, Frank, Weinberger 2019, arXiv 1809.08758; Li, Xu, Zhang, Yang, Li 2020, arXiv
2005.14137, QEBA-S). Half of the noise stays as it was, so that what is not smooth is found as well, only later: what is
expected of an estimate is C∇f, with C the covariance of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, prod, sqrt

import torch
from torch import nn

from robustcheck.attacks.draws import Draws

_SMOOTH = 0.5  # share of the variance
_LEAST_SIGMA = 0.1  # pixels: of a narrower Gaussian, float32 neighbours have no share


def smooth_normal(draws: Draws, shape: Sequence[int], *, blur: float, at: int | torch.Tensor = 0) -> torch.Tensor:
    """Normal numbers (N, *shape) of mean 0 and variance 1, partly blurred by a Gaussian.

    That part is drawn at knots no farther apart than the Gaussian is wide, which in large images are few.

    Args:
        draws: of N rows.
        shape: (…, H, W).
        blur: standard deviation of the Gaussian, as a share of the shorter side; 0: all pixels are independent.
        at: which draw of the row this is, one for all rows, or (N,).
    """
    *leading, height, width = shape
    sigma = blur * min(height, width)
    if sigma < _LEAST_SIGMA:
        return draws.normal(shape, at)
    down = _weights(height, sigma, draws.keys.device)
    across = down if width == height else _weights(width, sigma, draws.keys.device)
    grid = down.shape[1], across.shape[1]
    drawn = draws.normal((*leading, height * width + prod(grid)), at)
    pixels, knots = drawn[..., : height * width].unflatten(-1, (height, width)), drawn[..., height * width :]
    # Of rounded factors all sums are exact in float64, whatever their order, which depends on the batch.
    knots = _rounded(knots.double(), bits=16).unflatten(-1, grid)
    blurred: torch.Tensor = (down @ knots @ across.T).float()
    return blurred.mul_(sqrt(_SMOOTH)).add_(sqrt(1 - _SMOOTH) * pixels)


@lru_cache(maxsize=16)
def _weights(side: int, sigma: float, device: torch.device) -> torch.Tensor:
    """How much each pixel of a side (S,) takes of each knot (K,): rows of length 1, which keep the variance."""
    count = min(side, ceil(side / sigma))
    pixels = torch.arange(side, dtype=torch.float64, device=device) + 0.5
    knots = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) * (side / count)
    weights = torch.exp(-((pixels[:, None] - knots) ** 2) / (2 * sigma**2))
    return _rounded(nn.functional.normalize(weights, dim=1), bits=12)


def _rounded(values: torch.Tensor, *, bits: int) -> torch.Tensor:
    """Values rounded to so many binary places, in place."""
    return values.mul_(2.0**bits).round_().mul_(2.0**-bits)
