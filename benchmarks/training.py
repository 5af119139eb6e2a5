"""Trains the candidates that are too large to ship: `python -m benchmarks.training`, or by themselves when missing.

They need not be good, only right about more X-rays than a guess would be, so that there is something to attack; minutes
on a laptop are enough for that. No pretrained weights: nothing is downloaded, and nobody's licence is asked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.arguments import add_machine
from benchmarks.candidates import CANDIDATES, Candidate, Preprocess, Recipe, Stage
from benchmarks.images import Split

SEED = 0
WEIGHT_DECAY = 0.05
SETTLING_BATCH = 64


def ensure(candidate: Candidate, archive: Path) -> None:
    """Train a candidate unless its weights are there; a run that is cut short leaves none."""
    if candidate.weights.is_file():
        return
    if candidate.recipe is None:
        raise FileNotFoundError(f"{candidate.weights}: these weights are the project's, and they are missing")
    began = time.perf_counter()
    network = train(candidate, candidate.recipe, Split.read(archive, "train"), Split.read(archive, "val"))
    seconds = time.perf_counter() - began
    test = Split.read(archive, "test")
    _say(f"{candidate.name}: trained in {seconds / 60:.1f} min, test {accuracy(network, candidate.preprocess, test)}")
    candidate.weights.parent.mkdir(parents=True, exist_ok=True)
    draft = candidate.weights.with_suffix(".tmp")
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, draft)
    draft.replace(candidate.weights)


def train(candidate: Candidate, recipe: Recipe, data: Split, val: Split) -> nn.Module:
    """The network after all stages of its recipe, in evaluation mode."""
    torch.manual_seed(SEED)
    network = candidate.network().to(memory_format=torch.channels_last)
    for stage in recipe.stages:
        _train(network, replace(candidate.preprocess, side=stage.side), stage, data, candidate.name)
    _settle(network, candidate.preprocess, recipe, data)
    _centre(network, candidate.preprocess, val)
    return network


def _train(network: nn.Module, preprocess: Preprocess, stage: Stage, data: Split, name: str) -> None:
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=stage.rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, stage.rate, total_steps=stage.steps)
    began, total = time.perf_counter(), 0.0
    for step, chosen in enumerate(_balanced(data.labels, stage.steps, stage.batch), start=1):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(preprocess(_another_exposure(data.images[chosen])))
        loss = cross_entropy(logits.float(), data.labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        total += loss.item()
        if step % 20 == 0:
            _say(f"{name}: step {step}/{stage.steps}, loss {total / 20:.3f}, {time.perf_counter() - began:.0f} s")
            total = 0.0


@torch.no_grad()
def _settle(network: nn.Module, preprocess: Preprocess, recipe: Recipe, data: Split) -> None:
    """Measure BatchNorm's statistics anew, on images as they are and in full precision.

    What training leaves there is of augmented images, and decays too slowly to be of the last resolution alone.
    """
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches, not one that forgets
    network.train()
    for chosen in _balanced(data.labels, recipe.settle // SETTLING_BATCH, SETTLING_BATCH):
        network(preprocess(data.images[chosen]))
    network.eval()


@torch.no_grad()
def _centre(network: nn.Module, preprocess: Preprocess, val: Split) -> None:
    """Shift the last bias to where sensitivity and specificity are nearest to each other on the validation split.

    Training on even odds leaves the decision anywhere between the labels.
    """
    logits = torch.cat([network(preprocess(images)) for images in val.images.split(SETTLING_BATCH)])
    margin = logits[:, 1] - logits[:, 0]
    sick, healthy = margin[val.labels == 1], margin[val.labels == 0]
    gaps = torch.stack([((sick > place).float().mean() - (healthy <= place).float().mean()).abs() for place in margin])
    *_, head = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    head.bias[1] -= margin[gaps.argmin()]


@torch.inference_mode()
def accuracy(network: nn.Module, preprocess: Preprocess, data: Split) -> str:
    """Accuracy, sensitivity and specificity, as text."""
    answers = torch.cat([network(preprocess(images)).argmax(dim=1) for images in data.images.split(64)])
    right = (answers == data.labels).float()
    rates = (right.mean(), right[data.labels == 1].mean(), right[data.labels == 0].mean())
    return "accuracy {:.3f}, sensitivity {:.3f}, specificity {:.3f}".format(*map(float, rates))


def _balanced(labels: Tensor, batches: int, size: int) -> Iterator[Tensor]:
    """Indexes of batches in which either label is as likely: most training images are of disease."""
    weights = 1 / torch.bincount(labels).float()
    return iter(torch.multinomial(weights[labels], batches * size, replacement=True).split(size))


def _another_exposure(images: Tensor) -> Tensor:
    """The same patients on another day: shifted, mirrored, and exposed differently."""
    count = len(images)
    pose = torch.zeros(count, 2, 3)
    pose[:, 0, 0] = (1 + (torch.rand(count) - 0.5) * 0.3) * torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    pose[:, 1, 1] = 1 + (torch.rand(count) - 0.5) * 0.3
    pose[:, :, 2] = (torch.rand(count, 2) - 0.5) * 0.2
    grid = nn.functional.affine_grid(pose, list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast, brightness = (
        1 + (torch.rand(count, 1, 1, 1) - 0.5) * 0.6,
        (torch.rand(count, 1, 1, 1) - 0.5) * 0.3,
    )
    return ((moved - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing."""
    trained = [name for name, candidate in CANDIDATES.items() if candidate.recipe]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description="Train the missing candidates.")
    parser.add_argument(
        "--candidates",
        nargs="+",
        choices=trained,
        default=trained,
        metavar="NAME",
        help=f"of {', '.join(trained)} (default: all)",
    )
    add_machine(parser)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    for name in given.candidates:
        ensure(CANDIDATES[name], given.archive)
        _say(f"{name}: {CANDIDATES[name].weights}")


if __name__ == "__main__":
    main()
