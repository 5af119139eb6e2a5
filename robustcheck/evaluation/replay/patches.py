"""Patches as they lie on counterexamples, and one that is given beside the file that the policy names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from robustcheck.attacks.draws import Draws
from robustcheck.digests import pixels_sha256
from robustcheck.evaluation.patches.judging import discard, lies_under
from robustcheck.evaluation.patches.making import given
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.patches.training import Pool
from robustcheck.evaluation.setting import Setting
from robustcheck.models.grey_levels import on_host, to_stored
from robustcheck.policy import Gate, PatchSpec
from robustcheck.results import GateResult, Outcome
from robustcheck.threats.patch import PLACEMENT_DRAWS, lay

Row = tuple[Outcome, int]
"""A broken sample, and its number in the data."""

_ROUNDED = 1  # level: a patch is turned and scaled to fit, which other machines may round otherwise


def given_patch(gate: Gate, result: GateResult, setting: Setting) -> Iterator[str]:
    """What is amiss with what is stated of a patch that the policy names.

    Raises:
        DataError: its file is not there, or none that fits.
    """
    if not isinstance(gate.attack, PatchSpec) or gate.attack.patch is None or result.patch is None:
        return
    texture, origin = given(PatchTask.of(gate, setting), gate.attack.patch)
    stored = on_host(to_stored(texture, setting.samples.maximum), setting.samples.maximum)[0]
    here = {"sha256": pixels_sha256(stored), "side": stored.shape[-1], "origin": origin}
    for key, value in here.items():
        if (stated := getattr(result.patch, key)) != value:
            yield f"its patch is stated to have the {key} {stated}, and the one that the policy names has {value}"


def places(task: PatchTask, rows: Sequence[Row], levels: torch.Tensor) -> Iterator[str]:
    """What differs elsewhere than under a patch, which lies where the seed and the number of its place say.

    How a patch that was trained looks is in its own file, and whether it is what lies there is not compared.

    Args:
        task: the gate's.
        rows: samples of one shape.
        levels: (N, C, H, W) their counterexamples.
    """
    setting, judge, name = task.setting, task.patch_judge(discard), task.spec.patch
    texture = None if name is None else given(task, name)[0]
    for (outcome, number), stored in zip(rows, levels, strict=True):
        if outcome.restart is None or not 0 <= outcome.restart < judge.tries:
            yield f"{outcome.sample}: it does not say in which of its places the patch lies"
            continue
        pool = Pool.of(setting.samples, [number], task.keep_out)
        numbers = Draws.of([judge.key(outcome.sample)], task.device).uniform((PLACEMENT_DRAWS,), at=outcome.restart)
        at = pool.placements([0], judge.placing, numbers)
        clean = pool.batch([0], task.device)
        shown, reference = stored[None].to(task.device), to_stored(clean, setting.samples.maximum)
        if not bool(lies_under(shown, reference, at, judge.placing.outline, pool.masks([0], task.device))):
            yield f"{outcome.sample}: its counterexample differs from the sample where the patch does not lie"
        elif texture is not None:
            wanted = to_stored(lay(texture, clean, at, judge.placing.outline), setting.samples.maximum)
            if float((shown - wanted).abs().max()) > _ROUNDED:
                yield f"{outcome.sample}: under the patch its counterexample is not what {name} looks like there"
