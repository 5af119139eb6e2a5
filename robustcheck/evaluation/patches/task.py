"""What a gate with a patch asks: which images it is about, where patches may lie on them, and how they are judged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch

from robustcheck.attacks.draws import key
from robustcheck.data import Area, load_area
from robustcheck.data.areas import BoxTable, MaskFolder
from robustcheck.data.subset import as_groups, spread, stratified
from robustcheck.errors import DataError
from robustcheck.evaluation.adversary import goal_of, worth_attacking
from robustcheck.evaluation.image_files import ImageWriter
from robustcheck.evaluation.looks.choice import conditions_of, viewer_of
from robustcheck.evaluation.looks.look import Viewer
from robustcheck.evaluation.patches.judging import Judge
from robustcheck.evaluation.patches.training import Pool
from robustcheck.evaluation.setting import Setting
from robustcheck.models import Surrogates
from robustcheck.models.memory import Chunks
from robustcheck.policy import Gate, PatchSpec
from robustcheck.threats import Goal
from robustcheck.threats.patch import Placing
from robustcheck.threats.viewing import Conditions

_STEPS, _STEPS_EACH = 500, 100
_DRAWS, _DRAWS_EACH = 64, 16


def training_steps(spec: PatchSpec) -> int:
    """How many steps a patch is trained for."""
    return spec.steps or (_STEPS if spec.universal else _STEPS_EACH)


@dataclass(frozen=True, kw_only=True)
class PatchTask:
    """What one gate with a patch asks of one candidate."""

    gate: Gate
    spec: PatchSpec
    setting: Setting
    goal: Goal

    @classmethod
    def of(cls, gate: Gate, setting: Setting) -> PatchTask:
        """The task of a gate whose attack is a patch."""
        assert isinstance(gate.attack, PatchSpec)
        return cls(gate=gate, spec=gate.attack, setting=setting, goal=goal_of(gate, setting))

    @cached_property
    def trained_on(self) -> np.ndarray:
        """Numbers of the samples that the patch is trained on; none if it is trained on other images.

        Samples that belong together are all trained on, or all judged.

        Raises:
            DataError: none is left to train on, or to judge.
        """
        share, samples = self.spec.train_on, self.setting.samples
        if share == "train" or not self.spec.universal or self.spec.patch is not None:
            return np.zeros(0, np.int64)
        groups = samples.groups
        names, readings = (
            (samples.names, samples.labels) if groups is None else as_groups(samples.names, samples.labels, groups)
        )
        count = round(share * len(names))
        if not 0 < count < len(names):
            what = "samples" if groups is None else "groups (data.group)"
            raise DataError(
                f"attack.train_on: {share:g} of {len(names):,} {what} leaves none to "
                f"{'judge' if count else 'train'} the patch on; add samples, or train on the train split"
            )
        choose = spread if self.setting.candidate.head.multilabel else stratified
        chosen = choose(names, readings, samples=count, seed=self.setting.seed)
        return chosen if groups is None else np.flatnonzero(np.isin(groups, chosen))

    @cached_property
    def judged(self) -> np.ndarray:
        """Numbers of the samples that the gate is about."""
        return np.setdiff1d(np.arange(len(self.setting.samples)), self.trained_on)

    @cached_property
    def attacked(self) -> list[int]:
        """Numbers of the judged samples that are worth attacking."""
        return worth_attacking(self.goal, self.setting, self.judged)

    @cached_property
    def pool(self) -> Pool:
        """The attacked samples; a place in it is one among `attacked`."""
        return Pool.of(self.setting.samples, self.attacked, self.keep_out)

    @property
    def steps(self) -> int:
        """Steps of training."""
        return training_steps(self.spec)

    @property
    def placements(self) -> int:
        """Placements a step and patch."""
        return self.spec.draws or (_DRAWS if self.spec.universal else _DRAWS_EACH)

    @cached_property
    def placing(self) -> Placing:
        """Where a patch may lie."""
        assert self.gate.size is not None
        return Placing.of(self.spec, self.gate.size)

    @cached_property
    def keep_out(self) -> Area | None:
        """What a patch may not cover."""
        return None if self.spec.keep_out is None else load_area(self.spec.keep_out, self.setting.folder)

    def check(self) -> None:
        """Refuse a task that could not be judged, before anything is trained.

        Raises:
            DataError: `keep_out` names no pixel of any attacked sample (it is misspelt, or calls samples by other
                names), or leaves no place on one of them.
            EvaluationError: a patch is larger than one of them.
        """
        if not self.attacked:
            return
        samples = self.setting.samples
        if isinstance(self.keep_out, BoxTable | MaskFolder):
            self.keep_out.check_names(samples.names)
        masks = map(self.pool.mask, range(len(self.pool)))
        if self.keep_out is not None and not any(mask is not None and mask.any() for mask in masks):
            raise DataError(
                f"attack.keep_out names no part of any of the {len(self.attacked):,} samples that are attacked; they "
                f"are called {samples.names[self.attacked[0]]} and so on"
            )
        for _, error in self.pool.refusals(self.placing):
            raise error

    @cached_property
    def conditions(self) -> Conditions | None:
        """Conditions under which a patch is seen."""
        return conditions_of(self.gate, self.setting.candidate)

    @cached_property
    def viewer(self) -> Viewer:
        """How images with patches are looked at."""
        candidate = self.setting.candidate
        return viewer_of(self.gate, candidate, self.goal, maximum=self.setting.samples.maximum)

    @property
    def device(self) -> torch.device:
        """The candidate's device."""
        return self.setting.candidate.device

    @property
    def channels(self) -> int:
        """Channels of the images, and so of patches."""
        return self.setting.samples.shape_of(0)[0]

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """The shape of patches in pixels: `resolution` times the side that a patch has on the largest image.

        Raises:
            EvaluationError: a patch is larger than one of the images.
        """
        # The largest of all that are judged, however this candidate reads them: a given patch is the same for each.
        shapes = (self.setting.samples.shape_of(sample)[1:] for sample in self.judged.tolist())
        side = self.placing.side(*max(shapes, key=prod))
        pixels = max(1, round(side * self.spec.resolution))
        return self.channels, pixels, pixels

    def key(self, what: str, number: int) -> int:
        """The key of the draws for a purpose."""
        return key(self.setting.seed, self.gate.id, what, number)

    def patch_judge(self, *, images: ImageWriter | None = None, surrogates: Surrogates | None = None) -> Judge:
        """Judges patches on the attacked samples.

        Args:
            images: writes those that are turned; None: nobody does, as of controls.
            surrogates: what turns them is noted too.
        """
        candidate = self.setting.candidate
        return Judge(
            gate=self.gate.id,
            attack=self.spec.name,
            pool=self.pool,
            placing=self.placing,
            viewer=self.viewer,
            goal=self.goal,
            tries=self.spec.worst_of,
            key=lambda name: self.key(f"judged/{name}", 0),
            is_positive=candidate.head.is_positive,
            images=images,
            chunks=Chunks(max(1, candidate.chunks.limit // self.viewer.at_once)),
            device=self.device,
            progress=self.setting.progress,
            surrogates=surrogates,
        )
