"""What is shown while work is going on: a bar on a terminal, lines in a log."""

import io
import sys

import pytest
from report_builder import failing, gate

from robustcheck.report.progress import Bars, Line


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Gone(Terminal):
    """A terminal that is closed, or a disk that is full, after some of it was written."""

    def __init__(self, why):
        super().__init__()
        self.why = why
        self.tried = 0

    def write(self, text):
        self.tried += 1
        if self.tried > 1:
            raise self.why
        return super().write(text)

    def isatty(self):
        return not isinstance(self.why, BrokenPipeError)


GONE = [BrokenPipeError(32, "no reader"), OSError(28, "no space left"), OSError(5, "no terminal"), ValueError("closed")]


def _shown(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    with Bars(quiet=False) as bars:
        bars.update("pgd", 1, 3)
        bars.update("pgd", 3, 3)
        bars.finished(failing())
    return stream.getvalue()


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}, {"FORCE_COLOR": "1", "NO_COLOR": "1"}])
def test_a_log_gets_a_line_a_gate_and_no_bar_whatever_colours_it_is_to_have(forced, monkeypatch):
    for name, value in forced.items():
        monkeypatch.setenv(name, value)

    assert _shown(io.StringIO(), monkeypatch).splitlines() == [
        "pgd[4/255]: accuracy 0.610 is below the required >= 0.7 (305 of 500; 95 % interval 0.570 to 0.650)"
    ]


def test_a_terminal_gets_a_bar(monkeypatch):
    assert "\x1b[" in _shown(Terminal(), monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b[" not in _shown(Terminal(), monkeypatch)


def test_pytest_s_line_is_for_terminals_only(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert Line.on_terminal() is None


def test_quiet_is_quiet(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with Bars(quiet=True) as bars:
        bars.finished(gate())
    assert stream.getvalue() == ""


@pytest.mark.parametrize("why", GONE)
def test_a_bar_that_nobody_can_see_any_more_ends_no_run(why, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Gone(why))
    with Bars(quiet=False) as bars:
        for done in range(4):
            bars.update("pgd", done, 3)
            bars.finished(failing())
    assert stream.tried == 2  # and it is not tried again


@pytest.mark.parametrize("why", GONE)
def test_a_line_that_nobody_can_see_any_more_ends_no_gate(why, monkeypatch):
    monkeypatch.setattr("robustcheck.report.progress._SECONDS_BETWEEN", 0)
    line = Line(stream := Gone(why))
    for done in range(4):
        line.update("pgd", done, 3)
    line.clear()
    assert stream.tried == 2


def test_of_several_mistakes_every_line_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with Bars(quiet=False) as bars:
        bars.finished(gate("error", id="pgd", error="scans.csv:2: no label\nscans.csv:7: no file"))
    assert stream.getvalue().splitlines() == [
        "pgd: could not be evaluated: scans.csv:2: no label",
        "| scans.csv:7: no file",
    ]


def test_where_there_is_no_standard_error_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Bars(quiet=False) as bars:
        bars.update("pgd", 1, 3)
        bars.finished(failing())
    assert Line.on_terminal() is None
