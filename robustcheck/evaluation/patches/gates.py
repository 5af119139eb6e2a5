"""A gate with a patch: what the patch does to images that it has not seen, compared with its controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import interpolate

from robustcheck.attacks.draws import Draws
from robustcheck.evaluation.conclusion import conclude, examine_gradients
from robustcheck.evaluation.controls import Admitted, Controlled, controlled, seen_unattacked
from robustcheck.evaluation.cost import Account
from robustcheck.evaluation.outcomes import most_adverse
from robustcheck.evaluation.patches.judging import Judgement, Textures, constant
from robustcheck.evaluation.patches.making import Made, make
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.search.found import Found, Trace
from robustcheck.evaluation.search.ledger import UNKNOWN
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.standing import Standing
from robustcheck.models import Surrogates
from robustcheck.models.grey_levels import shares_of
from robustcheck.policy import Gate
from robustcheck.results import GateResult


def run_patch_gate(gate: Gate, setting: Setting) -> GateResult:
    """Evaluate a gate whose attack is a patch.

    Raises:
        DataError: there is nothing to train it on or to judge it on, a patch that is given does not fit, or there is no
            place for it on an image.
        EvaluationError: it is larger than an image, or there are no gradients to train it with.
    """
    loaded = setting.load_surrogates(gate.surrogates) if gate.surrogates else ()
    account = Account.open(setting, loaded)
    surrogates = Surrogates([one.candidate for one in loaded]) if loaded else None
    task = PatchTask.of(gate, setting)
    made, judgement = Made(textures=constant(torch.empty(0))), Judgement()
    controls: tuple[Controlled, ...] = ()
    task.check()
    if task.attacked:
        made = make(task, surrogates)
        judgement = task.patch_judge(images=setting.images, surrogates=surrogates).judge(made.textures)
        controls = _controls(task)
    attacked = task.attacked
    turned = sorted(judgement.turned.items())
    broken = {attacked[place]: replace(entry, patch=made.files.get(place)) for place, entry in turned}
    scores = {attacked[place]: score for place, score in judgement.scores.items()}
    standing = Standing(
        gate=gate,
        setting=setting,
        goal=task.goal,
        among=task.judged,
        judged=task.judged,
        attacked=attacked,
        broken=broken,
        positive_probabilities=most_adverse(setting, [scores], broken),
        found=Found(trace=_trace(task, made, judgement), searched=set(attacked)),
        loaded_surrogates=loaded,
        controlled=controls,
        intervals=setting.intervals,
        rule=setting.rule,
    )
    return replace(conclude(standing, account, examine_gradients), patch=made.patch)


def _trace(task: PatchTask, made: Made, judgement: Judgement) -> Trace:
    return replace(
        made.trace,
        followable={sample for place, sample in enumerate(task.attacked) if place not in made.unmoved},
        surrogates_turned={task.attacked[place] for place in judgement.surrogates_turned},
    )


def _controls(task: PatchTask) -> tuple[Controlled, ...]:
    """A piece of another image, and a patch in the middle grey of what is visible, in the same places; and no patch.

    The last only if images are seen under conditions, which may turn them by themselves.
    """
    middle = sum(task.setting.candidate.preprocess.visible) / 2
    judge, grey = task.patch_judge(), torch.full((1, *task.shape), middle, device=task.device)
    # If each image has a patch of its own, any of them may be grey; otherwise all images have the same.
    found = [_controlled(task, "grey patch", judge.judge(constant(grey)), "all" if task.spec.universal else "each")]
    if (pieces := _pieces(task)) is not None:
        admitted: Admitted = "none" if task.spec.universal else "each"
        found.insert(0, _controlled(task, "natural patch", judge.judge(pieces), admitted))
    if task.gate.conditions is not None:
        unattacked, _ = seen_unattacked(task.gate, task.setting, task.viewer, task.attacked)
        found.append(replace(unattacked, admitted=_admitted(task, unattacked.admitted)))
    return tuple(found)


def names_of_controls(task: PatchTask) -> tuple[str, ...]:
    """Names of the controls that a gate makes if it attacks any sample."""
    natural = () if _donors(task) is None else ("natural patch",)
    return (*natural, "grey patch", *(() if task.gate.conditions is None else ("no attack",)))


def _admitted(task: PatchTask, if_trained: Admitted) -> Admitted:
    """Whether the adversary may do what a control does; with a given patch it may use no other."""
    return "none" if task.spec.patch is not None else if_trained


def _controlled(task: PatchTask, name: str, judged: Judgement, admitted: Admitted) -> Controlled:
    turned = {
        task.attacked[place]: replace(UNKNOWN, decision=one.decision, score=one.score)
        for place, one in judged.turned.items()
    }
    return controlled(name, turned, task.attacked, task.setting, _admitted(task, admitted))


def _donors(task: PatchTask) -> Callable[[int], torch.Tensor] | None:
    """Other samples, labelled as the adversary wants a sample to be read; None if there are none for one of them."""
    labels = task.setting.labels
    wanted = {
        int(label): torch.nonzero(task.goal.met(labels, label.expand(len(labels)))).flatten()
        for label in labels[task.attacked].unique()
    }

    def donors(sample: int) -> torch.Tensor:
        every = wanted[int(labels[sample])]
        return every[every != sample]

    return donors if all(len(donors(sample)) for sample in task.attacked) else None


def _pieces(task: PatchTask) -> Textures | None:
    """A piece of another sample, labelled as the adversary wants, for each; None if there is none for one of them."""
    samples, donors = task.setting.samples, _donors(task)
    if donors is None:
        return None
    # Of images of different sizes: enlarged to the largest of them, so that they make a batch.
    largest = max(_side_of(task, samples.shape_of(number)) for number in range(len(samples)))

    def piece(place: int) -> torch.Tensor:
        sample = task.attacked[place]
        draws = Draws.of([task.key(f"piece/{samples.names[sample]}", 0)], torch.device("cpu"))
        which, down, right = draws.uniform((3,))[0].tolist()
        own_donors = donors(sample)
        image = samples.image(int(own_donors[int(which * len(own_donors))]))
        side, (_, height, width) = _side_of(task, image.shape), image.shape
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        cut = torch.from_numpy(image[:, top : top + side, left : left + side].astype(np.float32))
        return cut if side == largest else interpolate(cut[None], largest, mode="bilinear")[0]

    return lambda places: shares_of(torch.stack([piece(place) for place in places]).to(task.device), samples.maximum)


def _side_of(task: PatchTask, shape: tuple[int, ...]) -> int:
    """The side, in whole pixels, of a piece of an image: that of a patch on it, if the image is that long."""
    _, height, width = shape
    return max(1, min(round(task.placing.nominal(height, width)), height, width))
