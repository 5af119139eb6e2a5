"""Passes that show little: under a budget that changes next to nothing, or against an attack that was hardly one.

They stay passes, because that is what was asked for; a warning says how little it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod, sqrt

from robustcheck.evaluation.health.checks import MEANINGS
from robustcheck.evaluation.health.explaining import EXPLAINED_ON, is_small
from robustcheck.evaluation.health.predicting import MIN_EXAMINED
from robustcheck.evaluation.metrics.verdicts import compare
from robustcheck.evaluation.patches.task import training_steps
from robustcheck.evaluation.search.ledger import unknown
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.standing import Standing
from robustcheck.policy import FGSMSpec, Gate, PatchSpec, RP2Spec, SlowToBegin
from robustcheck.results import Cost, Finding, HealthCheck
from robustcheck.results.agreed import WORST_SUBGROUP
from robustcheck.words import listed, plural

LEAST_LEVELS = 0.25  # of 255 that are visible, in every pixel: less is next to no change
FEWEST_STEPS = 10  # of a search that asks, and of a patch's training
LEAST_REACH = 0.5  # of what is visible: from grey, as which patches begin, to black or white
_MASKED = ("gradient-explains", "beats-searches-without-gradients")  # they show whether a gradient leaves something out


def weak_passes(standing: Standing, health: Sequence[HealthCheck], cost: Cost) -> Iterator[Finding]:
    """Warnings about a gate that passes, whose searches came to this, were examined so, and cost so much."""
    gate = standing.gate
    messages = {
        "tiny-budget": _tiny(standing),
        "few-queries": _few_queries(standing),
        "enough-steps": _hardly_trained(gate),
        "hardly-examined": _hardly_examined(standing, health, cost),
        "area-at-most": _area_at_most(standing),
    }
    for code, message in messages.items():
        if message is not None:
            yield Finding(code=code, severity="warning", message=message)


def _tiny(standing: Standing) -> str | None:
    gate, setting = standing.gate, standing.setting
    if gate.epsilon is None or not standing.attacked:
        return None
    if gate.norm == "linf" and gate.epsilon.hounsfield:  # a unit of its own, not one of stored levels
        return None
    levels = _visible_levels(gate, setting)
    if gate.norm == "linf":
        return (
            f"epsilon {gate.epsilon.text} is {levels:.2g} of one of 255 grey levels: a change as small as that shows "
            "next to nothing; write it as a share of the range, such as 8/255, or say in data.bits how many bits are "
            "used"
            if levels < LEAST_LEVELS
            else None
        )
    values = min(prod(setting.samples.shape_of(sample)) for sample in standing.attacked)
    each = levels / sqrt(values)
    if each >= LEAST_LEVELS:
        return None
    return (
        f"in L2, epsilon {gate.epsilon.text} is a budget for the whole image: over {values:,} values it is a change of "
        f"{each:.2g} of one of 255 grey levels each (RMS), which shows next to nothing; raise it (0.5 is common on "
        "32×32 colour images, and larger ones take more), or leave norm out if you mean L∞, as in 8/255"
    )


def _visible_levels(gate: Gate, setting: Setting) -> float:
    """The budget in grey levels of 255 that the candidate's window shows."""
    assert gate.epsilon is not None
    low, high = setting.candidate.preprocess.visible
    return 255 * float(gate.epsilon.in_levels(setting.samples.bits)) / setting.samples.maximum / (high - low)


def _few_queries(standing: Standing) -> str | None:
    gate, held = standing.gate, set(standing.held)
    if gate.queries is None or gate.attack is None:
        return None
    if held <= standing.found.trace.unstarted:  # which says to raise queries
        return None
    if _has_worked(standing) and not gate.by_patterns:
        return None
    steps = gate.queries // gate.attack.queries_a_step
    enough = max(FEWEST_STEPS, gate.attack.begins_after if isinstance(gate.attack, SlowToBegin) else 0)
    if steps >= enough:
        return None
    instead = ", and is spent on random stripes and blocks, which turn more" if gate.by_patterns else ""
    return (
        f"queries: {gate.queries} pays for at most {plural(steps, 'step')} of {gate.attack_name}{instead}: a pass is "
        "about an adversary who may ask no more than that, not about the network; unless nobody can ask more, give "
        f"{gate.attack.queries_a_step * enough} ({enough} steps) or more"
    )


def _hardly_trained(gate: Gate) -> str | None:
    """Why patches or stickers were hardly trained; None if they were."""
    spec = gate.attack
    if isinstance(spec, PatchSpec):
        if spec.patch is not None:
            return None
        steps, what = training_steps(spec), "a patch"
    elif isinstance(spec, RP2Spec):
        steps, what = spec.steps, "stickers"
    else:
        return None
    reach = spec.step_size * (steps + 1) / 2  # as steps fall to 0 along half a cosine
    if steps >= FEWEST_STEPS and reach >= LEAST_REACH:
        return None
    return (
        f"{MEANINGS['enough-steps']}; {plural(steps, 'step')} of {spec.step_size:g}, which fall to 0, change a pixel "
        f"of {what} by at most {min(reach, 1):.2g} of what is visible: fewer than {FEWEST_STEPS} steps, or less than "
        f"the {LEAST_REACH:g} from grey to black or white, are too little training; raise steps, or leave step_size at "
        "its default"
    )


def _hardly_examined(standing: Standing, health: Sequence[HealthCheck], cost: Cost) -> str | None:
    """Why nothing looked for what the gradient may leave out, if a gate is too small for that."""
    gate, attacked_count, held_count = standing.gate, len(standing.attacked), len(standing.held)
    if gate.knowledge != "white-box" or gate.epsilon is None or standing.setting.candidate.randomness is not None:
        return None
    # A single step is weak by design, and another finding already says that next to no samples are too few.
    if isinstance(gate.attack, FGSMSpec) or _has_worked(standing) or held_count < MIN_EXAMINED:
        return None
    if not standing.found.searched.issuperset(standing.held):  # the search that stands for this one is reported
        return None
    outcomes = {check.name: check.outcome for check in health}
    if any(outcomes.get(name) != "not examined" for name in _MASKED) or not (
        is_small(cost) or attacked_count < EXPLAINED_ON
    ):
        return None
    if attacked_count < EXPLAINED_ON:
        few, more = f"fewer than the {EXPLAINED_ON} needed", "add samples"
    else:
        few, more = f"with {cost.forward:,} passes through the network, too few", "add samples, or steps"
    checks = _MASKED[:1] if gate.conditions is not None else _MASKED  # others are never tried under conditions
    return (
        f"the gate passes on {plural(attacked_count, 'sample')}, {few} for {' and '.join(checks)}: whether the "
        f"gradient leaves out what would turn them is not known; {more}"
    )


def _area_at_most(standing: Standing) -> str | None:
    """Why an area under the curve depends on how far searches went on after turning a sample."""
    if not standing.broken or (standing.goal.multilabel and standing.goal.finding is None):  # any may be what turned
        return None
    areas = [one for one in standing.gate.bounds if one.of[1] == "auroc" and one.of[0] in ("", WORST_SUBGROUP)]
    asked = [bound for bound in areas if bound.at_least]
    least = standing.measurement(unknown(standing.broken)).required(asked)
    known = {
        bound: value for bound in asked if bound.metric in least and (value := least[bound.metric].value) is not None
    }
    if all(one.met for one in compare(list(known), least, standing.rule)):
        return None
    each = listed(f"{bound.metric} ({bound}) {value:.3f}" for bound, value in known.items())
    return (
        f"searches stop at a sample's first counterexample, just across the operating point, so an area is the most "
        f"that may be left: with {plural(len(standing.broken), 'turned sample')} as far across as can be, it would be "
        f"{each}; require sensitivity, specificity or attack_success too"
    )


def _has_worked(standing: Standing) -> bool:
    """Whether the attack turned half of what it attacked: then it works, whatever else is said about it."""
    return 2 * len(standing.held) <= len(standing.attacked)
