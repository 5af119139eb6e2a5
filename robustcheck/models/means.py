"""The mean of gradients that come from different networks, or from different calls of one that draws."""

from __future__ import annotations

import torch


def mean_of_gradients(gradients: torch.Tensor) -> torch.Tensor:
    """Means (N, C, H, W) of M gradients of each row, (N, M, C, H, W), in which all M weigh the same.

    Log-odds do not saturate, and their scale is each network's own: in a plain mean a network whose logits are ten
    times as large is the only one that is followed, also after it has been turned. So each gradient is made as long (in
    its mean absolute value) as all are on average, and the mean keeps the scale of its row.
    """
    lengths = gradients.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs().flatten(2).mean(dim=2)
    # Divided first: a quotient of lengths may be larger than float32 holds.
    alike = gradients / _per_gradient(lengths.clamp_min(torch.finfo(torch.float32).tiny))
    return alike.mean(dim=1) * lengths.mean(dim=1)[:, None, None, None]


def _per_gradient(values: torch.Tensor) -> torch.Tensor:
    return values[:, :, None, None, None]
