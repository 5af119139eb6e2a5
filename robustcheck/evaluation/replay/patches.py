"""Checks patches as they lie on counterexamples, and a given patch against the file that the policy names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch

from robustcheck.attacks.draws import Draws
from robustcheck.digests import pixels_sha256
from robustcheck.evaluation.patches.judging import Judge, lies_under
from robustcheck.evaluation.patches.making import given
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.patches.training import Pool
from robustcheck.evaluation.setting import Setting
from robustcheck.models.grey_levels import on_host, to_stored
from robustcheck.policy import Gate
from robustcheck.results import Outcome, Patch
from robustcheck.threats.patch import PLACEMENT_DRAWS, lay

Row = tuple[Outcome, int]
"""A broken sample, and its number in the data."""

_ROUNDED = 1  # level: a patch is turned and scaled to fit, which other machines may round differently


class Patched:
    """A gate with a patch: whether a given patch is as stated, and lies where it has to."""

    def __init__(self, gate: Gate, setting: Setting) -> None:
        self._task = PatchTask.of(gate, setting)

    @cached_property
    def _judge(self) -> Judge:
        """Where its patches lie; there may be none if the gate could not be evaluated."""
        return self._task.patch_judge()

    @cached_property
    def _given(self) -> tuple[torch.Tensor, str] | None:
        """The patch (1, C, S, S) that the policy names, as it is laid on images, and its origin in words; None: none.

        Raises:
            DataError: its file is not there, or none that fits.
        """
        name = self._task.spec.patch
        return None if name is None else given(self._task, name)

    def faults_of_given(self, stated: Patch | None) -> Iterator[str]:
        """What is amiss with what is stated about a patch that the policy names.

        Raises:
            DataError: its file is not there, or none that fits.
        """
        if stated is None or self._given is None:
            return
        texture, origin = self._given
        maximum = self._task.setting.samples.maximum
        stored = on_host(to_stored(texture, maximum), maximum)[0]
        here = {"sha256": pixels_sha256(stored), "side": stored.shape[-1], "origin": origin}
        for key, value in here.items():
            if (said := getattr(stated, key)) != value:
                yield f"its patch is stated to have the {key} {said}, but the one that the policy names has {value}"

    def faults_of_place(self, outcome: Outcome, place: int, levels: torch.Tensor) -> Iterator[str]:
        """What differs outside the patch, which lies where the seed and the number of its place say.

        A trained patch is in its own file; whether it is what lies there is not compared.

        Args:
            outcome: of a broken sample.
            place: its number in the data.
            levels: (1, C, H, W) its counterexample.
        """
        task, judge = self._task, self._judge
        if outcome.restart is None or not 0 <= outcome.restart < judge.tries:
            yield f"{outcome.sample}: it does not say in which of its places the patch lies"
            return
        pool = Pool.of(task.setting.samples, [place], task.keep_out)
        numbers = Draws.of([judge.key(outcome.sample)], task.device).uniform((PLACEMENT_DRAWS,), at=outcome.restart)
        at = pool.placements([0], judge.placing, numbers)
        clean, maximum = pool.batch([0], task.device), task.setting.samples.maximum
        shown, reference = levels.to(task.device), to_stored(clean, maximum)
        if not bool(lies_under(shown, reference, at, judge.placing.outline, pool.masks([0], task.device))):
            yield f"{outcome.sample}: its counterexample differs from the sample where the patch does not lie"
        elif self._given is not None:
            wanted = to_stored(lay(self._given[0], clean, at, judge.placing.outline), maximum)
            if float((shown - wanted).abs().max()) > _ROUNDED:
                name = task.spec.patch
                yield f"{outcome.sample}: under the patch its counterexample is not what {name} looks like there"
