"""SIGTERM as an interrupt: whoever stops a run with it is told what was finished, as after Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """While this lasts, the first SIGTERM raises KeyboardInterrupt, and later ones do not disturb what follows from it.

    CI servers, `timeout` and Kubernetes end a job with it, and would lose hours of work. Where somebody handles it
    already, and outside the main thread, nothing is changed.
    """
    in_charge = threading.current_thread() is threading.main_thread()
    if not in_charge or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
