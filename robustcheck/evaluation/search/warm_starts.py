"""Where searches ended, so that those at another budget of the same attack need not begin anew."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch

_STEPS = 127  # a change is kept as whole steps of so small a share of its largest pixel
_MOST_BYTES = 256 * 1024**2


class WarmStarts:
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
        small = (_unit(changes) * _STEPS).round().to(torch.int8).cpu().numpy()
        # Copies, as a view of one row keeps all of them in memory.
        self._changes.setdefault(entry, {}).update(zip(samples.tolist(), map(np.copy, small), strict=True))

    def known(self, entry: Hashable, samples: Sequence[int | None]) -> tuple[np.ndarray, torch.Tensor] | None:
        """Of some samples: which places (M,) are known, and their changes (M, C, H, W), the largest pixel at ±1."""
        changes = self._changes.get(entry, {})
        there = [(place, sample) for place, sample in enumerate(samples) if sample is not None and sample in changes]
        if not there:
            return None
        stacked = np.stack([changes[sample] for _, sample in there])
        return np.array([place for place, _ in there]), torch.from_numpy(stacked).float() / _STEPS


class Ends:
    """Of the samples whose search came nearest to a counterexample without one: which restart, and where it was."""

    def __init__(self) -> None:
        self._ends: dict[int, tuple[float, int, torch.Tensor]] = {}

    def __contains__(self, sample: int) -> bool:
        return sample in self._ends

    def keep(self, sample: int, restart: int, margin: float, change: torch.Tensor) -> None:
        """Remember the restart of a sample that came nearest, by its margin."""
        if sample not in self._ends or margin > self._ends[sample][0]:
            self._ends[sample] = margin, restart, change.to("cpu", copy=True)  # no view: it keeps all rows in memory

    def restart(self, sample: int) -> int:
        """The restart that came nearest."""
        return self._ends[sample][1]

    def known(self, starts: Sequence[tuple[int, int]]) -> tuple[np.ndarray, torch.Tensor]:
        """All places (M,), and the changes (M, C, H, W) of their samples, the largest pixel at ±1."""
        return np.arange(len(starts)), _unit(torch.stack([self._ends[sample][2] for sample, _ in starts]))


def _unit(changes: torch.Tensor) -> torch.Tensor:
    """Changes (M, C, H, W) with their largest pixel at ±1."""
    largest = changes.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return changes / largest.view(-1, 1, 1, 1)
