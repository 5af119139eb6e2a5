"""Cells of tables that break between words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from robustcheck.report.text import one_line

_PIECES = re.compile(r"[^._]*[._]+|[^._]+")


@dataclass(frozen=True)
class Required:
    """A metric and its bound: where they are too long for one line they break after dots and underscores."""

    metric: str
    bound: str

    @property
    def pieces(self) -> tuple[str, ...]:
        """What stays whole. Without its space the bound does, too."""
        return (*_PIECES.findall(one_line(self.metric)), f" {one_line(self.bound).replace(' ', '')}")

    @property
    def narrowest(self) -> int:
        """The width of the longest piece."""
        return max(cell_len(piece.strip()) for piece in self.pieces)

    @property
    def widest(self) -> int:
        """The width of all on one line."""
        return cell_len("".join(self.pieces))

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        """The widths that the cell can have."""
        return Measurement(self.narrowest, self.widest).with_maximum(options.max_width)

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Lines of as many pieces as fit; what stands between the dots of a name stays together if it can."""
        lines = [""]
        for piece in self._within(options.max_width):
            if cell_len(lines[-1] + piece) <= options.max_width or not lines[-1]:
                lines[-1] += piece
            else:
                lines.append(piece.lstrip())
        yield Text("\n".join(lines), overflow="fold")

    def _within(self, width: int) -> list[str]:
        """Pieces for lines of this width: what ends with a dot stays whole if it can."""
        whole = [""]
        for piece in self.pieces:
            whole[-1] += piece
            if piece.endswith("."):
                whole.append("")
        *before, last = whole
        bound = self.pieces[-1]
        words = [*before, last.removesuffix(bound), bound]
        return [part for word in words for part in ([word] if cell_len(word) <= width else _PIECES.findall(word))]
