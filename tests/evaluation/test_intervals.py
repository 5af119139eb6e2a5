"""Intervals cover what they say, and gates that they do not decide are inconclusive."""

from __future__ import annotations

import numpy as np
import pytest
from building import LEVELS, brightness_policy, brightness_project
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from robustcheck import load_policy, run
from robustcheck.evaluation.intervals import Intervals
from robustcheck.evaluation.verdicts import judge, require
from robustcheck.policy import Bound
from robustcheck.results import Metric, overall

KINDS = {"clopper-pearson": "exact", "wilson": "wilson"}


def _hits(successes, samples):
    return np.arange(samples) < successes


@pytest.mark.parametrize("kind", KINDS)
@given(samples=st.integers(1, 500), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_rates_have_the_intervals_of_the_textbooks(kind, samples, share, confidence):
    successes = round(share * samples)
    metric = Intervals(confidence=confidence, kind=kind).rate(_hits(successes, samples))
    expected = binomtest(successes, samples).proportion_ci(confidence, method=KINDS[kind])
    assert (metric.low, metric.high) == (pytest.approx(expected.low, abs=1e-9), pytest.approx(expected.high, abs=1e-9))
    assert metric.confidence == confidence


@pytest.mark.parametrize("samples", [10, 30, 100, 500, 2000])
def test_exact_intervals_cover_at_or_above_their_level(samples):
    """Not simulated but summed: the probability of all counts whose interval holds the truth."""
    ends = [Intervals().rate(_hits(count, samples)) for count in range(samples + 1)]
    low, high = (np.array([getattr(metric, end) for metric in ends]) for end in ("low", "high"))
    for truth in (0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.77, 0.9, 0.99, 1):
        covered = binom.pmf(np.arange(samples + 1), samples, truth)[(low <= truth) & (truth <= high)].sum()
        assert covered >= 0.95 - 1e-9


@pytest.mark.parametrize("truth", [(0.1, 0.1), (0.5, 0.9), (0.95, 0.99), (1.0, 0.4)])
@pytest.mark.parametrize("samples", [10, 80])
def test_means_and_differences_cover_at_or_above_their_level(truth, samples):
    dice, covered = np.random.default_rng(0), np.zeros(2)
    for _ in range(2000):
        rates = [dice.random(samples) < share for share in truth]
        mean = Intervals().mean(rates, samples=2 * samples)
        difference = Intervals().difference(*map(Intervals().rate, rates))
        for place, (metric, true) in enumerate(((mean, sum(truth) / 2), (difference, truth[0] - truth[1]))):
            assert metric.low <= metric.value <= metric.high
            covered[place] += metric.low <= true + 1e-12 and true - 1e-12 <= metric.high
    assert (covered / 2000 >= 0.95).all()


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


@given(low=st.floats(0, 1), width=st.floats(0, 1), value=st.floats(0, 1), at_least=st.booleans())
def test_a_bound_inside_the_interval_is_undecided(low, width, value, at_least):
    high = min(1.0, low + width)
    bound = Bound(metric="accuracy", at_least=at_least, value=value)
    metrics = {"accuracy": Metric(value=(low + high) / 2, low=low, high=high, samples=9)}
    (requirement,) = require([bound], metrics, "confident")
    meets, misses = (low >= value, high < value) if at_least else (high <= value, low > value)
    assert requirement.met is (True if meets else False if misses else None)
    assert judge([requirement], metrics) == ("pass" if meets else "fail" if misses else "inconclusive")


def test_an_undefined_metric_is_an_error_and_no_doubt():
    metrics = {"accuracy": Metric(value=0.5, low=0.4, high=0.6, samples=9), "auroc": Metric(value=None, samples=9)}
    bounds = [Bound.parse("accuracy", 0.5), Bound.parse("auroc", 0.5)]
    assert judge(require(bounds, metrics, "confident"), metrics) == "error"
    assert judge(require(bounds[:1], metrics, "confident"), metrics) == "inconclusive"
    assert judge(require(bounds[:1], metrics, "estimate"), metrics) == "pass"


def test_allowed_doubt_stands_in_nobody_s_way():
    assert overall(["pass", "inconclusive"]) == "inconclusive"
    assert overall(["pass", "inconclusive"], allow=True) == "pass"
    assert overall(["fail", "inconclusive"], allow=True) == "fail"
    assert overall(["error", "inconclusive"], allow=True) == "error"
    assert overall(["inconclusive"], interrupted=True, allow=True) == "error"


@pytest.mark.parametrize(("bound", "verdict"), [("0.1", "pass"), ("0.5", "inconclusive"), ("0.97", "fail")])
def test_a_gate_passes_fails_or_is_left_open_by_its_interval(bound, verdict, tmp_path):
    """4 of 10 hold at four levels: .12 to .74."""
    brightness_project(tmp_path)
    gates = f"  - {{id: pgd, attack: pgd, epsilon: 4/255, require: {{accuracy: {bound}}}}}"
    for decision, expected in (
        ("{rule: confident}", verdict),
        ("{rule: confident, inconclusive: allow}", verdict),
        ("{rule: estimate}", "pass" if float(bound) <= 0.4 else "fail"),
    ):
        (tmp_path / "policy.yaml").write_text(brightness_policy(gates, extra=f"decision: {decision}"))
        report = run(load_policy(tmp_path / "policy.yaml"))
        accuracy = report.gates[0].metrics["accuracy"]
        assert accuracy.successes == sum(abs(level - 127.5) > 4 for level in LEVELS) == 4
        assert report.gates[0].verdict == expected
        allowed = "allow" in decision and expected == "inconclusive"
        assert report.verdict == ("pass" if allowed else expected)


def test_the_level_and_the_kind_are_the_policy_s(tmp_path):
    brightness_project(tmp_path)
    gates = "  - {id: pgd, attack: pgd, epsilon: 4/255, require: {accuracy: 0.1}}"
    extra = "decision: {rule: confident, confidence: 0.8, interval: wilson}"
    (tmp_path / "policy.yaml").write_text(brightness_policy(gates, extra=extra))
    report = run(load_policy(tmp_path / "policy.yaml"))
    accuracy = report.gates[0].metrics["accuracy"]
    expected = binomtest(4, 10).proportion_ci(0.8, method="wilson")
    assert (accuracy.low, accuracy.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert (report.confidence, report.interval, report.decision) == (0.8, "wilson", "confident")
    assert {metric.confidence for metric in report.gates[0].metrics.values()} == {0.8}
