"""How a run is interrupted: whoever stops it, by Ctrl-C or SIGTERM, is told what was finished."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """While this lasts, the first SIGTERM raises KeyboardInterrupt, and later ones do not disturb what follows from it.

    CI servers, `timeout` and Kubernetes end a job with it, and would lose hours of work. Where somebody handles it
    already, outside the main thread, and in processes that are forked meanwhile, it means what it did.
    """
    in_charge = threading.current_thread() is threading.main_thread()
    if not in_charge or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if os.getpid() != process:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) in (interrupt, signal.SIG_IGN):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def interrupts_ignored(when: bool) -> Iterator[None]:
    """While this lasts, SIGINT and SIGTERM change nothing, if `when` says so: a run was interrupted, and reports on it.

    Whoever is impatient presses Ctrl-C twice, and CI servers send one signal after the other. Outside the main thread,
    signals mean what they did.
    """
    handlers = {}
    if when and threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    kept = {number: handler for number, handler in handlers.items() if handler is not None}  # those that Python knows
    for number in kept:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
