"""Signals that a run is ended with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from robustcheck.interrupts import sigterm_interrupts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

# A library's code that is busy for long, and in which Python hears no signal.
BUSY = """
import ctypes, os, threading
from robustcheck import interrupts

interrupts._PATIENCE = 0.3
mutex, pthread = ctypes.create_string_buffer(128), ctypes.CDLL(None)

def search():
    pthread.pthread_mutex_init(mutex, None)
    pthread.pthread_mutex_lock(mutex)
    print("busy", flush=True)
    pthread.pthread_mutex_lock(mutex)

threading.Timer(30, os._exit, [0]).start()
with interrupts.sigterm_interrupts():
    search()
"""


@pytest.fixture
def busy():
    child = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "busy\n"
    time.sleep(0.2)
    yield child
    child.kill()
    child.communicate()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT], [signal.SIGINT, signal.SIGTERM]])
def test_signals_that_a_library_s_code_keeps_from_python_end_the_process(busy, numbers):
    for number in numbers:
        busy.send_signal(number)
        time.sleep(0.1)
    _, said = busy.communicate(timeout=15)
    assert busy.returncode == 130
    assert said.startswith(
        "\nended without reports: what search (<string>, line 12) called did not let a signal through"
    )


@pytest.mark.usefixtures("interruptible")
def test_one_ctrl_c_waits_for_what_is_under_way(busy):
    busy.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        busy.wait(timeout=1)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("numbers", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_signals_that_are_heard_end_nothing_and_all_is_as_it_was_afterwards(monkeypatch, numbers):
    monkeypatch.setattr("robustcheck.interrupts._PATIENCE", 0.2)
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with sigterm_interrupts():
        for number in numbers:
            try:
                os.kill(os.getpid(), number)
            except KeyboardInterrupt:
                continue
        time.sleep(0.5)
    assert ended == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.usefixtures("interruptible")
def test_a_handler_of_somebody_else_s_hears_for_itself(monkeypatch):
    monkeypatch.setattr("robustcheck.interrupts._PATIENCE", 0.2)
    ended, heard = [], []
    monkeypatch.setattr(os, "_exit", ended.append)
    with sigterm_interrupts():
        signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
    assert (ended, heard) == ([], [signal.SIGINT, signal.SIGINT])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it is multi-threaded, and forks
def test_signals_to_a_forked_process_are_not_this_one_s(monkeypatch):
    monkeypatch.setattr("robustcheck.interrupts._PATIENCE", 0.2)
    ended = []
    with sigterm_interrupts():
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
        monkeypatch.setattr(os, "_exit", ended.append)
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        time.sleep(0.5)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert ended == []
