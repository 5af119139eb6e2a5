"""Probes of an attack's health: small searches of another kind, on samples that held, for a tenth of the gate's cost.

What they turn is evidence about the attack; it is not counted as the gate's, and no ledger has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod, sqrt
from typing import Literal

from robustcheck.attacks import GradientAttack, build
from robustcheck.attacks.searches import Searches
from robustcheck.attacks.single_steps import SingleSteps
from robustcheck.evaluation.health.explaining import Explained, Explanation
from robustcheck.evaluation.health.predicting import MAX_EXAMINED, MIN_EXAMINED, OVERHEAD, Prediction
from robustcheck.evaluation.image_files import ImageWriter
from robustcheck.evaluation.progress import silent
from robustcheck.evaluation.search.ledger import Entry
from robustcheck.evaluation.search.searching import Search
from robustcheck.evaluation.setting import Memory
from robustcheck.policy import (
    APGDSpec,
    EnsembleSpec,
    FGSMSpec,
    FMNSpec,
    NESSpec,
    NoiseSpec,
    PGDSpec,
    Quantity,
    SquareSpec,
)
from robustcheck.policy.attack_specs import AttackSpec
from robustcheck.results import Cost
from robustcheck.threats import Ball
from robustcheck.words import plural

# Shares, at most, of what earlier checks left of the tenth that health may cost; the rest is for searches without
# gradients.
_FOR_UNBOUNDED, _FOR_LONGER = 0.5, 0.5
_MOST_PROBED = 20  # samples that a rival is tried on
_MOST_QUERIES, _LEAST_QUERIES = 200, 50  # of a rival, a sample: fewer find nothing anywhere
_IF_DOUBTFUL = 5  # samples that a rival is tried on at any cost, if the gradient may leave out half
_NOISE = 0.2  # of a rival's queries
_ENDS = 4  # of its images, a sample, that are adjudicated in addition
_MOST_UNBOUNDED, _UNBOUNDED_STEPS, _UNBOUNDED_COST = 10, 25, 2.2  # samples, steps, forward passes a step
_FEW_SINGLE = 5  # samples that get single steps if a third of what is left pays for them
_FOR_SINGLE, _SINGLE_FORWARD = 0.1, 7  # of what is left, at most; passes a sample of four single steps, with verdicts
_FINDINGS = 3  # of several, that an unbounded search goes for in turn
# Its first step, a pixel, as a share of the range or of what the gate's ball admits, whichever is more. All steps
# together go 13 times as far: half of the range, or three times the ball. A step of the whole range in L2, the same at
# 28x28, turned 10 of 20 X-rays at 224x224 that held at 16/255; this one turned all of them.
_UNBOUNDED_STEP, _OF_THE_BALL = 1 / 28, 1 / 4
_MOST_LONGER, _LONGER = 10, 4  # samples, times the steps

FEWEST_STEPS = 4  # that a search needs before its loss can be said to have risen
FEWEST_WITH_NOISE = 10  # samples that noise is asked about, whatever that costs


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe came to."""

    how: str = ""
    turned: Mapping[int, Entry] = field(default_factory=dict)  # verified counterexamples in the probe's ball, by sample
    of: int = 0  # samples that were tried


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What all probes of a gate found."""

    at_images: Sequence[float] = ()  # how much of what the gradient predicts a small change along it brought
    in_ball: Sequence[float] = ()  # the same at points of the ball
    change: str = ""  # how small
    explained: Explained | None = None  # of what random patterns do, by the gradient
    single_steps: ProbeResult = ProbeResult()
    without_gradients: Sequence[ProbeResult] = ()
    unbounded: ProbeResult = ProbeResult()
    longer: ProbeResult = ProbeResult()


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The probes of one gate.

    Args:
        search: the gate's own.
        attacked: all samples that the gate attacked, in the order in which they are examined.
        held: those of them that held, in that order.
    """

    search: Search
    attacked: Sequence[int]
    held: Sequence[int]

    def run(self, cost: Cost, *, more_steps: bool) -> Probed:
        """Probes as much as a tenth of this cost allows."""
        search, meter = self.search, self.search.setting.candidate.meter
        prediction = Prediction(setting=search.setting, goal=search.goal, ball=search.ball, exact=search.too_fine)
        forward, gradients = int(cost.forward * OVERHEAD), int(cost.gradient * OVERHEAD)
        # First, because these show most for what they cost; a few of them are made whatever they cost. They count
        # even if another gate has paid for them: what is examined must not depend on which gates were run.
        explanation = Explanation(setting=search.setting, goal=search.goal, ball=search.ball)
        count = prediction.count_to_try(cost, explanation.expected(self.attacked, cost))
        at_images, price = prediction.at_images(self.attacked, count), prediction.price(count)
        forward, gradients = forward - price[0], gradients - price[1]
        if (explained := explanation.of(self.attacked, cost)) is not None:
            price = explanation.price(explained.tries)
            forward, gradients = max(0, forward - price[0]), max(0, gradients - price[1])
        before = replace(meter)
        inside = self.held[: min(MAX_EXAMINED // 2, prediction.affordable(forward // 2, gradients))]
        in_ball = prediction.in_ball(inside, search.gate.id) if len(inside) >= MIN_EXAMINED else []
        forward -= meter.forward - before.forward
        gradients -= meter.gradient - before.gradient
        single_steps = self._single_steps(forward, gradients)
        forward -= single_steps.of * _SINGLE_FORWARD
        gradients -= single_steps.of * SingleSteps.steps
        each = _UNBOUNDED_STEPS * build(self._nearest(pixels=1), search.ball, search.goal)[0].restarts  # of any size
        paid = forward * _FOR_UNBOUNDED / (each * _UNBOUNDED_COST)
        unbounded_count = min(_MOST_UNBOUNDED, int(paid), gradients // 2 // each)
        if unbounded_count < MIN_EXAMINED or self.uses_eot:  # what is averaged costs many times as much
            unbounded_count = 0
        more_steps = more_steps and self._longer_form is not None
        longer_budget = int(min(forward * _FOR_LONGER, gradients * _FOR_LONGER)) if more_steps else 0
        # A tenth of two or three steps pays for nothing, and nothing else shows whether they are enough.
        least_count = _MOST_LONGER if more_steps and self.short else 0
        rest_budget = int(forward - unbounded_count * each * _UNBOUNDED_COST - longer_budget)
        # If the gradient may leave out half of the image, a search without gradients shows it.
        doubtful = explained is not None and explained.outcome == "suspect"
        rest_budget = max(rest_budget, _IF_DOUBTFUL * (_MOST_QUERIES + _ENDS)) if doubtful else rest_budget
        return Probed(
            at_images=at_images,
            in_ball=in_ball,
            change=prediction.change,
            explained=explained,
            single_steps=single_steps,
            without_gradients=self._without_gradients(rest_budget),
            unbounded=self._unbounded(unbounded_count),
            longer=self._longer(longer_budget, least_count),
        )

    @property
    def uses_eot(self) -> bool:
        """Whether a gradient is a mean of many."""
        return self.search.gate.conditions is not None or self.search.setting.candidate.randomness is not None

    @property
    def iterates(self) -> bool:
        """Whether the gate's own search goes on from step to step: one of a single step is weak by design."""
        return any(
            isinstance(one, GradientAttack) and one.steps > 1 and not one.minimum_norm for one in self.search.attacks
        )

    @property
    def short(self) -> str | None:
        """Why the course of the gate's own search shows nothing: it has too few steps.

        A single step to the border of the ball is another attack, weak by design. But one step is too few for a search
        for the nearest counterexample, for a cascade, and if it leads nowhere near the border.
        """
        spec = self.search.gate.attack
        if not isinstance(spec, PGDSpec | APGDSpec | EnsembleSpec | FMNSpec) or spec.steps >= FEWEST_STEPS:
            return None
        if spec.steps == 1 and isinstance(spec, PGDSpec | APGDSpec) and not self.unreached:
            return None
        enough = "it is" if spec.steps == 1 else "they are"
        return f"a search of {plural(spec.steps, 'step')} is too short to show whether {enough} enough"

    @property
    def unreached(self) -> str | None:
        """Why a part of the ball lies beyond all steps together, from the image itself or from where they start.

        Some of the ball's points lie 2 ε from where a search starts at random: one that goes less far than ε misses
        most of them.
        """
        spec, ball = self.search.gate.attack, self.search.ball
        # Going down a ladder begins with steps as large as the ball, whatever the policy's own are.
        if not isinstance(spec, PGDSpec) or spec.step_size is None or len(self.search.attacks) > 1:
            return None
        reach = spec.steps * spec.step_size.in_levels(ball.maximum.bit_length())
        if reach + Fraction(1, 2) > ball.levels:  # what is proposed is rounded to whole levels
            return None
        start, verb = "a random start" if spec.random_start else "the image", "reach" if spec.steps > 1 else "reaches"
        return (
            f"{plural(spec.steps, 'step')} of {spec.step_size.text} from {start} {verb} {float(reach):.3g} of the "
            f"{float(ball.levels):.3g} grey levels that epsilon admits"
        )

    def _single_steps(self, forward: int, gradients: int) -> ProbeResult:
        """Tries single steps along the gradient and against it, at the gate's own budget."""
        paid = min(forward // _SINGLE_FORWARD, gradients // SingleSteps.steps)
        count = min(_MOST_PROBED, len(self.held), max(int(paid * _FOR_SINGLE), min(_FEW_SINGLE, paid // 3)))
        if self.uses_eot or count < MIN_EXAMINED:
            return ProbeResult()
        how = "single steps along the gradient and against it"
        instead = (SingleSteps.toward(self.search.goal),)
        return self._turned(FGSMSpec(name="fgsm"), how, self.held[:count], instead=instead)

    def _without_gradients(self, budget: int) -> list[ProbeResult]:
        """Tries random search and noise, at the gate's own budget."""
        gate = self.search.gate
        # Few samples in depth rather than many: it takes a hundred queries and more to show that a network is masked.
        count = min(_MOST_PROBED, len(self.held), max(MIN_EXAMINED, budget // (_MOST_QUERIES + _ENDS)))
        queries = min(_MOST_QUERIES, budget // max(1, count) - _ENDS)
        if self.uses_eot or count < MIN_EXAMINED or queries < _LEAST_QUERIES:
            return []
        noise = max(1, int(queries * _NOISE))
        # An ensemble has asked Square about these more often than a probe could.
        square = gate.norm == "linf" and not isinstance(gate.attack, EnsembleSpec)
        rival = SquareSpec(name="square") if square else NESSpec(name="nes", samples=10)
        tried = self.held[:count]
        return [
            self._turned(rival, f"{rival.name} with {queries - noise} queries", tried, queries=queries - noise - 1),
            self._turned(NoiseSpec(name="noise"), f"noise with {noise} queries", tried, queries=noise),
        ]

    def noise(self, cost: Cost) -> ProbeResult:
        """Asks about random images of attacked samples what the gate's own adversary might have asked instead.

        A tenth of the cost pays for one sample in ten, of which a gate on few samples has too few.
        """
        gate = self.search.gate
        assert gate.queries is not None
        paid = int(cost.forward * OVERHEAD) // (gate.queries + _ENDS)
        rival, how = NoiseSpec(name="noise"), "noise with as many queries a sample"
        tried = self.attacked[: max(FEWEST_WITH_NOISE, paid)]
        return self._turned(rival, how, tried, queries=gate.queries, oracle=gate.oracle)

    def _unbounded(self, count: int) -> ProbeResult:
        """Tries a minimum-norm search, which ends where it finds anything at all."""
        if not count or not self.held:
            return ProbeResult()
        samples, ball = self.search.setting.samples, self.search.ball
        widest = max((samples.shape_of(sample) for sample in self.held[:count]), key=prod)
        how = f"a search for the nearest counterexample at any distance ({_UNBOUNDED_STEPS} steps)"
        return self._turned(self._nearest(prod(widest)), how, self.held[:count], ball=ball.widest(widest))

    def _nearest(self, pixels: int) -> FMNSpec:
        """The search for the nearest counterexample; of several findings the nearest to its threshold may be flat."""
        ball, targets = self.search.ball, _FINDINGS if self.search.goal.multilabel else 0
        admitted = ball.radius / ball.norm_of_ones(pixels)
        step = max(1.0, sqrt(pixels) * max(_UNBOUNDED_STEP, _OF_THE_BALL * admitted))
        spec = FMNSpec(name="fmn", steps=_UNBOUNDED_STEPS, targets=targets)
        return spec.model_copy(update={"step_size": Quantity(text=f"{step:.3g}", share=Fraction(step))})

    def _longer(self, budget: int, least: int) -> ProbeResult:
        """Tries the gate's own attack, or an ensemble's first member, with more steps on at least `least` samples."""
        spec = self._longer_form
        if spec is None:
            return ProbeResult()
        steps = _LONGER * spec.steps
        more = spec.model_copy(update={"steps": steps, "restarts": 1})
        (attack,) = build(more, self.search.ball, self.search.goal)  # APGD with targets has one restart for each
        count = max(least, min(_MOST_LONGER, budget // (attack.restarts * (steps + 3))))
        count = min(count, len(self.held))
        return self._turned(more, f"{steps} steps", self.held[:count]) if count >= MIN_EXAMINED else ProbeResult()

    @property
    def _longer_form(self) -> PGDSpec | APGDSpec | None:
        """The attack of which more steps can be tried; None if there is none."""
        spec = self.search.gate.attack
        if isinstance(spec, EnsembleSpec):
            spec = APGDSpec(name="apgd", steps=spec.steps)
        return spec if isinstance(spec, PGDSpec | APGDSpec) and not self.uses_eot else None

    def _turned(
        self,
        spec: AttackSpec,
        how: str,
        samples: Sequence[int],
        *,
        queries: int | None = None,
        oracle: Literal["float", "stored"] = "float",
        ball: Ball | None = None,
        instead: Searches = (),
    ) -> ProbeResult:
        """Tries what another attack turns of some samples; nothing found is kept."""
        images = ImageWriter(None, [self.search.gate.id])
        setting = replace(self.search.setting, memory=Memory(), images=images, progress=silent)
        gate = replace(self.search.gate, attack=spec, queries=queries, oracle=oracle, descending=False)
        ball = ball or self.search.ball
        search = replace(self.search, gate=gate, setting=setting, ball=ball, instead=instead, to_the_nearest=False)
        search.run(samples, search.begin())
        turned = setting.memory.ledger.within(search.family, search.levels)
        return ProbeResult(how=how, turned=turned, of=len(samples))
