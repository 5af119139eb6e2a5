"""From measured metrics to a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustcheck.policy import Bound
from robustcheck.results import Metric, Requirement, Verdict


def require(bounds: Sequence[Bound], metrics: Mapping[str, Metric]) -> tuple[Requirement, ...]:
    """Compare each bound with the point estimate of its metric."""
    requirements = []
    for bound in bounds:
        value = metrics[bound.metric].value if bound.metric in metrics else None
        met = None if value is None else bound.met_by(value)
        requirements.append(Requirement(metric=bound.metric, bound=str(bound), met=met))
    return tuple(requirements)


def judge(requirements: Sequence[Requirement]) -> Verdict:
    """`fail` if a bound is not met, else `error` if a metric is undefined, else `pass`."""
    if any(requirement.met is False for requirement in requirements):
        return "fail"
    if any(requirement.met is None for requirement in requirements):
        return "error"
    return "pass"
