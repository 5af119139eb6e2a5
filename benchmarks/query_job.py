"""What a contender that may only ask is told, and what comes back: `benchmarks.query_peers` and its children."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import TypeAlias

from torch import Tensor

QueryAttack: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images (N, C, H, W) in [0, 1], labels (N,) and images (N, C, H, W) that are read otherwise; returns attacked ones."""

_FIRST_ESTIMATE = 100  # images of HopSkipJump's first estimate: the paper's, and every peer's default


@dataclass(frozen=True, kw_only=True)
class QueryJob:
    """What to measure."""

    pair: str
    contender: str
    candidate: str
    archive: str  # the images to attack
    epsilon: str  # as a policy says it
    queries: int  # images of a sample that may reach the network, or about so many
    batch: int
    threads: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class QueryMeasurement:
    """What came out."""

    seconds: float  # attacking, as the contender does it
    images: int  # all that the attack put through the network
    attacked: int  # samples: those that are read rightly
    clean: float  # accuracy
    left: float  # accuracy under the attack, of images stored in 8 bits
    left_as_floats: float | None  # of what a peer returned, as it did
    to_success: float | None  # mean queries of the samples that fell, where the contender tells


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much a peer may do."""

    epsilon: float  # of the full range
    queries: int  # a sample
    batch: int
    seed: int

    @property
    def first_estimate(self) -> int:
        """Images of HopSkipJump's first estimate: the default at 1,000 queries, and fewer at fewer."""
        return estimate_at(self.queries)

    def steps_of(self, each: float, *, before: int = 0) -> int:
        """Steps that cost `each` images, after `before`, within the queries."""
        return max(1, int((self.queries - before) / each))

    def iterations(self, *, beside: int, before: int) -> int:
        """HopSkipJump's iterations that come nearest to the queries.

        The t-th asks about B₀ √t images for its estimate and about `beside` to find the border and a step.
        """
        spent, count = float(before), 0
        while True:
            after = spent + int(self.first_estimate * sqrt(count + 1)) + beside
            if count and after - self.queries > self.queries - spent:
                return count
            spent, count = after, count + 1


def estimate_at(queries: int, default: int = _FIRST_ESTIMATE) -> int:
    """B₀ at so many queries: the default at 1,000."""
    return max(2, min(default, queries // 10))
