"""What is known so far: the nearest verified counterexample of each sample, in each threat family."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A verified counterexample and where it came from."""

    decision: int  # label index it is read as, or NO_ANSWER
    distance: float  # grey levels, in the family's norm
    score: float | None
    found_by: str
    restart: int
    step: int
    file: str | None  # relative to the report's folder
    sha256: str


class Ledger:
    """Counterexamples by family and sample.

    One at distance d is one at every budget of d or more: an entry answers for each gate of its family whose budget
    admits it, whichever gate found it and in whatever order they ran.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, dict[int, Entry]] = {}
        self._scores: dict[Hashable, list[tuple[int, dict[int, float]]]] = {}

    def add(self, family: Hashable, sample: int, entry: Entry) -> None:
        """Remember a counterexample if it is the nearest so far."""
        entries = self._entries.setdefault(family, {})
        if sample not in entries or entry.distance < entries[sample].distance:
            entries[sample] = entry

    def within(self, family: Hashable, levels: float) -> dict[int, Entry]:
        """Entries at a distance of at most `levels`, by sample."""
        return {sample: entry for sample, entry in self._entries.get(family, {}).items() if entry.distance <= levels}

    def add_scores(self, family: Hashable, levels: int, scores: dict[int, float]) -> None:
        """Remember the most adverse scores that a search within `levels` has verified, by sample."""
        self._scores.setdefault(family, []).append((levels, scores))

    def scores_within(self, family: Hashable, levels: int) -> list[dict[int, float]]:
        """The verified scores of all searches within at most `levels`."""
        return [scores for searched, scores in self._scores.get(family, []) if searched <= levels]
