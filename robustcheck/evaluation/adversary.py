"""A gate's adversary, for this candidate and these samples.

What it wants, what it may ask, and where its counterexamples may lie.
"""

from __future__ import annotations

import numpy as np

from robustcheck.data import load_area
from robustcheck.errors import DataError
from robustcheck.evaluation.setting import Setting
from robustcheck.models import LabelOracle, ScoreOracle, TopKOracle
from robustcheck.policy import Gate, RP2Spec
from robustcheck.policy.quantities import SAY_HOUNSFIELD
from robustcheck.results import Threat
from robustcheck.threats import Ball, Goal, Region, ball_of


def goal_of(gate: Gate, setting: Setting) -> Goal:
    """What a gate's adversary wants of this candidate, in a setting that is about the gate's finding."""
    head = setting.candidate.head
    return Goal(
        kind=gate.goal,
        labels=len(head.labels),
        target=None if gate.target is None else head.labels.index(gate.target),
        positive=head.positive,
        multilabel=head.multilabel,
    )


def worth_attacking(goal: Goal, setting: Setting, samples: np.ndarray) -> list[int]:
    """Those of these samples (M,), by number and in their order, that are worth attacking; see `Goal.attackable`."""
    attackable = goal.attackable(setting.decisions, setting.labels).numpy()
    return [int(sample) for sample in samples[attackable[samples]]]


def wants_more(own: Gate | Threat, other: Gate | Threat) -> bool:
    """Whether one adversary wants all that another does, and more: any wrong reading, or any of several findings."""
    if own.goal != other.goal:
        return own.goal == "untargeted"
    return own.finding is None and other.finding is not None


def oracle_of(gate: Gate, setting: Setting) -> ScoreOracle | TopKOracle | LabelOracle | None:
    """An oracle that has counted nothing yet; None for a gate whose adversary asks nothing, or without a limit."""
    if gate.queries is None:
        return None
    candidate, samples, limit = setting.candidate, len(setting.samples), gate.queries
    maximum = setting.samples.maximum if gate.oracle == "stored" else None
    if gate.top_k is not None:
        return TopKOracle(candidate, samples=samples, limit=limit, maximum=maximum, k=gate.top_k)
    kind = LabelOracle if gate.knowledge == "label" else ScoreOracle
    return kind(candidate, samples=samples, limit=limit, maximum=maximum)


def ball_of_gate(gate: Gate, setting: Setting) -> Ball:
    """Where a gate's counterexamples may lie.

    Raises:
        DataError: stickers cover no pixel of an image, or a budget is in Hounsfield units and the images are no CT.
    """
    if gate.epsilon is not None:
        if gate.epsilon.hounsfield and setting.samples.hounsfield is None:
            raise DataError(
                f"epsilon {gate.epsilon.text} is in Hounsfield units, and {setting.samples.info.source} holds no CT; "
                f"{SAY_HOUNSFIELD}"
            )
        return ball_of(gate.norm, gate.epsilon, setting.samples.bits)
    assert isinstance(gate.attack, RP2Spec)
    region = Region(
        area=load_area(gate.attack.stickers, setting.folder),
        maximum=setting.samples.maximum,
        visible=(seen := setting.candidate.preprocess.visible),
        reach=seen if gate.conditions is None else gate.conditions.reach(seen),
    )
    for _, height, width in {setting.samples.shape_of(sample) for sample in range(len(setting.samples))}:
        if not region.mask(height, width).any():
            raise DataError(f"attack.stickers cover no pixel of an image of {height}×{width} (height × width)")
    return region
