"""Memory that a step frees is kept for the next one, and given back at the end."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forking import new_processes

from robustcheck.models import process_settings
from robustcheck.models.memory import Chunks
from robustcheck.models.process_settings import _CHOSEN, _glibc, freed_memory_kept

_KEEPS = _glibc() is not None and not any(name in os.environ for name in _CHOSEN)
keeps = pytest.mark.skipif(not _KEEPS, reason="needs glibc, with its memory thresholds not set in the environment")


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _use_and_free() -> None:
    """1,200 MiB, in blocks of 400."""
    assert sum(float(block[-1]) for block in [torch.ones(100 << 20) for _ in range(3)]) == 3


def _in_a_new_process(function):
    """A failed request for memory, which tests before may have made, moves a thread to memory that is never kept."""
    with ProcessPoolExecutor(1, mp_context=new_processes()) as pool:
        return pool.submit(function).result()


def _kept_and_given_back():
    before = _resident()
    with freed_memory_kept():
        _use_and_free()
        kept = _resident() - before
    return kept, _resident() - before


@keeps
def test_what_is_freed_is_kept_for_the_next_step_and_given_back_at_the_end():
    kept, left = _in_a_new_process(_kept_and_given_back)
    assert kept > 1100 << 20
    assert left < 100 << 20


def _kept_when_a_batch_does_not_fit():
    before, limits, kept = _resident(), list[int](), list[int]()
    chunks = Chunks(4)

    def does_not_fit(rows: torch.Tensor) -> tuple[torch.Tensor]:
        limits.append(len(rows))
        kept.append(_resident() - before)
        if len(rows) == 4:
            _use_and_free()
            raise MemoryError
        return (rows,)

    with freed_memory_kept():
        chunks(does_not_fit, torch.zeros(4))
    return limits, kept


@keeps
def test_what_is_kept_is_given_back_when_a_batch_does_not_fit():
    limits, kept = _in_a_new_process(_kept_when_a_batch_does_not_fit)
    assert limits == [4, 2, 2]
    assert max(kept) < 100 << 20


def test_thresholds_that_the_user_chose_are_left_alone(monkeypatch):
    asked = list[int]()
    library = SimpleNamespace(mallopt=lambda parameter, _value: asked.append(parameter), malloc_trim=lambda _pad: None)
    monkeypatch.setattr(process_settings, "_glibc", lambda: library)
    for name in _CHOSEN:
        monkeypatch.delenv(name, raising=False)
    with freed_memory_kept():
        assert asked
    asked.clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    with freed_memory_kept():
        pass
    assert asked == []
