"""A gate's threat model as reports say it. No torch is needed for it."""

from __future__ import annotations

from dataclasses import replace
from math import floor
from typing import Any

from robustcheck.policy import Gate, RP2Spec
from robustcheck.results import Threat


def threat_of(gate: Gate, bits: int, *, drawing: bool = False) -> Threat:
    """The threat model of a gate with an attack, on images of so many bits; `drawing`: the candidate draws."""
    common = Threat(
        goal=gate.goal,
        target=gate.target,
        finding=gate.finding,
        knowledge=gate.knowledge,
        conditions=_conditions(gate, drawing),
        queries=gate.queries,
        oracle=gate.oracle if gate.asks else None,
        top_k=gate.top_k,
    )
    if gate.epsilon is None:
        if gate.size is None:
            return replace(common, capability="stickers")
        return replace(common, capability="patch", size=gate.size.text)
    levels = gate.epsilon.in_levels(bits)
    return replace(
        common,
        norm=gate.norm,
        epsilon=gate.epsilon.text,
        epsilon_share=float(levels / (2**bits - 1)),
        epsilon_levels=floor(levels) if gate.norm == "linf" else float(levels),
    )


def _conditions(gate: Gate, drawing: bool) -> dict[str, Any] | None:
    """How images are seen; stickers are judged on as many looks as their grid has."""
    if gate.conditions is None:
        return None
    written = gate.conditions.model_dump(mode="json", exclude_none=True)
    written["judged_on"] = gate.conditions.fresh_looks(drawing=drawing)
    if isinstance(gate.attack, RP2Spec):
        written["judged_on"] = gate.attack.cells * gate.conditions.looks_from(gate.attack.cells, drawing=drawing)
    if drawing:
        written["candidate_draws"] = True  # then each look is a separate call, and what holds is looked at twice
    return written
