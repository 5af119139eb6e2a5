"""The mean of gradients that come from different networks, or from different calls of one that draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def mean_of_gradients(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean (N, C, H, W) of gradients, each (N, C, H, W), in which all weigh the same: see `MeanOfGradients`."""
    mean = MeanOfGradients(len(gradients))
    for gradient in gradients:
        mean.add(gradient)
    return mean.value


class MeanOfGradients:
    """A mean of gradients, each (N, C, H, W), in which all weigh the same; none of them is kept.

    Log-odds do not saturate, and their scale is each network's own: in a plain mean only a network whose logits are
    ten times as large is followed, even after it has been turned. So each gradient is made as long (in
    its mean absolute value) as all are on average, and the mean keeps the scale of its row.
    """

    def __init__(self, count: int) -> None:
        """Nothing yet, of so many."""
        self._count, self._total, self._lengths = count, torch.zeros(()), torch.zeros(())

    def add(self, gradient: torch.Tensor) -> None:
        """One more."""
        finite = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        length = finite.abs().flatten(1).mean(dim=1).view(-1, 1, 1, 1)
        # Divided first: a quotient of lengths may be larger than float32 holds.
        self._total = (
            self._total.to(gradient) + gradient / length.clamp_min(torch.finfo(torch.float32).tiny) / self._count
        )
        self._lengths = self._lengths.to(length) + length

    @property
    def value(self) -> torch.Tensor:
        """The mean (N, C, H, W)."""
        return self._total * (self._lengths / self._count)
