"""The patches that a gate judges: read from a file, trained for all images, or trained for each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from robustcheck.attacks.draws import Draws
from robustcheck.attacks.objectives import log_probability
from robustcheck.attacks.patch import PatchTraining
from robustcheck.data import Samples
from robustcheck.errors import DataError
from robustcheck.evaluation.looks.conditions import ConditionsEOT
from robustcheck.evaluation.patches.aiming import aims_of, strongest
from robustcheck.evaluation.patches.files import read_patch
from robustcheck.evaluation.patches.judging import Textures, constant, own
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.patches.training import Pool, Trainer
from robustcheck.evaluation.search.found import Trace
from robustcheck.evaluation.surrogates.lessons import apart_from
from robustcheck.models import Surrogates, WhiteBox
from robustcheck.models.batches import batches
from robustcheck.models.grey_levels import on_host, shares_of, to_stored
from robustcheck.results import Patch
from robustcheck.threats.patch import shrunk
from robustcheck.words import plural

_FINER = 2  # times attack.resolution: a given patch that is finer is shrunk to attack.resolution


@dataclass(frozen=True, kw_only=True)
class Made:
    """Patches, and how they came about."""

    textures: Textures
    patch: Patch | None = None  # if it is one for all images
    files: dict[int, str | None] = field(default_factory=dict)  # of each image's own, by place among the attacked
    unmoved: set[int] = field(default_factory=set)  # places whose patch never had a gradient to follow
    trace: Trace = field(default_factory=Trace)  # what the gradients that they were trained on were like


def make(task: PatchTask, surrogates: Surrogates | None) -> Made:
    """The patches of a gate, rounded to whole grey levels, because a patch is a file, and the file is judged.

    Args:
        task: the gate's.
        surrogates: whose gradients are followed in the candidate's place.

    Raises:
        DataError: the file is none that fits, or there is no image to train on.
        EvaluationError: there are no gradients.
    """
    if task.spec.patch is not None:
        return _given(task, task.spec.patch)
    return (_for_all if task.spec.universal else _for_each)(task, surrogates)


def _given(task: PatchTask, name: str) -> Made:
    texture, origin = given(task, name)
    return Made(textures=constant(texture), patch=_filed(task, texture, origin))


def given(task: PatchTask, name: str) -> tuple[torch.Tensor, str]:
    """A patch (1, C, S, S) that the policy names, as it is laid on images, and its origin in words.

    Raises:
        DataError: the file is none that fits.
    """
    samples = task.setting.samples
    shares, note = read_patch(name, task.setting.folder, bits=samples.bits, channels=task.channels)
    texture, origin = torch.from_numpy(shares)[None].to(task.device), f"given: {name}" + (note and f", {note}")
    if (stored := texture.shape[-1]) > _FINER * (side := task.shape[-1]):
        # Far finer than the image: each of its pixels shows the mean of what it covers.
        texture = shrunk(texture, side)
        origin += f", shrunk from {stored} pixels a side to {side} by averaging: it covers few of the image's"
    return _rounded(task, texture), origin


def _for_all(task: PatchTask, surrogates: Surrogates | None) -> Made:
    lessons, words = _lessons(task)
    trainer = trainer_of(task, lessons, surrogates)
    aims = aims_of(task, trainer)
    tries = [(aim, restart) for aim in aims for restart in range(task.spec.restarts)]
    patches = [_rounded(task, aim.train(trainer, task.shape, restart, own=aim is aims[0])) for aim, restart in tries]
    best = strongest(task, lessons, surrogates, patches)
    origin = f"trained here in {trainer.attack.steps:,} steps on {words}"
    if len(aims) > 1:
        origin += f", toward {tries[best][0].said}: of {len(tries)} patches the one that turned most of them"
    return Made(
        textures=constant(patches[best]),
        patch=_filed(task, patches[best], origin),
        unmoved=set() if trainer.followed else set(range(len(task.attacked))),
        trace=trainer.trace,
    )


def _for_each(task: PatchTask, surrogates: Surrogates | None) -> Made:
    trainer = trainer_of(task, task.pool, surrogates)
    rows = max(1, task.setting.candidate.chunks.limit // trainer.placements)
    textures = dict[int, np.ndarray]()
    for places in batches(range(len(task.pool)), task.pool.shape, rows):
        textures.update(zip(places, _stored(task, trainer.for_each(task.shape, places)), strict=True))
    return Made(
        textures=own(textures, task.setting.samples.maximum, task.device),
        files={place: _file_of(task, place, texture) for place, texture in textures.items()},
        unmoved={place for place in textures if task.pool.name(place) not in trainer.followed},
        trace=trainer.trace,
    )


def _lessons(task: PatchTask) -> tuple[Pool, str]:
    """What one patch for all images is trained on, and how reports describe it."""
    own_samples = len(task.trained_on) > 0
    source = task.setting.samples if own_samples else task.setting.train_split()
    numbers = task.trained_on if own_samples else np.arange(len(source))
    numbers = numbers[task.goal.applies(torch.from_numpy(source.labels[numbers])).numpy()]
    if not len(numbers):
        wanted = "as the goal wants" if task.gate.target is None else f"other than {task.gate.target}, the target"
        raise DataError(f"there is no image to train the patch on: none is labelled {wanted}")
    if not own_samples:
        numbers = _not_judged(task, source, numbers)
    if len(numbers) > task.spec.images:
        ranks = Draws.of([task.key("images", 0)], torch.device("cpu")).uniform((len(numbers),))[0]
        numbers = np.sort(numbers[ranks.argsort(stable=True).numpy()[: task.spec.images]])
    what = "of the samples, which are not judged" if own_samples else "of the train split"
    pool = Pool.of(source, numbers.tolist(), task.keep_out).fitting(task.placing)
    return pool, f"{plural(len(pool), 'image')} {what}"


def _not_judged(task: PatchTask, source: Samples, numbers: np.ndarray) -> np.ndarray:
    """Samples of another split that are not among those that the gate judges: a source may have no splits."""
    left = apart_from(source, numbers.tolist(), task.setting.samples, task.judged.tolist())
    if not left:
        raise DataError(
            "every image of the train split is also judged, but a patch is judged on images that it was not trained "
            "on: set data.split: test, or attack.train_on: 0.5"
        )
    return np.array(left, np.int64)


def trainer_of(task: PatchTask, pool: Pool, surrogates: Surrogates | None) -> Trainer:
    """Trains the patches of a gate on the images of a pool."""
    spec, conditions = task.spec, task.conditions
    visible = (surrogates or task.setting.candidate.preprocess).visible
    return Trainer(
        attack=PatchTraining(
            objective=log_probability(task.goal, of_many=task.spec.universal),
            steps=task.steps,
            step_size=spec.step_size,
            visible=visible,
            reach=visible if conditions is None else conditions.spec.reach(visible),
        ),
        placing=task.placing,
        access=surrogates or WhiteBox(task.setting.candidate),
        eot=None if conditions is None else ConditionsEOT(conditions=conditions, count=1),
        pool=pool,
        device=task.device,
        placements=task.placements,
        chunks=task.setting.candidate.chunks,
        key=lambda name, slot: task.key(f"patch/{name}", slot),
        progress=task.setting.progress,
    )


def _file_of(task: PatchTask, place: int, stored: np.ndarray) -> str | None:
    """The file of an image's own patch: a picture, or an array if no picture can hold it."""
    picture, array, _ = task.setting.images.patch(task.gate.id, stored, task.attacked[place])
    return picture or array


def _filed(task: PatchTask, texture: torch.Tensor, origin: str) -> Patch:
    stored = _stored(task, texture)[0]
    picture, array, sha256 = task.setting.images.patch(task.gate.id, stored)
    return Patch(picture=picture, array=array, sha256=sha256, side=stored.shape[-1], origin=origin)


def _rounded(task: PatchTask, textures: torch.Tensor) -> torch.Tensor:
    return shares_of(to_stored(textures, task.setting.samples.maximum), task.setting.samples.maximum)


def _stored(task: PatchTask, textures: torch.Tensor) -> np.ndarray:
    return on_host(to_stored(textures, task.setting.samples.maximum), task.setting.samples.maximum)
