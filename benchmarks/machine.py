"""What the numbers were measured on, and whether it was quiet."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

QUIET = 0.1  # the share of the machine that others may take before seconds are no measurement
_CPUINFO, _STAT = Path("/proc/cpuinfo"), Path("/proc/stat")


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> str:
    """Processor, cores, memory, system and Python, as one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {cores()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


@dataclass(kw_only=True)
class Elsewhere:
    """The share of the machine's processors that went to others, from 0 to 1; 0 where the system does not tell."""

    share: float = 0.0


@contextmanager
def watched() -> Iterator[Elsewhere]:
    """See what others took while this process waited for its children."""
    found = Elsewhere()
    began, busy, own = time.perf_counter(), _busy_seconds(), _own_seconds()
    yield found
    if _STAT.is_file():
        elsewhere = (_busy_seconds() - busy) - (_own_seconds() - own)
        found.share = max(0.0, elsewhere / ((time.perf_counter() - began) * (os.cpu_count() or 1)))


def disturbance(share: float, when: str) -> str:
    """What others took, as a sentence, and what that means for seconds."""
    loud = f", more than the {QUIET:.0%} up to which seconds are a measurement" if share > QUIET else ""
    return f"Other processes took {share:.0%} of the machine {when}{loud}."


def _busy_seconds() -> float:
    """Of all processors, since the machine started: everything but being idle or waiting for a disk."""
    if not _STAT.is_file():
        return 0.0
    user, nice, system, _idle, _wait, *others = map(int, _STAT.read_text().splitlines()[0].split()[1:])
    return (user + nice + system + sum(others[:3])) / os.sysconf("SC_CLK_TCK")  # others: irq, softirq, steal, guests


def _own_seconds() -> float:
    """Of this process and the children that have ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def _processor() -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
