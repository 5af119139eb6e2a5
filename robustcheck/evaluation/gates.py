"""One gate: search, adjudicate, measure, judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robustcheck.data import load_area
from robustcheck.errors import DataError
from robustcheck.evaluation.conclusion import Account, Conclusion
from robustcheck.evaluation.controls import grid_of, seen_unattacked
from robustcheck.evaluation.curves import budget_curve, query_curve
from robustcheck.evaluation.metrics import measure
from robustcheck.evaluation.outcomes import goal_of, keep_examples, most_adverse, outcomes, readings, undefined
from robustcheck.evaluation.patch_gates import run_patch_gate
from robustcheck.evaluation.searching import Found, Search
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.verdicts import judge, require
from robustcheck.models import Surrogates
from robustcheck.models.process import full_precision
from robustcheck.policy import FMNSpec, Gate, PatchSpec, RP2Spec
from robustcheck.results import Cell, Control, GateResult
from robustcheck.threats import Ball, Region, ball_of


def run_gate(gate: Gate, setting: Setting, *, shared: bool) -> GateResult:
    """Evaluate a gate. Counterexamples of its family are used, and added to, if evidence is `shared`."""
    if gate.attack is None:
        return _unattacked(gate, setting)
    with full_precision(setting.candidate.device):
        if isinstance(gate.attack, PatchSpec):
            return run_patch_gate(gate, setting)
        return _searched(gate, setting, shared=shared)


def _searched(gate: Gate, setting: Setting, *, shared: bool) -> GateResult:
    surrogates = setting.surrogates(gate.surrogates) if gate.surrogates else ()
    account = Account.open(setting, surrogates)
    ball, goal = ball_for(gate, setting), goal_of(gate, setting)
    family, levels = (gate.family if shared and gate.family else gate.id), float(ball.levels)
    worth = goal.open(setting.decisions, setting.labels)
    attacked: list[int] = worth.nonzero().flatten().tolist()
    search = Search(
        gate=gate,
        setting=setting,
        ball=ball,
        goal=goal,
        family=family,
        surrogates=Surrogates([one.candidate for one in surrogates]) if surrogates else None,
    )
    found = search.run(attacked)
    setting.ledger.add_scores(family, levels, found.trace.scores)
    broken = {sample: entry for sample, entry in setting.ledger.within(family, levels).items() if worth[sample]}
    keep_examples(gate, setting, broken)
    controls, cells = _controls(gate, setting, search, found, attacked)
    conclusion = Conclusion(
        gate=gate,
        setting=setting,
        goal=goal,
        judged=np.arange(len(setting.labels)),
        attacked=attacked,
        broken=broken,
        scores=most_adverse(setting, setting.ledger.scores_within(family, levels), broken),
        found=found,
        surrogates=surrogates,
        controls=controls,
    )
    return replace(
        conclusion.result(account),
        curve=budget_curve(setting, family, set(attacked)) if isinstance(gate.attack, FMNSpec) else (),
        query_curve=query_curve(setting, broken) if gate.asks else (),
        cells=cells,
    )


def ball_for(gate: Gate, setting: Setting) -> Ball:
    """Where a gate's counterexamples may lie.

    Raises:
        DataError: stickers cover no pixel of an image.
    """
    if gate.epsilon is not None:
        return ball_of(gate.norm, gate.epsilon, setting.samples.bits)
    assert isinstance(gate.attack, RP2Spec)
    region = Region(area=load_area(gate.attack.stickers, setting.folder), maximum=setting.samples.maximum)
    for _, height, width in {setting.samples.shape_of(sample) for sample in range(len(setting.samples))}:
        if not region.mask(height, width).any():
            raise DataError(f"attack.stickers cover no pixel of an image of {height}×{width} (height × width)")
    return region


def _controls(
    gate: Gate, setting: Setting, search: Search, found: Found, attacked: list[int]
) -> tuple[tuple[Control, ...], tuple[Cell, ...]]:
    """What conditions alone do, and the grid of gates that have one."""
    if gate.conditions is None or not attacked:
        return (), ()
    control, grid = seen_unattacked(gate, setting, search.look, attacked)
    if grid is None or not isinstance(gate.attack, RP2Spec):
        return (control,), ()
    return (control,), grid_of(
        gate.attack, np.stack([found.trace.cells[sample] for sample in attacked]), grid, setting.intervals
    )


def _unattacked(gate: Gate, setting: Setting) -> GateResult:
    scores = most_adverse(setting, [], {})
    metrics = measure(readings(setting, {}, scores), attacked=None, intervals=setting.intervals)
    requirements = require(gate.bounds, metrics, setting.rule)
    verdict = judge(requirements, metrics)
    return GateResult(
        id=gate.id,
        attack=None,
        threat=None,
        verdict=verdict,
        metrics=metrics,
        requirements=requirements,
        samples=outcomes(gate, setting, {}, scores),
        error=undefined(gate, metrics) if verdict == "error" else None,
    )
