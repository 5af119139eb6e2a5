"""One gate: search, adjudicate, measure, judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from robustcheck.evaluation.adversary import worth_attacking
from robustcheck.evaluation.conclusion import conclude, examine_gradients
from robustcheck.evaluation.controls import Controlled, grid_of, plain_stickers, seen_unattacked
from robustcheck.evaluation.cost import Account
from robustcheck.evaluation.curves import budget_curve, query_curve
from robustcheck.evaluation.health.checks import in_examination_order, with_inherited
from robustcheck.evaluation.health.examination import Examination
from robustcheck.evaluation.health.probing import Probes
from robustcheck.evaluation.looks.look import Once
from robustcheck.evaluation.metrics.verdicts import Rule, compare, judge
from robustcheck.evaluation.outcomes import most_adverse, most_adverse_of_findings, outcomes, readings, undefined
from robustcheck.evaluation.patches.gates import run_patch_gate
from robustcheck.evaluation.search.found import Found
from robustcheck.evaluation.search.ledger import Entry
from robustcheck.evaluation.search.searching import Search
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.standing import Standing
from robustcheck.evaluation.stopping import Stopping, stages
from robustcheck.evaluation.surrogates.loading import LoadedSurrogate
from robustcheck.models import Surrogates
from robustcheck.models.process_settings import full_precision
from robustcheck.policy import FMNSpec, Gate, PatchSpec, RP2Spec
from robustcheck.results import Cell, Cost, GateResult, HealthCheck
from robustcheck.threats import Region


def run_gate(gate: Gate, setting: Setting, *, shared: bool, beside_noise: bool) -> GateResult:
    """Evaluate a gate.

    Args:
        gate, setting: what is asked, and of what.
        shared: counterexamples of its family are used, and added to.
        beside_noise: it will be compared with gates of noise, so that nobody has to ask noise for it.
    """
    if gate.attack is None:
        return _unattacked(gate, setting)
    with full_precision(setting.candidate.device):
        if isinstance(gate.attack, PatchSpec):
            return run_patch_gate(gate, setting)
        return _run_searched_gate(gate, setting, shared=shared, beside_noise=beside_noise)


def _run_searched_gate(gate: Gate, setting: Setting, *, shared: bool, beside_noise: bool) -> GateResult:
    """Search until it is decided, conclude, examine, judge, and add what the report draws."""
    loaded = setting.load_surrogates(gate.surrogates) if gate.surrogates else ()
    account = Account.open(setting, loaded)
    surrogates = Surrogates([one.candidate for one in loaded]) if loaded else None
    search = Search.of(gate, setting, shared=shared, surrogates=surrogates)
    stopping = _until_decided(search, loaded)
    standing, cells = _with_controls(search, stopping)
    result = conclude(standing, account, partial(_health, search, beside_noise=beside_noise))
    for attack in search.attacks:
        setting.memory.examined.setdefault(search.key(attack), result.health)
    judged, attacked = standing.judged, set(standing.attacked)
    return replace(
        result,
        curve=budget_curve(setting, search.family, judged, attacked) if isinstance(gate.attack, FMNSpec) else (),
        query_curve=query_curve(setting, judged, standing.broken) if gate.asks else (),
        cells=cells,
        stopped=stopping.stopped,
    )


def _until_decided(search: Search, loaded: Sequence[LoadedSurrogate]) -> Stopping:
    """Search stage by stage, until the verdict is decided or all samples were searched."""
    setting = search.setting
    found = search.begin()
    searched = 0
    for end in stages(setting):
        search.run(worth_attacking(search.goal, setting, setting.order[searched:end]), found)
        stopping = Stopping.after(_known(search, found, loaded), searched, end)
        if stopping.needed is not None:
            break
        searched = end
    trace = found.trace
    setting.memory.ledger.add_scores(search.family, search.levels, trace.scores, trace.finding_probabilities)
    return stopping


def _known(search: Search, found: Found, loaded: Sequence[LoadedSurrogate]) -> Standing:
    """What the searches came to so far, on all samples."""
    gate, setting, family, levels = search.gate, search.setting, search.family, search.levels
    attacked, ledger = worth_attacking(search.goal, setting, setting.order), setting.memory.ledger
    within = ledger.within(family, levels)
    broken = {sample: within[sample] for sample in attacked if sample in within}
    verified = [*ledger.scores_within(family, levels), found.trace.scores]
    told = not (gate.descending and found.inherited)  # scores at a larger budget are not scores at this one
    return Standing(
        gate=gate,
        setting=setting,
        goal=search.goal,
        among=setting.order,
        judged=setting.order,
        attacked=attacked,
        broken=broken,
        positive_probabilities=most_adverse(setting, verified, broken) if told else None,
        finding_probabilities=_finding_probabilities(search, found, broken) if told else None,
        found=found,
        loaded_surrogates=loaded,
        controlled=(),
        intervals=setting.anytime_intervals,
        rule=setting.rule,
    )


def _with_controls(search: Search, stopping: Stopping) -> tuple[Standing, tuple[Cell, ...]]:
    """Restrict to the samples that were needed; add controls and, for stickers, the grid."""
    known = stopping.known
    standing = known.about(np.sort(search.setting.order[: stopping.needed]))
    controls, cells = _controls(search, known.found, standing.attacked)
    rule: Rule = "confident" if stopping.by_interval else known.rule
    return replace(standing, controlled=controls, rule=rule), cells


def _finding_probabilities(search: Search, found: Found, broken: dict[int, Entry]) -> np.ndarray | None:
    """Most adverse probabilities (N, K) of several findings, if images are looked at once, and as they are."""
    if not isinstance(search.viewer, Once):
        return None
    verified = search.setting.memory.ledger.finding_probabilities_within(search.family, search.levels)
    return most_adverse_of_findings(search.setting, [*verified, found.trace.finding_probabilities], broken)


def _health(search: Search, standing: Standing, cost: Cost, *, beside_noise: bool) -> tuple[HealthCheck, ...]:
    """Whether the attack of a white box, or one that asks, worked on this candidate."""
    gate, setting = standing.gate, standing.setting
    if gate.epsilon is None:  # stickers
        return examine_gradients(standing, cost)
    attacked, held = (in_examination_order(samples, gate, setting) for samples in (standing.attacked, standing.held))
    judged = standing.by_estimate
    examination = Examination(
        probes=Probes(search=search, attacked=attacked, held=held),
        found=standing.found,
        blind=standing.blind,
        undermined_by=lambda lost: judged.verdict_if(lost) != judged.verdict_if({}),
    )
    if gate.asks:  # noise is asked at this very budget, whatever stands for the search
        spared = "the policy's own noise is compared with it" if beside_noise else None
        if judged.verdict_if({}) not in ("pass", "inconclusive"):
            spared = "the gate does not pass"
        return (examination.beside_noise(cost, spared=spared),)
    checks = examination.checks(cost)
    if not standing.found.inherited.keys().isdisjoint(standing.held):
        for attack in search.attacks:
            checks = with_inherited(checks, setting.memory.examined.get(search.key(attack), ()))
    return checks


def _controls(search: Search, found: Found, attacked: list[int]) -> tuple[tuple[Controlled, ...], tuple[Cell, ...]]:
    """What conditions alone turn, and what covering alone turns; and the grid of gates that have one."""
    gate, setting = search.gate, search.setting
    if gate.conditions is None or not attacked:
        return (), ()
    control, grid = seen_unattacked(gate, setting, search.viewer, attacked)
    if grid is None or not isinstance(gate.attack, RP2Spec):
        return (control,), ()
    assert isinstance(search.ball, Region)
    plain = plain_stickers(gate, setting, search.viewer, search.ball, attacked)
    return (control, plain), grid_of(
        gate.attack,
        np.stack([found.trace.cells[sample] for sample in attacked]),
        grid,
        setting.intervals,
        setting.groups_of(attacked),
    )


def _unattacked(gate: Gate, setting: Setting) -> GateResult:
    positive_probabilities = most_adverse(setting, [], {})
    every = np.arange(len(setting.labels))
    read = readings(setting, {}, positive_probabilities, most_adverse_of_findings(setting, [], {}))
    measurement = setting.measurement(read, every, setting.intervals)
    metrics = measurement.metrics(gate.bounds)
    requirements = compare(gate.bounds, metrics, setting.rule)
    verdict = judge(requirements, metrics)
    return GateResult(
        id=gate.id,
        attack=None,
        threat=None,
        verdict=verdict,
        metrics=metrics,
        slices=measurement.slices(),
        requirements=requirements,
        findings=measurement.findings(gate.bounds),
        samples=outcomes(gate, setting, {}, positive_probabilities),
        error=undefined(gate, metrics) if verdict == "error" else None,
    )
