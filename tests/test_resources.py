"""What a process may have of a machine, as control groups of both versions say it."""

from __future__ import annotations

import os

import pytest

from robustcheck import resources

GIB = 1 << 30
SLURM = "0::/system.slice/slurmstepd.scope/job_7/step_0\n"
SLURM_OF_VERSION_1 = "9:name=systemd:/x\n4:memory:/slurm/job_7/step_0\n3:cpu,cpuacct:/slurm/job_7\n0::/\n"


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes what the process's groups are, and what files in their tree say."""
    monkeypatch.setattr(resources, "_TREE", tmp_path / "tree")
    monkeypatch.setattr(resources, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GIB // 4096}.__getitem__)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(64)), raising=False)

    def write(own, files):
        if own is not None:
            (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("own", "files", "gib"),
    [
        (None, {}, 64),  # a system without groups
        ("0::/\n", {"memory.max": "8589934592\n"}, 8),  # a container
        (None, {"memory.max": "max\n", "memory/memory.limit_in_bytes": "4294967296"}, 4),
        ("0::/a\n", {"memory/memory.limit_in_bytes": "9223372036854771712", "a/memory.max": "max"}, 64),
        (SLURM, {"system.slice/slurmstepd.scope/job_7/memory.max": str(8 * GIB)}, 8),  # the job's, above its step's
        (SLURM, {"system.slice/slurmstepd.scope/job_7/step_0/memory.max": str(2 * GIB), "memory.max": "max"}, 2),
        (SLURM, {"system.slice/slurmstepd.scope/job_8/memory.max": str(2 * GIB)}, 64),  # somebody else's
        (SLURM_OF_VERSION_1, {"memory/slurm/job_7/memory.limit_in_bytes": str(3 * GIB)}, 3),
        (
            "4:memory:/docker/1f\n",
            {"memory/memory.limit_in_bytes": str(5 * GIB)},
            5,
        ),  # seen from inside
        ("0::/../../sibling\n", {"sibling/memory.max": str(6 * GIB)}, 64),
        ("no group at all", {"memory.max": str(7 * GIB)}, 7),
    ],
)
def test_memory_is_the_least_that_a_group_or_one_above_it_allows(groups, own, files, gib):
    groups(own, files)
    assert resources.memory() == gib * GIB


def test_a_machine_that_does_not_say_how_much_memory_it_has(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert resources.memory() is None


@pytest.mark.parametrize(
    ("own", "files", "threads"),
    [
        (None, {}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        (SLURM, {"system.slice/slurmstepd.scope/job_7/cpu.max": "800000 100000", "cpu.max": "max 100000"}, 8),
        (SLURM_OF_VERSION_1, {"cpu/slurm/cpu.cfs_quota_us": "400000", "cpu/slurm/cpu.cfs_period_us": "100000"}, 4),
        (None, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        (None, {"cpu/cpu.cfs_quota_us": "100000"}, 64),
    ],
)
def test_processors_are_the_least_that_a_quota_or_the_affinity_allows(groups, own, files, threads):
    groups(own, files)
    assert resources.processors() == threads


def test_a_system_without_affinities_has_all_processors(groups, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert resources.processors() == 12
