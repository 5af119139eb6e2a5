"""How many samples rates need: against every outcome of a binomial, summed up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom

from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.planning.expectation import Kinds, approximate_samples, expected, predictive
from robustcheck.evaluation.planning.power import MAX_SAMPLES, Power, supposed
from robustcheck.policy import Bound

RULES = [("confident", "clopper-pearson"), ("confident", "wilson"), ("estimate", "wilson")]
BOUNDS = [">= 0.7", "<= 0.2", ">= 0.95", "<= 0.03", ">= 0.5", ">= 0", "<= 1"]
BALANCED = Kinds(samples=100, positives=50, class_sizes=(50, 50))


def bound_of(text, metric="accuracy"):
    return Bound.parse(metric, text)


def rate(text, margin=0.05, rule="confident", kind="clopper-pearson"):
    bound = bound_of(text)
    return Power(bound=bound, true=supposed(bound, margin), rule=rule, intervals=Intervals(kind=kind))


def brute(one, samples):
    """The power, from the interval of every number of hits."""
    met = []
    for hits in range(samples + 1):
        metric = one.intervals.rate(np.arange(samples) < hits)
        confident = one.bound.decided_by(metric.low, metric.high) is True
        met.append(confident if one.rule == "confident" else one.bound.met_by(metric.value))
    return float(binom.pmf(np.arange(samples + 1), samples, one.true)[met].sum())


@pytest.mark.parametrize(("rule", "kind"), RULES)
@pytest.mark.parametrize("text", BOUNDS)
def test_the_power_is_that_of_every_outcome(text, rule, kind):
    one = rate(text, rule=rule, kind=kind)
    samples = np.array([1, 2, 7, 20, 61, 150])
    assert one.at(samples) == pytest.approx([brute(one, int(number)) for number in samples], abs=1e-9)


@pytest.mark.parametrize(("rule", "kind"), RULES)
@pytest.mark.parametrize("text", BOUNDS)
@pytest.mark.parametrize(("margin", "power"), [(0.05, 0.9), (0.03, 0.8), (0.1, 0.99)])
def test_what_is_needed_is_where_the_last_tooth_fails(text, margin, power, rule, kind):
    one = rate(text, margin, rule, kind)
    needed = one.needed(power)
    every = np.arange(1, 3 * needed + 500)
    failing = every[one.at(every) < power]
    assert needed == (failing[-1] + 1 if len(failing) else 1)


def test_the_first_tooth_that_is_high_enough_is_too_few():
    one = rate(">= 0.7")
    every = np.arange(1, one.needed(0.9))
    assert (one.at(every) >= 0.9).sum() > 10  # and yet each is followed by one that is not


@pytest.mark.parametrize(
    ("text", "margin", "needed"),
    [
        (">= 0.7", 0.05, 870),
        (">= 0.97", 0.03, 122),  # all are right: .025 ** (1 / 122) is above .97, and of 121 it is not
        (">= 0.97", 0.05, 122),  # more than 1 is not supposed
        ("<= 0.03", 0.05, 122),
    ],
)
def test_known_numbers(text, margin, needed):
    assert rate(text, margin).needed(0.9) == needed


@pytest.mark.parametrize("text", [">= 1", "<= 0"])
def test_the_ends_of_the_range_are_never_shown_with_confidence(text):
    assert rate(text).needed(0.9) is None
    assert rate(text, rule="estimate").needed(0.9) == 1  # and by estimate at once, where the true value is there


@pytest.mark.parametrize("text", [">= 0", "<= 1"])
def test_what_is_always_met_needs_a_single_sample(text):
    assert rate(text).needed(0.9) == 1


@pytest.mark.parametrize("kind", ["clopper-pearson", "wilson"])
def test_more_is_needed_for_smaller_margins_and_greater_power(kind):
    by_margin = [rate(">= 0.8", margin, kind=kind).needed(0.9) for margin in (0.15, 0.1, 0.05, 0.02)]
    by_power = [rate(">= 0.8", kind=kind).needed(power) for power in (0.5, 0.8, 0.9, 0.99)]
    assert all(less < more for less, more in pairwise(by_margin))
    assert all(less < more for less, more in pairwise(by_power))


def test_bounds_that_mirror_each_other_need_as_many():
    assert rate(">= 0.75").needed(0.9) == rate("<= 0.25").needed(0.9)


def test_not_every_number_is_tried_up_to_tens_of_thousands_of_samples(monkeypatch):
    tried, at = [], Power.at
    monkeypatch.setattr(Power, "at", lambda self, numbers: (tried.append(len(numbers)), at(self, numbers))[1])
    assert 10_000 < rate(">= 0.7", 0.007).needed(0.9) < 100_000
    assert sum(tried) < 10_000


def test_more_than_ten_million_is_not_told():
    one = rate(">= 0.5", 0.0005)
    assert one.needed(0.9) is None
    assert one.at(np.array([MAX_SAMPLES]))[0] < 0.9


# --- what is no rate ---


@pytest.mark.parametrize("rule", ["confident", "estimate"])
def test_a_mean_of_one_group_needs_about_what_a_rate_does(rule):
    kinds = Kinds(samples=100, positives=50, class_sizes=(100,))
    bound = bound_of(">= 0.7", "balanced_accuracy")
    needed = approximate_samples(bound, 0.75, kinds, power=0.9, rule=rule, intervals=Intervals())
    assert needed == pytest.approx(rate(">= 0.7", rule=rule).needed(0.9), rel=0.15)


@pytest.mark.parametrize("rule", ["confident", "estimate"])
@pytest.mark.parametrize("metric", ["balanced_accuracy", "auroc", "excess_success"])
def test_about_as_many_as_are_needed_have_about_the_power(metric, rule):
    bound, true, intervals = bound_of(">= 0.7", metric), 0.8, Intervals()
    needed = approximate_samples(bound, true, BALANCED, power=0.9, rule=rule, intervals=intervals)
    random, half, met = np.random.default_rng(0), needed // 2, []
    for _ in range(400):
        if metric == "balanced_accuracy":
            found = intervals.mean([random.random(half) < true, random.random(needed - half) < true], samples=needed)
        elif metric == "excess_success":
            attack, control = random.random(needed) < 0.9, random.random(needed) < 0.1
            found = intervals.difference(intervals.rate(attack), intervals.rate(control))
        else:
            positive = np.arange(needed) < half
            found = intervals.auroc(random.normal(size=needed) + 2**0.5 * 0.8416 * positive, positive)
        met.append(bound.met_by(found.value) if rule == "estimate" else bound.decided_by(found.low, found.high) is True)
    assert 0.84 <= np.mean(met) <= 0.97


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auroc", "excess_success"])
def test_about_what_is_needed_grows_as_the_margin_shrinks(metric):
    def needed(margin, kinds=BALANCED, **other):
        given = {"power": 0.9, "rule": "confident", "intervals": Intervals(), **other}
        return approximate_samples(bound_of(">= 0.7", metric), 0.7 + margin, kinds, **given)

    assert needed(0.1) < needed(0.05) < needed(0.02)
    assert needed(0.05, rule="estimate") < needed(0.05)
    assert needed(0.05, power=0.5) < needed(0.05)
    rare = Kinds(samples=100, positives=5, class_sizes=(95, 5))
    assert metric == "excess_success" or needed(0.05, rare) > needed(0.05)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auroc", "excess_success"])
def test_ends_of_the_range_of_what_is_no_rate(metric):
    def needed(text, true, rule="confident"):
        return approximate_samples(bound_of(text, metric), true, BALANCED, power=0.9, rule=rule, intervals=Intervals())

    assert needed(">= 1", 1.0) is None
    assert needed(">= 1", 1.0, "estimate") == 1
    assert needed("<= 1", 0.95) == 1
    if metric == "excess_success":  # which can be negative
        assert needed(">= 0", 0.05) > 1000
    else:
        assert needed(">= 0", 0.05) == 1


def test_without_a_label_nothing_is_said_about_it():
    kinds = Kinds(samples=10, positives=0, class_sizes=(10,))
    given = {"power": 0.9, "rule": "confident", "intervals": Intervals()}
    assert approximate_samples(bound_of(">= 0.7", "auroc"), 0.75, kinds, **given) is None


@pytest.mark.parametrize("area", [0.55, 0.8, 0.97])
def test_expected_scores_have_the_area_that_is_supposed(area):
    kinds = Kinds(samples=400, positives=150, class_sizes=(150, 250))
    metric = expected("auroc", area, kinds, Intervals())
    assert metric.value == pytest.approx(area, abs=0.01)
    assert metric.low < area < metric.high


# --- predictive values ---

# Metric, bound, prevalence, and positives of 600 samples.
PREDICTED = [
    ("ppv", ">= 0.5", 0.1, 300),
    ("ppv", ">= 0.2", 0.02, 400),
    ("ppv", ">= 0.9", 0.5, 300),
    ("ppv", ">= 0.1", 0.01, 40),
    ("npv", ">= 0.9", 0.5, 60),
    ("npv", ">= 0.85", 0.1, 300),
    ("npv", ">= 0.9", 0.3, 400),
    ("npv", ">= 0.9", 0.1, 150),
]


@pytest.mark.parametrize("rule", ["confident", "estimate"])
@pytest.mark.parametrize(("metric", "text", "prevalence", "positives"), PREDICTED)
def test_predictive_values_of_simulated_samples_have_about_the_power(metric, text, prevalence, positives, rule):
    bound, intervals = bound_of(text, metric), Intervals()
    kinds = Kinds(samples=600, positives=positives, class_sizes=(), prevalence=prevalence, clean=(0.95, 0.9))
    true = supposed(bound, 0.05)
    needed = approximate_samples(bound, true, kinds, power=0.9, rule=rule, intervals=intervals)
    sensitivity, specificity = predictive(metric, true, kinds).rates
    some, random, met = kinds.of(needed), np.random.default_rng(0), []
    for _ in range(400):
        found = intervals.rate(random.random(some.positives) < sensitivity)
        spared = intervals.rate(random.random(some.samples - some.positives) < specificity)
        one = getattr(intervals, metric)(found, spared, prevalence)
        decided = one.value is not None and bound.decided_by(one.low, one.high) is True
        met.append(decided if rule == "confident" else one.value is not None and bound.met_by(one.value))
    assert 0.84 <= np.mean(met) <= 0.99


@pytest.mark.parametrize(
    ("metric", "value", "prevalence"), [("npv", 0.95, 0.02), ("npv", 0.8, 0.15), ("ppv", 0.1, 0.2), ("ppv", 0.6, 0.1)]
)
def test_the_supposed_rates_have_the_supposed_value(metric, value, prevalence):
    kinds = Kinds(samples=400, positives=200, class_sizes=(), prevalence=prevalence, clean=(0.9, 0.8))
    one = predictive(metric, value, kinds)
    sensitivity, specificity = one.rates
    assert 0 <= sensitivity <= 1
    assert 0 <= specificity <= 1
    true, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    if metric == "npv":
        true, false = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    assert true / (true + false) == pytest.approx(value)
    found = expected(metric, value, kinds, Intervals())
    assert found.low < value < found.high


def test_where_equal_rates_would_be_worse_than_chance_one_stays_as_it_is():
    kinds = Kinds(samples=400, positives=200, class_sizes=(), prevalence=0.15, clean=(0.9, 0.8))
    one = predictive("npv", 0.83, kinds)
    assert one.rates == (pytest.approx(0.0716, abs=1e-3), 0.8)
    assert "better than chance" in one.note
    equal = predictive("ppv", 0.6, kinds)
    assert equal.rates[0] == equal.rates[1] > 0.5
    assert equal.note == "assumed: sensitivity and specificity 0.895"


@pytest.mark.parametrize(("metric", "text", "prevalence"), [("npv", ">= 0.9", 0.02), ("auroc", ">= 0.3", None)])
def test_a_handful_of_samples_is_never_called_enough(metric, text, prevalence):
    kinds = Kinds(samples=80, positives=40, class_sizes=(40, 40), prevalence=prevalence, clean=(0.9, 0.9))
    bound = bound_of(text, metric)
    needed = approximate_samples(bound, bound.value + 0.05, kinds, power=0.9, rule="confident", intervals=Intervals())
    assert needed > 80
