"""The intervals to be expected before anything is attacked, and how many samples make them narrow enough.

Metrics made of several rates, and areas under ROC curves, have no tail that could be summed up. Their intervals are
computed from the hits, or scores, that there would be if the metric had its supposed value and labels the shares that
they have in the data. From these intervals, a normal law says how many samples are enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from scipy.special import logit, ndtri

from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.verdicts import Rule
from robustcheck.evaluation.planning.power import never_met
from robustcheck.evaluation.planning.predictive_values import Predictive
from robustcheck.policy import Bound
from robustcheck.policy.bounds import NEEDS_PREVALENCE
from robustcheck.results import Metric

NO_RATES = NEEDS_PREVALENCE | {"balanced_accuracy", "auroc", "excess_success"}
MAX_APPROXIMATE = 1_000_000  # samples: if no tail is summed up, larger numbers are reported as more than this
_NEAR = 0.25  # of the margin: how far an expected metric may be from what is supposed
_APART = 12.0  # standard deviations, at most, between the scores of two labels


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Which samples there are."""

    samples: int
    positives: int
    class_sizes: tuple[int, ...]  # samples of each label whose rates `balanced_accuracy` is the mean of
    prevalence: float | None = None  # that predictive values are about
    clean: tuple[float, float] | None = None  # sensitivity and specificity unattacked, where there is a prevalence

    def of(self, samples: int) -> Kinds:
        """So many samples, in the same shares; at least one of each."""
        ratio = samples / self.samples
        return replace(
            self,
            samples=samples,
            positives=min(max(1, round(self.positives * ratio)), samples - 1),
            class_sizes=tuple(max(1, round(size * ratio)) for size in self.class_sizes),
        )


def expected(metric: str, value: float, kinds: Kinds, intervals: Intervals) -> Metric:
    """A plain metric of these samples if it has this value, 0 to 1; undefined if they do not define it.

    For `excess_success`, the attack and its control are as uncertain as they can be with that difference; for
    predictive values see `predictive_values`.
    """
    if metric in NEEDS_PREVALENCE:
        return predictive(metric, value, kinds).expected(kinds.positives, kinds.samples - kinds.positives, intervals)
    if metric == "balanced_accuracy":
        if not all(kinds.class_sizes):
            return intervals.mean((), samples=kinds.samples)
        return intervals.mean([_hits(value, size) for size in kinds.class_sizes], samples=kinds.samples)
    if metric == "excess_success":
        control = (1 - value) / 2
        return intervals.difference(
            intervals.rate(_hits(control + value, kinds.samples)), intervals.rate(_hits(control, kinds.samples))
        )
    if metric == "auroc":
        return intervals.auroc(*_scores(value, kinds.positives, kinds.samples - kinds.positives))
    return intervals.rate(_hits(value, kinds.samples))


def approximate_samples(
    bound: Bound, true: float, kinds: Kinds, *, power: float, rule: Rule, intervals: Intervals
) -> int | None:
    """About how many samples a metric that is not a rate needs; None if more than `MAX_APPROXIMATE`, or undefined.

    The measured value may miss the true one by as many standard errors as the power asks for, and the rest of the
    margin has to cover the expected interval's reach toward the bound (`confident`).
    """
    plain = bound.of[1]
    negative = plain == "excess_success"  # it can be
    if (bound.always_met and not (negative and bound.at_least)) or (true == bound.value and not never_met(bound, rule)):
        return 1
    if never_met(bound, rule) or expected(plain, true, kinds, intervals).value is None:
        return None
    errors = float(ndtri(power))
    scale = logit if plain in NEEDS_PREVALENCE and 0 < true < 1 else float  # the scale on which the normal law is close
    margin = abs(scale(true) - scale(bound.value))
    measured = rule == "confident" or plain == "auroc"  # whether the expected interval is used

    def narrow(samples: int) -> bool:
        some = kinds.of(samples)
        found = expected(plain, true, some, intervals)
        assert found.value is not None
        assert found.low is not None
        assert found.high is not None
        if measured and abs(scale(found.value) - scale(true)) > _NEAR * margin:
            return False  # with so few, hits and scores cannot have this value, and values at the ends are surer
        reach = abs(scale(found.value) - scale(found.low if bound.at_least else found.high))
        missed = errors * _error(plain, true, some, reach, intervals)
        return missed + (reach if rule == "confident" else 0.0) <= margin

    enough = 2
    while not narrow(enough):
        if enough >= MAX_APPROXIMATE:
            return None
        enough = min(2 * enough, MAX_APPROXIMATE)
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if narrow(middle) else (middle, enough)
    return enough


def predictive(metric: str, value: float, kinds: Kinds) -> Predictive:
    """What is supposed about a predictive value."""
    assert kinds.prevalence is not None
    return Predictive(metric=metric, value=value, prevalence=kinds.prevalence, clean=kinds.clean)


def _error(metric: str, value: float, kinds: Kinds, reach: float, intervals: Intervals) -> float:
    """Standard error: for rates, as if measured separately; for an area, the one that its interval is made of.

    For predictive values it is the standard error of their logit.
    """
    if metric in NEEDS_PREVALENCE:
        return predictive(metric, value, kinds).error(kinds.positives, kinds.samples - kinds.positives)
    if metric == "balanced_accuracy":
        return sqrt(value * (1 - value) * sum(1 / size for size in kinds.class_sizes)) / len(kinds.class_sizes)
    if metric == "excess_success":
        return sqrt((1 - value**2) / 2 / kinds.samples)  # p (1 - p) of both is (1 + value) (1 - value) / 4
    return reach / float(ndtri((1 + intervals.confidence) / 2))


def _hits(share: float, samples: int) -> np.ndarray:
    return np.arange(samples) < round(share * samples)


def _scores(area: float, positives: int, negatives: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) with about this area under their ROC curve, from normal laws of one width; and which are positive."""
    apart = sqrt(2) * float(np.clip(ndtri(area), -_APART, _APART))
    scores = np.concatenate([_normal(positives) + apart, _normal(negatives)])
    return scores, np.arange(len(scores)) < positives


def _normal(count: int) -> np.ndarray:
    """Quantiles (N,) of the normal law, evenly spread."""
    return np.asarray(ndtri((np.arange(count) + 0.5) / max(1, count)))
