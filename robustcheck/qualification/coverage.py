"""What known answers say nothing about: attacks, goals, and kinds of candidates and images that are not among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from robustcheck.policy import ATTACKS, DecisionSpec, ModelSpec, Policy
from robustcheck.policy.schema import GateSpec
from robustcheck.results import AuditReport


def not_covered(policies: Sequence[Policy], reports: Sequence[AuditReport]) -> Iterator[str]:
    """Sentences, from what these policies ask and what their runs had before them."""
    gates = [gate for policy in policies for gate in policy.gates]
    decisions = [policy.decision for policy in policies]
    for what, known, used in (
        ("Attacks", tuple(ATTACKS), {gate.attack_name for gate in gates}),
        ("Goals", _choices(GateSpec, "goal"), {gate.goal for gate in gates}),
        ("Norms", _choices(GateSpec, "norm"), {gate.norm for gate in gates}),
        ("Tasks", _choices(ModelSpec, "task"), {policy.model.task for policy in policies}),
        ("Decision rules", _choices(DecisionSpec, "rule"), {decision.rule for decision in decisions}),
        ("Stopping", _choices(DecisionSpec, "stop"), {decision.stop for decision in decisions}),
    ):
        if missing := [name for name in known if name not in used]:
            yield f"{what}: {', '.join(missing)}."
    if not any(gate.conditions for gate in gates):
        yield "Viewing conditions."
    yield f"More than {max(len(policy.model.labels) for policy in policies)} labels."
    models, data = [one.model for one in reports if one.model], [one.data for one in reports if one.data]
    yield f"Files other than {', '.join(sorted({model.format for model in models})) or 'none'}."
    sizes = sorted({" × ".join(map(str, one.shape)) for one in data if one.shape})
    depths = " or ".join(map(str, sorted({one.bits for one in data})))
    yield f"Images other than {', '.join(sizes) or 'none'} (channels, height, width) of {depths or 'no'} bits."


def _choices(spec: type[BaseModel], field: str) -> tuple[Any, ...]:
    """The words that a field may say."""
    return get_args(spec.model_fields[field].annotation)
