"""From measured metrics to a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from robustcheck.policy import Bound
from robustcheck.results import Metric, Requirement, Verdict

Rule = Literal["estimate", "confident"]

_NOTHING = Metric(value=None, samples=0)


def compare(bounds: Sequence[Bound], metrics: Mapping[str, Metric], rule: Rule = "estimate") -> tuple[Requirement, ...]:
    """Compare each bound with its metric: with the point estimate, or with the whole interval (`confident`)."""
    return tuple(
        Requirement(metric=bound.metric, bound=str(bound), met=_met(bound, metrics.get(bound.metric, _NOTHING), rule))
        for bound in bounds
    )


def judge(requirements: Sequence[Requirement], metrics: Mapping[str, Metric]) -> Verdict:
    """`fail` if a bound is not met, else `error` if a metric is undefined, else `inconclusive` if one is undecided."""
    if any(requirement.met is False for requirement in requirements):
        return "fail"
    undecided = [requirement.metric for requirement in requirements if requirement.met is None]
    if any(metrics.get(metric, _NOTHING).value is None for metric in undecided):
        return "error"
    return "inconclusive" if undecided else "pass"


def _met(bound: Bound, metric: Metric, rule: Rule) -> bool | None:
    if metric.value is None:
        return None
    if rule == "estimate":
        return bound.met_by(metric.value)
    if metric.low is None or metric.high is None:
        return None
    return bound.decided_by(metric.low, metric.high)
