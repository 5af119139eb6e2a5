"""What no single field of a policy shows about its gates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustcheck.policy import patch_checks, query_checks, transfer_checks
from robustcheck.policy.attack_specs import ATTACKS, LINF_ONLY, NO_EPSILON
from robustcheck.policy.bounds import (
    METRICS,
    NEEDS_ATTACK,
    NEEDS_CONTROLS,
    NEEDS_POSITIVE,
    NEEDS_PREVALENCE,
    OF_FINDINGS,
    OF_SUBGROUPS,
    SLICED,
    WORST_FINDING,
    WORST_SUBGROUP,
    Bound,
)
from robustcheck.policy.gradient_specs import FGSMSpec, PGDSpec
from robustcheck.policy.model_spec import ModelSpec
from robustcheck.policy.quantities import SAY_HOUNSFIELD, Quantity
from robustcheck.policy.query_specs import NoiseSpec, SquareSpec
from robustcheck.policy.schema import GateSpec
from robustcheck.policy.sections import (
    NO_ATTACK,
    Found,
    attack_name,
    attack_spec,
    entries,
    one_of_labels,
    section,
    stands,
)
from robustcheck.policy.transfer_spec import TransferSpec
from robustcheck.policy.tree import KeyPath
from robustcheck.words import did_you_mean, listed, shown

LEAST_DESCENDING = 5  # steps of a search that may stand for smaller budgets: fewer are nearly as large as the ball
_OF_NEGATIVES = ("specificity", "ppv", "npv", "auroc")  # among others
NO_CT = ("phantom:", "medmnist:")  # sources of eight bits


def find(data: dict[str, Any], folder: Path) -> Found:
    """The mistakes of all gates."""
    bits, no_ct = known_bits(section(data, "data")), _no_ct(section(data, "data"), folder)
    model = section(data, "model")
    has_positive = stands("positive", model, ModelSpec)
    first: dict[str, int] = {}
    for index, gate in _gates(data):
        at: KeyPath = ("gates", index)
        yield from _budget(gate, at)
        yield from _budgets(gate, at, bits, no_ct)
        yield from _goal(gate, at, model, has_positive=has_positive)
        yield from query_checks.find(gate, at, model)
        yield from transfer_checks.find(gate, at, data, folder)
        yield from patch_checks.find(gate, at, data, folder)
        yield from _norm(gate, at)
        yield from _square(gate, at)
        yield from _ladder(gate, at, data)
        yield from _restarts(gate, at)
        yield from _requirements(gate, at, data, has_positive=has_positive)
        name = gate.get("id")
        if isinstance(name, str) and first.setdefault(name, index) != index:
            yield (*at, "id"), f"found {shown(name)}, which gates[{first[name]}] has already; ids are unique"


def may_stop(gate: dict[str, Any]) -> bool:
    """Whether a gate takes samples one after another, so that it may decide before the last one."""
    return stands("attack", gate, GateSpec) and attack_name(gate) != "patch"


def known_bits(data: dict[str, Any]) -> int | None:
    """The stored depth, where the policy's `data` alone tells it."""
    bits, source = data.get("bits"), data.get("source")
    if isinstance(bits, int) and not isinstance(bits, bool) and 1 <= bits <= 16:
        return bits
    return 8 if isinstance(source, str) and source.startswith(NO_CT) else None


def _no_ct(data: dict[str, Any], folder: Path) -> str | None:
    """Why no budget can be in Hounsfield units; None if the images may be CT, as files of DICOM say themselves."""
    source = data.get("source")
    if not isinstance(source, str) or not source or "hounsfield" in data:
        return None
    if Path(source).suffix.lower() == ".csv" or (folder / source).is_dir():
        return None
    return f"{shown(source)} holds no CT" + ("" if source.startswith(NO_CT) else f"; {SAY_HOUNSFIELD}")


def _gates(data: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    gates = data.get("gates")
    for index, gate in enumerate(gates if isinstance(gates, list) else []):
        if isinstance(gate, dict):
            yield index, gate


def _budget(gate: dict[str, Any], at: KeyPath) -> Found:
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
        yield (*at, "epsilon"), "is the budget of an attack, and this gate names none"


def _budgets(gate: dict[str, Any], at: KeyPath, bits: int | None, no_ct: str | None) -> Found:
    """Each budget is one of these images and admits a change, and none is listed twice."""
    listed = isinstance(gate.get("epsilon"), list)
    seen: dict[object, str] = {}
    l2 = gate.get("norm") == "l2"
    for position, value in enumerate(entries(gate.get("epsilon"))):
        where: KeyPath = (*at, "epsilon", position) if listed else (*at, "epsilon")
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
            yield where, f"found {shown(quantity.text)}, and {no_ct}"
        amount = (quantity.share, quantity.levels) if bits is None else quantity.in_levels(bits)
        if amount in seen:
            again = f", the same as {seen[amount]}" if seen[amount] != quantity.text else ""
            yield where, f"found {quantity.text}{again}, for the second time in the list"
        seen.setdefault(amount, quantity.text)
        if bits is not None:
            yield from _admits(quantity, bits, where, l2=l2)


def _admits(quantity: Quantity, bits: int, where: KeyPath, *, l2: bool) -> Found:
    levels, most = quantity.in_levels(bits), 2**bits - 1
    if levels < 1:
        yield (
            where,
            f"found {quantity.text}, {float(levels):.3g} of a grey level: it admits no change to an image of {bits} "
            f"bits; one level is 1/{most}",
        )
    elif levels > most and not l2:
        yield where, f"found {quantity.text}; an image of {bits} bits has {most}"


def _goal(gate: dict[str, Any], at: KeyPath, model: dict[str, Any], *, has_positive: bool) -> Found:
    """What a goal needs beside it: an attack, a target, a positive label."""
    goal, several = gate.get("goal"), model.get("task") == "multilabel"
    for key in ("goal", "norm", "target", "queries", "oracle", "ladder", "size", "conditions"):
        if key in gate and not stands("attack", gate, GateSpec):
            yield (*at, key), "is about an attack, and this gate names none"
    if goal == "targeted" and not stands("target", gate, GateSpec):
        yield (*at, "goal"), "targeted needs target beside it, the label that the adversary wants to be read"
    if goal == "targeted" and several:
        yield (*at, "goal"), "targeted is not for multilabel tasks; missed_finding and false_alarm are"
    if goal in ("missed_finding", "false_alarm") and not has_positive and not several:
        yield (*at, "goal"), f"{goal} needs model.positive: which label is disease"
    if "target" not in gate:
        return
    if goal != "targeted":
        yield (*at, "target"), "is for goal: targeted"
    yield from one_of_labels(gate["target"], (*at, "target"), model)


def _norm(gate: dict[str, Any], at: KeyPath) -> Found:
    name = attack_name(gate)
    if name in LINF_ONLY and gate.get("norm") == "l2":
        others = ", ".join(other for other in ATTACKS if other not in LINF_ONLY | NO_EPSILON)
        yield (*at, "norm"), f"{name} is an attack in the L∞ ball; for l2 there are {others}"


def _square(gate: dict[str, Any], at: KeyPath) -> Found:
    """Where the ensemble's Square does not search, its parameters say nothing."""
    attack, l2 = gate.get("attack"), gate.get("norm") == "l2"
    if isinstance(attack, dict) and attack_name(gate) == "ensemble" and (l2 or stands("conditions", gate, GateSpec)):
        where = "in the L2 ball" if l2 else "under conditions"
        for key in ("queries", "square_share"):
            if key in attack:
                yield (*at, "attack", key), f"is of the member Square, which does not search {where}; leave it out"


def _ladder(gate: dict[str, Any], at: KeyPath, data: dict[str, Any]) -> Found:
    """Going down a ladder takes rungs, and lets one rung's evidence serve another."""
    if gate.get("ladder") != "descending":
        return
    if not isinstance(gate.get("epsilon"), list) or len(gate["epsilon"]) < 2:
        yield (*at, "ladder"), "descending is about a list of epsilons; give at least two"
    if why := _not_for_smaller(gate):
        yield (
            (*at, "ladder"),
            f"descending lets what holds at a larger epsilon stand for the smaller ones, and {why} leave ladder out",
        )
    if data.get("evidence") == "isolated":
        yield (*at, "ladder"), "descending shares evidence between budgets, and evidence is isolated"


def _not_for_smaller(gate: dict[str, Any]) -> str | None:
    """Why what holds against a gate's attack within one budget shows nothing about smaller ones; None if it does."""
    spec = attack_spec(gate)
    if isinstance(spec, TransferSpec):
        return "of transfer only the ends of searches are judged: one that fails farther away says nothing of another;"
    if isinstance(spec, FGSMSpec):
        return "fgsm looks at one point, epsilon away: where that one fails, nearer ones need not;"
    if isinstance(spec, NoiseSpec | SquareSpec):
        return f"{spec.name} looks at points that are epsilon away: where those fail, nearer ones need not;"
    steps = getattr(spec, "steps", LEAST_DESCENDING)
    if steps < LEAST_DESCENDING:
        return (
            f"{attack_name(gate)} of {steps} step{'s' * (steps > 1)} looks at hardly any point that is nearer; give at "
            f"least {LEAST_DESCENDING} steps, or"
        )
    return None


def _restarts(gate: dict[str, Any], at: KeyPath) -> Found:
    """More restarts than one need starts that differ."""
    spec = attack_spec(gate)
    if isinstance(spec, PGDSpec) and spec.restarts > 1 and not spec.random_start:
        yield (
            (*at, "attack", "restarts"),
            f"found {spec.restarts}, and without random_start every restart is the same search; leave restarts or "
            "random_start out",
        )


def _requirements(gate: dict[str, Any], at: KeyPath, data: dict[str, Any], *, has_positive: bool) -> Found:
    require = gate.get("require")
    if not isinstance(require, dict):
        return
    if not require:
        yield (*at, "require"), f"is empty: the gate could never fail; name at least one of {', '.join(METRICS)}"
    spared = _spared(gate, section(data, "model"))
    if spared is not None and {metric.rpartition(".")[2] for metric in require} == {spared}:
        kind, other = ("negatives", "sensitivity") if spared == "specificity" else ("positives", "specificity")
        yield (
            (*at, "require"),
            f"holds whatever the adversary does: {spared} is about {kind}, which this goal does not touch; require "
            f"{other} or accuracy, or give the gate another goal",
        )
    for metric, values in require.items():
        where = (*at, "require", metric)
        about, _, plain = metric.rpartition(".")
        if wrong := _not_measured(metric, gate, data):
            yield where, wrong
            continue
        if plain in NEEDS_POSITIVE and not has_positive and about in ("", WORST_SUBGROUP):
            yield where, "needs model.positive: which label is disease"
        if plain in NEEDS_PREVALENCE and "prevalence" not in section(data, "data"):
            yield where, "needs data.prevalence: how common the finding is where the candidate will be used"
        if plain in NEEDS_ATTACK and not stands("attack", gate, GateSpec):
            yield where, "needs an attack, and this gate names none"
        elif metric in NEEDS_CONTROLS and attack_name(gate) != "patch" and not stands("conditions", gate, GateSpec):
            yield where, "needs controls, which a gate with a patch or with conditions has"
        yield from _bounds(metric, values, where)
        yield from _count(values, "size" if attack_name(gate) == "patch" else "epsilon", gate, where)


def _spared(gate: dict[str, Any], model: dict[str, Any]) -> str | None:
    """The metric that a gate's adversary leaves as it was, of labels that exclude one another; None: there is none.

    Whoever wants a label to be read attacks what has another one: the positives of the rest, or the negatives.
    """
    attack, positive = gate.get("attack"), model.get("positive")
    target = attack["target"] if isinstance(attack, dict) and "target" in attack else gate.get("target")
    if model.get("task") == "multilabel" or positive is None or not stands("attack", gate, GateSpec):
        return None
    if target is not None:
        return "sensitivity" if str(target) == str(positive) else "specificity"
    return {"missed_finding": "specificity", "false_alarm": "sensitivity"}.get(str(gate.get("goal")))


def _any_label_will_do(gate: dict[str, Any], model: dict[str, Any]) -> bool:
    """Whether an adversary is through with a negative that is read as another negative."""
    if model.get("task") == "multilabel" or len(entries(model.get("labels"))) < 3:
        return False
    attack = gate.get("attack")
    aimed = "target" in gate or (isinstance(attack, dict) and "target" in attack)
    return attack is not None and not aimed and gate.get("goal", "untargeted") == "untargeted"


def _not_measured(metric: str, gate: dict[str, Any], data: dict[str, Any]) -> str | None:
    """Why there is no such metric, or none in this gate."""
    about, dot, plain = metric.rpartition(".")
    if dot and (wrong := _wrong_part(about, plain, data)):
        return wrong
    if plain not in METRICS:
        known = [*METRICS, *(f"{label}.{one}" for label in _findings(data) for one in OF_FINDINGS)]
        return f"unknown metric; there are {', '.join(METRICS)}, and {SLICED}{did_you_mean(metric, known)}"
    if plain == "auroc" and gate.get("ladder") == "descending":
        return (
            "what holds at a larger epsilon is not searched at a smaller one, where its probability is not known then; "
            "leave ladder out, or require something else"
        )
    if plain in _OF_NEGATIVES and _any_label_will_do(gate, section(data, "model")):
        return (
            "is hardly attacked here, as far as it is about negatives: with three labels or more an untargeted search "
            "ends where one is read as another negative; require it in a gate with goal: false_alarm"
        )
    seen_once = attack_name(gate) not in NO_EPSILON and not stands("conditions", gate, GateSpec)
    if plain == "auroc" and about not in ("", WORST_SUBGROUP) and not seen_once:
        return "the ROC area of a finding is measured where images are looked at once and as they are"
    return None


def _findings(data: dict[str, Any]) -> list[str]:
    """The labels, where several may be present."""
    model = section(data, "model")
    return [str(label) for label in entries(model.get("labels"))] if model.get("task") == "multilabel" else []


def _wrong_part(about: str, plain: str, data: dict[str, Any]) -> str | None:
    """Why there is no such metric of a part of the samples."""
    labels = _findings(data)
    if about == WORST_SUBGROUP:
        if "subgroups" not in section(data, "data"):
            return "needs data.subgroups: the columns that say which samples make a subgroup"
        known: tuple[str, ...] = OF_SUBGROUPS
    elif about == WORST_FINDING and not labels:
        return "is for task: multilabel, where an image may have several findings"
    elif about == WORST_FINDING or about in labels:
        known = OF_FINDINGS
    else:
        there = [WORST_SUBGROUP, *([WORST_FINDING, *labels] if labels else [])]
        first, dot, second = about.partition(".")
        if dot and first in there:
            each = f"{first}.{plain}" + (f" or {second}.{plain}" if second in there else "")
            return f"found {shown(about)} before the last dot, and parts do not combine; give {each}"
        swapped = f"; did you mean '{plain}.{about}'?" if about in METRICS and plain in there else ""
        hint = swapped or did_you_mean(about, there)
        return f"found {shown(about)} before the dot; {listed(there)} can stand there{hint}"
    if plain in known:
        return None
    return f"of {about} there are {', '.join(known)}{did_you_mean(plain, known)}"


def _bounds(metric: str, values: Any, where: KeyPath) -> Found:
    for position, value in enumerate(entries(values)):
        try:
            Bound.parse(metric, value)
        except ValueError as error:
            yield ((*where, position) if isinstance(values, list) else where), str(error)


def _count(values: Any, key: str, gate: dict[str, Any], where: KeyPath) -> Found:
    """A list of bounds goes with a list of budgets, epsilons or sizes, of the same length."""
    budgets = gate.get(key)
    if not isinstance(values, list) or budgets == []:
        return
    one = "an epsilon" if key == "epsilon" else "a size"
    if not values:
        yield where, f"is empty; give one bound, or one {one}"
    elif not isinstance(budgets, list) and len(values) != 1:
        yield where, f"found {len(values)} bounds, and this gate has no list of {key}s; give one bound"
    elif isinstance(budgets, list) and len(values) != len(budgets):
        bounds = "a list of 1 bound" if len(values) == 1 else f"{len(values)} bounds"
        several = f"1 {key}" if len(budgets) == 1 else f"{len(budgets)} {key}s"
        yield where, f"found {bounds} for {several}; give one bound, or one {one}"
