"""Where searches ended, so that those at another budget of the same attack need not begin anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

import numpy as np
import torch

from robustcheck.attacks import GradientAttack
from robustcheck.attacks.searches import QUICK
from robustcheck.data.samples import Shape
from robustcheck.threats.ball import per_row

_STEPS = 127  # in a change's largest pixel: it is kept in whole ones
_MOST_BYTES = 512 * 1024**2
MOST_ENDS = 256 * 1024**2  # pixels, a byte each, of the ends of searches that are kept at a time


class WarmStarts:
    """Changes of samples, a byte per pixel, by the policy's entry and the attack that they come from.

    They are kept while a gate of the entry, at another budget, has yet to begin.

    Args:
        pixels: of all samples together. If they do not fit in 512 MiB for all entries that may keep them, nothing is
            kept: where a search starts must not depend on which samples, or gates, came first.
        budgets: how many gates an entry has, of those whose gates share evidence.
        searches: how many searches of an entry begin where others ended (default: one).
    """

    def __init__(
        self, pixels: int = 0, budgets: Mapping[str, int] | None = None, searches: Mapping[str, int] | None = None
    ) -> None:
        self._to_come = {entry: count for entry, count in (budgets or {}).items() if count > 1}
        kept = sum((searches or {}).get(entry, 1) for entry in self._to_come)
        self._keeps = pixels * kept <= _MOST_BYTES
        self._changes: dict[str, dict[str, dict[int, np.ndarray]]] = {}

    def keep(self, entry: str, attack: str, samples: np.ndarray, changes: torch.Tensor) -> None:
        """Remember changes (M, C, H, W) of samples (M,)."""
        if self._keeps and self._to_come.get(entry, 0) > 1:
            kept = self._changes.setdefault(entry, {}).setdefault(attack, {})
            kept.update(zip(samples.tolist(), _in_bytes(changes), strict=True))

    def known(self, entry: str, attack: str, samples: Sequence[int | None]) -> tuple[np.ndarray, torch.Tensor] | None:
        """Which places (M,) of some samples are known, and their changes (M, C, H, W), the largest pixel at ±1."""
        changes = self._changes.get(entry, {}).get(attack, {})
        there = [(place, sample) for place, sample in enumerate(samples) if sample is not None and sample in changes]
        if not there:
            return None
        return np.array([place for place, _ in there]), _as_shares([changes[sample] for _, sample in there])

    def through(self, entry: str) -> None:
        """Count a gate of this entry as done, and forget what will not be read any more."""
        self._to_come[entry] = self._to_come.get(entry, 0) - 1
        if self._to_come[entry] < 1:
            self._changes.pop(entry, None)


def begins_anywhere(attack: GradientAttack) -> bool:
    """Whether a search can start elsewhere: it has several steps and no fixed start."""
    return attack.steps > 1 and (attack.random_start or attack.name == QUICK)


class Ends:
    """Which restart of a sample that held came nearest to a counterexample, and where it was."""

    @staticmethod
    def parts(samples: Sequence[int], shape_of: Callable[[int], Shape]) -> Iterator[Sequence[int]]:
        """Samples in parts, each small enough for the ends of all its searches to fit in memory."""
        part, pixels = list[int](), 0
        for sample in samples:
            own = prod(shape_of(sample))
            if part and pixels + own > MOST_ENDS:
                yield part
                part, pixels = [], 0
            part.append(sample)
            pixels += own
        yield part

    def __init__(self) -> None:
        self._ends: dict[int, tuple[float, int, np.ndarray]] = {}

    def __contains__(self, sample: int) -> bool:
        return sample in self._ends

    def keep(self, sample: int, restart: int, margin: float, change: torch.Tensor) -> None:
        """Remember the restart of a sample that came nearest, by its margin, and its change (C, H, W)."""
        if sample not in self._ends or margin > self._ends[sample][0]:
            self._ends[sample] = margin, restart, _in_bytes(change[None])[0]

    def restart(self, sample: int) -> int:
        """The restart that came nearest."""
        return self._ends[sample][1]

    def known(self, starts: Sequence[tuple[int, int]]) -> tuple[np.ndarray, torch.Tensor]:
        """All places (M,), and the changes (M, C, H, W) of their samples, the largest pixel at ±1."""
        return np.arange(len(starts)), _as_shares([self._ends[sample][2] for sample, _ in starts])


def _in_bytes(changes: torch.Tensor) -> list[np.ndarray]:
    """Changes (M, C, H, W) with their largest pixel at ±127, int8 (C, H, W) each."""
    largest = changes.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    small = (changes / per_row(largest) * _STEPS).round().to(torch.int8).cpu().numpy()
    return [one.copy() for one in small]  # because a view of one row keeps all of them in memory


def _as_shares(kept: Sequence[np.ndarray]) -> torch.Tensor:
    """Kept changes (M, C, H, W), with their largest pixel at ±1."""
    return torch.from_numpy(np.stack(kept)).float() / _STEPS
