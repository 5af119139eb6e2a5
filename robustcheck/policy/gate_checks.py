"""Mistakes of gates that no single field of a policy shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustcheck.policy import patch_checks, query_checks, requirement_checks, transfer_checks
from robustcheck.policy.attack_specs import ATTACKS, LINF_ONLY, NO_EPSILON
from robustcheck.policy.fields import is_whole
from robustcheck.policy.gradient_specs import FGSMSpec, PGDSpec
from robustcheck.policy.model_checks import is_folder
from robustcheck.policy.model_spec import ModelSpec
from robustcheck.policy.quantities import SAY_HOUNSFIELD, Quantity
from robustcheck.policy.query_specs import NESSpec, NoiseSpec, SlowToBegin, SquareSpec
from robustcheck.policy.schema import ABOUT_DISEASE, GateSpec
from robustcheck.policy.sections import (
    NO_ATTACK,
    Faults,
    attack_name,
    attack_spec,
    one_of_labels,
    placed_entries,
    section,
    stands,
)
from robustcheck.policy.transfer_spec import TransferSpec
from robustcheck.policy.tree import KeyPath
from robustcheck.words import plural, shown

LEAST_DESCENDING = 5  # steps of a search that may stand for smaller budgets: fewer are nearly as large as the ball
NO_CT = ("phantom:", "medmnist:")  # sources of eight bits


def find(data: dict[str, Any], folder: Path) -> Faults:
    """The mistakes of all gates."""
    bits, no_ct = known_bits(section(data, "data")), _no_ct(section(data, "data"), folder)
    model = section(data, "model")
    has_positive = stands("positive", model, ModelSpec)
    first: dict[str, int] = {}
    for index, gate in _gates(data):
        at: KeyPath = ("gates", index)
        yield from _budget_beside_attack(gate, at)
        yield from _each_budget(gate, at, bits, no_ct)
        yield from _goal(gate, at, model, has_positive=has_positive)
        yield from _finding(gate, at, model)
        yield from query_checks.find(gate, at, model)
        yield from transfer_checks.find(gate, at, data, folder)
        yield from patch_checks.find(gate, at, data, folder)
        yield from _norm(gate, at)
        yield from _square(gate, at)
        yield from _ladder(gate, at, data)
        yield from _restarts(gate, at)
        named = has_positive or stands("finding", gate, GateSpec)
        yield from requirement_checks.find(gate, at, data, has_positive=named)
        name = gate.get("id")
        if isinstance(name, str) and first.setdefault(name, index) != index:
            yield (*at, "id"), f"found {shown(name)}, which gates[{first[name]}] already has; ids have to be unique"


def may_stop(gate: dict[str, Any]) -> bool:
    """Whether a gate takes samples one after another, so that it may decide before the last one."""
    return stands("attack", gate, GateSpec) and attack_name(gate) != "patch"


def known_bits(data: dict[str, Any]) -> int | None:
    """The stored depth, where the policy's `data` alone tells it."""
    bits, source = data.get("bits"), data.get("source")
    if is_whole(bits) and 1 <= bits <= 16:
        return bits
    return 8 if isinstance(source, str) and source.startswith(NO_CT) else None


def _no_ct(data: dict[str, Any], folder: Path) -> str | None:
    """Why no budget can be in Hounsfield units; None if the images may be CT, which DICOM files say themselves."""
    source = data.get("source")
    if not isinstance(source, str) or not source or "hounsfield" in data:
        return None
    if Path(source).suffix.lower() == ".csv" or is_folder(folder / source):
        return None
    return f"{shown(source)} holds no CT" + ("" if source.startswith(NO_CT) else f"; {SAY_HOUNSFIELD}")


def _gates(data: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    gates = data.get("gates")
    for index, gate in enumerate(gates if isinstance(gates, list) else []):
        if isinstance(gate, dict):
            yield index, gate


def _budget_beside_attack(gate: dict[str, Any], at: KeyPath) -> Faults:
    """An attack needs a budget, and a budget an attack."""
    attack = gate.get("attack")
    named = (isinstance(attack, str) and attack.lower() not in NO_ATTACK) or (
        isinstance(attack, dict) and "epsilon" not in attack
    )
    if attack_name(gate) in NO_EPSILON:
        return  # `patch_checks` knows what bounds these
    if named and not stands("epsilon", gate, GateSpec):
        yield (*at, "attack"), "needs epsilon beside it, the budget of the adversary, such as 2/255"
    if "epsilon" in gate and not stands("attack", gate, GateSpec):
        yield (*at, "epsilon"), "is the budget of an attack, but this gate has no attack"


def _each_budget(gate: dict[str, Any], at: KeyPath, bits: int | None, no_ct: str | None) -> Faults:
    """Each budget suits these images and allows a change, and none is listed twice."""
    seen: dict[object, str] = {}
    l2 = gate.get("norm") == "l2"
    for value, where in placed_entries(gate.get("epsilon"), (*at, "epsilon")):
        try:
            quantity = Quantity.parse(value, length=True)
        except ValueError:
            continue  # a mistake of its own, reported with the schema's
        try:
            Quantity.parse(value, length=l2)
        except ValueError as error:
            yield where, str(error)
            continue
        if quantity.hounsfield and no_ct:
            yield where, f"found {shown(quantity.text)}, but {no_ct}"
        amount = (quantity.share, quantity.levels) if bits is None else quantity.in_levels(bits)
        if amount in seen:
            again = f", the same as {seen[amount]}" if seen[amount] != quantity.text else ""
            yield where, f"found {quantity.text}{again}, for the second time in the list"
        seen.setdefault(amount, quantity.text)
        if bits is not None:
            yield from _admits(quantity, bits, where, l2=l2)


def _admits(quantity: Quantity, bits: int, where: KeyPath, *, l2: bool) -> Faults:
    """A budget admits at least one level, and no more of them than an image has."""
    levels, most = quantity.in_levels(bits), 2**bits - 1
    if levels < 1:
        yield (
            where,
            f"found {quantity.text}, {quantity.levels_in_words(bits)} of a grey level: it admits no change to an image "
            f"of {bits} bits; one level is 1/{most}",
        )
    elif levels > most and not l2:
        yield where, f"found {quantity.text}; an image of {bits} bits has {most}"
    elif not l2 and (mistaken := quantity.a_hair_less(bits)):
        yield where, f"found {quantity.text}, {mistaken}"


def _goal(gate: dict[str, Any], at: KeyPath, model: dict[str, Any], *, has_positive: bool) -> Faults:
    """What a goal needs beside it: an attack, a target, a positive label."""
    goal, several = gate.get("goal"), model.get("task") == "multilabel"
    for key in ("goal", "norm", "target", "finding", "queries", "oracle", "ladder", "size", "conditions"):
        if key in gate and not stands("attack", gate, GateSpec):
            yield (*at, key), "is about an attack, but this gate has none"
    if goal == "targeted" and not stands("target", gate, GateSpec):
        yield (*at, "goal"), "targeted needs target beside it, the label that the adversary wants"
    if goal == "targeted" and several:
        yield (*at, "goal"), "targeted is not for multilabel tasks; missed_finding and false_alarm are"
    if goal in ABOUT_DISEASE and not has_positive and not several:
        yield (*at, "goal"), f"{goal} needs model.positive: which label is disease"
    if "target" not in gate:
        return
    if goal != "targeted":
        yield (*at, "target"), "is for goal: targeted"
    yield from one_of_labels(gate["target"], (*at, "target"), model)


def _finding(gate: dict[str, Any], at: KeyPath, model: dict[str, Any]) -> Faults:
    """A gate names a finding only if there may be several and its goal is about one."""
    if "finding" not in gate:
        return
    if model.get("task") != "multilabel":
        yield (*at, "finding"), "is for task: multilabel; if labels exclude one another, set model.positive"
    elif gate.get("goal") not in ABOUT_DISEASE and stands("attack", gate, GateSpec):
        yield (*at, "finding"), f"is for goal: {' or goal: '.join(ABOUT_DISEASE)}; other goals are about any finding"
    yield from one_of_labels(gate["finding"], (*at, "finding"), model)


def _norm(gate: dict[str, Any], at: KeyPath) -> Faults:
    """Some attacks search only in the L∞ ball."""
    name = attack_name(gate)
    if name in LINF_ONLY and gate.get("norm") == "l2":
        others = ", ".join(other for other in ATTACKS if other not in LINF_ONLY | NO_EPSILON)
        yield (*at, "norm"), f"{name} is an attack in the L∞ ball; for l2 there are {others}"


def _square(gate: dict[str, Any], at: KeyPath) -> Faults:
    """Where the ensemble's Square does not search, its parameters mean nothing."""
    attack, l2 = gate.get("attack"), gate.get("norm") == "l2"
    if isinstance(attack, dict) and attack_name(gate) == "ensemble" and (l2 or stands("conditions", gate, GateSpec)):
        where = "in the L2 ball" if l2 else "under conditions"
        for key in ("queries", "square_share"):
            if key in attack:
                yield (*at, "attack", key), f"belongs to the member Square, which does not search {where}; leave it out"


def _ladder(gate: dict[str, Any], at: KeyPath, data: dict[str, Any]) -> Faults:
    """Going down a ladder needs several rungs, and uses one rung's evidence for another."""
    if gate.get("ladder") != "descending":
        return
    if not isinstance(gate.get("epsilon"), list) or len(gate["epsilon"]) < 2:
        yield (*at, "ladder"), "descending needs a list of epsilons; give at least two"
    if why := _not_for_smaller(gate):
        yield (
            (*at, "ladder"),
            f"descending takes what holds at a larger epsilon to hold at smaller ones, but {why} leave ladder out",
        )
    if data.get("evidence") == "isolated":
        yield (*at, "ladder"), "descending shares evidence between budgets, but evidence is isolated"


def _not_for_smaller(gate: dict[str, Any]) -> str | None:
    """Why what holds against a gate's attack within one budget shows nothing about smaller ones; None if it does."""
    spec = attack_spec(gate)
    if isinstance(spec, TransferSpec):
        return (
            "transfer is judged only where its searches end, and an end that fails farther away says nothing about "
            "nearer ones;"
        )
    if isinstance(spec, FGSMSpec):
        return "fgsm looks only at one point, epsilon away, and where that fails a nearer one may not;"
    queries, norm, goal = gate.get("queries"), gate.get("norm", "linf"), gate.get("goal", "untargeted")
    if isinstance(spec, SlowToBegin) and is_whole(queries) and spec.by_patterns(queries=queries, norm=norm, goal=goal):
        return (
            f"{attack_name(gate)} with fewer than {spec.begins_after * spec.queries_a_step} queries looks only at "
            "points that are epsilon away, and where those fail nearer ones may not;"
        )
    if isinstance(spec, NoiseSpec | SquareSpec):
        return f"{spec.name} looks only at points that are epsilon away, and where those fail nearer ones may not;"
    steps, enough = getattr(spec, "steps", LEAST_DESCENDING), f"{LEAST_DESCENDING} steps"
    if isinstance(spec, NESSpec) and is_whole(queries):
        steps, enough = queries // spec.queries_a_step, f"{LEAST_DESCENDING * spec.queries_a_step} queries"
    if steps < LEAST_DESCENDING:
        return (
            f"{attack_name(gate)} of {plural(steps, 'step')} looks at hardly any nearer point; give at "
            f"least {enough}, or"
        )
    return None


def _restarts(gate: dict[str, Any], at: KeyPath) -> Faults:
    """More restarts than one need starts that differ."""
    spec = attack_spec(gate)
    if isinstance(spec, PGDSpec) and spec.restarts > 1 and not spec.random_start:
        yield (
            (*at, "attack", "restarts"),
            f"found {spec.restarts}, but without random_start every restart is the same search; leave restarts or "
            "random_start out",
        )
