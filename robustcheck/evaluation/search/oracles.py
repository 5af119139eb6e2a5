"""Who answers the adversaries of a gate who may only ask."""

from __future__ import annotations

from robustcheck.evaluation.setting import Setting
from robustcheck.models import LabelOracle, ScoreOracle, TopKOracle
from robustcheck.policy import Gate


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
