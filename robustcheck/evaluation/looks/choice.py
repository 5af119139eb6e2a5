"""Which viewer a gate takes, and what its gradients are means over."""

from __future__ import annotations

from typing import TypeAlias

from robustcheck.evaluation.looks.conditions import ConditionsEOT, Grid, RandomLooks
from robustcheck.evaluation.looks.look import Once, Viewer
from robustcheck.evaluation.looks.stochastic import RepeatedCalls, StochasticEOT
from robustcheck.models import Candidate
from robustcheck.policy import Gate, RP2Spec
from robustcheck.threats import Goal
from robustcheck.threats.viewing import Conditions, grid_looks

EOT: TypeAlias = ConditionsEOT | StochasticEOT
"""Expectation over transformation: losses and gradients as means over what is drawn."""


def conditions_of(gate: Gate, candidate: Candidate) -> Conditions | None:
    """Under which conditions images are seen, if under any."""
    if gate.conditions is None:
        return None
    return Conditions(spec=gate.conditions, exported=candidate.preprocess.exported)


def viewer_of(gate: Gate, candidate: Candidate, goal: Goal, *, maximum: int) -> Viewer:
    """How a gate's proposals are looked at."""
    if (conditions := conditions_of(gate, candidate)) is None:
        kind = Once if candidate.randomness is None else RepeatedCalls
        return kind(candidate=candidate, goal=goal)
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
    if (conditions := conditions_of(gate, candidate)) is not None:
        return ConditionsEOT(conditions=conditions, count=conditions.spec.draws, drawing=drawing)
    return StochasticEOT() if drawing else None


def images_a_row(viewer: Viewer, eot: EOT | None) -> int:
    """How many images of a row go through the network together, where a search follows means or a proposal is seen."""
    return viewer.at_once if eot is None else max(eot.at_once, viewer.at_once)
