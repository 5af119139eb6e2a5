"""From an attack's entry in a policy to the searches that it stands for, in the order in which they run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch

from robustcheck.attacks.apgd import APGD
from robustcheck.attacks.base import GradientAttack, QueryAttack
from robustcheck.attacks.fgsm import FGSM
from robustcheck.attacks.fmn import FMN
from robustcheck.attacks.hopskipjump import HopSkipJump
from robustcheck.attacks.nes import NES
from robustcheck.attacks.noise import Noise
from robustcheck.attacks.objectives import Loss, log_probability, objective
from robustcheck.attacks.partial_information import PartialInformation
from robustcheck.attacks.patterns import Patterns
from robustcheck.attacks.pgd import PGD, Schedule
from robustcheck.attacks.rays import RayS
from robustcheck.attacks.rp2 import RP2
from robustcheck.attacks.square import Square
from robustcheck.attacks.transfer import DiversePGD
from robustcheck.policy import (
    APGDSpec,
    AttackSpec,
    EnsembleSpec,
    FGSMSpec,
    FMNSpec,
    HopSkipJumpSpec,
    LabelOnlySpec,
    NESSpec,
    NoiseSpec,
    PartialInformationSpec,
    PGDSpec,
    Quantity,
    RaySSpec,
    RP2Spec,
    SquareSpec,
    TransferSpec,
)
from robustcheck.threats import Ball, Goal, LinfBall

STEP_RATIO = 2.5  # of ε / steps: Madry et al.'s, far enough to reach the ball's border from any start
QUICK = "pgd-large-steps"
QUICK_STEPS = 4
MEAN_STEP: dict[Schedule, float] = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}  # of the first

LEAST_SIGMA = 1e-3  # of the full range: the authors' code's
SIGMA_RATIO = 2  # of ε / σ in L∞: so far away even scores that are drawn, rounded, or a tree's are seen to change
NOISE_IMAGES_PER_TURN = 64  # queries of a sample in one turn

_Search = GradientAttack | QueryAttack
Searches = tuple[_Search, ...]

_SHORT: dict[Loss, str] = {"cross_entropy": "ce", "margin": "margin", "dlr": "dlr"}


@dataclass(frozen=True, kw_only=True)
class Asks:
    """What attacks may ask of an oracle."""

    queries: int  # a sample
    least_offset: float  # of a pixel, that changes an image at all, as a share of the full range; 0 if all do


def build(
    spec: AttackSpec,
    ball: Ball,
    goal: Goal,
    *,
    queries: int | None = None,
    stored: bool = False,
    patterns: bool = False,
    quick_first: bool = False,
) -> Searches:
    """The searches that a policy asks for, inside a ball; each runs on what those before it left.

    Args:
        spec: the attack's entry.
        ball: the budget.
        goal: what the adversary wants.
        queries: how often attacks that ask an oracle may ask about a sample.
        stored: the oracle rounds images to what can be stored: offsets have to be a grey level at least.
        patterns: its queries are too few to begin, and are spent on patterns.
        quick_first: put a few steps as large as the ball before a search of many. Of the samples that 40 steps turn
            they turn 96 in 100 on the networks of the benchmarks, after two or three questions in place of a dozen;
            on those that hold, the quick steps come on top.
    """
    asks = Asks(queries=queries or 0, least_offset=1 / ball.maximum if stored else 0.0)
    if patterns:
        return (Patterns(objective=objective("cross_entropy", goal), queries=asks.queries),)
    attacks = _ensemble(spec, ball, goal) if isinstance(spec, EnsembleSpec) else (_search(spec, ball, goal, asks),)
    first = attacks[0]
    if quick_first and isinstance(first, GradientAttack) and first.steps > QUICK_STEPS and not first.minimum_norm:
        return _quick(ball, goal), *attacks
    return attacks


def _quick(ball: Ball, goal: Goal) -> PGD:
    """Four PGD steps that start at the ball's radius and shrink linearly."""
    return PGD(
        objective=objective("cross_entropy", goal),
        steps=QUICK_STEPS,
        step_share=ball.radius,
        schedule="linear",
        name=QUICK,
    )


@singledispatch
def _search(spec: AttackSpec, _ball: Ball, _goal: Goal, _asks: Asks) -> _Search:
    raise AssertionError(spec)


@_search.register
def _fgsm(spec: FGSMSpec, _ball: Ball, goal: Goal, _asks: Asks) -> _Search:
    loss: Loss = "margin" if goal.multilabel else spec.loss  # one step turns one finding: others would only divert it
    return FGSM(objective=objective(loss, goal))


@_search.register
def _pgd(spec: PGDSpec, ball: Ball, goal: Goal, _asks: Asks) -> _Search:
    return PGD(
        objective=objective(spec.loss, goal),
        steps=spec.steps,
        restarts=spec.restarts,
        step_share=_share(spec.step_size, ball, STEP_RATIO * ball.radius / spec.steps) / MEAN_STEP[spec.schedule],
        random_start=spec.random_start,
        momentum=spec.momentum,
        schedule=spec.schedule,
    )


@_search.register
def _apgd(spec: APGDSpec, _ball: Ball, goal: Goal, _asks: Asks) -> _Search:
    attack = _one_apgd(spec.loss, spec.steps, goal, spec.targets, restarts=spec.restarts)
    return replace(attack, momentum=spec.momentum, rho=spec.rho)


@_search.register
def _fmn(spec: FMNSpec, ball: Ball, goal: Goal, _asks: Asks) -> _Search:
    count = _target_count(spec.targets, goal)
    return FMN(
        objective=objective(spec.loss, goal, aimed=count > 0),
        target_count=count,
        restarts=max(1, count),
        steps=spec.steps,
        step_share=None if spec.step_size is None else _share(spec.step_size, ball, 0),
        gamma=spec.gamma,
    )


@_search.register
def _nes(spec: NESSpec, ball: Ball, goal: Goal, asks: Asks) -> _Search:
    step = _share(spec.step_size, ball, ball.radius / 4)
    return NES(
        objective=objective(spec.loss, goal),
        queries=asks.queries,
        samples=spec.samples,
        sigma=max(asks.least_offset, _share(spec.sigma, ball, _sigma(ball))),
        step_share=step,
        least_step_share=step * spec.least_step,
        momentum=spec.momentum,
        blur=spec.blur,
        plateau=spec.plateau,
    )


def _sigma(ball: Ball) -> float:
    """How far from the point an estimate asks about a pixel if the policy does not say."""
    return max(LEAST_SIGMA, ball.radius / SIGMA_RATIO) if isinstance(ball, LinfBall) else LEAST_SIGMA


@_search.register
def _square(spec: SquareSpec, _ball: Ball, goal: Goal, asks: Asks) -> _Search:
    return Square(
        objective=objective(spec.loss, goal),
        queries=asks.queries // spec.restarts,
        restarts=spec.restarts,
        share=spec.share,
    )


@_search.register
def _partial_information(spec: PartialInformationSpec, ball: Ball, goal: Goal, asks: Asks) -> _Search:
    sigma = _share(spec.sigma, ball, LEAST_SIGMA)
    return _shrinking(spec, goal, asks, sigma)


@_search.register
def _label_only(spec: LabelOnlySpec, ball: Ball, goal: Goal, asks: Asks) -> _Search:
    sigma, radius = (None if size is None else _share(size, ball, 0) for size in (spec.sigma, spec.radius))
    shrinking = _shrinking(spec, goal, asks, sigma)
    return replace(shrinking, name="label_only", copies=spec.copies, radius=radius)


def _shrinking(
    spec: PartialInformationSpec | LabelOnlySpec, goal: Goal, asks: Asks, sigma: float | None
) -> PartialInformation:
    return PartialInformation(
        objective=objective("cross_entropy", goal),
        queries=asks.queries,
        samples=spec.samples,
        sigma=sigma,
        least_offset=asks.least_offset,
        step=spec.step,
        momentum=spec.momentum,
        blur=spec.blur,
    )


@_search.register
def _hopskipjump(spec: HopSkipJumpSpec, ball: Ball, goal: Goal, asks: Asks) -> _Search:
    return HopSkipJump(
        objective=objective("cross_entropy", goal),
        queries=asks.queries,
        samples=spec.samples,
        delta=spec.delta,
        momentum=spec.momentum,
        blur=spec.blur,
        least_offset=max(asks.least_offset, HopSkipJump.least_offset),
        grey_level=asks.least_offset if isinstance(ball, LinfBall) else 0.0,
    )


@_search.register
def _rays(_spec: RaySSpec, _ball: Ball, goal: Goal, asks: Asks) -> _Search:
    return RayS(objective=objective("cross_entropy", goal), queries=asks.queries, grey_level=asks.least_offset)


@_search.register
def _noise(_spec: NoiseSpec, _ball: Ball, goal: Goal, asks: Asks) -> _Search:
    return Noise(
        objective=objective("cross_entropy", goal),
        queries=asks.queries,
        images_per_turn=min(NOISE_IMAGES_PER_TURN, asks.queries),
    )


@_search.register
def _transfer(spec: TransferSpec, ball: Ball, goal: Goal, _asks: Asks) -> _Search:
    return DiversePGD(
        objective=objective(spec.loss, goal),
        steps=spec.steps,
        restarts=spec.restarts,
        step_share=_share(spec.step_size, ball, STEP_RATIO * ball.radius / spec.steps),
        random_start=spec.restarts > 1,
        momentum=spec.momentum,
        diversity=spec.diversity,
        smallest=spec.smallest,
    )


@_search.register
def _rp2(spec: RP2Spec, _ball: Ball, goal: Goal, _asks: Asks) -> _Search:
    return RP2(
        objective=log_probability(goal),
        steps=spec.steps,
        step_size=spec.step_size,
        size_weight=spec.size_weight,
        smoothness=spec.smoothness,
        printability=spec.printability,
        inks=spec.printable,
    )


def _ensemble(spec: EnsembleSpec, ball: Ball, goal: Goal) -> Searches:
    members: list[_Search] = [
        _one_apgd("cross_entropy", spec.steps, goal, 0),
        _one_apgd("dlr", spec.steps, goal, spec.targets),
        FMN(objective=objective("margin", goal), steps=spec.steps),
    ]
    if isinstance(ball, LinfBall):
        members.append(Square(objective=objective("margin", goal), queries=spec.queries, share=spec.square_share))
    return tuple(members)


def _one_apgd(loss: Loss, steps: int, goal: Goal, targets: int, restarts: int = 1) -> APGD:
    """APGD; towards each of the likeliest other labels, or of the nearest findings, in turn if `targets` says how many.

    Where the goal itself leaves no choice there is one search.
    """
    count = _target_count(targets, goal)
    return APGD(
        objective=objective(loss, goal, aimed=count > 0),
        steps=steps,
        restarts=restarts * max(1, count),
        target_count=count,
        name=f"apgd-{_SHORT[loss]}{'-targeted' if count else ''}",
    )


def _target_count(targets: int, goal: Goal) -> int:
    """How many labels, or findings, to aim at in turn: at most all there are; none where the goal names one itself."""
    if goal.multilabel:
        return min(targets, goal.labels) if goal.kind == "untargeted" or goal.positive is None else 0
    return min(targets, goal.labels - 1) if goal.toward is None else 0


def _share(size: Quantity | None, ball: Ball, default: float) -> float:
    return default if size is None else float(size.in_levels(ball.maximum.bit_length()) / ball.maximum)
