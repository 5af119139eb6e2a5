"""Where searches ended, so that those at another budget of the same attack need not begin anew."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch

_STEPS = 127  # a change is kept as whole steps of so small a share of its largest pixel
_MOST_BYTES = 256 * 1024**2


class Starts:
    """Changes of samples, a byte a pixel, by the policy's entry that they come from.

    Args:
        pixels: of all samples together. Where they are more than fit in 256 MiB, nothing is kept: what a search starts
            from must not depend on which samples came first.
    """

    def __init__(self, pixels: int) -> None:
        self._keeps = pixels <= _MOST_BYTES
        self._changes: dict[Hashable, dict[int, np.ndarray]] = {}

    def keep(self, entry: Hashable, samples: np.ndarray, changes: torch.Tensor) -> None:
        """Remember changes (M, C, H, W) of samples (M,)."""
        if not self._keeps:
            return
        largest = changes.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        small = (changes / largest.view(-1, 1, 1, 1) * _STEPS).round().to(torch.int8).cpu().numpy()
        self._changes.setdefault(entry, {}).update(zip(samples.tolist(), small, strict=True))

    def known(self, entry: Hashable, samples: list[int]) -> tuple[np.ndarray, torch.Tensor] | None:
        """Of some samples: which of them (M,) are known, and their changes (M, C, H, W), the largest pixel at ±1."""
        changes = self._changes.get(entry, {})
        which = np.array([place for place, sample in enumerate(samples) if sample in changes], dtype=np.int64)
        if not len(which):
            return None
        stacked = np.stack([changes[samples[place]] for place in which.tolist()])
        return which, torch.from_numpy(stacked).float() / _STEPS
