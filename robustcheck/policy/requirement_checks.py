"""Mistakes in what gates require of metrics that no single field of a policy shows."""

from __future__ import annotations

from typing import Any

from robustcheck.policy.attack_specs import NO_EPSILON
from robustcheck.policy.bounds import (
    NEEDS_ATTACK,
    NEEDS_CONTROLS,
    NEEDS_POSITIVE,
    NEEDS_PREVALENCE,
    OF_FINDINGS,
    OF_SUBGROUPS,
    SLICED,
    Bound,
)
from robustcheck.policy.fields import as_list
from robustcheck.policy.schema import GateSpec
from robustcheck.policy.sections import Faults, attack_name, placed_entries, section, stands
from robustcheck.policy.tree import KeyPath
from robustcheck.results import METRICS
from robustcheck.results.agreed import WORST_FINDING, WORST_SUBGROUP
from robustcheck.words import did_you_mean, listed, plural, shown

_OF_NEGATIVES = ("specificity", "ppv", "npv", "auroc")  # metrics that negatives count in


def find(gate: dict[str, Any], at: KeyPath, data: dict[str, Any], *, has_positive: bool) -> Faults:
    """Each requirement is on a metric that the gate measures, can fail, and has bounds that can be read."""
    require = gate.get("require")
    if not isinstance(require, dict):
        return
    if wrong := _never_failed(require, gate):
        yield (*at, "require"), wrong
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
            yield where, "needs an attack, but this gate has none"
        elif metric in NEEDS_CONTROLS and not _has_controls(gate):
            yield where, "needs controls, which only gates with a patch or with conditions have"
        yield from _bounds(metric, values, where)
        yield from _one_each(values, "size" if attack_name(gate) == "patch" else "epsilon", gate, where)


def _never_failed(require: dict[str, Any], gate: dict[str, Any]) -> str | None:
    """Why no attack can fail a gate that requires this, as far as its metrics' names show it."""
    if not require:
        return f"is empty: the gate could never fail; name at least one of {', '.join(METRICS)}"
    if set(require) == {"control_success"} and _has_controls(gate):
        return (
            "no attack can fail it: control_success is about images turned without one; require something of the "
            "attack as well, such as accuracy or attack_success"
        )
    return None


def _has_controls(gate: dict[str, Any]) -> bool:
    """Whether something turns samples of an attacked gate even without its attack."""
    seen = stands("conditions", gate, GateSpec)
    return stands("attack", gate, GateSpec) and (attack_name(gate) == "patch" or seen)


def _spared(gate: dict[str, Any], model: dict[str, Any]) -> str | None:
    """The metric that a gate's adversary leaves unchanged if labels exclude one another; None if there is none.

    An adversary that wants one label attacks samples of another: the positives of the rest, or the negatives.
    """
    attack, positive = gate.get("attack"), model.get("positive")
    target = attack["target"] if isinstance(attack, dict) and "target" in attack else gate.get("target")
    if model.get("task") == "multilabel" or positive is None or not stands("attack", gate, GateSpec):
        return None
    if target is not None:
        return "sensitivity" if str(target) == str(positive) else "specificity"
    return {"missed_finding": "specificity", "false_alarm": "sensitivity"}.get(str(gate.get("goal")))


def _any_label_will_do(gate: dict[str, Any], model: dict[str, Any]) -> bool:
    """Whether an adversary has what it wants once a negative is read as another negative."""
    if model.get("task") == "multilabel" or len(as_list(model.get("labels"))) < 3:
        return False
    attack = gate.get("attack")
    aimed = "target" in gate or (isinstance(attack, dict) and "target" in attack)
    return attack is not None and not aimed and gate.get("goal", "untargeted") == "untargeted"


def _not_measured(metric: str, gate: dict[str, Any], data: dict[str, Any]) -> str | None:
    """Why there is no such metric, or why this gate does not measure it."""
    about, dot, plain = metric.rpartition(".")
    if dot and (wrong := _wrong_part(about, plain, data)):
        return wrong
    if plain not in METRICS:
        known = [*METRICS, *(f"{label}.{one}" for label in _findings(data) for one in OF_FINDINGS)]
        return f"unknown metric; there are {', '.join(METRICS)}, and {SLICED}{did_you_mean(metric, known)}"
    if plain == "auroc" and gate.get("ladder") == "descending":
        return (
            "what holds at a larger epsilon is not searched at a smaller one, so its probability there is not known; "
            "leave ladder out, or require something else"
        )
    if plain in _OF_NEGATIVES and _any_label_will_do(gate, section(data, "model")):
        return (
            "is about negatives, which are hardly attacked here: with three labels or more, an untargeted search ends "
            "once one is read as another negative; require it in a gate with goal: false_alarm"
        )
    seen_once = attack_name(gate) not in NO_EPSILON and not stands("conditions", gate, GateSpec)
    if plain == "auroc" and about not in ("", WORST_SUBGROUP) and not seen_once:
        return "the ROC area of a finding is measured only where images are looked at once and as they are"
    return None


def _findings(data: dict[str, Any]) -> list[str]:
    """The labels, where several may be present."""
    model = section(data, "model")
    return [str(label) for label in as_list(model.get("labels"))] if model.get("task") == "multilabel" else []


def _wrong_part(about: str, plain: str, data: dict[str, Any]) -> str | None:
    """Why there is no such metric of a part of the samples."""
    labels = _findings(data)
    if about == WORST_SUBGROUP:
        if "subgroups" not in section(data, "data"):
            return "needs data.subgroups: the columns that say which samples form a subgroup"
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
            return f"found {shown(about)} before the last dot, but parts cannot be combined; give {each}"
        swapped = f"; did you mean '{plain}.{about}'?" if about in METRICS and plain in there else ""
        hint = swapped or did_you_mean(about, there)
        return f"found {shown(about)} before the dot; {listed(there)} can stand there{hint}"
    if plain in known:
        return None
    return f"{about} goes with {', '.join(known)}{did_you_mean(plain, known)}"


def _bounds(metric: str, values: Any, where: KeyPath) -> Faults:
    """Each bound can be read."""
    for value, place in placed_entries(values, where):
        try:
            Bound.parse(metric, value)
        except ValueError as error:
            yield place, str(error)


def _one_each(values: Any, key: str, gate: dict[str, Any], where: KeyPath) -> Faults:
    """A list of bounds goes with a list of budgets, epsilons or sizes, of the same length."""
    budgets = gate.get(key)
    if not isinstance(values, list) or budgets == []:
        return
    one = f"per {key}"
    if not values:
        yield where, f"is empty; give one bound, or one {one}"
    elif not isinstance(budgets, list) and len(values) != 1:
        yield where, f"found {len(values)} bounds, but this gate has no list of {key}s; give one bound"
    elif isinstance(budgets, list) and len(values) != len(budgets):
        bounds = "a list of 1 bound" if len(values) == 1 else plural(len(values), "bound")
        yield where, f"found {bounds} for {plural(len(budgets), key)}; give one bound, or one {one}"
