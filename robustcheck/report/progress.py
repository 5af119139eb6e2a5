"""Progress on long work, for people at a terminal."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from robustcheck.report.gate import gate_text
from robustcheck.results import GateResult
from robustcheck.words import behind_bars, listed

_SECONDS_BETWEEN = 0.1

# Make room for a line below, remember the place, go down to its beginning; and back to the place, line cleared.
_DOWN = "\x1bD\x1b[A\x1b7\x1b[B\r"
_UP = "\r\x1b[K\x1b8"


def _on_terminal() -> bool:
    """Whether standard error is a terminal whose cursor can be moved.

    Rich's own answer is also yes under FORCE_COLOR, with which CI servers ask for colours in a log.
    """
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class _Decoration:
    """A stream for output that no run depends on: once it cannot be written (no reader, full disk), it is silent.

    It sits below Rich, which also draws in a thread of its own, and which exits with 1 once the reader has gone.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._silent = stream is None

    def write(self, text: str) -> int:
        """Write a text, if that can be done."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """Show what was written, if that can be done."""
        self._try("flush")

    def _try(self, method: str, *given: str) -> None:
        if not self._silent:
            try:
                getattr(self._stream, method)(*given)
            except (OSError, ValueError):  # the latter where it was closed
                self._silent = True

    def __getattr__(self, name: str) -> Any:
        """What Rich asks a stream about: its encoding, and whether it is a terminal."""
        return getattr(self._stream, name)


class Line:
    """One line below the one that pytest is writing, which is left as it was.

    Rich owns the line that it draws on; here pytest does, so the line is drawn by hand.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = _Decoration(stream)
        self._shown = False
        self._last = 0.0

    @classmethod
    def on_terminal(cls) -> Line | None:
        """A line on standard error as it is now (pytest captures it later), if that is a terminal."""
        if not _on_terminal():
            return None
        return cls(os.fdopen(os.dup(sys.stderr.fileno()), "w"))

    def update(self, what: str, done: int, of: int) -> None:
        """Say how far a piece of work is."""
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN:
            return
        self._last = now
        self._stream.write(("\r\x1b[K" if self._shown else _DOWN) + f"  {what}: {done} of {of} samples")
        self._stream.flush()
        self._shown = True

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            self._stream.write(_UP)
            self._stream.flush()
            self._shown = False


class Bars:
    """A bar for each gate on a terminal; in a log, a line for each gate that is finished."""

    def __init__(self, *, quiet: bool, counted: str = "samples") -> None:
        console = Console(file=cast("TextIO", _Decoration(sys.stderr)), stderr=True)
        self._quiet = quiet
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(counted),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not _on_terminal(),
        )
        self._tasks: dict[str, TaskID] = {}
        self._alike: list[GateResult] = []  # finished with the same error, which is printed once for all of them

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._print_alike()
        if not self._progress.disable:  # rich up to 14.2 ends with an empty line all the same
            self._progress.stop()

    def update(self, what: str, done: int, of: int) -> None:
        """Say how far a piece of work is."""
        self._print_alike()  # the next gate may take long
        if what not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, visible=False)
            self._tasks[what] = self._progress.add_task(what, total=of)
        self._progress.update(self._tasks[what], completed=done)

    def finished(self, gate: GateResult) -> None:
        """Print a gate's verdict; an error that the next gates have too, such as of loading, once for all of them."""
        if self._alike and (gate.verdict, gate.error) != (self._alike[0].verdict, self._alike[0].error):
            self._print_alike()
        self._alike.append(gate)
        if gate.verdict != "error" or gate.error is None:
            self._print_alike()

    def _print_alike(self) -> None:
        if self._alike and not self._quiet:
            first = gate_text(self._alike[0]).splitlines()[0]
            more = behind_bars(self._alike[0].error or "")[1:]
            names = listed((gate.id for gate in self._alike), limit=len(self._alike))
            told = "\n".join([f"{names}: {first}", *more])
            self._console.print(told, markup=False, highlight=False, soft_wrap=True)
        self._alike.clear()
