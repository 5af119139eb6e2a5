"""The checks of an attack's health that more than one kind of gate has, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from statistics import median
from typing import Literal

from robustcheck.attacks.draws import key
from robustcheck.evaluation.health.explaining import EXPLAINED_ON, LEAST_EXPLAINED, Explained, Explanation, is_small
from robustcheck.evaluation.health.predicting import MIN_EXAMINED, Prediction
from robustcheck.evaluation.search.found import Trace
from robustcheck.evaluation.setting import Setting, VerdictIf
from robustcheck.policy import Gate
from robustcheck.results import Cost, Finding, GateResult, HealthCheck, HealthOutcome, Outcome, Verdict
from robustcheck.threats import Goal
from robustcheck.words import listed, plural

MEANINGS = {
    "gradients": "the attack had little to follow",
    "loss-rises": "the search did not raise the loss: its gradients lead nowhere",
    "gradient-predicts": "the gradient does not predict what a small change does",
    "gradient-explains": "the gradient leaves out most of what small changes do",
    "beats-single-steps": "single steps along the gradient turned samples that this search did not: it stops before "
    "a barrier of scores, or is too weak",
    "enough-steps": "the search has too few steps, or steps that are too small",
    "beats-searches-without-gradients": "a search without gradients turned samples that this one did not: this one is "
    "too weak, or its gradients are masked",
    "falls-as-budget-grows": "samples hold though nothing bounds the change: the gradients lead nowhere",
    "same-answers": "the candidate's answers depend on chance",
    "as-strong-as-others": "an attack that knows less turned samples that this one did not: this one is too weak, or "
    "its gradients are masked",
    "as-strong-as-other-patches": "another patch that this adversary may lay too turned clearly more: this one was not "
    "trained to its end",
    "grows-with-size": "a smaller patch turned clearly more: this one was not trained to its end",
    "beats-noise": "random images turned more samples than the attack did: the attack is too weak",
    "as-strong-as-noise": "random images turned more samples than the attack did: the attack is too weak",
    "holds-against-others": "with what other gates turned, this one does not pass",
}
"""What it means if a check is not sound."""

OF_GRADIENTS = ("gradients", "gradient-predicts", "gradient-explains", "same-answers")
"""Names of the checks of patches and stickers of a white box, as `of_gradients` makes them."""

OF_BALLS = (
    "gradients",
    "loss-rises",
    "gradient-predicts",
    "gradient-explains",
    "enough-steps",
    "beats-single-steps",
    "beats-searches-without-gradients",
    "falls-as-budget-grows",
    "same-answers",
)
"""Names of the checks of other attacks of a white box, as an `Examination` makes them."""

OF_THOSE_WHO_ASK = ("beats-noise",)
"""Names of the checks of attacks that ask, except of noise itself."""

MEND = (
    "mend what hides the candidate's gradients (such as rounding, or probabilities that saturate: let it give logits; "
    "searches leave off only a last softmax or sigmoid, and only in state dicts and ONNX files), or replace the attack "
    "with one that needs none, such as square or transfer"
)
"""What to do about a candidate that holds because its gradients cannot be followed."""

_STRENGTHEN = "raise the attack's steps and restarts, or replace it with a stronger one, such as ensemble; else "
ASK_MORE = "raise queries, or replace the attack with a stronger one that may ask as much"
"""What to do about an attack that asks too little."""

ADVICE = {
    "beats-noise": ASK_MORE,
    "enough-steps": "raise the attack's steps, or leave step_size at its default",
    "beats-searches-without-gradients": _STRENGTHEN + MEND,
    "beats-single-steps": _STRENGTHEN + MEND,
    "as-strong-as-others": _STRENGTHEN + MEND,
    "holds-against-others": _STRENGTHEN + MEND,
}
"""What to do about a broken check, unless it is to mend what hides the gradients."""

TRAIN_LONGER = "raise the attack's steps, draws or restarts"
"""The same for a patch."""

LEAST_SHARE, MOST_SHARE = 1 / 3, 3.0  # of what the gradient predicts: what a change along it has to bring
DOUBTFUL_SHARE = 1 / 2  # and its inverse: beyond these the gradient is doubted
MOST_OUTDONE = 0.1  # of the samples that held: what an adversary who knows less may turn
_LOST = 0.5  # share of the gradients that are zero, NaN or infinite, from which on they are suspect
_WITH_OTHERS: dict[Verdict, str] = {"fail": "fails", "inconclusive": "is inconclusive", "error": "cannot be measured"}
_RANK: dict[HealthOutcome, int] = {"not examined": 0, "sound": 1, "suspect": 2, "broken": 3}


def in_examination_order(samples: Sequence[int], gate: Gate, setting: Setting) -> list[int]:
    """Samples in the order in which they are examined, which depends only on the seed and the goal."""
    names = setting.samples.names
    return sorted(samples, key=lambda sample: key(setting.seed, f"health/{gate.goal}", names[sample], 0))


def gradients(trace: Trace, blind: Set[int]) -> HealthCheck:
    """Whether there was anything to follow."""
    lost = trace.gradients_zero + trace.gradients_not_finite
    share = lost / trace.gradients if trace.gradients else 0.0
    zero = f"of {trace.gradients:,} gradients, {trace.gradients_zero:,} were zero and " if trace.gradients else ""
    evidence = (
        f"{zero}{trace.gradients_not_finite:,} had NaN or infinity; {plural(len(blind), 'sample')} held where fewer "
        "than half could be followed"
    )
    return HealthCheck(name="gradients", outcome="suspect" if share > _LOST or blind else "sound", evidence=evidence)


def predicts(
    at_images: Sequence[float], in_ball: Sequence[float], change: str, drawn: float | None, *, attacked_count: int
) -> HealthCheck:
    """The check that compares observed with predicted changes of the margin.

    Args:
        at_images: observed changes as shares of the predicted ones, at clean images.
        in_ball: the same at points of the ball.
        change: how large the changes of the image were, in words.
        drawn: how far two answers of the candidate were apart; None if it does not draw.
        attacked_count: how many samples were attacked.
    """
    name = "gradient-predicts"
    if len(at_images) < MIN_EXAMINED:
        why = "the gradient predicts no more than chance" if drawn is not None else "the gradient predicts nothing"
        few = f"{plural(attacked_count, 'sample')} attacked, which is too few"
        return HealthCheck(
            name=name,
            outcome="not examined",
            evidence=few if attacked_count < MIN_EXAMINED else f"{why} on all but {len(at_images)} of those tried",
        )
    middles = [median(shares) for shares in (at_images, in_ball) if len(shares) >= MIN_EXAMINED]
    inside = f", and {middles[1]:.2f} times at points of the ball ({len(in_ball)} samples)" if len(middles) > 1 else ""
    evidence = (
        f"a change of {change} along the gradient raises the margin {middles[0]:.2f} times as much as the gradient "
        f"says (median of {len(at_images)} samples; {LEAST_SHARE:.2f} to {MOST_SHARE:g} is sound){inside}"
    )
    outcome: HealthOutcome = "sound"
    if not all(DOUBTFUL_SHARE <= middle <= 1 / DOUBTFUL_SHARE for middle in middles):
        outcome = "suspect"
    if not all(LEAST_SHARE <= middle <= MOST_SHARE for middle in middles):
        outcome = "broken"
    return HealthCheck(name=name, outcome=outcome, evidence=evidence)


def explains(explained: Explained | None, drawn: float | None, *, attacked_count: int, few_passes: bool) -> HealthCheck:
    """The check that compares what random patterns do with what the gradient predicts for them.

    Args:
        explained: what was seen; None if nothing was.
        drawn: how far two answers of the candidate were apart; None if it does not draw.
        attacked_count: how many samples were attacked.
        few_passes: whether the gate is too small for it.
    """
    name = "gradient-explains"
    if explained is None or explained.share is None:
        why = "no random pattern that was tried moves the margin"
        if drawn is not None:
            why = "not tried where a gradient is a mean of many"
        elif attacked_count < EXPLAINED_ON:
            why = f"{plural(attacked_count, 'sample')} attacked, which is too few"
        elif few_passes:
            why = "the gate makes too few passes through the network for it"
        return HealthCheck(name=name, outcome="not examined", evidence=why)
    evidence = (
        f"the gradient explains {explained.share:.0%} of what random patterns of {explained.change} do to the margin "
        f"(of the squares, {EXPLAINED_ON} samples; less than {LEAST_EXPLAINED:.0%} is broken)"
    )
    if explained.part is not None:
        evidence += f", and no more of what far smaller ones do ({explained.part:.0%}): a part of it is missing"
    return HealthCheck(name=name, outcome=explained.outcome, evidence=evidence)


def same_answers(difference: float | None) -> HealthCheck:
    """Whether a candidate gives the same answer twice; if not, how far apart two answers were."""
    if difference is None:
        return HealthCheck(name="same-answers", outcome="sound", evidence="two identical calls got the same answer")
    evidence = (
        f"scores of two identical calls differ by up to {difference:.3g}: clean images are read as most of several "
        "calls read them, searches follow the mean of several gradients, and counterexamples are misread on most of "
        "100 calls"
    )
    return HealthCheck(name="same-answers", outcome="suspect", evidence=evidence)


def of_gradients(
    setting: Setting, goal: Goal, trace: Trace, attacked: Sequence[int], blind: Set[int], cost: Cost
) -> tuple[HealthCheck, ...]:
    """What is examined for patches and stickers, which also have controls: whether their gradients mean anything.

    Args:
        setting, goal, trace: of the gate, its adversary, and its searches.
        attacked: samples, in the order in which they are tried.
        blind: those of them that held where there was little or nothing to follow.
        cost: of its searches; a tenth of it may be spent.
    """
    prediction, drawn = Prediction(setting=setting, goal=goal), setting.candidate.randomness
    explanation = Explanation(setting=setting, goal=goal)
    at_images = prediction.at_images(attacked, prediction.count_to_try(cost, explanation.expected(attacked, cost)))
    explained = explanation.of(attacked, cost)
    return (
        gradients(trace, blind),
        predicts(at_images, (), prediction.change, drawn, attacked_count=len(attacked)),
        explains(explained, drawn, attacked_count=len(attacked), few_passes=is_small(cost)),
        same_answers(drawn),
    )


def with_inherited(own: Sequence[HealthCheck], others: Sequence[HealthCheck]) -> tuple[HealthCheck, ...]:
    """A gate's checks, and those of searches that stand for its own: the more serious one of each."""
    found = {one.name: one for one in own}
    for one in others:
        known = found.get(one.name)
        if known is None or _RANK[one.outcome] > _RANK[known.outcome]:
            found[one.name] = replace(one, evidence=f"{one.evidence} (in the search that stands for this one)")
    return tuple(found.values())


def decisive(
    own: GateResult, lost: Mapping[str, Mapping[str, Outcome]], verdict_if: VerdictIf, *, instead: bool = False
) -> tuple[HealthCheck, ...]:
    """The check that a gate would not have passed with what others found; none if it would.

    A gate whose interval has only just decided it would be undone by one sample: only the estimate can break it.

    Args:
        own: the gate.
        lost: the outcomes of samples that each other gate turned, by name.
        verdict_if: this gate's.
        instead: the adversary may do what the other one did instead of what it did itself, but not both.
    """
    every = {sample: outcome for samples in lost.values() for sample, outcome in samples.items()}
    if not every:
        return ()
    for by_estimate in (True, False):
        verdict = verdict_if(every, by_estimate=by_estimate, instead=instead)
        if verdict not in ("pass", verdict_if({}, by_estimate=by_estimate)):
            who = listed(name for name, samples in lost.items() if samples)
            attacked = [sample for sample in own.samples if sample.evidence is not None]
            of = len(attacked) if instead else sum(sample.status == "held" for sample in attacked)
            evidence = (
                f"{who} turned {len(every)} of {plural(of, 'sample')} that this gate attacked, and with these in place "
                f"of its own it {_WITH_OTHERS[verdict]}"
                if instead
                else f"{who} turned {len(every)} of {plural(of, 'sample')} that held in this gate, which "
                f"{_WITH_OTHERS[verdict]} with these"
            )
            return (
                HealthCheck(
                    name="holds-against-others", outcome="broken" if by_estimate else "suspect", evidence=evidence
                ),
            )
    return ()


def as_findings(checks: Sequence[HealthCheck]) -> Iterator[Finding]:
    """Checks that are not sound, as findings."""
    for one in checks:
        if (one.name, one.outcome) == ("gradient-predicts", "not examined"):
            message = f"whether the gradient predicts what a small change does is not known; {one.evidence}"
            yield Finding(code=one.name, severity="warning", message=message)
        if one.outcome in ("suspect", "broken"):
            severity: Literal["error", "warning"] = "error" if one.outcome == "broken" else "warning"
            yield Finding(code=one.name, severity=severity, message=f"{MEANINGS[one.name]}; {one.evidence}")


def not_relied_on(broken: Sequence[HealthCheck], advice: str | None = None) -> str:
    """Why a gate that would have passed did not, and what to do: `advice`, or what the first check suggests."""
    first = next(as_findings(broken))
    others = f" (and {len(broken) - 1} more of its checks are broken)" if len(broken) > 1 else ""
    return f"the attack cannot be relied on: {first.message}{others}; {advice or ADVICE.get(first.code, MEND)}"
