"""Parts of some work tell how much of the whole is done."""

from __future__ import annotations

from robustcheck.evaluation.progress import SILENT, Progress


def test_parts_after_one_another_tell_of_the_whole():
    told = []
    whole = Progress(tell=lambda done, of: told.append((done, of)), of=10)
    first = whole.after(2)
    first.done(1)
    second = first.after(3)
    second.done(0)
    second.after(1).done(4)
    assert told == [(3, 10), (5, 10), (10, 10)]


def test_nobody_has_to_want_to_know():
    SILENT.after(3).done(4)
