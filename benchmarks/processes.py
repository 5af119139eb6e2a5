"""Starts the children: one that measures, one that trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.candidates import Candidate
from benchmarks.job import Job, Measurement
from benchmarks.machine import watched
from benchmarks.query_job import QueryJob, QueryMeasurement
from benchmarks.query_results import QueryRecord
from benchmarks.results import Record

ROOT = Path(__file__).parents[1]


def measure(
    job: Job | QueryJob,
    record: Record | QueryRecord,
    child: str = "benchmarks.child",
    answer: type[Measurement | QueryMeasurement] = Measurement,
) -> None:
    """Run a job in a process of its own, and note in the record what came out, or why nothing did."""
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


def train(candidate: Candidate, archive: Path, threads: int) -> None:
    """Train a candidate in a process of its own, whose memory is nobody's later."""
    command = [sys.executable, "-m", "benchmarks.training", "--candidates", candidate.name]
    options = ["--archive", str(archive.resolve()), "--threads", str(threads)]
    subprocess.run([*command, *options], cwd=ROOT, check=True)
