"""Patches: how many X-rays they turn by size, beside controls, and beside ART's at equal and at ten times the steps.

Every patch is judged by a gate, at the same places on the same X-rays: ART's is given to one as a file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import pi, sqrt
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from benchmarks.arguments import add_common, positive
from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.gating import gated
from benchmarks.images import LABELS, Split
from benchmarks.libraries import LIBRARIES
from benchmarks.page import provenance, publish
from benchmarks.results import table
from benchmarks.training import ensure
from robustcheck.results import GateResult

STEPS, BATCH = 500, 64
POOL = 1000  # images at most that a patch is trained on: our default
ROTATION, SCALE = 22.5, 0.1
LEARNING_RATE = 5 / 255  # ART's default, on a range of 255
_GREY = ("natural patch", "grey patch")
ART = LIBRARIES["art"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What ART made, and how long it took."""

    patch: np.ndarray  # (1, S, S) uint8
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.patches", description=__doc__)
    parser.add_argument(
        "--candidate",
        choices=list(CANDIDATES),
        default="cnn-standard",
        metavar="NAME",
        help=f"which to attack, of {', '.join(CANDIDATES)} (default: the first)",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        default=["1%", "2%", "5%", "10%", "15%", "20%"],
        metavar="SIZE",
        help="of the area (default: 1%% to 20%%)",
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        default=["10%", "15%"],
        metavar="SIZE",
        help="sizes at which ART is run, too (default: 10%% 15%%)",
    )
    parser.add_argument(
        "--longer",
        nargs="*",
        default=["10%"],
        metavar="SIZE",
        help="those of them at which ART gets ten times the steps as well (default: 10%%)",
    )
    parser.add_argument(
        "--toward", nargs="+", choices=LABELS, default=list(LABELS), metavar="LABEL", help="labels (default: both)"
    )
    parser.add_argument("--images", type=positive, metavar="N", help="X-rays of the test split (default: all)")
    add_common(parser, rounds=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    packages = [ART.package] if ART.installed else []
    said = provenance("patches", arguments, threads=given.threads, packages=packages)
    candidate = CANDIDATES[given.candidate]
    return publish([f"{said} {candidate.title}."], _tables(candidate, given), out=given.out)


def _tables(candidate: Candidate, given: argparse.Namespace) -> Iterator[str]:
    ensure(candidate, given.archive)
    for target in given.toward:
        said = f"Toward {target}: share of the X-rays of the other label that are turned."
        yield f"{said}\n\n{_by_size(candidate, target, given)}"
    if not ART.installed:
        print("ART is not installed: pip install -e '.[benchmarks]'", file=sys.stderr)
        return
    for target in given.toward:
        for size in given.beside:
            yield _beside(candidate, target, size, given)


def _by_size(candidate: Candidate, target: str, given: argparse.Namespace) -> str:
    rows = []
    for size in given.sizes:
        gate = _gate(candidate, {"name": "patch", "target": target}, size, given)
        controls = {one.name: one.success for one in gate.controls}
        values = [gate.metrics["attack_success"], *(controls[name] for name in _GREY)]
        rows.append([size, *(f"{metric.value:.3f}" for metric in values), f"{gate.cost.seconds:.1f}"])
    return table(["size", "patch", *_GREY, "seconds"], rows)


def _beside(candidate: Candidate, target: str, size: str, given: argparse.Namespace) -> str:
    """Ours and ART's: what they turn, the mean of the rounds, and their seconds, the median."""
    seconds: dict[str, list[float]] = {}
    turned: dict[str, list[float]] = {}

    def note(name: str, took: float, share: float) -> None:
        seconds.setdefault(name, []).append(took)
        turned.setdefault(name, []).append(share)

    ours = f"robustcheck, {STEPS} steps"
    for _ in range(given.rounds):
        gate = _gate(candidate, {"name": "patch", "target": target}, size, given)
        note(ours, gate.cost.seconds, gate.metrics["attack_success"].value or 0.0)
        for optimiser in ("pgd", "Adam"):
            for factor in (1, 10) if size in given.longer else (1,):
                made = _apart(candidate, target, size, optimiser, STEPS * factor, given)
                judged = _judged(candidate, made.patch, target, size, given)
                note(f"ART, {optimiser}, {STEPS * factor:,} steps", made.seconds, judged)
    own = median(seconds[ours])
    rows = []
    for name, took in seconds.items():
        times = "1" if name == ours else f"{median(took) / own:.1f}"
        rows.append([name, f"{fmean(turned[name]):.3f}", f"{median(took):.1f}", times])
    return table([f"toward {target}, {size}", "turned", "seconds", "times ours"], rows)


def _gate(candidate: Candidate, attack: dict[str, Any], size: str, given: argparse.Namespace) -> GateResult:
    attack = {"rotation": ROTATION, "scale": SCALE, **attack}
    gate = {"id": "patch", "attack": attack, "size": size, "require": {"attack_success": "<= 1"}}
    (found,) = gated(candidate, [gate], given.archive, samples=given.images).values()
    return found


def _judged(candidate: Candidate, patch: np.ndarray, target: str, size: str, given: argparse.Namespace) -> float:
    """What a patch turns, at the places at which ours is judged."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "patch.npy"
        np.save(file, patch)
        gate = _gate(candidate, {"name": "patch", "target": target, "patch": str(file)}, size, given)
    return gate.metrics["attack_success"].value or 0.0


def _apart(
    candidate: Candidate, target: str, size: str, optimiser: str, steps: int, given: argparse.Namespace
) -> Trained:
    """ART's patch, in a process of its own: libraries change settings that the next one would inherit."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_art, candidate, target, size, optimiser, steps, given).result()


def _art(
    candidate: Candidate, target: str, size: str, optimiser: str, steps: int, given: argparse.Namespace
) -> Trained:
    """A round patch by ART's AdversarialPatchPyTorch, from as many X-rays as ours, of the other label, drawn alike."""
    from art.attacks.evasion import AdversarialPatchPyTorch
    from art.estimators.classification import PyTorchClassifier

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)  # ART's loader shuffles with torch's generator, and its places come from numpy's
    split, wanted = Split.read(given.archive, "train"), LABELS.index(target)
    images = split.images[split.labels != wanted]
    images = images[torch.randperm(len(images))[:POOL].sort().values]
    towards = np.zeros((len(images), len(LABELS)), np.float32)
    towards[:, wanted] = 1
    side = images.shape[-1]
    # ART's scale is the patch's side by the image's; a circle of a share s of the area has 2 √(s / π) of it.
    scale = 2 * sqrt(float(size.rstrip("%")) / 100 / pi)
    np.random.seed(0)
    classifier = PyTorchClassifier(
        model=candidate.load(),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=len(LABELS),
        clip_values=(0, 1),
        device_type="cpu",
    )
    attack = AdversarialPatchPyTorch(
        classifier,
        rotation_max=ROTATION,
        scale_min=scale * (1 - SCALE),
        scale_max=scale * (1 + SCALE),
        learning_rate=LEARNING_RATE,
        max_iter=round(steps * BATCH / len(images)),
        batch_size=BATCH,
        patch_shape=(1, side, side),
        patch_type="circle",
        optimizer=optimiser,
        targeted=True,
        verbose=False,
    )
    began = time.perf_counter()
    patch, _ = attack.generate(images.numpy().astype(np.float32), towards)
    return Trained(patch=(patch * 255).round().astype(np.uint8), seconds=time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
