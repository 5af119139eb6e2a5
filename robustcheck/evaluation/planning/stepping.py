"""How long a step takes on this machine: measured on the gate's own images, in batches of its size."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

import torch

from robustcheck.attacks import Answers, GradientAttack, QueryAttack, Told
from robustcheck.attacks.draws import Draws
from robustcheck.evaluation.looks.choice import EOT
from robustcheck.evaluation.looks.look import Viewer
from robustcheck.evaluation.patches.making import trainer_of
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.progress import silent
from robustcheck.evaluation.setting import Setting
from robustcheck.models import Candidate, Surrogates
from robustcheck.models.access import Gradients
from robustcheck.models.batches import as_shares, batches
from robustcheck.results.plan import Step
from robustcheck.threats import Ball

Turn = Callable[[torch.Tensor, torch.Tensor], int]
"""Works on images (N, C, H, W) of true readings (N,), and returns how many went through the network."""

_SECONDS = 2.0  # that a kind of step may be measured for
_REPEATS = 5
_GROWTH = 4  # of batches, up to the gate's


def judging(candidate: Candidate, viewer: Viewer) -> Turn:
    """Shows images to the artefact, as proposals are shown."""

    def turn(images: torch.Tensor, labels: torch.Tensor) -> int:
        before = candidate.meter.forward
        viewer(images, labels, _draws(images), torch.zeros_like(labels))
        return candidate.meter.forward - before

    return turn


def following(access: Gradients, eot: EOT | None, attack: GradientAttack, ball: Ball) -> Turn:
    """Asks for a gradient, averaged over looks if there are several, and makes the attack's step."""

    def turn(images: torch.Tensor, labels: torch.Tensor) -> int:
        given, at = (images, labels, labels, attack.objective), torch.zeros_like(labels)
        if eot is None:
            _, loss, gradient = access.gradient(*given)
        else:
            _, loss, gradient = eot.gradient(access, *given, _draws(images), at)
        told = Told(step=at, loss=loss, fooled=torch.zeros_like(labels, dtype=torch.bool), gradient=gradient)
        attack.step(attack.start(images, images, ball, _draws(images)), told, images, ball, _draws(images))
        return len(images) * (1 if eot is None else eot.count)

    return turn


def training(task: PatchTask, surrogates: Surrogates | None) -> Turn:
    """A step of training a patch: on the images that it will be judged on, so that no others have to be read."""
    pool = task.pool
    trainer = trainer_of(task, pool, surrogates)
    step = replace(trainer, attack=replace(trainer.attack, steps=1), progress=silent)
    alike = max(batches(range(len(pool)), pool.shape), key=len)

    def turn(images: torch.Tensor, _labels: torch.Tensor) -> int:
        if task.spec.universal:
            step.for_all(task.shape, 0)
            return step.placements
        places = alike[: len(images)]
        step.for_each(task.shape, places)
        return step.placements * len(places)

    return turn


def asking(candidate: Candidate, attack: QueryAttack, ball: Ball, *, counted: bool, exact: bool) -> Turn:
    """A turn of an attack that asks: an oracle, which counts, or a white box."""
    ask = candidate.oracle_logits if counted else partial(candidate.search_logits, exact=exact)

    def turn(images: torch.Tensor, _labels: torch.Tensor) -> int:
        draws = _draws(images)
        state = attack.start(images, images, ball, draws)
        queries = attack.ask(state, images, ball, draws)
        loss = ask(queries.images.clamp(0, 1))[:, 0]
        no = torch.zeros_like(loss, dtype=torch.bool)
        attack.learn(state, queries, Answers(loss=loss, fooled=no, shown=no), images, ball, draws)
        return len(loss)

    return turn


@dataclass(kw_only=True)
class Stopwatch:
    """Times turns, each once."""

    setting: Setting
    known: dict[Hashable, Step] = field(default_factory=dict)

    def seconds(self, kind: str, named: Hashable, turn: Turn, rows: int, samples: list[int]) -> float:
        """How long a turn takes, for each image that goes through the network.

        Args:
            kind: of step, for people.
            named: what tells the turn from others of its kind.
            turn, rows: what is made, and with how many images at once.
            samples: numbers of those that are asked about; of several shapes the most frequent one is measured.

        Raises:
            EvaluationError: the candidate does not answer, or has no gradient.
        """
        key = (kind, named, rows)
        if key not in self.known:
            self.known[key] = self._measured(kind, turn, rows, samples)
        return self.known[key].seconds

    def _measured(self, kind: str, turn: Turn, rows: int, samples: list[int]) -> Step:
        """The median of a few, or as many as there is time for."""
        setting = self.setting
        group = max(batches(samples, setting.samples.shape_of), key=len)
        numbers = [group[place % len(group)] for place in range(rows)]
        images = as_shares(setting.samples, numbers, setting.candidate.device)
        labels = setting.labels[numbers].to(images.device)

        def timed(count: int) -> tuple[float, int]:
            began = time.perf_counter()
            asked = turn(images[:count], labels[:count])
            if images.device.type == "cuda":
                torch.cuda.synchronize(images.device)
            return time.perf_counter() - began, asked

        end, size = time.perf_counter() + _SECONDS, 1
        took, asked = timed(1)
        if took < _SECONDS:  # the first call includes warm-up
            took, asked = timed(1)
        slope = took  # seconds a row more
        # Large networks on small machines are measured in smaller batches.
        while size < rows and time.perf_counter() + took + (_GROWTH - 1) * size * slope < end:
            before, fewer = took, size
            size = min(rows, _GROWTH * size)
            took, asked = timed(size)
            slope = max(0.0, took - before) / (size - fewer)
        times = list[float]()
        while len(times) < _REPEATS and time.perf_counter() + took < end:
            took, asked = timed(size)
            times.append(took)
        return Step(kind=kind, batch=asked, seconds=median(times or [took]) / asked)


def _draws(images: torch.Tensor) -> Draws:
    return Draws.of(list(range(len(images))), images.device)
