"""`samples: N`: a stratified subset that depends on the seed and the samples' names, and on no random generator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from robustcheck.data.samples import Indexes


def stratified(names: Sequence[str], labels: Indexes, *, samples: int, seed: int) -> Indexes:
    """Indexes of `samples` (at most N) samples, in source order.

    Within a label they are ranked by sha256 of "seed/name": which ones are kept does not depend on their order.
    """
    present, counts = np.unique(labels, return_counts=True)
    kept: list[int] = []
    for label, count in zip(present, allocation(counts.tolist(), samples), strict=True):
        members = np.flatnonzero(labels == label).tolist()
        members.sort(key=lambda index: _rank(seed, names[index]))
        kept += members[:count]
    return np.array(sorted(kept), np.int64)


def spread(names: Sequence[str], readings: Indexes, *, samples: int, seed: int) -> Indexes:
    """As `stratified`, for when there may be nearly as many readings as samples: every n-th, by reading and rank.

    Each reading's share is proportional, to less than one sample. One of each would make combinations of findings that
    are rare as common as frequent ones, and largest remainders would leave all rare ones out.
    """
    order = sorted(range(len(names)), key=lambda index: (int(readings[index]), _rank(seed, names[index])))
    return np.array(sorted(order[(2 * place + 1) * len(order) // (2 * samples)] for place in range(samples)), np.int64)


def as_groups(names: Sequence[str], readings: Indexes, groups: Indexes) -> tuple[list[str], Indexes]:
    """The first name and the most frequent reading of each group; numbers (N,) from 0 on say what belongs together."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    usual = [np.unique(readings[own], return_counts=True) for own in members]
    firsts = [min(names[index] for index in own) for own in members]
    return firsts, np.array([values[counts.argmax()] for values, counts in usual], np.int64)


def in_random_order(names: Sequence[str], *, seed: int) -> Indexes:
    """The indexes of all samples (N,), ranked by a digest of seed and name, as a label's are for a subset."""
    return np.array(sorted(range(len(names)), key=lambda index: _rank(seed, f"order/{names[index]}")), np.int64)


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()


def allocation(counts: Sequence[int], samples: int) -> list[int]:
    """How many of each label: proportional by largest remainder, and at least one of each where `samples` allows it.

    Args:
        counts: samples of each label, all positive.
        samples: at most their sum.
    """
    total = sum(counts)
    result = [samples * count // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda index: (-(samples * counts[index] % total), index))
    for index in by_remainder[: samples - sum(result)]:
        result[index] += 1
    if samples >= len(counts):
        while 0 in result:
            result[result.index(max(result))] -= 1
            result[result.index(0)] += 1
    return result
