"""One contender, one candidate, one round, in a process of its own: `python -m benchmarks.child JOB` prints one line.

A process of its own, because peak memory has no other meaning, and because libraries change settings of torch and of
the warnings, logs and random generators that the next one would inherit.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.candidates import CANDIDATES, Candidate, read_by
from benchmarks.counting import Counting
from benchmarks.images import Split
from benchmarks.job import Job, Measurement
from benchmarks.libraries import BARE, LIBRARIES, Effort, Library
from benchmarks.memory import peak_mib
from benchmarks.ours import WAYS, Way, pgd_gates

ROUNDING = 1e-5  # how far outside the ball float arithmetic may put a returned image


def measure(job: Job) -> Measurement:
    """Run the job in this process."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)  # ART draws from the global generator
    candidate = CANDIDATES[job.candidate]
    if job.contender in WAYS:
        return _robustcheck(job, candidate, WAYS[job.contender])
    return _library(job, candidate, BARE if job.contender == "bare" else LIBRARIES[job.contender])


def _library(job: Job, candidate: Candidate, library: Library) -> Measurement:
    effort = Effort(steps=job.steps, batch=job.batch)
    data = Split.read(Path(job.archive), "test")
    warmed = library.build(candidate.load(), Effort(steps=1, batch=job.batch))
    warmed(data.images[: job.batch], data.labels[: job.batch], job.levels[0] / 255)

    began = time.perf_counter()
    network = candidate.load()
    counting = Counting(network).eval()
    right = read_by(network, data.images, job.batch) == data.labels
    attack = library.build(counting, effort)
    clean, robust, seconds = float(right.float().mean()), [], 0.0
    for level in job.levels:
        began_attack = time.perf_counter()
        attacked = attack(data.images, data.labels, level / 255).detach()
        seconds += time.perf_counter() - began_attack
        _check(attacked, data.images, level / 255)
        held = right & (read_by(network, attacked, job.batch) == data.labels)
        robust.append(float(held.float().mean()))
    return Measurement(
        seconds=seconds,
        answer_seconds=time.perf_counter() - began,
        forward=counting.forward_samples,
        gradient=counting.gradient_samples,
        peak_mib=peak_mib(),
        clean=clean,
        robust=robust,
    )


def _check(attacked: Tensor, images: Tensor, epsilon: float) -> None:
    """What a library returns has to lie where it was told to search, or the comparison is none."""
    off = float((attacked - images).abs().max()) - epsilon
    if off > ROUNDING or attacked.min() < -ROUNDING or attacked.max() > 1 + ROUNDING:
        raise RuntimeError(f"images were returned that lie outside the ball of ε {epsilon:.5f} or outside [0, 1]")


def _robustcheck(job: Job, candidate: Candidate, way: Way) -> Measurement:
    from benchmarks.gating import accuracy, answered, write_policy  # here: the peers' memory does not hold robustcheck
    from robustcheck import load_policy, run

    archive, model = Path(job.archive), {"batch_size": job.batch, **way.model}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        # One step, which no descending ladder may have: nothing is warmed by how gates share.
        warming, some = pgd_gates(job.levels, 1), min(job.batch, job.images)
        run(load_policy(write_policy(path, candidate, warming, archive, model=model, samples=some, seed=job.seed)))
        gates = pgd_gates(job.levels, job.steps, **way.gate)
        write_policy(path, candidate, gates, archive, model=model, seed=job.seed)
        began = time.perf_counter()
        clean, *attacked = answered(path)
        answer_seconds = time.perf_counter() - began
    costs = [gate.cost for gate in attacked]
    return Measurement(
        seconds=sum(cost.seconds for cost in costs),
        answer_seconds=answer_seconds,
        forward=sum(cost.forward + cost.health_forward for cost in costs),
        gradient=sum(cost.gradient + cost.health_gradient for cost in costs),
        peak_mib=peak_mib(),
        clean=accuracy(clean),
        robust=[accuracy(gate) for gate in attacked],
    )


if __name__ == "__main__":
    answer = measure(Job(**json.loads(sys.argv[1])))
    print(json.dumps(asdict(answer)))
