"""A gate's standing made again of what its report says of each sample: measured and judged as a run does it.

Nothing is known of its searches but that: what there was to follow, and whom controls turned, is taken as if it left no
doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from robustcheck.data.multilabel import present
from robustcheck.evaluation.adversary import goal_of
from robustcheck.evaluation.controls import Controlled
from robustcheck.evaluation.metrics.measurement import Measurement
from robustcheck.evaluation.outcomes import most_adverse_of_findings
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.search.found import Found, Trace
from robustcheck.evaluation.search.ledger import UNKNOWN
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.standing import Standing
from robustcheck.models.head import NO_ANSWER
from robustcheck.policy import Gate, PatchSpec
from robustcheck.results import GateResult, Outcome

AREA = "auroc"  # the metric whose scores, under an attack, are not all stated
NEAR = 1e-3  # of a probability: what another machine's last bits may make of it


def may_stop(gate: Gate, setting: Setting) -> bool:
    """Whether a gate may decide before its last sample."""
    return setting.stop != "never" and gate.may_stop_early


def among(gate: Gate, setting: Setting) -> np.ndarray:
    """Numbers of the samples that a gate may look at, in their order."""
    return PatchTask.of(gate, setting).judged if isinstance(gate.attack, PatchSpec) else setting.order


def restated(gate: Gate, result: GateResult, setting: Setting) -> Standing:
    """What a gate's searches came to, by its samples, which are those that it is about and are read as labels."""
    numbers = {name: number for number, name in enumerate(setting.samples.names)}
    outcomes = {numbers[outcome.sample]: outcome for outcome in result.samples}
    head, clean = setting.candidate.head, setting.decisions.clone()
    clean[torch.tensor(list(outcomes))] = torch.tensor([head.named(one.clean) or 0 for one in outcomes.values()])
    attacked = [number for number, one in outcomes.items() if one.evidence is not None]
    unstarted = {number for number in attacked if outcomes[number].evidence == "unstarted"}
    searched = {number for number in attacked if outcomes[number].evidence in ("searched", "unstarted")}
    found = Found(trace=Trace(followable={*attacked} - unstarted, unstarted=unstarted), searched=searched)
    decided = result.stopped is not None and result.stopped.decided and may_stop(gate, setting)
    return Standing(
        gate=gate,
        setting=replace(setting, decisions=clean),
        goal=goal_of(gate, setting),
        among=among(gate, setting),
        judged=np.sort(list(outcomes)),
        attacked=attacked,
        broken={
            number: replace(UNKNOWN, decision=head.named(one.attacked) or 0, score=one.score)
            for number, one in outcomes.items()
            if one.status == "broken"
        },
        positive_probabilities=_scores(gate, outcomes, setting, clean),
        finding_probabilities=_finding_probabilities(setting),
        found=found,
        loaded_surrogates=(),
        controlled=tuple(Controlled(control=one, turned={}, admitted="none") for one in result.controls),
        intervals=setting.anytime_intervals if may_stop(gate, setting) else setting.intervals,
        rule="confident" if decided and setting.stop == "early" else setting.rule,
    )


def measurement(standing: Standing) -> Measurement:
    """What is measured of it, without an attack or under one."""
    measured = standing.measurement(standing.broken)
    return measured if standing.gate.attack is not None else replace(measured, attackable=None, controls=())


def _scores(gate: Gate, outcomes: Mapping[int, Outcome], setting: Setting, clean: torch.Tensor) -> np.ndarray | None:
    """Probabilities (N,) of the positive label as they are stated; None where one that there has to be is not.

    Under an attack none is better than that of the clean image, which the adversary may leave as it is.
    """
    if setting.positive_probabilities is None:
        return None
    scores, head = setting.positive_probabilities.numpy().astype(np.float64), setting.candidate.head
    drawn = setting.candidate.randomness is not None
    once = gate.conditions is None and not drawn  # of the looks that a mean is over any may have had no answer
    for number, one in outcomes.items():
        if one.score is not None:
            better = better_by(one.score, scores[number], positive=head.is_positive(int(setting.labels[number])))
            if gate.attack is None or drawn or not better > NEAR:
                scores[number] = one.score
        elif one.status == "broken":
            if once and head.named(one.attacked) != NO_ANSWER:
                return None
        elif clean[number] != NO_ANSWER:
            return None
    return scores


def better_by(score: float, than: float, *, positive: bool) -> float:
    """How much better for the candidate a probability of the positive label is."""
    return score - than if positive else than - score


def _finding_probabilities(setting: Setting) -> np.ndarray | None:
    """Probabilities (N, K) of each of several findings on clean images, no worse than they may be.

    What an attack makes of them is not stated.
    """
    probabilities = most_adverse_of_findings(setting, [], {})
    if probabilities is None:
        return None
    there = present(setting.labels.numpy(), probabilities.shape[1])
    return np.asarray(probabilities + np.where(there, NEAR, -NEAR))
