"""Viewing conditions: on what share of fresh looks counterexamples hold, and what looks and patches cost a step."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.arguments import add_common, positive
from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.gating import accuracy, described, gated
from benchmarks.images import LABELS
from benchmarks.page import provenance, publish
from benchmarks.results import table
from benchmarks.training import ensure
from robustcheck.attacks import objective
from robustcheck.attacks.draws import Draws, key
from robustcheck.data import Samples, load_samples
from robustcheck.evaluation.looks.conditions import ConditionsEOT
from robustcheck.models import Candidate as Loaded
from robustcheck.models import WhiteBox, load_candidate
from robustcheck.models.batches import as_shares
from robustcheck.policy import ConditionsSpec, DataSpec, ModelSpec, Size
from robustcheck.threats import Goal
from robustcheck.threats.patch import PLACEMENT_DRAWS, Placing, lay
from robustcheck.threats.viewing import LOOK_DRAWS, Conditions, see

CONDITIONS: dict[str, Any] = {
    "rotation": 10,
    "scale": 0.1,
    "translation": 0.05,
    "perspective": 10,
    "brightness": 0.1,
    "contrast": 0.2,
    "blur": 0.5,
}
DRAWS = 16
FRESH = 200
CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.looks", description=__doc__)
    parser.add_argument(
        "--candidates",
        nargs="+",
        choices=list(CANDIDATES),
        default=["cnn-standard", "resnet18"],
        metavar="NAME",
        help=f"which to attack, of {', '.join(CANDIDATES)} (default: cnn-standard resnet18)",
    )
    parser.add_argument("--epsilon", default="16/255", metavar="ε", help="budget in L∞ (default: 16/255)")
    parser.add_argument(
        "--images", type=positive, default=100, metavar="N", help="X-rays of the test split (default: 100)"
    )
    parser.add_argument("--batch", type=positive, default=32, metavar="N", help="images of a plain step (default: 32)")
    add_common(parser, rounds=9)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    return publish([provenance("looks", arguments, threads=given.threads)], _tables(given), out=given.out)


def _tables(given: argparse.Namespace) -> Iterator[str]:
    for name in given.candidates:
        candidate = CANDIDATES[name]
        ensure(candidate, given.archive)
        loaded, samples = _load(candidate, given.archive)
        said = f"on how many of {FRESH} fresh looks counterexamples at {given.epsilon} hold"
        yield f"{candidate.title}: {said}.\n\n{_holding(candidate, loaded, given)}"
        said = (
            f"seconds of a step with {DRAWS} draws, one call of {DRAWS * given.batch} images, by those of {DRAWS} "
            f"plain steps, {DRAWS} calls of {given.batch}"
        )
        yield f"{candidate.title}: {said}.\n\n{_costs(loaded, samples, given)}"


def _load(candidate: Candidate, archive: Path) -> tuple[Loaded, Samples]:
    model = ModelSpec(**described(candidate), task="multiclass", labels=list(LABELS), positive=LABELS[1], device="cpu")
    folder = archive.parent if candidate.module is None else candidate.module.parent
    samples = load_samples(DataSpec(source=str(archive), split="test"), model, folder=folder)
    return load_candidate(model, folder=folder, samples=samples)[0], samples


def _holding(candidate: Candidate, loaded: Loaded, given: argparse.Namespace) -> str:
    rows = []
    common = {"attack": {"name": "pgd", "steps": 40}, "epsilon": given.epsilon}
    for name, gate in {"PGD": common, "PGD over looks": {**common, "conditions": CONDITIONS}}.items():
        with tempfile.TemporaryDirectory() as folder:
            (found,) = gated(
                candidate, [{"id": "pgd", **gate}], given.archive, samples=given.images, kept=Path(folder)
            ).values()
            shares = [
                _share(
                    loaded, _read(Path(folder) / outcome.counterexample), LABELS.index(outcome.label), outcome.sample
                )
                for outcome in found.samples
                if outcome.counterexample
            ]
        held = [share >= 0.9 for share in shares]
        rows.append(
            [name, f"{accuracy(found):.3f}", f"{np.mean(shares):.3f}", f"{np.mean(held):.3f}", str(len(shares))]
        )
    head = ["", "accuracy left", "mean share of looks", "hold on .9 or more", "counterexamples"]
    return table(head, rows)


def _read(file: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(file), dtype=np.float32) / 255)[None, None]


def _share(loaded: Loaded, image: torch.Tensor, label: int, name: str) -> float:
    """Of looks that neither a search nor a gate has had, on how many an image is read wrongly."""
    draws = Draws.of([key(12345, "benchmarks.looks", name, 0)], CPU)
    looks = Conditions(spec=ConditionsSpec(**CONDITIONS)).draw(draws.uniform((FRESH, LOOK_DRAWS))[0])
    seen = see(image.expand(FRESH, -1, -1, -1), looks)
    decisions = loaded.head.decide(loaded.logits((seen * 255).round() / 255))
    return float((decisions != label).float().mean())


def _costs(loaded: Loaded, samples: Samples, given: argparse.Namespace) -> str:
    box, goal = WhiteBox(loaded), Goal(labels=2)
    images = as_shares(samples, list(range(given.batch)), CPU)
    labels = torch.tensor(samples.labels[: given.batch])
    loss = objective("cross_entropy", goal)
    draws = Draws.of([key(0, "cost", str(row), 0) for row in range(given.batch)], CPU)
    conditions = Conditions(spec=ConditionsSpec(**CONDITIONS))
    eot, at = ConditionsEOT(conditions=conditions, count=DRAWS), torch.zeros(given.batch, dtype=torch.int64)
    placing = Placing(size=Size.parse("10%"), rotation=22.5, scale=0.1)
    many = images.repeat_interleave(DRAWS, dim=0)
    several = labels.repeat_interleave(DRAWS)

    def plain() -> None:
        for _ in range(DRAWS):
            box.gradient(images, labels, labels, loss)

    def patch() -> None:
        texture = torch.full((1, images.shape[1], 20, 20), 0.5, requires_grad=True)
        numbers = draws.uniform((DRAWS, PLACEMENT_DRAWS)).flatten(0, 1)
        placed = lay(texture.expand(len(many), -1, -1, -1), many, placing.draw(numbers, *images.shape[2:]), "circle")
        _, _, gradient = box.gradient(placed.detach(), several, several, loss)
        torch.autograd.grad(placed, texture, gradient)

    def looks() -> None:
        eot.gradient(box, images, labels, labels, loss, draws, at)

    ways: dict[str, Callable[[], None]] = {"patch": patch, "looks": looks}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(given.rounds + 1):
        base = _seconds(plain)
        for name, way in ways.items():
            own = _seconds(way)
            if number:  # the first one warms up
                ratios[name].append(own / base)
    rows = [
        [name, f"{median(values):.2f}", f"{min(values):.2f} to {max(values):.2f}"] for name, values in ratios.items()
    ]
    return table(["step", "ratio", "range"], rows)


def _seconds(what: Callable[[], None]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
