"""One contender that may only ask, in a process of its own: `python -m benchmarks.query_child JOB` prints one line."""

from __future__ import annotations

import json
import logging
import random
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.candidates import CANDIDATES, Candidate, read_by
from benchmarks.counting import Counting
from benchmarks.gating import accuracy, answered, write_policy
from benchmarks.images import Split
from benchmarks.query_job import Plan, QueryAttack, QueryJob, QueryMeasurement
from benchmarks.query_pairs import NES_LEAST, OURS, PAIRS, PLAIN, Pair, Peer
from robustcheck import load_policy, run
from robustcheck.policy import Quantity
from robustcheck.threats import Ball, ball_of

_WARMING = NES_LEAST + 9  # queries: enough for everyone to begin
_ROUNDING = 1e-5  # of the radius: float32 points at the ball's border
_ENDLESS = 10  # times the queries: a peer that asks for more goes round in circles


class Watched(Counting):
    """A network that counts, remembers how many images each call had, and has enough at some point."""

    def __init__(self, network: nn.Module, *, most: int) -> None:
        super().__init__(network)
        self.most = most
        self.calls: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        """What the network says."""
        self.calls.append(len(images))
        if self.forward_samples > self.most:
            raise RuntimeError(f"it asked about more than {self.most:,} images, {_ENDLESS} times what it was given")
        return super().forward(images)


def measure(job: QueryJob) -> QueryMeasurement:
    """Run the job in this process."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)  # ART and Foolbox draw from the global generators
    random.seed(job.seed)
    candidate, pair = CANDIDATES[job.candidate], PAIRS[job.pair]
    return _ours(job, candidate, pair) if job.contender in (OURS, PLAIN) else _theirs(job, candidate, pair)


def _ours(job: QueryJob, candidate: Candidate, pair: Pair) -> QueryMeasurement:
    archive, plain = Path(job.archive), job.contender == PLAIN
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"

        def policy(queries: int, samples: int | None) -> Path:
            attack = {"attack": pair.attack(queries, plain=plain), "queries": queries}
            gates = [{"id": "gate", **attack, "norm": pair.norm, "epsilon": job.epsilon}]
            return write_policy(path, candidate, gates, archive, samples=samples, seed=job.seed, evidence="isolated")

        run(load_policy(policy(_WARMING, min(job.batch, len(Split.read(archive, "test"))))))
        (gate,) = answered(policy(job.queries, None))
    attacked = sum(outcome.status != "wrong" for outcome in gate.samples)
    found = [outcome.found_after for outcome in gate.samples if outcome.found_after is not None]
    return QueryMeasurement(
        seconds=gate.cost.seconds,
        images=gate.cost.forward,
        attacked=attacked,
        clean=attacked / len(gate.samples),
        left=accuracy(gate),
        left_as_floats=None,
        to_success=fmean(found) if found else None,
    )


def _theirs(job: QueryJob, candidate: Candidate, pair: Pair) -> QueryMeasurement:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    peer, data, network = pair.peers[job.contender], Split.read(Path(job.archive), "test"), candidate.load()
    right = read_by(network, data.images, job.batch) == data.labels
    images, labels = data.images[right], data.labels[right]
    starts = nearest_others(images, labels)  # all that are left are read rightly, and so otherwise than the others
    ball = ball_for(pair, job.epsilon)

    plan = Plan(epsilon=ball.radius, queries=job.queries, batch=job.batch, seed=job.seed)
    watched = Watched(network, most=_ENDLESS * job.queries * len(images)).eval()
    first = slice(0, job.batch)
    peer.build(watched, replace(plan, queries=_WARMING))(images[first], labels[first], starts[first])
    watched.reset()
    attacked, found, seconds = _attack(peer.build(watched, plan), watched, peer, images, labels, starts, job)

    # As ours: what is returned is taken into the ball, stored in whole grey levels, and read in float32.
    inside = ball.norm(attacked - images) <= ball.radius * (1 + _ROUNDING)
    held_as_floats = int((~inside | (read_by(network, attacked, job.batch) == labels)).sum())
    stored = ball.rounded(ball.project(attacked, images), images)
    assert ball.contains((stored * 255).round().int(), (images * 255).round().int()).all()
    held = int((read_by(network, stored, job.batch) == labels).sum())
    return QueryMeasurement(
        seconds=seconds,
        images=watched.forward_samples,
        attacked=len(images),
        clean=len(images) / len(data),
        left=held / len(data),
        left_as_floats=held_as_floats / len(data),
        to_success=fmean(found) if found else None,
    )


def _attack(
    attack: QueryAttack, watched: Watched, peer: Peer, images: Tensor, labels: Tensor, starts: Tensor, job: QueryJob
) -> tuple[Tensor, list[int], float]:
    """Attacked images, what it took to fool those that left early, and seconds."""
    parts, found, began = [], list[int](), time.perf_counter()
    for some, theirs, others in zip(*(all_of.split(job.batch) for all_of in (images, labels, starts)), strict=True):
        watched.calls.clear()
        parts.append(attack(some, theirs, others).detach().float())
        if peer.leaves:
            found += queries_to_leave(watched.calls[1:-1], job.queries - 2)
    return torch.cat(parts), found, time.perf_counter() - began


def queries_to_leave(calls: list[int], queries: int) -> list[int]:
    """After how many of at most so many calls samples stopped being asked about, of those that did."""
    after = [*calls[1:], calls[-1] if len(calls) >= queries else 0]
    return [number for number, (now, then) in enumerate(zip(calls, after, strict=True), 1) for _ in range(now - then)]


def nearest_others(images: Tensor, labels: Tensor) -> Tensor:
    """For each image (N, C, H, W) the nearest in L1 that has another label: where robustcheck starts, too."""
    distance = torch.cdist(images.flatten(1), images.flatten(1), p=1)
    return images[distance.masked_fill(labels[:, None] == labels, torch.inf).argmin(dim=1)]


def ball_for(pair: Pair, epsilon: str) -> Ball:
    """The ball that a policy's epsilon means to images of 8 bits."""
    return ball_of(pair.norm, Quantity.parse(epsilon, length=pair.norm == "l2"), 8)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(QueryJob(**json.loads(sys.argv[1]))))))
