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
    for label, count in zip(present, shares(counts.tolist(), samples), strict=True):
        members = np.flatnonzero(labels == label).tolist()
        members.sort(
            key=lambda index: hashlib.sha256(f"{seed}/{names[index]}".encode(errors="surrogateescape")).digest()
        )
        kept += members[:count]
    return np.array(sorted(kept), np.int64)


def shares(counts: Sequence[int], samples: int) -> list[int]:
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
