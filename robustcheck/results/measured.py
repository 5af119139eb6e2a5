"""What is measured, and what is required of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

METRICS: dict[str, str] = {
    "accuracy": "share of the samples that are read right, in every label if several may be present",
    "balanced_accuracy": "mean over the labels of the share that is read right, over findings of "
    "(sensitivity + specificity) / 2",
    "sensitivity": "share of the positives that are read as positive",
    "specificity": "share of the negatives that are read as negative",
    "ppv": "share of the positives among those that are read as positive, at data.prevalence",
    "npv": "share of the negatives among those that are read as negative, at data.prevalence",
    "auroc": "area under the ROC curve of the positive label's probability",
    "attack_success": "share of the samples read correctly before the attack that it turned",
    "control_success": "the same for the controls, if there are several for the one that turned most",
    "excess_success": "attack_success minus control_success: what the attack turned but occlusion or viewing did not",
}
"""What each metric is, all of them measured under the gate's attack."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric measured under a gate's attack, with its confidence interval."""

    value: float | None  # None where it is undefined, e.g. sensitivity without a positive sample
    low: float | None = None  # of its interval; None where none is computed
    high: float | None = None
    successes: int | None = None  # of `samples`, for metrics that are rates
    samples: int
    confidence: float = 0.95  # of the interval
    groups: int | None = None  # that the samples come from, e.g. patients; None: each is its own, or it was not counted
    effective: float | None = None  # independent samples that a rate's samples are worth; None: their number
    slice: str | None = None  # the part of the samples that it is about, e.g. the worst subgroup's sex=F


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A part of the samples, and what was measured on it."""

    kind: Literal["subgroup", "finding"]
    column: str | None = None  # of a subgroup
    name: str  # the value in it, or the finding's label
    metrics: dict[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A bound on a metric, and whether it was met."""

    metric: str
    bound: str  # ">= 0.7" or "<= 0.2"
    met: bool | None  # None if the metric is undefined, or its interval does not decide
