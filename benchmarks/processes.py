"""Starts the children: those that measure, and one that trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.candidates import Candidate
from benchmarks.job import Job, Measurement
from benchmarks.machine import watched
from benchmarks.query_job import QueryJob, QueryMeasurement
from benchmarks.records import Rounds, in_turn

ROOT = Path(__file__).parents[1]
CHILDREN: dict[type, tuple[str, type]] = {
    Job: ("benchmarks.child", Measurement),
    QueryJob: ("benchmarks.query_child", QueryMeasurement),
}
"""Who does a job, and what comes back."""


def compare(
    contenders: Mapping[str, Rounds[Any]],
    rounds: int,
    job: Callable[[str, int], Job | QueryJob],
    place: str,
    result: Callable[[Any], str],
) -> None:
    """Have everyone do their jobs in turn, and say how it went.

    Args:
        contenders: their records, by name.
        rounds: how often.
        job: that of a contender in a round.
        place: where in the comparison this is.
        result: what is said of a measurement.
    """
    for number, name, record in in_turn(contenders, rounds):
        measure(job(name, number), record)
        record.tell(f"{place}, round {number + 1}/{rounds}", result)


def measure(job: Job | QueryJob, record: Rounds[Any]) -> None:
    """Run a job in a process of its own, and note in the record what came out, or why nothing did."""
    child, answer = CHILDREN[type(job)]
    # The comparison is of processors: on a machine with a GPU, no library may take it.
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", child, json.dumps(asdict(job))]
    with watched() as elsewhere:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    record.elsewhere.append(elsewhere.share)
    if done.returncode:
        record.failure = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    else:
        record.rounds.append(answer(**json.loads(done.stdout.splitlines()[-1])))


def ensure_apart(candidate: Candidate, archive: Path, threads: int) -> None:
    """Train a candidate whose weights are missing in a process of its own, whose memory is nobody's later."""
    if candidate.weights.is_file():
        return
    command = [sys.executable, "-m", "benchmarks.training", "--candidates", candidate.name]
    options = ["--archive", str(archive), "--threads", str(threads)]
    subprocess.run([*command, *options], cwd=ROOT, check=True)
