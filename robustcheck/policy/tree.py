"""A document as plain data, where each key stands, and the mistakes that were found in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from robustcheck.errors import Problem
from robustcheck.words import shown

KeyPath = tuple[str | int, ...]
_PLAIN_KEY = re.compile(r"[\w-]{1,60}")


class Place(NamedTuple):
    """A line and a column of a file, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A mistake at a key."""

    path: KeyPath
    message: str  # what was found, what is allowed, what to do
    place: Place | None = None  # if it is not where the tree says that the key stands
    silences: KeyPath | None = None  # nothing else is said at or below this path: it would follow from this mistake


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A document as plain dicts, lists and scalars, where each key stands, and what is wrong with its YAML."""

    file: str
    data: Any
    places: dict[KeyPath, Place]
    mistakes: tuple[Mistake, ...]

    def place(self, path: KeyPath) -> Place:
        """Where a key stands, or the nearest key above it that the document has."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places[path]

    def problems(self, found: Iterable[Mistake]) -> list[Problem]:
        """The mistakes of the document and those found besides, in file order, without those that are silenced."""
        said, silenced = list(self.mistakes), {mistake.silences for mistake in self.mistakes}
        for mistake in sorted(found, key=lambda mistake: mistake.silences is None):
            if not any(start in silenced for start in _starts(mistake.path)):
                said.append(mistake)
                silenced.add(mistake.silences)
        placed = [(mistake.place or self.place(mistake.path), mistake) for mistake in said]
        return [
            Problem(file=self.file, line=place.line, key=show(mistake.path), message=mistake.message)
            for place, mistake in sorted(placed, key=lambda pair: pair[0])
        ]


def show(path: KeyPath) -> str:
    """A key path as people write it: `gates[0].attack.steps`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key may be long, or hold what a terminal would obey.
            word = part if _PLAIN_KEY.fullmatch(part) else shown(part)
            text += f".{word}" if text else word
    return text


def _starts(path: KeyPath) -> Iterable[KeyPath]:
    return (path[:length] for length in range(len(path) + 1))
