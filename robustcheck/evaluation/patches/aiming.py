"""What patches for all images are trained to do, and which of them is judged: the one that turns most in training.

If any wrong reading will do, the mean over images of all labels is highest for a patch that leaves half of them as they
are, or all: what turns those of one label keeps those of another. So patches are also trained toward each label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from robustcheck.attacks.objectives import log_probability
from robustcheck.evaluation.looks.look import SurrogateViewer
from robustcheck.evaluation.patches.judging import constant
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.patches.training import Pool, Trainer
from robustcheck.models import Surrogates
from robustcheck.models.batches import batches
from robustcheck.threats import Goal

COMPARED = 256  # images on which patches are compared and by which labels are ranked
MOST_DIRECTIONS = 4  # that patches are trained in


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a patch is trained to do."""

    goal: Goal
    said: str
    places: Sequence[int]  # in the pool, of the images that it is about

    def train(self, trainer: Trainer, shape: tuple[int, int, int], restart: int, *, own: bool) -> torch.Tensor:
        """A patch (1, C, S, S); other aims do not change the one for the gate's own goal."""
        aimed = replace(trainer, attack=replace(trainer.attack, objective=log_probability(self.goal, of_many=True)))
        return aimed.for_all(shape, restart, toward="" if own else f"{self.said}/", places=self.places)


def most_aims(task: PatchTask) -> int:
    """How many there are, if the training images have all labels."""
    return 1 + min(len(task.goal.directions), MOST_DIRECTIONS)


def ranks_labels(task: PatchTask) -> bool:
    """Whether there are more labels than patches are trained toward."""
    return len(task.goal.directions) > MOST_DIRECTIONS


def aims_of(task: PatchTask, trainer: Trainer) -> list[Aim]:
    """The gate's own goal, then the directions in which images of the trainer's pool may be turned."""
    pool, directions = trainer.pool, task.goal.directions
    if ranks_labels(task):
        directions = tuple(directions[label] for label in _nearest(trainer, len(directions))[:MOST_DIRECTIONS])
    aims = [Aim(goal=task.goal, said="any wrong reading", places=range(len(pool)))]
    for goal in directions:
        about = torch.nonzero(goal.applies(pool.labels)).flatten().tolist()
        aims += [Aim(goal=goal, said=_said(goal, task), places=about)] if about else []
    return aims


def _said(goal: Goal, task: PatchTask) -> str:
    if goal.target is not None:
        return task.setting.candidate.head.labels[goal.target]
    return "a missed finding" if goal.kind == "missed_finding" else "a false alarm"


def _nearest(trainer: Trainer, labels: int) -> list[int]:
    """Labels, ranked by the mean log-probability that clean images of other labels have for them, highest first."""
    pool = trainer.pool.some(COMPARED)
    told = torch.zeros(len(pool), labels, dtype=torch.float64)
    for places in batches(range(len(pool)), pool.shape, trainer.chunks.limit):

        def ask(at: torch.Tensor) -> tuple[torch.Tensor]:
            images, own = pool.batch(at.tolist(), trainer.device), pool.labels[at].to(trainer.device)
            logits, _, _ = trainer.access.gradient(images, own, own, trainer.attack.objective)
            return (logits.double().log_softmax(dim=1).cpu(),)

        (told[places],) = trainer.chunks(ask, torch.tensor(places))
    told[torch.arange(len(pool)), pool.labels] = torch.nan  # they have that label already
    means = told.nanmean(dim=0).nan_to_num(nan=-torch.inf)
    return means.argsort(descending=True, stable=True).tolist()


def strongest(task: PatchTask, pool: Pool, surrogates: Surrogates | None, textures: Sequence[torch.Tensor]) -> int:
    """Which of some patches turns most of a pool's images, at places that none was trained at.

    Images are weighted to match the share of each label among the judged samples: training images may have other
    shares.
    """
    if len(textures) == 1:
        return 0
    judge, few = task.patch_judge(), pool.some(COMPARED)
    # An adversary who follows other models may not ask the candidate which patch is best.
    viewer = judge.viewer if surrogates is None else SurrogateViewer(surrogates=surrogates, goal=task.goal)
    judge = replace(judge, pool=few, viewer=viewer, tries=1, key=lambda name: task.key(f"compared/{name}", 0))
    weights = _weights(task, few)

    def turned(number: int) -> Fraction:
        return sum((weights[place] for place in judge.judge(constant(textures[number])).turned), Fraction())

    return max(range(len(textures)), key=turned)


def _weights(task: PatchTask, pool: Pool) -> list[Fraction]:
    """How many judged images each image of a pool stands for; with several findings, which are rarely alike, one."""
    if task.goal.multilabel:
        return [Fraction(1)] * len(pool)
    judged = Counter(task.setting.labels[task.judged].tolist())
    here = Counter(pool.labels.tolist())
    return [Fraction(judged[label], here[label]) for label in pool.labels.tolist()]
