"""The interval of the area under an ROC curve covers what it says, and better order has no wider one."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import beta, t

from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.roc import RocArea, _exponential


@pytest.mark.parametrize("positives", [8, 40, 200])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_interval_of_the_roc_area_covers_it(positives, shift):
    """Scores of two normal distributions so far apart; the area is known."""
    from scipy.stats import norm

    dice, covered, area = np.random.default_rng(1), 0, norm.cdf(shift / 2**0.5)
    labels = np.arange(3 * positives) < positives
    for _ in range(1000):
        metric = Intervals().auroc(dice.normal(size=3 * positives) + shift * labels, labels)
        assert 0 <= metric.low <= metric.value <= metric.high <= 1
        covered += metric.low <= area <= metric.high
    assert covered / 1000 >= 0.94  # of 1,000 simulations


def test_perfect_order_is_no_certainty():
    metric = Intervals().auroc(np.arange(6.0), np.arange(6) >= 3)
    assert metric.value == metric.high == 1
    assert metric.low == pytest.approx(0.025 ** (1 / 3))
    reverse = Intervals().auroc(-np.arange(6.0), np.arange(6) >= 3)
    assert (reverse.low, reverse.high) == (0, pytest.approx(1 - 0.025 ** (1 / 3)))
    ties = Intervals().auroc(np.zeros(6), np.arange(6) >= 3)
    assert (ties.value, ties.low, ties.high) == (0.5, pytest.approx(0, abs=0.2), pytest.approx(1, abs=0.2))


def _swapped(count, pairs):
    """Of as many of each kind, scores of which so many pairs are ordered the other way, and which are positive."""
    scores = np.arange(2.0 * count)
    scores[count] -= pairs + 0.5  # the lowest positive goes below as many negatives
    return scores, np.arange(2 * count) >= count


@pytest.mark.parametrize("count", [5, 30, 200])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_better_order_never_has_a_lower_interval(count, confidence):
    found = [Intervals(confidence=confidence).auroc(*_swapped(count, pairs)) for pairs in range(count)]
    assert [metric.value for metric in found] == pytest.approx([1 - pairs / count**2 for pairs in range(count)])
    for better, worse in pairwise(found):
        assert better.low > worse.low - 0.005  # where the two intervals meet, a little may be lost
        assert better.high >= worse.high


def test_one_pair_amiss_of_nine_hundred_hardly_matters():
    """It was .22 to 1."""
    metric = Intervals().auroc(*_swapped(30, 1))
    assert (metric.low, metric.high) == pytest.approx(
        beta.ppf([0.025, 0.975], [30 - 1 / 30, 31 - 1 / 30], [1 + 1 / 30, 1 / 30])
    )
    assert metric.low == pytest.approx(0.882, abs=5e-4)


@given(count=st.integers(1, 40), others=st.integers(1, 40), seed=st.integers(0, 99), shift=st.floats(0, 6))
@example(count=13, others=13, seed=13, shift=2.375)  # one of 13 is amiss, to the last digit
def test_the_interval_does_not_mind_which_label_is_positive(count, others, seed, shift):
    labels = np.arange(count + others) < count
    scores = np.random.default_rng(seed).normal(size=count + others) + shift * labels
    metric, flipped = Intervals().auroc(scores, labels), Intervals().auroc(scores, ~labels)
    assert 0 <= metric.low <= metric.value <= metric.high <= 1
    assert (flipped.low, flipped.high) == (pytest.approx(1 - metric.high), pytest.approx(1 - metric.low))


def _two_values(dice, area, counts):
    return [(dice.random(count) < share) * 1.0 for count, share in zip(counts, (area, 1 - area), strict=True)]


def _some_as_negatives(dice, area, counts):
    return [(dice.random(counts[0]) < 2 * area - 1) * 1.0, np.zeros(counts[1])]


def _some_below_all(dice, area, counts):
    """The area varies as much as it can."""
    return [np.where(dice.random(counts[0]) < area, 2.0, -1.0), dice.random(counts[1])]


def _exponentials(dice, area, counts):
    return [dice.exponential(area / (1 - area), counts[0]), dice.exponential(1, counts[1])]


@pytest.mark.parametrize("scores", [_two_values, _some_as_negatives, _some_below_all, _exponentials])
@pytest.mark.parametrize("counts", [(30, 30), (10, 200), (200, 200)])
def test_intervals_near_one_cover_at_or_above_their_level(scores, counts):
    """A smaller grid than `benchmarks/coverage.py` has."""
    dice, gates, labels = np.random.default_rng(7), 500, np.arange(sum(counts)) < counts[0]
    for area in (0.97, 0.99, 0.999):
        covered = 0
        for _ in range(gates):
            metric = Intervals().auroc(np.concatenate(scores(dice, area, counts)), labels)
            covered += metric.low <= area <= metric.high
        assert covered / gates >= 0.95 - 3 * (0.95 * 0.05 / gates) ** 0.5


def test_near_one_nothing_stretches_by_patient_either():
    """60 patients, all of whose images agree, are no less than as many images."""
    scores, labels = _swapped(30, 1)
    patients = Intervals().auroc(np.repeat(scores, 4), np.repeat(labels, 4), np.repeat(np.arange(60), 4))
    alone = Intervals().auroc(scores, labels)
    assert (patients.value, patients.high) == (alone.value, pytest.approx(1))
    assert alone.low - 0.005 <= patients.low < patients.value


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("sizes", [[4] * 10, [60, 30] + [2, 1, 3] * 6, [2] * 60])
def test_the_interval_of_the_roc_area_by_patient_covers_it(sizes, mixed):
    """Scores that are a patient's in part or altogether, of one distribution: the area is a half."""
    dice, group = np.random.default_rng(4), np.repeat(np.arange(len(sizes)), sizes)
    labels = np.arange(len(group)) * 7 % 20 < 7 if mixed else group % 3 == 0
    for correlation in (0.5, 1):
        covered = 0
        for _ in range(300):
            scores = (correlation**0.5 * dice.normal(size=len(sizes)))[group]
            scores = scores + (1 - correlation) ** 0.5 * dice.normal(size=len(group))
            metric = Intervals().auroc(scores, labels, group)
            covered += metric.low <= 0.5 <= metric.high
        assert covered / 300 >= 0.95 - 3 * (0.95 * 0.05 / 300) ** 0.5


def test_the_roc_area_s_variance_by_patient_is_obuchowski_s():
    """Three patients by hand: scores 1 2 | 3 0 | 2 4, labels 1 0 | 1 0 | 0 1."""
    labels, groups = np.array([1, 0, 1, 0, 0, 1], bool), np.array([0, 0, 1, 1, 2, 2])
    area = RocArea.under(np.array([1.0, 2, 3, 0, 2, 4]), labels)
    assert area.value == Fraction(7, 9)
    own, other = np.array([1 / 3, 1, 1]) - 7 / 9, np.array([2 / 3, 1, 2 / 3]) - 7 / 9
    expected = (own @ own + other @ other + 2 * own @ other) * 3 / 2 / 9
    hanley = area.variance()
    assert area.variance_by(groups[labels], groups[~labels], 3) == pytest.approx(
        max(expected, _exponential(7 / 9, 3, 3))
    )
    assert hanley >= _exponential(7 / 9, 3, 3)


def test_a_class_that_one_patient_has_alone_tells_nothing_of_the_area():
    scores, labels = np.array([3.0, 1, 2, 0]), np.array([1, 1, 0, 0], bool)
    metric = Intervals().auroc(scores, labels, np.array([0, 0, 1, 2]))
    assert (metric.value, metric.low, metric.high, metric.groups) == (0.75, 0, 1, 3)


def test_of_few_samples_that_are_far_from_order_the_interval_is_that_of_the_logit():
    """Less than four of five independent pairs are misordered, but more than .15: nothing stretches there."""
    positive, scores = np.repeat([True, False], 5), np.array([9, 8, 5, 4, 3, 7, 6, 2, 1, 0]).astype(float)
    area, metric = RocArea.under(scores, positive), Intervals().auroc(scores, positive)
    value = float(area.value)
    assert 0.15 < 1 - value < 0.3
    reach = t.ppf(0.975, 4) * area.variance() ** 0.5 / (value * (1 - value))
    assert metric.high == pytest.approx(expit(logit(value) + reach))
    assert metric.low == pytest.approx(expit(logit(value) - reach))


def test_no_far_end_is_nearer_than_where_all_pairs_are_in_order_or_in_reverse():
    """Of five positives beside a thousand negatives, one lies below 150 of these."""
    scores, positive = np.arange(1005.0), np.arange(1005) >= 1000
    scores[1000] = 849.5
    intervals = Intervals(confidence=0.8)
    order, reverse = intervals.auroc(scores, positive), intervals.auroc(-scores, positive)
    assert order.low == pytest.approx(0.1 ** (1 / 5))
    assert (reverse.low, reverse.high) == (pytest.approx(1 - order.high), pytest.approx(1 - order.low))


def test_the_variance_is_the_larger_of_delong_s_and_that_of_exponential_scores():
    """Half of four positives lie below all four negatives, half above: DeLong's is that of 0, 0, 1 and 1 alone."""
    area = RocArea.under(np.array([0.0, 1, 8, 9, 4, 5, 6, 7]), np.repeat([True, False], 4))
    assert area.variance() == pytest.approx(1 / 3 / 4)
    assert _exponential(0.8, 10, 30) == pytest.approx(0.16 * (1 + 19 * 0.2 / 1.2 + 19 * 0.8 / 1.8) / 300)
    even = RocArea.steadiest(0.8, np.arange(40) < 10)
    assert even.variance() == pytest.approx(_exponential(0.8, 10, 30))
