"""How much carries over from one network to another: `python -m benchmarks.transfer`.

Each network stands in for each other one, in both directions: the shipped CNN, the same architecture trained again
from other weights, networks of other architectures, and, as what there is to be found, each network for itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.arguments import add_common, positive
from benchmarks.candidates import CANDIDATES, Candidate, cache
from benchmarks.gating import accuracy, described, gated
from benchmarks.images import LABELS, Split
from benchmarks.page import provenance, publish
from benchmarks.results import table
from benchmarks.training import ensure
from robustcheck.evaluation.surrogates.training import train
from robustcheck.policy import ModelSpec, TrainSpec

EPOCHS, SEED = 10, 1


def trained_again(archive: Path) -> Candidate:
    """The standard CNN's architecture, trained by robustcheck as a surrogate would be; kept in the user's cache."""
    standard = CANDIDATES["cnn-standard"]
    weights = cache() / f"cnn-again-{EPOCHS}-{SEED}.safetensors"
    assert standard.module is not None
    if not weights.is_file():
        split = Split.read(archive, "train")
        spec = TrainSpec(architecture=standard.architecture, epochs=EPOCHS, seed=SEED)
        model = ModelSpec(
            path="x.pt", architecture=standard.architecture, task="multiclass", labels=LABELS,
            preprocess=standard.preprocess.policy(),
        )  # fmt: skip
        state = train(
            spec,
            model,
            folder=standard.module.parent,
            images=lambda numbers: split.images[list(numbers)],
            readings=split.labels,
            device=torch.device("cpu"),
        )
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, weights.with_suffix(".tmp"))
        weights.with_suffix(".tmp").replace(weights)
    return replace(standard, name="cnn-again", title="the CNN, trained again", shipped=weights)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each ε."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument(
        "--others",
        nargs="*",
        choices=list(CANDIDATES),
        default=["resnet18"],
        metavar="NAME",
        help=f"networks beside the three CNNs, of {', '.join(CANDIDATES)} (default: resnet18)",
    )
    parser.add_argument(
        "--epsilon", nargs="+", default=["4/255", "8/255"], metavar="ε", help="budgets in L∞ (default: 4/255 8/255)"
    )
    parser.add_argument(
        "--images", type=positive, default=200, metavar="N", help="X-rays of the test split (default: 200)"
    )
    add_common(parser)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    return publish([provenance("transfer", arguments, threads=given.threads)], _tables(given), out=given.out)


def _tables(given: argparse.Namespace) -> Iterator[str]:
    others = [CANDIDATES[name] for name in given.others]
    for other in others:
        ensure(other, given.archive)
    networks = [CANDIDATES["cnn-standard"], trained_again(given.archive), CANDIDATES["cnn-hardened"], *others]
    head = ["candidate", "clean", *(f"from {network.name}" for network in networks)]
    for epsilon in given.epsilon:
        rows = [_row(candidate, networks, epsilon, given) for candidate in networks]
        said = f"Accuracy left of {given.images} X-rays at ε = {epsilon}; in brackets, how often the two read alike."
        yield f"{said}\n\n{table(head, rows)}"


def _row(candidate: Candidate, networks: Sequence[Candidate], epsilon: str, given: argparse.Namespace) -> list[str]:
    """What is left of a candidate when each network stands in for it."""
    modules = sorted({network.module for network in networks if network.module})
    gates: list[dict[str, Any]] = [{"id": "clean"}]
    for network in networks:
        attack = {"name": "transfer", "surrogate": described(network)}
        gates.append({"id": network.name, "attack": attack, "epsilon": epsilon})
    found = gated(candidate, gates, given.archive, samples=given.images, beside=modules)
    row = [candidate.name, f"{accuracy(found['clean']):.3f}"]
    for network in networks:
        (surrogate,) = found[network.name].surrogates
        row.append(f"{accuracy(found[network.name]):.3f} ({surrogate.agreement.value:.2f})")
    return row


if __name__ == "__main__":
    sys.exit(main())
