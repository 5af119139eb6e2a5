"""Attacks that only ask, beside the peers': `python -m benchmarks.queries`.

Same candidate, X-rays, number of queries a sample and threads; each contender in a process of its own, in turn, for
several rounds. What comes back is judged alike: inside the ball, and read wrongly once rounded to grey levels. ART has
no estimator like NES; its own way of asking for scores with estimated gradients (ZOO) is none of the ball's attacks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.arguments import add_common, positive
from benchmarks.candidates import CANDIDATES
from benchmarks.counting import Counting
from benchmarks.gating import gated
from benchmarks.images import Split, write_part
from benchmarks.machine import describe, watched
from benchmarks.query_libraries import PEERS

ROOT = Path(__file__).parents[1]
OURS = "robustcheck"
L2 = 0.5  # of the full range: a length at which the CNNs' accuracy is neither whole nor gone


def ball_of(pair: str) -> tuple[str, float]:
    """Norm and ε of a pair of attacks."""
    return ("l2", L2) if pair.endswith("l2") else ("linf", 8 / 255)


def ours(pair: str, candidate: str, archive: Path, queries: int, seed: int) -> dict[str, Any]:
    """robustcheck, as a policy's gate."""
    norm, epsilon = ball_of(pair)
    gate = {
        "id": "gate", "attack": pair.removesuffix("-l2"), "norm": norm, "queries": queries,
        "epsilon": "8/255" if norm == "linf" else epsilon,
    }  # fmt: skip
    gated(CANDIDATES[candidate], [gate], archive, samples=8)  # warms up
    result = gated(CANDIDATES[candidate], [gate], archive, samples=None, seed=seed)["gate"]
    attacked = sum(outcome.status != "wrong" for outcome in result.samples)
    return {
        "seconds": result.cost.seconds,
        "images": result.cost.forward,
        "attacked": attacked,
        "left": result.metrics["accuracy"].value,
    }


def theirs(pair: str, contender: str, candidate: str, archive: Path, queries: int) -> dict[str, Any]:
    """A peer, on the samples that the candidate reads rightly: as robustcheck, nobody attacks the others."""
    warnings.simplefilter("ignore")
    attack = PEERS[pair][contender].attack
    data, network = Split.read(archive, "test"), CANDIDATES[candidate].load()
    counting = Counting(network).eval()
    with torch.no_grad():
        right = network(data.images).argmax(dim=1) == data.labels
    images, labels = data.images[right], data.labels[right]
    norm, epsilon = ball_of(pair)
    starts = _nearest_others(images, labels)
    attack(counting, images[:2], labels[:2], epsilon, max(60, queries // 10), starts[:2])  # warms up
    counting.reset()
    began = time.perf_counter()
    found = attack(counting, images, labels, epsilon, queries, starts).detach()
    seconds = time.perf_counter() - began
    change = (found - images).flatten(1)
    inside = change.abs().amax(dim=1) <= epsilon + 1e-5 if norm == "linf" else change.norm(dim=1) <= epsilon + 1e-5
    with torch.no_grad():
        turned = network((found * 255).round() / 255).argmax(dim=1) != labels
    held = int((~(inside & turned)).sum())
    return {
        "seconds": seconds,
        "images": counting.forward_samples,
        "attacked": len(images),
        "left": held / len(data),
    }


def _nearest_others(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """For each image the nearest one of the other label that is read so, which robustcheck starts from too."""
    distance = torch.cdist(images.flatten(1), images.flatten(1), p=1)
    distance[labels[:, None] == labels[None]] = torch.inf
    return images[distance.argmin(dim=1)]


def measured(job: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run a job in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.queries", "--child", json.dumps(job)]
    with watched() as elsewhere:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "elsewhere": elsewhere.share}


def compare(pair: str, candidate: str, archive: Path, given: argparse.Namespace) -> list[str]:
    """The lines of a table."""
    contenders = [OURS, *PEERS[pair]]
    rounds: dict[str, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    for number in range(given.rounds):
        for place in range(len(contenders)):
            contender = contenders[(place + number) % len(contenders)]
            job = {
                "pair": pair, "contender": contender, "candidate": candidate, "archive": str(archive),
                "queries": given.queries, "seed": number, "threads": given.threads,
            }  # fmt: skip
            rounds[contender].append(measured(job, given.threads))
    own = median(one["seconds"] for one in rounds[OURS])
    norm, epsilon = ball_of(pair)
    busy = max(one["elsewhere"] for found in rounds.values() for one in found)
    attacked = rounds[OURS][0]["attacked"]
    lines = [
        f"## {pair.removesuffix('-l2')}, {norm}, ε {epsilon:.4g} of the range, {CANDIDATES[candidate].title}",
        "",
        f"{attacked} X-rays attacked, {given.queries:,} queries each; others took {busy:.0%} at most.",
        "",
        "| | seconds | images asked about | images a second | samples a second | accuracy left | ours is faster |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for contender, found in rounds.items():
        title = OURS if contender == OURS else PEERS[pair][contender].title
        seconds = [one["seconds"] for one in found]
        images, middle = median(one["images"] for one in found), median(seconds)
        cells = (
            title,
            f"{middle:.2f} ({min(seconds):.2f}–{max(seconds):.2f})",
            f"{images:,.0f}",
            f"{images / middle:,.0f}",
            f"{attacked / middle:.1f}",
            f"{np.mean([one['left'] for one in found]):.3f}",
            "" if contender == OURS else f"{middle / own:.1f} ×",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queries", description=__doc__)
    parser.add_argument("--candidates", nargs="+", choices=list(CANDIDATES), default=["cnn-standard", "cnn-hardened"])
    parser.add_argument("--pairs", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--images", type=positive, default=100, help="X-rays of the test split (default: 100)")
    parser.add_argument("--queries", type=positive, default=1000, help="a sample (default: 1000)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    add_common(parser, rounds=3)
    given = parser.parse_args(arguments)
    if given.child:
        job = json.loads(given.child)
        torch.set_num_threads(job["threads"])
        torch.manual_seed(job["seed"])
        np.random.seed(job["seed"])  # ART draws from the global generator
        place = (job["pair"], job["candidate"], Path(job["archive"]))
        if job["contender"] == OURS:
            found = ours(*place, job["queries"], job["seed"])
        else:
            found = theirs(job["pair"], job["contender"], *place[1:], job["queries"])
        print(json.dumps(found))
        return
    print(
        f"Measured by `python -m benchmarks.queries`, {describe()}; {given.threads} threads, {given.rounds} rounds.\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "xrays.npz"
        write_part(given.archive, given.images, archive)
        for candidate in given.candidates:
            for pair in given.pairs:
                print("\n".join(compare(pair, candidate, archive, given)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
