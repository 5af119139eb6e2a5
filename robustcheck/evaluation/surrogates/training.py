"""Trains a surrogate: a network of the adversary's own, on images and readings that the adversary has.

A few hundred images and a laptop have to be enough, so labels are drawn evenly (most images of most medical sets have
one label, or no finding), each image is moved and exposed a little differently every time it is seen, and batches are
small if images are few. Images are never mirrored: a label may depend on the side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import affine_grid, binary_cross_entropy_with_logits, cross_entropy, grid_sample
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from robustcheck.errors import CandidateError, EvaluationError, NoMemoryError, UserCodeError
from robustcheck.importing import import_callable
from robustcheck.models.memory import is_out_of_memory
from robustcheck.models.multilabel_head import present
from robustcheck.models.network import first_line
from robustcheck.models.output_selection import scores_in
from robustcheck.models.preprocess import Preprocess
from robustcheck.models.process_settings import full_precision, left_as_found
from robustcheck.models.pytorch.state_dict import build, layer_modules, takes
from robustcheck.policy import ModelSpec, TrainSpec
from robustcheck.user_code_files import written_in

_KEY = "train.architecture"
_WEIGHT_DECAY = 0.05
_LEAST_STEPS = 16  # of an epoch, unless batches would become smaller than
_SMALLEST_BATCH = 8
_SETTLING_BATCH, _SETTLING_IMAGES = 64, 4096  # most from which batch normalisation's statistics are taken
_SHIFT, _SCALE = 0.05, 0.1  # of half a side
_CONTRAST, _BRIGHTNESS = 0.2, 0.1  # of an image's distance from its mean, and of the range that images use
_LOOKED_AT, _PIXELS_EACH = 64, 4096  # most images, and pixels of each, from which that range is taken
_ENDS = 0.01, 0.99  # quantiles of it


def train(
    spec: TrainSpec,
    model: ModelSpec,
    *,
    folder: Path,
    images: Callable[[Sequence[int]], torch.Tensor],
    readings: torch.Tensor,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Weights of the architecture after all epochs, the same each time on one machine.

    An epoch is as many images as there are, drawn with replacement; a batch is smaller than the policy says if an
    epoch would have few steps.

    Args:
        spec: architecture, epochs, batch size, learning rate and seed.
        model: task, labels and preprocessing.
        folder: the policy's.
        images: numbers of samples, from 0 to N - 1, to shares (M, C, H, W) of the window, or of the full range, on the
            device.
        readings: (N,) of the images, on any device: indexes of labels, or for several the sum of 2**k.
        device: where the network is trained.
        progress: told how many steps are done, and of how many.

    Returns:
        The state dict, on the CPU; batch normalisation has the statistics of images that were not altered.

    Raises:
        CandidateError: the architecture cannot be built or trained, or the loss is not finite.
        UserCodeError: there is no such architecture.
        NoMemoryError: the batch is too large.
    """
    with left_as_found(), full_precision(device), torch.enable_grad(), _training(spec):
        torch.manual_seed(spec.seed)  # for weights and dropout
        architecture(spec, folder)
        network = build(spec.architecture, spec.architecture_args, folder, key=_KEY)[0].float().to(device).train()
        weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not weights:
            raise CandidateError(f"{_KEY}: {spec.architecture} has no weights to train")
        drawn = torch.Generator().manual_seed(spec.seed)  # on the CPU: the same numbers for every device
        batch = min(spec.batch_size, max(_SMALLEST_BATCH, len(readings) // _LEAST_STEPS))
        steps = spec.epochs * ceil(len(readings) / batch)
        optimiser = torch.optim.AdamW(weights, lr=spec.learning_rate, weight_decay=_WEIGHT_DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, spec.learning_rate, total_steps=steps)
        ask, readings = _asking(network, spec, model, device), readings.cpu()
        used = _range_used(images, len(readings))
        for step, chosen in enumerate(_batches(readings, model, batch, steps, drawn), start=1):
            scores = ask(_another_exposure(images(chosen.tolist()), used, drawn))
            loss = _loss(scores, readings[chosen].to(device), model)
            _check_finite(loss, f"the loss in step {step} of {steps}", spec)
            optimiser.zero_grad()
            loss.backward()  # the one place where weights are changed
            optimiser.step()
            schedule.step()
            if progress:
                progress(step, steps)
        size = min(_SETTLING_BATCH, batch, len(readings))  # no more at once than fitted in training
        count = ceil(min(_SETTLING_IMAGES, len(readings)) / size)
        _settle(network, ask, (images(c.tolist()) for c in _batches(readings, model, size, count, drawn)))
        state: dict[str, torch.Tensor] = network.state_dict()
        for name, value in state.items():
            _check_finite(value, name, spec)
        # Copies, because tied weights share memory, which a file's may not.
        return {
            name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in state.items()
        }


def architecture(spec: TrainSpec, folder: Path) -> Callable[..., Any]:
    """What builds the network.

    Raises:
        UserCodeError: there is no such callable.
    """
    try:
        return import_callable(spec.architecture, folder=folder)
    except UserCodeError as error:
        raise UserCodeError(f"{_KEY}: {error}") from None


def origin(spec: TrainSpec, folder: Path) -> tuple[set[str], dict[str, str]]:
    """What a network is made of before it learns anything.

    Returns:
        The modules that it and what builds it are written in, by name; and the sha256 of each tensor that it begins
        with whatever it is seeded with, as those that it read from files.

    Raises:
        CandidateError: it cannot be built.
        UserCodeError: there is no such callable.
    """
    make = architecture(spec, folder)
    found = list[dict[str, str]]()
    with left_as_found():
        for seed in (0, 1):
            torch.manual_seed(seed)
            network = build(spec.architecture, spec.architecture_args, folder, key=_KEY)[0]
            found.append({name: _sha256(value) for name, value in network.state_dict().items() if _is_there(value)})
    first, second = found
    modules = {*written_in(spec.architecture, make), *layer_modules(network)}
    return modules, {name: value for name, value in first.items() if second.get(name) == value}


def _is_there(value: object) -> bool:
    """Whether an entry of a state dict holds numbers: some are objects, or tensors that are made when first used."""
    return isinstance(value, torch.Tensor) and not is_lazy(value) and not value.is_meta


def _sha256(value: torch.Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


@contextmanager
def _training(spec: TrainSpec) -> Iterator[None]:
    """Turn errors inside into a sentence about the policy: a network, or torch because of it, may raise anything."""
    try:
        yield
    except EvaluationError:
        raise
    except Exception as error:
        if is_out_of_memory(error, rows=spec.batch_size):
            raise NoMemoryError(
                f"memory ran out in training; lower train.batch_size, which is {spec.batch_size}"
            ) from error
        raise CandidateError(
            f"{_KEY}: {spec.architecture} cannot be trained: {type(error).__name__}: {first_line(error)}"
        ) from error


def _batches(
    readings: torch.Tensor, model: ModelSpec, size: int, count: int, drawn: torch.Generator
) -> Iterator[torch.Tensor]:
    """So many batches of sample numbers, in which all labels are equally likely.

    Findings mix, so an image is drawn as often as the rarest thing that it shows: a finding, or the absence of one.
    """
    if model.task == "multilabel":
        shown = present(readings, len(model.labels))
        counts = shown.sum(dim=0)
        alike = torch.where(shown, counts, len(readings) - counts).amin(dim=1)
    else:
        alike = torch.bincount(readings)[readings]
    weights = 1 / alike
    for _ in range(count):
        yield torch.multinomial(weights, size, replacement=True, generator=drawn)


def _asking(
    network: torch.nn.Module, spec: TrainSpec, model: ModelSpec, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network with its preprocessing: shares (N, C, H, W) to scores (N, K), or (N, 1) of a binary task."""
    preprocess = Preprocess(model.preprocess, device, maximum=1)  # it is given shares, not stored values

    def ask(shares: torch.Tensor) -> torch.Tensor:
        try:
            answer: object = network(preprocess(shares))
        except Exception as error:  # it is the user's code
            if is_out_of_memory(error, rows=len(shares)):
                raise
            who = f"{_KEY}: {spec.architecture}"
            sentence = preprocess.refused(who, takes(network), tuple(shares.shape[1:]), error)
            raise CandidateError(sentence.replace("model.preprocess", "train.preprocess")) from error
        return _scores(answer, len(shares), spec, model)

    return ask


def _scores(answer: object, count: int, spec: TrainSpec, model: ModelSpec) -> torch.Tensor:
    """What a network answered about so many images, if it has the shape that the task needs."""
    wanted = (count, 1 if model.task == "binary" else len(model.labels))
    found = type(answer).__name__
    with suppress(CandidateError):  # with several outputs, nothing says which are the scores
        answer = scores_in(answer, None)
    if isinstance(answer, torch.Tensor):
        if tuple(answer.shape) in (wanted, wanted[:1] if wanted[1] == 1 else wanted):
            return answer.reshape(wanted)
        found = f"scores of shape {tuple(answer.shape)}"
    raise CandidateError(
        f"{_KEY}: {spec.architecture} answers {count} images with {found}, and a {model.task} task of "
        f"{len(model.labels)} labels needs scores of shape {wanted}; see train.architecture_args"
    )


def _loss(scores: torch.Tensor, readings: torch.Tensor, model: ModelSpec) -> torch.Tensor:
    """The loss of scores (N, K) that should give readings (N,)."""
    if model.task == "multiclass":
        return cross_entropy(scores, readings)
    return binary_cross_entropy_with_logits(scores, present(readings, scores.shape[1]).float())


def _check_finite(value: torch.Tensor, what: str, spec: TrainSpec) -> None:
    if not value.isfinite().all():
        raise CandidateError(
            f"training {spec.architecture} ran away ({what} is not finite): lower train.learning_rate, which is "
            f"{spec.learning_rate:g}"
        )


@torch.no_grad()
def _settle(
    network: torch.nn.Module, ask: Callable[[torch.Tensor], torch.Tensor], batches: Iterator[torch.Tensor]
) -> None:
    """Measure batch normalisation's statistics anew, on unaltered images and with the trained weights."""
    network.eval()  # nothing is dropped
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers:
        return
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches, not a decaying one
        layer.train()
    for shares in batches:
        ask(shares)
    network.eval()


def _range_used(images: Callable[[Sequence[int]], torch.Tensor], count: int) -> float:
    """How far apart the dark and the bright parts of so many images are, as a share of what can be stored.

    Files of 16 bits often use only 12 of them, where a little brighter by the full range would be black or white.
    """
    seen = list[torch.Tensor]()
    for number in range(0, count, ceil(count / _LOOKED_AT)):
        pixels = images([number]).flatten()
        seen.append(pixels[:: ceil(len(pixels) / _PIXELS_EACH)].cpu())
    dark, bright = torch.cat(seen).quantile(torch.tensor(_ENDS)).tolist()
    return float(bright - dark)


def _another_exposure(images: torch.Tensor, used: float, drawn: torch.Generator) -> torch.Tensor:
    """The same patients on another day: moved, nearer or farther, and exposed differently within the range `used`."""
    count = len(images)

    def within(most: float, *shape: int) -> torch.Tensor:
        return (2 * torch.rand(count, *shape, generator=drawn) - 1) * most

    pose = torch.cat([torch.eye(2) * (1 + within(_SCALE, 1, 1)), within(_SHIFT, 2, 1)], dim=2).to(images.device)
    grid = affine_grid(pose, list(images.shape), align_corners=False)
    moved = grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast, brightness = (within(most, 1, 1, 1).to(images.device) for most in (_CONTRAST, _BRIGHTNESS * used))
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    return ((moved - mean) * (1 + contrast) + mean + brightness).clamp(0, 1)
