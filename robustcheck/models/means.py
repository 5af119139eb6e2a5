"""The mean of gradients that come from different networks, or from different calls of one that draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def mean_of_gradients(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean (N, C, H, W) of gradients, each (N, C, H, W), in which all weigh the same.

    Log-odds do not saturate, and their scale is each network's own: in a plain mean a network whose logits are ten
    times as large is the only one that is followed, also after it has been turned. So each gradient is made as long (in
    its mean absolute value) as all are on average, and the mean keeps the scale of its row.
    """
    finite = (gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for gradient in gradients)
    lengths = [gradient.abs().flatten(1).mean(dim=1).view(-1, 1, 1, 1) for gradient in finite]
    total = torch.zeros_like(gradients[0])
    for gradient, length in zip(gradients, lengths, strict=True):
        # Divided first: a quotient of lengths may be larger than float32 holds.
        total += gradient / length.clamp_min(torch.finfo(torch.float32).tiny) / len(gradients)
    return total * torch.stack(lengths).mean(dim=0)
