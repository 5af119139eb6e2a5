"""Messages about many files: one sentence per kind of fault, with an example and how many others are like it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from robustcheck.errors import DataError
from robustcheck.words import plural

SHOWN = 10  # mistakes, or kinds of them, that a message spells out


class Named(Protocol):
    """What has a name in its source."""

    @property
    def name(self) -> str:
        """As it is called there."""


File = TypeVar("File", bound=Named)
Kind = TypeVar("Kind", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Files of one kind, for which the first of them stands."""

    name: str
    count: int

    def say(self, what: str) -> str:
        """`a.png has 3 channels`, or `a.png, like 282 others, has 3 channels`.

        Args:
            what: the rest of a sentence about one file, which begins with a space or a colon.
        """
        others = f", like {plural(self.count - 1, 'other')}" if self.count > 1 else ""
        comma = "," if others and what.startswith(" ") else ""
        return f"{self.name}{others}{comma}{what}"


class Faults:
    """Faults of files that cannot be used, grouped by their messages."""

    def __init__(self) -> None:
        self._found: dict[str, Alike] = {}
        self._rest = 0  # of other kinds than the first ones, of which there may be as many as files

    def add(self, name: str, error: DataError) -> None:
        """One more file, and a sentence that begins with its name."""
        said = str(error).removeprefix(name)
        if said not in self._found and len(self._found) == SHOWN:
            self._rest += 1
            return
        known = self._found.get(said, Alike(name=name, count=0))
        self._found[said] = replace(known, count=known.count + 1)

    def sentences(self) -> list[str]:
        """One sentence per kind, in the order of their first files; for the rest, the number of files."""
        every = [alike.say(said) for said, alike in self._found.items()]
        return every + ([f"{plural(self._rest, 'more file')} cannot be read either"] if self._rest else [])


def kinds_of(files: Iterable[File], kind: Callable[[File], Kind]) -> dict[Kind, Alike]:
    """The kinds of files, those with fewest files first; of those with equally many, the later one first."""
    found: dict[Kind, Alike] = {}
    for file in files:
        known = found.get(own := kind(file), Alike(name=file.name, count=0))
        found[own] = replace(known, count=known.count + 1)
    places = {own: place for place, own in enumerate(found)}
    return dict(sorted(found.items(), key=lambda item: (item[1].count, -places[item[0]])))
