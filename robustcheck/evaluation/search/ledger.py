"""What is known so far, per sample and threat family, and which search found it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from robustcheck.models.head import NO_ANSWER


@dataclass(frozen=True, kw_only=True)
class Counterexample:
    """What was verified about a counterexample, and where its search found it."""

    decision: int  # reading, or NO_ANSWER
    distance: float  # grey levels, in the family's norm
    score: float | None
    finding_probabilities: np.ndarray | None = None  # (K,) of each of several findings
    attack: str
    restart: int
    step: int
    queries: int | None = None  # that the sample had cost by then, if an oracle counts
    share: float | None = None  # of the looks on which it holds, if there are several


@dataclass(frozen=True, kw_only=True)
class Entry(Counterexample):
    """A verified counterexample, which gate found it, and its files."""

    found_by: str  # the gate
    patch: str | None = None  # file of the sample's own patch, relative to the report's folder
    file: str | None = None  # relative to the report's folder
    sha256: str = ""


UNKNOWN = Entry(decision=NO_ANSWER, distance=0, score=None, found_by="", attack="", restart=0, step=0)
"""Stands for a counterexample that nobody has: as wrong as can be."""


def unknown(samples: Iterable[int]) -> dict[int, Entry]:
    """For each sample that nothing is known about, the worst possible entry."""
    return dict.fromkeys(samples, UNKNOWN)


class Ledger:
    """Counterexamples by family and sample, and the samples that searches settled: there is nothing more to find.

    A counterexample at distance d is one at every budget of d or more: an entry counts for each gate of its family
    whose budget admits it, whichever gate found it and in whatever order they ran.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, dict[int, Entry]] = {}
        self._scores: dict[Hashable, list[tuple[float, dict[int, float]]]] = {}
        self._finding_probabilities: dict[Hashable, list[tuple[float, dict[int, np.ndarray]]]] = {}
        self._settled: dict[Hashable, dict[int, tuple[float, bool]]] = {}

    def add(self, family: Hashable, sample: int, entry: Entry) -> None:
        """Remember a counterexample if it is the nearest so far."""
        if self.improves(family, sample, entry.distance):
            self._entries.setdefault(family, {})[sample] = entry

    def improves(self, family: Hashable, sample: int, distance: float) -> bool:
        """Whether a counterexample at this distance would be the nearest so far."""
        entries = self._entries.get(family, {})
        return sample not in entries or distance < entries[sample].distance

    def nearest(self, family: Hashable) -> dict[int, Entry]:
        """The nearest counterexample of each sample that has one, at whatever distance."""
        return dict(self._entries.get(family, {}))

    def within(self, family: Hashable, levels: float) -> dict[int, Entry]:
        """Entries at a distance of at most `levels`, by sample."""
        return {sample: entry for sample, entry in self._entries.get(family, {}).items() if entry.distance <= levels}

    def settle(self, search: Hashable, levels: float, samples: dict[int, bool]) -> None:
        """Remember samples that a search within `levels` settled, and whether it could follow what it was told of them.

        What it found is in the ledger already; within `levels` there is nothing more to find.
        """
        settled = self._settled.setdefault(search, {})
        for sample, followable in samples.items():
            if levels >= settled.get(sample, (0.0, followable))[0]:
                settled[sample] = levels, followable

    def settled(self, search: Hashable, levels: float) -> dict[int, bool]:
        """Samples, turned or not, that this search settled up to `levels` or more; whether it could follow anything."""
        return {
            sample: followable for sample, (upto, followable) in self._settled.get(search, {}).items() if upto >= levels
        }

    def add_scores(
        self, family: Hashable, levels: float, scores: dict[int, float], probabilities: dict[int, np.ndarray]
    ) -> None:
        """Remember the most adverse scores that a search within `levels` has verified, by sample; (K,) of findings."""
        self._scores.setdefault(family, []).append((levels, scores))
        self._finding_probabilities.setdefault(family, []).append((levels, probabilities))

    def scores_within(self, family: Hashable, levels: float) -> list[dict[int, float]]:
        """The verified scores of all searches within at most `levels`."""
        return [scores for searched, scores in self._scores.get(family, []) if searched <= levels]

    def finding_probabilities_within(self, family: Hashable, levels: float) -> list[dict[int, np.ndarray]]:
        """The verified probabilities (K,) of each of several findings, of all searches within at most `levels`."""
        return [each for searched, each in self._finding_probabilities.get(family, []) if searched <= levels]
