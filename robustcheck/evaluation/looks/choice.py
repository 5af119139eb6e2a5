"""Which viewer a gate takes, and what its gradients are means over."""

from __future__ import annotations

from robustcheck.evaluation.looks.conditions import ConditionsEOT, Grid, RandomLooks
from robustcheck.evaluation.looks.eot import EOT
from robustcheck.evaluation.looks.look import Once, Viewer
from robustcheck.evaluation.looks.stochastic import RepeatedCalls, StochasticEOT
from robustcheck.models import Candidate
from robustcheck.policy import Gate, RP2Spec
from robustcheck.threats import Goal
from robustcheck.threats.viewing import Conditions, grid_looks


def viewer_of(gate: Gate, candidate: Candidate, goal: Goal, *, maximum: int) -> Viewer:
    """How a gate's proposals are looked at."""
    if gate.conditions is None:
        if candidate.randomness is not None:
            return RepeatedCalls(candidate=candidate, goal=goal)
        return Once(candidate=candidate, goal=goal)
    conditions = Conditions(spec=gate.conditions, exported=candidate.preprocess.exported)
    if isinstance(spec := gate.attack, RP2Spec):
        return Grid(
            candidate=candidate,
            goal=goal,
            places=grid_looks(spec.distances, spec.angles, candidate.device),
            count=spec.cells,
            conditions=conditions,
            maximum=maximum,
        )
    return RandomLooks(candidate=candidate, goal=goal, conditions=conditions, maximum=maximum)


def eot_of(gate: Gate, candidate: Candidate) -> EOT | None:
    """What a gate's gradients are means over: looks, or calls of a candidate that draws; None if nothing is drawn."""
    drawing = candidate.randomness is not None and gate.surrogates is None
    if gate.conditions is not None:
        conditions = Conditions(spec=gate.conditions, exported=candidate.preprocess.exported)
        return ConditionsEOT(conditions=conditions, count=gate.conditions.draws, drawing=drawing)
    return StochasticEOT() if drawing else None
