"""What a gate's result has to contain, by its policy: nothing missing, which may have counted against it, nor more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

import numpy as np

from robustcheck.evaluation.adversary import worth_attacking
from robustcheck.evaluation.conclusion import checks_of
from robustcheck.evaluation.patches.gates import names_of_controls
from robustcheck.evaluation.patches.task import PatchTask
from robustcheck.evaluation.replay.figures import differs
from robustcheck.evaluation.replay.queries import of_queries
from robustcheck.evaluation.replay.restating import AREA, may_stop
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.standing import Standing
from robustcheck.evaluation.stopping import is_decided
from robustcheck.policy import FMNSpec, Gate, PatchSpec, RP2Spec
from robustcheck.results import GateResult, Metric
from robustcheck.words import listed, plural


def of_parts(result: GateResult, standing: Standing) -> Iterator[str]:
    """Faults in which controls, surrogates, patch, grid and curves there are."""
    gate, setting = standing.gate, standing.setting
    yield from _named("controls", [one.name for one in result.controls], _controls(standing))
    for control in result.controls:
        yield from (f"{control.name}: {sentence}" for sentence in _of_control(control.success, standing))
    yield from _of_numbers(result)
    yield from of_queries(result, standing)
    surrogates = [] if gate.surrogates is None else [one.path for one in gate.surrogates.surrogate]
    surrogates += [] if gate.surrogates is None else [one.architecture for one in gate.surrogates.train]
    yield from _named("surrogates", [one.path for one in result.surrogates], surrogates)
    spec = gate.attack
    one_patch = isinstance(spec, PatchSpec) and (spec.universal or spec.patch is not None) and bool(standing.attacked)
    if (result.patch is not None) != one_patch:
        yield "it states no patch, but has one for all images" if one_patch else "it states a patch, but has none"
    places = list[tuple[float, float]]()
    if isinstance(spec, RP2Spec) and standing.attacked:
        places = [(distance, angle) for distance in spec.distances for angle in spec.angles]
    if [(cell.distance, cell.angle) for cell in result.cells] != places:
        yield f"it states a grid of {plural(len(result.cells), 'place')}, but is looked at from {len(places)}"
    if result.curve and not isinstance(spec, FMNSpec):
        yield "it states a curve over budgets, which its attack does not give"
    if result.query_curve and not gate.asks:
        yield "it states a curve over queries, but asks none"
    wanted = () if spec is None else checks_of(gate, setting.candidate.randomness)
    for name, times in Counter(check.name for check in result.health if check.name in wanted).items():
        if times > 1:
            yield f"its health check {name} is stated {times} times"


def _controls(standing: Standing) -> Sequence[str]:
    """Names of the controls that a run makes of such a gate."""
    gate = standing.gate
    if gate.attack is None or not standing.attacked:
        return ()
    if isinstance(gate.attack, PatchSpec):
        return names_of_controls(PatchTask.of(gate, standing.setting))
    if gate.conditions is None:
        return ()
    return ("no attack", "plain stickers") if isinstance(gate.attack, RP2Spec) else ("no attack",)


def _of_control(stated: Metric, standing: Standing) -> Iterator[str]:
    """What is amiss with how many samples a control is stated to have turned, whichever they are."""
    attacked, turned = len(standing.attacked), stated.successes
    if stated.samples != attacked or turned is None or not 0 <= turned <= attacked:
        yield f"{turned} of {stated.samples} samples are stated to be turned, but {attacked} were attacked"
        return
    groups = standing.setting.groups_of(standing.attacked)
    here = standing.setting.intervals.rate(np.arange(attacked) < turned, groups)
    if groups is not None:  # how much they are worth depends on which ones were turned
        here = replace(here, low=stated.low, high=stated.high, effective=stated.effective)
    if (sentence := differs("its success", stated, here)) is not None:
        yield sentence


def _of_numbers(result: GateResult) -> Iterator[str]:
    """Faults: costs and curves that are not numbers, or negative."""
    every = {"cost": asdict(result.cost)}
    every |= {f"curve.{place}": asdict(point) for place, point in enumerate(result.curve)}
    every |= {f"query_curve.{place}": asdict(point) for place, point in enumerate(result.query_curve)}
    every["cost.queries"] = every["cost"].pop("queries")
    for where, numbers in every.items():
        for key, value in numbers.items():
            if not 0 <= value < math.inf or (key == "accuracy" and value > 1):
                yield f"{where}.{key} is stated as {value}, which it cannot be"


def _named(what: str, stated: Sequence[str], here: Sequence[str]) -> Iterator[str]:
    if list(stated) != list(here):
        yield f"its {what} are stated as {listed(stated)}, but are {listed(here)}"


def of_stop(gate: Gate, result: GateResult, setting: Setting) -> Iterator[str]:
    """Faults in where a gate states that it stopped."""
    stopped, of = result.stopped, len(setting.order)
    if not may_stop(gate, setting):
        if stopped is not None:
            yield f"it is stated to have stopped with {stopped.needed} of {stopped.of} samples, but should have gone on"
    elif stopped is None:
        if result.samples:
            yield "it does not state with how many samples it was decided"
    elif (stopped.rule, stopped.of, stopped.decided) != (setting.stop, of, stopped.needed < of) or not (
        1 <= stopped.needed <= of
    ):
        decided = "" if stopped.decided else "not "
        yield (
            f"it is stated to be {decided}decided by the rule {stopped.rule} with {stopped.needed} of {stopped.of} "
            f"samples, which cannot be under stop: {setting.stop} with {of} samples"
        )


def of_decision(result: GateResult, standing: Standing) -> Iterator[str]:
    """The fault of a gate that states that it was decided before its last sample, but by its samples was not.

    If areas are required, that depends on scores that are not all stated; if a candidate draws, on how it read the
    samples that are not listed.
    """
    gate, setting, stopped = standing.gate, standing.setting, result.stopped
    if stopped is None or not stopped.decided or any(bound.of[1] == AREA for bound in gate.bounds):
        return
    if setting.candidate.randomness is not None:
        return
    known = replace(
        standing,
        judged=setting.order,
        attacked=worth_attacking(standing.goal, setting, setting.order),
        controlled=(),  # these come afterwards
        rule=setting.rule,
    )
    if not is_decided(known, stopped.needed):
        yield f"it is stated to be decided with {plural(stopped.needed, 'sample')}, but by what it states it is not"
