"""How a run is interrupted: whoever stops it, by Ctrl-C or SIGTERM, is told what was finished."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_PATIENCE = 8.0  # seconds; Docker ends a container 10 after SIGTERM
_INTERRUPTED = 130  # exit_codes has it too, and imports click, which pytest plugins do without
_HEARD = b"\0"  # no signal has this number


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """While this lasts, the first SIGTERM raises KeyboardInterrupt, and later ones do not disturb what follows from it.

    CI servers, `timeout` and Kubernetes end a job with it, and would lose hours of work. If it is handled
    already, outside the main thread, and in processes that are forked meanwhile, it means what it did before.

    Python hears signals only between its own instructions, and a network may keep a library's code busy for ever: if
    SIGTERM, or a second Ctrl-C, is not heard for some seconds, the process ends with 130 at once, after one
    sentence on standard error as it is when this begins (pytest captures it later).
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
        heard()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    def ctrl_c(_number: int, _frame: FrameType | None) -> None:
        if os.getpid() == process:
            heard()
        raise KeyboardInterrupt

    with _unheard_ends({interrupt, ctrl_c}) as heard:
        signal.signal(signal.SIGTERM, interrupt)
        if own := signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, ctrl_c)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGTERM) in (interrupt, signal.SIG_IGN):
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if own and signal.getsignal(signal.SIGINT) is ctrl_c:
                signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _unheard_ends(handlers: Collection[object]) -> Iterator[Callable[[], object]]:
    """End the process if a signal comes and its handler, one of these, does not run: each has to call what this yields.

    Python writes each signal's number to a socket at once, whatever the main thread is doing. If something else
    already reads such numbers, it goes on doing so, and nothing is ended.
    """
    numbers, written = socket.socketpair()
    written.setblocking(False)
    before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    if before != -1:
        signal.set_wakeup_fd(before)

    def leave() -> None:
        if written.fileno() != -1 and (found := signal.set_wakeup_fd(-1)) != written.fileno():
            signal.set_wakeup_fd(found)  # somebody else's

    def heard() -> None:
        with suppress(OSError):  # full of signals
            written.send(_HEARD)

    if hasattr(os, "register_at_fork"):  # signals to children are not to this process
        os.register_at_fork(after_in_child=leave)
    stderr = _standard_error()
    watcher = threading.Thread(target=_watch, args=(numbers, handlers, stderr), name="robustcheck-signals", daemon=True)
    watcher.start()
    try:
        yield heard
    finally:
        leave()
        written.close()
        watcher.join()
        numbers.close()
        os.close(stderr)


def _watch(numbers: socket.socket, handlers: Collection[object], stderr: int) -> None:
    """Read signals' numbers until no more can come, and end the process once they are not heard for too long."""
    unheard, deadline = 0, None
    while True:
        numbers.settimeout(None if deadline is None else max(deadline - time.monotonic(), 0.001))
        try:
            number = numbers.recv(1)
        except TimeoutError:
            text = f"ended without reports: {_busy()} did not let a signal through for {_PATIENCE:.0f} seconds"
            with suppress(OSError):  # there may be nobody to tell
                os.write(stderr, b"\n" + text.encode("unicode_escape") + b"\n")
            os._exit(_INTERRUPTED)
        if not number:
            return
        if number == _HEARD:
            unheard, deadline = 0, None
        elif signal.getsignal(number[0]) in handlers:  # others of them are nobody's business here
            unheard += 1
            if deadline is None and (unheard > 1 or number[0] == signal.SIGTERM):
                deadline = time.monotonic() + _PATIENCE


def _standard_error() -> int:
    """A descriptor of its own, or of nothing where standard error is closed."""
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def _busy() -> str:
    """What the main thread is at: the function that called a library's code."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return "a library's code"
    code = frame.f_code
    return f"what {code.co_name} ({Path(code.co_filename).name}, line {frame.f_lineno}) called"


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
