"""Gates beside one another: an attack with gradients should leave nothing that one who knows less turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from robustcheck.evaluation.health.checks import MOST_OUTDONE, as_findings, check, not_relied_on, with_inherited
from robustcheck.evaluation.health.predicting import FEW
from robustcheck.policy import FGSMSpec, Gate
from robustcheck.results import GateResult, HealthCheck
from robustcheck.words import plural

_NAME = "as-strong-as-others"


def comparable(own: Gate, other: Gate, *, isolated: bool) -> bool:
    """Whether another gate's adversary wants the same as this one's, and knows less; budgets are for the caller.

    Args:
        own: a gate.
        other: that it may be compared with.
        isolated: gates share no counterexamples; else what a single step finds is this gate's, too.
    """
    alike = (own.goal, own.target, own.norm, own.conditions) == (other.goal, other.target, other.norm, other.conditions)
    if not alike or own.knowledge != "white-box" or own.epsilon is None or other.epsilon is None:
        return False
    single = isolated and isinstance(other.attack, FGSMSpec) and not isinstance(own.attack, FGSMSpec)
    return own.attack is not None and (single or other.knowledge in ("scores", "top-k", "label", "transfer"))


def compared(
    own: GateResult, others: Sequence[GateResult], larger: Sequence[GateResult], *, strict: bool
) -> GateResult:
    """A gate that would have passed, beside what those turned who know less, want the same and may do no more.

    Args:
        own: a white-box gate.
        others: gates of scores, labels or transfer, or of a single step.
        larger: gates whose searches stand for what held in this one, compared already.
        strict: an attack that is shown to be broken passes nothing.
    """
    theirs = [one for gate in larger for one in gate.health if (one.name, one.outcome) == (_NAME, "broken")]
    checks = (*(_beside(own, other) for other in others), *with_inherited((), theirs))
    broken = [one for one in checks if one.outcome == "broken"]
    result = replace(own, health=(*own.health, *checks), findings=(*as_findings(checks), *own.findings))
    return replace(result, verdict="error", error=not_relied_on(broken)) if strict and broken else result


def _beside(own: GateResult, other: GateResult) -> HealthCheck:
    """What another gate turned of the samples that held in this one, as far as both attacked them."""
    seen = {sample.sample for sample in other.samples if sample.evidence not in (None, "unstarted")}
    held = {sample.sample for sample in own.samples if sample.status == "held"} & seen
    lost = held & {sample.sample for sample in other.samples if sample.status == "broken"}
    evidence = f"{other.id} turned {len(lost)} of {plural(len(held), 'sample')} that held in this gate"
    if len(held) < FEW:
        return check(
            _NAME, "not examined", f"{evidence}; that is too few" if seen else f"{other.id} attacked no sample"
        )
    if len(lost) < 2 or len(lost) < MOST_OUTDONE * len(held):
        return check(_NAME, "sound", evidence)
    one_step = own.attack == "fgsm" or own.parameters.get("steps") == 1  # which is weak by design
    return check(_NAME, "suspect" if one_step else "broken", evidence)
