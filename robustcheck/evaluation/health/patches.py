"""Compares gates with patches by how many samples they turn: each patch lies in places of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustcheck.evaluation.adversary import wants_more
from robustcheck.evaluation.health.checks import decisive
from robustcheck.evaluation.setting import VerdictIf
from robustcheck.policy import Gate, PatchSpec
from robustcheck.policy.sizes import Size
from robustcheck.results import GateResult, HealthCheck, Outcome
from robustcheck.words import plural

# How patches are laid, and which samples are left to judge them on: all, unless a universal one was trained on some.
_ALIKE = ("shape", "location", "rotation", "scale", "keep_out", "train_on")


def comparable_patches(own: Gate, other: Gate) -> bool:
    """Whether another gate's patch may be this one's, or is a smaller one that should turn no more.

    Both are laid alike on the same samples, and the other adversary knows less, wants something narrower, has one patch
    for all images while this one has one for each, or fewer places. No two gates are comparable both ways.
    """
    mine, theirs = own.attack, other.attack
    assert isinstance(mine, PatchSpec)
    assert isinstance(theirs, PatchSpec)
    assert own.size is not None
    assert other.size is not None
    if own.knowledge != "white-box" or own.conditions != other.conditions:
        return False
    if any(getattr(mine, name) != getattr(theirs, name) for name in _ALIKE):
        return False
    alike = own.wanted == other.wanted
    if not (alike or wants_more(own, other)) or theirs.worst_of > mine.worst_of or mine.universal > theirs.universal:
        return False
    equal = alike and (own.knowledge, mine.worst_of, mine.universal) == (
        other.knowledge,
        theirs.worst_of,
        theirs.universal,
    )
    return equal if _smaller(other.size, own.size) else not equal and _same(other.size, own.size)


def _same(one: Size, other: Size) -> bool:
    return (one.area, one.pixels) == (other.area, other.pixels)


def _smaller(one: Size, other: Size) -> bool:
    """Whether a size is smaller on all images: shares are not compared with pixels."""
    if one.area is not None and other.area is not None:
        return one.area < other.area
    return one.pixels is not None and other.pixels is not None and one.pixels < other.pixels


def beside_patches(own: GateResult, others: Sequence[GateResult], verdict_if: VerdictIf) -> tuple[HealthCheck, ...]:
    """Compare a gate with those that are `comparable_patches` with it."""
    checks, lost = list[HealthCheck](), dict[str, Mapping[str, Outcome]]()
    for other in others:
        if other.threat is None:
            continue  # it ended before anything was known about it
        smaller = not _same(_size(other), _size(own))
        checks.append(_beside(own, other, smaller=smaller))
        if not smaller:
            lost[other.id] = _turned(own, other)
    if own.parameters["universal"]:
        # One patch lies on all images, so what the other one did cannot be added to what this one did.
        for name, samples in lost.items():
            checks += decisive(own, {name: samples}, verdict_if, instead=True)
    else:
        held = {sample.sample for sample in own.samples if sample.status == "held"}
        more = {name: {at: one for at, one in samples.items() if at in held} for name, samples in lost.items()}
        checks += decisive(own, more, verdict_if)
    return tuple(checks)


def _size(gate: GateResult) -> Size:
    assert gate.threat is not None
    return Size.parse(gate.threat.size)


def _turned(own: GateResult, other: GateResult) -> dict[str, Outcome]:
    """Outcomes, by name, of samples that another gate turned and this one attacked; this adversary wants them too."""
    attacked = {sample.sample for sample in own.samples if sample.evidence is not None}
    return {one.sample: one for one in other.samples if one.status == "broken" and one.sample in attacked}


def _beside(own: GateResult, other: GateResult, *, smaller: bool) -> HealthCheck:
    """Whether another gate turned clearly more: at the low end of its interval more than at the high end of this one's.

    If it was after only some of the samples, it left the others as they are.
    """
    name = "grows-with-size" if smaller else "as-strong-as-other-patches"
    ours, theirs = (gate.metrics.get("attack_success") for gate in (own, other))
    if theirs is None or theirs.low is None or ours is None or ours.high is None:
        return HealthCheck(name=name, outcome="not examined", evidence=f"{other.id} attacked no sample")
    turned, share = len(_turned(own, other)), min(1.0, (theirs.samples or 0) / (ours.samples or 1))
    evidence = (
        f"{other.id} turned {turned} of {plural(ours.samples or 0, 'sample')} that this gate attacked, and this gate "
        f"{ours.successes}"
    )
    more = turned > (ours.successes or 0) and theirs.low * share > ours.high
    return HealthCheck(name=name, outcome=("suspect" if smaller else "broken") if more else "sound", evidence=evidence)
