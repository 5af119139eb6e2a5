"""How much of a machine this process may use: containers, batch schedulers and affinities may allow only a part."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TREE = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def memory() -> int | None:
    """How many bytes this process may have; None where the system does not say, as on Windows."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limits = [machine]
    for group in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += _numbers(group / name)
    return min(limits)


def processors() -> int:
    """How many threads can run at once, at least one; a part of a processor counts as one."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [float(own)]
    for group in _groups("cpu"):
        quotas = [_numbers(group / "cpu.max"), _numbers(group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")]
        shares += [each[0] / each[1] for each in quotas if len(each) == 2 and min(each) > 0]  # -1 is no quota
    return math.ceil(min(shares))


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of all above it, in the trees of both versions.

    A container that is shown the host's path finds its own group at the top.
    """
    trees = {"": _TREE, controller: _TREE / controller}  # versions 2 and 1
    yield from trees.values()
    with suppress(OSError, ValueError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            parts = [part for part in path.split("/") if part]
            if ".." in parts:  # it lies beside what is shown of the tree
                continue
            for tree in (trees[name] for name in controllers.split(",") if name in trees):
                yield from (tree.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))


def _numbers(*files: Path) -> list[int]:
    """What the files say; nothing where one is missing, or says "max"."""
    with suppress(OSError, ValueError):
        return [int(word) for file in files for word in file.read_text().split()]
    return []
