"""Noise of which neighbouring pixels go together, for adversaries who ask where the loss rises.

Gradients of networks that see images are mostly smooth: as many questions along smooth directions tell more about them
(Guo, Frank, Weinberger 2019, arXiv 1809.08758; Li, Xu, Zhang, Yang, Li 2020, arXiv 2005.14137, QEBA-S). Estimates
from such noise lean that way, too: of noise of covariance Σ, what is expected of them is Σ∇f.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch

from robustcheck.attacks.draws import Draws


def smooth_normal(draws: Draws, shape: Sequence[int], *, blur: float, at: int | torch.Tensor = 0) -> torch.Tensor:
    """Normal numbers (N, *shape) of mean 0 and variance 1, blurred by a Gaussian.

    They are drawn at knots no farther apart than the Gaussian is wide, so that large images cost no more draws.

    Args:
        draws: of N rows.
        shape: (…, H, W).
        blur: standard deviation of the Gaussian, as a share of the shorter side; 0 leaves pixels independent.
        at: which draw of the row this is, one for all rows, or (N,).
    """
    if not blur:
        return draws.normal(shape, at)
    height, width = shape[-2:]
    sigma = blur * min(height, width)
    device = draws.keys.device
    down, across = _weights(height, sigma, device), _weights(width, sigma, device)
    knots = draws.normal((*shape[:-2], down.shape[1], across.shape[1]), at)
    return down @ knots @ across.T


def _weights(side: int, sigma: float, device: torch.device) -> torch.Tensor:
    """How much each pixel of a side (S,) takes of each knot (K,): rows of length 1, which keep the variance."""
    count = min(side, ceil(side / sigma))
    pixels = torch.arange(side, dtype=torch.float64, device=device) + 0.5
    knots = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) * (side / count)
    weights = torch.exp(-((pixels[:, None] - knots) ** 2) / (2 * sigma**2))
    return torch.nn.functional.normalize(weights, dim=1).float()
