"""Which way of looking a gate takes."""

from __future__ import annotations

from robustcheck.evaluation.looks.conditions import Averaging, Fresh, Grid
from robustcheck.evaluation.looks.look import Averages, Look, Once
from robustcheck.evaluation.looks.stochastic import Repeated, Repeating
from robustcheck.models import Candidate
from robustcheck.policy import Gate, RP2Spec
from robustcheck.threats import Goal
from robustcheck.threats.viewing import Conditions, cells


def look_of(gate: Gate, candidate: Candidate, goal: Goal, *, maximum: int) -> Look:
    """How a gate's proposals are looked at."""
    if gate.conditions is None:
        if candidate.randomness is not None:
            return Repeated(candidate=candidate, goal=goal)
        return Once(candidate=candidate, goal=goal)
    if isinstance(spec := gate.attack, RP2Spec):
        return Grid(
            candidate=candidate,
            goal=goal,
            looks=cells(spec.distances, spec.angles, candidate.device),
            count=len(spec.distances) * len(spec.angles),
            holds_on=gate.conditions.holds_on,
            maximum=maximum,
        )
    return Fresh(candidate=candidate, goal=goal, conditions=Conditions(spec=gate.conditions), maximum=maximum)


def averages_of(gate: Gate, candidate: Candidate) -> Averages | None:
    """What a gate's searches average over; None if one look shows everything, or other models are followed."""
    if gate.conditions is not None:
        return Averaging(conditions=Conditions(spec=gate.conditions), count=gate.conditions.draws)
    return Repeating() if candidate.randomness is not None and gate.surrogates is None else None
