"""Compares gates: an attack with gradients should leave nothing that an adversary who knows less turns.

And an attack that asks should turn no fewer samples than random images do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from robustcheck.evaluation.adversary import wants_more
from robustcheck.evaluation.health.checks import (
    ASK_MORE,
    MOST_OUTDONE,
    TRAIN_LONGER,
    as_findings,
    decisive,
    not_relied_on,
    with_inherited,
)
from robustcheck.evaluation.health.examination import is_examined
from robustcheck.evaluation.health.patches import beside_patches, comparable_patches
from robustcheck.evaluation.health.predicting import MIN_EXAMINED
from robustcheck.evaluation.setting import VerdictIf
from robustcheck.policy import FGSMSpec, Gate, NoiseSpec, PatchSpec
from robustcheck.results import GateResult, HealthCheck, Outcome
from robustcheck.words import plural

_NAME = "as-strong-as-others"
_NOISE = "as-strong-as-noise"


def is_compared(gate: Gate) -> bool:
    """Whether a gate may be compared with others whose adversaries may do no more than its own."""
    return is_examined(gate) or gate.asks or (isinstance(gate.attack, PatchSpec) and gate.knowledge == "white-box")


def comparable(own: Gate, other: Gate, *, isolated: bool) -> bool:
    """Whether another gate's counterexamples count for this one, and are needed first; the caller compares budgets.

    Its adversary knows less, or wants something narrower. An adversary who may only ask is compared with noise.

    Args:
        own: a gate.
        other: that it may be compared with.
        isolated: gates share no counterexamples; otherwise what a single step finds is this gate's too.
    """
    if isinstance(own.attack, PatchSpec) and isinstance(other.attack, PatchSpec):
        return comparable_patches(own, other)
    if own.attack is None or own.epsilon is None or other.epsilon is None:
        return False
    if (own.norm, own.conditions) != (other.norm, other.conditions):
        return False
    alike = own.wanted == other.wanted
    if own.asks:
        noise = not isinstance(own.attack, NoiseSpec) and isinstance(other.attack, NoiseSpec)
        return noise and alike and (other.queries or 0) <= (own.queries or 0)
    if own.knowledge != "white-box":
        return False
    if isolated and alike and isinstance(other.attack, FGSMSpec) and not isinstance(own.attack, FGSMSpec):
        return True
    if not alike and getattr(own.attack, "steps", 1) == 1:
        return False  # a single step is weak by design: what other goals find is not held against it
    if wants_more(own, other) and other.knowledge == "white-box":
        return True
    return other.knowledge in ("scores", "top-k", "label", "transfer")


def compared(
    own: GateResult,
    others: Sequence[GateResult],
    larger: Sequence[GateResult],
    *,
    strict: bool,
    verdict_if: VerdictIf,
    wanted: str | None,
    multilabel: bool,
    positive: str | None = None,
) -> GateResult:
    """A gate that would have passed, compared with what adversaries who may do no more turned.

    Args:
        own: a white-box gate, or one that queries.
        others: gates that are `comparable` with it.
        larger: gates whose searches stand for what held in this one, compared already.
        strict: no gate passes with an attack that is shown to be broken.
        verdict_if: this gate's.
        wanted: the reading that its adversary wants, if only one will do.
        multilabel: several findings may be present together.
        positive: the label that scores are about in gates that name no finding of their own.
    """
    others = [_with_scores_for(own, other, positive) for other in others]
    theirs = [one for gate in larger for one in gate.health if (one.name, one.outcome) == (_NAME, "broken")]
    lost = {other.id: _lost(own, other, wanted=wanted, multilabel=multilabel) for other in others}
    if own.attack == "patch":
        checks = beside_patches(own, others, verdict_if)
    elif _asks(own):
        checks = tuple(check for noise in others for check in _beside_noise(own, noise, lost[noise.id], verdict_if))
    else:
        rivals = [other for other in others if _wanted(own) == _wanted(other)]
        checks = (*(_beside(own, other) for other in rivals), *with_inherited((), theirs))
        # They are verified, and in this gate's own threat model: however few they are, they may be what decides.
        checks += () if _single(own) else decisive(own, lost, verdict_if)
    broken = [one for one in checks if one.outcome == "broken"]
    result = replace(own, health=(*own.health, *checks), findings=(*as_findings(checks), *own.findings))
    if not strict or not broken:
        return result
    advice = TRAIN_LONGER if own.attack == "patch" else ASK_MORE if _asks(own) else None
    return replace(result, verdict="error", error=not_relied_on(broken, advice))


def _with_scores_for(own: GateResult, other: GateResult, positive: str | None) -> GateResult:
    """Another gate, without its scores if they are about another finding than this one's."""
    about, elsewhere = (positive if one.threat is None else one.threat.finding or positive for one in (own, other))
    if about == elsewhere:
        return other
    return replace(other, samples=tuple(replace(sample, score=None) for sample in other.samples))


def _wanted(gate: GateResult) -> tuple[str, str | None] | None:
    return None if gate.threat is None else gate.threat.wanted


def _single(gate: GateResult) -> bool:
    """Whether its search makes a single step, which is weak by design."""
    return gate.attack == "fgsm" or gate.parameters.get("steps") == 1


def _lost(own: GateResult, other: GateResult, *, wanted: str | None, multilabel: bool) -> dict[str, Outcome]:
    """Samples that held here and that another gate broke as this adversary wants, by name, with its outcome."""
    held = {sample.sample for sample in own.samples if sample.status == "held" and sample.evidence is not None}
    broken = {sample.sample: sample for sample in other.samples if sample.status == "broken" and sample.sample in held}
    if own.threat is None or other.threat is None or own.threat.wanted == other.threat.wanted:
        return broken
    any_will_do = wants_more(own.threat, other.threat) or (own.threat.goal == "missed_finding" and not multilabel)
    return {
        name: sample for name, sample in broken.items() if any_will_do or (not multilabel and sample.attacked == wanted)
    }


def _asks(gate: GateResult) -> bool:
    return gate.threat is not None and gate.threat.queries is not None


def _beside(own: GateResult, other: GateResult) -> HealthCheck:
    """What another gate turned of the samples that held in this one, if both attacked them."""
    seen = {sample.sample for sample in other.samples if sample.evidence not in (None, "unstarted")}
    held = {sample.sample for sample in own.samples if sample.status == "held" and sample.evidence is not None} & seen
    lost = held & {sample.sample for sample in other.samples if sample.status == "broken"}
    evidence = f"{other.id} turned {len(lost)} of {plural(len(held), 'sample')} that held in this gate"
    if len(held) < MIN_EXAMINED:
        return HealthCheck(
            name=_NAME,
            outcome="not examined",
            evidence=f"{evidence}, which is too few" if seen else f"{other.id} attacked no sample",
        )
    if len(lost) < 2 or len(lost) < MOST_OUTDONE * len(held):
        return HealthCheck(name=_NAME, outcome="sound", evidence=evidence)
    return HealthCheck(name=_NAME, outcome="suspect" if _single(own) else "broken", evidence=evidence)


def _beside_noise(
    own: GateResult, noise: GateResult, lost: Mapping[str, Outcome], verdict_if: VerdictIf
) -> tuple[HealthCheck, ...]:
    """What random images turned of the samples that both attacked, and whether that would have decided the gate.

    An attack that asks need not find all that noise does: only one that turns fewer than noise is faulted.
    """
    ours, theirs = (
        {one.sample: one.status for one in gate.samples if one.evidence not in (None, "unstarted")}
        for gate in (own, noise)
    )
    both = ours.keys() & theirs.keys()
    if not both:
        evidence = f"{noise.id} attacked none of the samples that this gate attacked"
        return (HealthCheck(name=_NOISE, outcome="not examined", evidence=evidence),)
    turned, by_noise = (sum(statuses[name] == "broken" for name in both) for statuses in (ours, theirs))
    attacked = f"{plural(len(both), 'sample')} that both attacked"
    evidence = f"this gate turned {turned} of {attacked}, and {noise.id} {by_noise}"
    if turned >= by_noise:
        return (HealthCheck(name=_NOISE, outcome="sound", evidence=evidence),)
    beside = HealthCheck(name=_NOISE, outcome="suspect", evidence=evidence)
    return (beside, *decisive(own, {noise.id: lost}, verdict_if))
