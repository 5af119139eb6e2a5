"""Random numbers: a function of only (seed, purpose, sample, restart), the draw's number and the place in it.

Batch size, order of the samples, and number of workers or devices change no draw; nor does one draw change another.
Each row of a batch has a key, and number k of a row is a function of its key and k: rows at different steps of their
searches draw together, in a few tensor operations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, prod

import torch

# SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), as signed 64-bit integers.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_APART = 0x2545F4914F6CDD1D  # flips half of the bits of a key
_STREAM = 2**40  # numbers of a row that belong to one draw of a search


def key(seed: int, purpose: str, sample: str, restart: int) -> int:
    """What separates a restart's draws for a sample and purpose, such as a gate, from all others: 64 bits, signed."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{sample}\0{restart}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers of the rows with these keys."""

    keys: torch.Tensor  # (N,) int64

    @classmethod
    def of(cls, keys: Sequence[int], device: torch.device) -> Draws:
        """Draws of rows with these keys."""
        return cls(keys=torch.tensor(keys, dtype=torch.int64, device=device))

    def uniform(self, shape: Sequence[int], at: int | torch.Tensor = 0) -> torch.Tensor:
        """Numbers in [0, 1), float32 (N, *shape).

        Args:
            shape: of one row's numbers.
            at: which draw of the row this is, such as its step; one for all rows, or (N,).
        """
        return _logical_shift(self._words(prod(shape), at), 40).float().mul_(2.0**-24).view(-1, *shape)

    def normal(self, shape: Sequence[int], at: int | torch.Tensor = 0) -> torch.Tensor:
        """Standard normal numbers, float32 (N, *shape): 2¹⁶ quantiles of their distribution, all equally likely.

        They are made from the bits of `uniform` with the same `at`: a search draws only one of them there.
        """
        count, quantiles = prod(shape), _quantiles(self.keys.device)
        # Four numbers a word, its lowest bits first, as they lie in memory on little-endian machines.
        numbers = self._words(ceil(count / 4), at).view(torch.int16)[:, :count].int().add_(len(quantiles) // 2)
        return quantiles.index_select(0, numbers.flatten()).view(-1, *shape)

    def signs(self, shape: Sequence[int], at: int | torch.Tensor = 0) -> torch.Tensor:
        """-1 or 1, float32 (N, *shape)."""
        return torch.where(self.uniform(shape, at) < 0.5, -1.0, 1.0)

    def _words(self, count: int, at: int | torch.Tensor) -> torch.Tensor:
        """64 random bits each, int64 (N, count)."""
        number = torch.arange(1, count + 1, dtype=torch.int64, device=self.keys.device)
        place = torch.as_tensor(at, dtype=torch.int64, device=self.keys.device) * _STREAM
        bits = (self.keys + place * _GAMMA)[:, None] + number * _GAMMA
        for shift, factor in zip((30, 27), _MIX, strict=True):  # in place: they are twice as large as images
            bits.bitwise_xor_(_logical_shift(bits, shift)).mul_(factor)
        return bits.bitwise_xor_(_logical_shift(bits, 31))

    def rows(self, which: torch.Tensor) -> Draws:
        """The draws of some of the rows, by place (M,) or (N,) bool."""
        return Draws(keys=self.keys[which])

    def apart(self, purpose: int) -> Draws:
        """Other numbers of the same rows, for a purpose (1, 2, …) that must not disturb what their searches draw."""
        return Draws(keys=self.keys ^ (purpose * _APART))


@cache
def _quantiles(device: torch.device) -> torch.Tensor:
    """Quantiles of the standard normal distribution, float32 (2¹⁶,), ascending, scaled to variance 1, at most 4.33.

    Rounded to float32's precision at the largest, so that they are the same wherever they are computed.
    """
    shares = (torch.arange(2**16, dtype=torch.float64, device="cpu") + 0.5) / 2**16
    quantiles: torch.Tensor = torch.special.ndtri(shares)
    quantiles /= quantiles.square().mean().sqrt()
    return ((quantiles * 2**20).round() / 2**20).float().to(device)


def _logical_shift(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Shift right with zeros coming in, as unsigned integers do."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)
