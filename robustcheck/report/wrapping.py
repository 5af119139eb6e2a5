"""Cells of tables that break between words, and how wide a table's columns are then."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from robustcheck.report.text import name_pieces, one_line

_PIECES = re.compile(r"[^._]*[._]+|[^._]+")
_PHRASES = re.compile(r".+?,(?= )|.+")


@dataclass(frozen=True)
class Words:
    """Words, and the pieces of each: lines end between words, and between pieces of a word that is longer than one."""

    words: tuple[tuple[str, ...], ...]
    style: str = ""

    def __str__(self) -> str:
        return "".join(map("".join, self.words))

    @property
    def narrowest(self) -> int:
        """The width of the longest piece."""
        return max((cell_len(piece.strip()) for word in self.words for piece in word), default=0)

    @property
    def longest(self) -> int:
        """The width of the longest word."""
        return max((cell_len("".join(word).strip()) for word in self.words), default=0)

    @property
    def widest(self) -> int:
        """The width of all on one line."""
        return cell_len(str(self))

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        """The widths that the cell can have."""
        return Measurement(self.narrowest, self.widest).with_maximum(options.max_width)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Lines of as many words, or pieces of them, as fit."""
        lines = [""]
        for word in self.words:
            unbroken = "".join(word)
            for part in [unbroken] if cell_len(unbroken.strip()) <= options.max_width else word:
                if cell_len(lines[-1] + part) <= options.max_width or not lines[-1]:
                    lines[-1] += part
                else:
                    lines.append(part.lstrip())
        yield Text("\n".join(lines), style=self.style, overflow="fold")


def whole(text: str, style: str = "") -> Words:
    """One word that is never broken."""
    return Words(((text,),), style)


def required(metric: str, bound: str) -> Words:
    """A metric and its bound: what stands between the dots of a name stays together if it can, and so does a bound."""
    parts = [[""]]
    for piece in _PIECES.findall(one_line(metric)):
        parts[-1].append(piece)
        if piece.endswith("."):
            parts.append([""])
    return Words((*(tuple(filter(None, part)) for part in parts), (f" {one_line(bound).replace(' ', '')}",)))


def named(text: str) -> Words:
    """A name that somebody gave, such as a gate's id."""
    return Words(tuple((piece,) for piece in name_pieces(one_line(text))))


def phrases(text: str) -> Words:
    """Phrases with commas between them: lines end behind these if they can, and else as those of a name do."""
    return Words(tuple(tuple(name_pieces(phrase)) for phrase in _PHRASES.findall(one_line(text))))


def fitted(narrowest: Sequence[int], widest: Sequence[int], room: int) -> list[int] | None:
    """Widths of columns that have so much room together: what is short is taken from the widest. None: too little."""
    for most in range(max(widest), -1, -1):
        widths = [max(least, min(wish, most)) for least, wish in zip(narrowest, widest, strict=True)]
        if sum(widths) <= room:
            return widths
    return None
