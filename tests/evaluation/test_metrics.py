"""Metrics and verdicts against their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.measurement import Measurement
from robustcheck.evaluation.metrics.readings import Readings, of_all, of_controls, of_finding
from robustcheck.evaluation.metrics.verdicts import compare, judge
from robustcheck.evaluation.search.ledger import Entry, Ledger
from robustcheck.policy import Bound
from robustcheck.results import Control, Metric, Requirement, overall


def _readings(labels, before, after, positive_probabilities=None, positive=1, findings=None):
    def array(values):
        return None if values is None else np.array(values)

    return Readings(
        labels=array(labels),
        before=array(before),
        after=array(after),
        positive_probabilities=array(positive_probabilities),
        positive=positive,
        finding_count=findings,
    )


def measure(readings, *, attackable, intervals):
    """Every metric that these readings define, with these intervals."""
    return {name: one(intervals) for name, one in of_all(readings, attackable).items()}


def test_metrics_of_a_small_case_by_hand():
    metrics = measure(
        _readings(
            labels=[1, 1, 1, 1, 0, 0],
            before=[1, 1, 1, 0, 0, 0],
            after=[1, 0, 0, 0, 0, 1],
            positive_probabilities=[0.9, 0.4, 0.3, 0.2, 0.3, 0.8],
        ),
        attackable=np.array([True, True, True, False, True, True]),
        intervals=Intervals(),
    )
    assert metrics["accuracy"].value == pytest.approx(2 / 6)
    assert metrics["sensitivity"].value == pytest.approx(1 / 4)
    assert metrics["specificity"].value == pytest.approx(1 / 2)
    assert metrics["balanced_accuracy"].value == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert metrics["attack_success"].value == pytest.approx(3 / 5)
    assert (metrics["attack_success"].successes, metrics["attack_success"].samples) == (3, 5)
    # pairs (positive, negative) ordered rightly: .9>.3 .9>.8 .4>.3 .3=.3 -> 3.5 of 8
    assert metrics["auroc"].value == pytest.approx(3.5 / 8)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auroc_is_the_share_of_pairs_in_order(samples):
    labels = [int(positive) for positive, _ in samples]
    scores = [score / 5 for _, score in samples]
    value = measure(_readings(labels, labels, labels, scores), attackable=None, intervals=Intervals())["auroc"].value
    pairs = [
        (p > n) + (p == n) / 2
        for p, a in zip(scores, labels, strict=True)
        if a
        for n, b in zip(scores, labels, strict=True)
        if not b
    ]
    assert value == (pytest.approx(np.mean(pairs)) if pairs else None)


@pytest.mark.parametrize("findings", [None, 2])
def test_no_answer_is_neither_a_positive_nor_a_negative_read(findings):
    labels = [1, 0] if findings is None else [0b11, 0b01]
    metrics = measure(_readings(labels, labels, [-1, -1], findings=findings), attackable=None, intervals=Intervals())
    assert metrics["sensitivity"].value == metrics["specificity"].value == metrics["accuracy"].value == 0
    assert metrics["balanced_accuracy"].value == 0


def test_a_finding_without_an_answer_is_scored_as_wrong_as_can_be():
    """Of the pairs of one image that has it and one that has it not, one is ordered rightly: that which was read."""
    readings = _readings([1, 1, 0, 0], [1, 1, 0, 0], [1, -1, 0, -1], findings=1)
    area = of_finding(replace(readings, finding_probabilities=np.array([[0.9], [0.9], [0.1], [0.1]])), 0)["auroc"]
    assert area(Intervals()).value == 1 / 4


def test_metrics_of_several_findings_by_hand():
    metrics = measure(
        _readings(  # bits: finding 2, the positive finding 1, finding 0
            labels=[0b011, 0b010, 0b001, 0b000, 0b110],
            before=[0b011, 0b010, 0b101, 0b000, 0b110],
            after=[0b001, 0b010, 0b101, 0b010, -1],
            positive_probabilities=[0.2, 0.9, 0.1, 0.8, 0.0],
            findings=3,
        ),
        attackable=np.array([True, True, True, True, True]),
        intervals=Intervals(),
    )
    assert (metrics["accuracy"].successes, metrics["accuracy"].samples) == (1, 5)  # every finding right
    assert (metrics["sensitivity"].successes, metrics["sensitivity"].samples) == (1, 3)
    assert (metrics["specificity"].successes, metrics["specificity"].samples) == (1, 2)
    # finding 0: 2 of 2 and 2 of 3 (no answer is none); 1: as above; 2: 0 of 1 and 3 of 4
    assert metrics["balanced_accuracy"].value == pytest.approx((1 + 2 / 3 + 1 / 3 + 1 / 2 + 0 + 3 / 4) / 6)
    assert metrics["auroc"].value == pytest.approx(3 / 6)
    assert (metrics["attack_success"].successes, metrics["attack_success"].samples) == (3, 5)


def test_an_attack_succeeds_where_it_changes_what_is_read_whatever_was_wrong_before():
    """Another finding of both is misread before the attack, which turns the one that it goes for in the second."""
    readings = _readings([0b01, 0b01], [0b11, 0b11], [0b11, 0b10], findings=2)
    success = measure(readings, attackable=np.array([True, True]), intervals=Intervals())["attack_success"]
    assert (success.successes, success.samples) == (1, 2)


@pytest.mark.parametrize(
    ("findings", "prevalence", "expected"),
    [(None, (0.2,), 0.2), (3, (0.2,), 0.2), (3, (0.1, 0.2, 0.3), 0.3), (3, None, None)],
)
def test_each_finding_has_its_prevalence_or_all_the_same(findings, prevalence, expected):
    readings = replace(_readings([1], [1], [1], findings=findings), prevalence=prevalence)
    assert readings.prevalence_of(2) == expected


def test_controls_whose_success_is_undefined_are_left_out():
    rate, nothing = Intervals().rate(np.array([True, False])), Metric(value=None, samples=0)
    undefined = Control(name="noise", success=nothing)
    assert of_controls(lambda at: at.rate(np.ones(2, bool)), [undefined]) == {}
    found = of_controls(lambda at: at.rate(np.ones(2, bool)), [undefined, Control(name="grey patch", success=rate)])
    assert found["control_success"](Intervals()).value == found["excess_success"](Intervals()).value == 1 / 2


def _measurement(*, among, findings=None, members=None):
    """Of four samples, the first two of which were looked at: both have label 1 and are read so."""
    return Measurement(
        readings=_readings([1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], findings=findings),
        labels=("dark", "bright") if findings is None else ("nodule",),
        members=members or {},
        contents=np.arange(4),
        judged=np.array([0, 1]),
        intervals=Intervals(),
        among=among,
    )


@pytest.mark.parametrize(("among", "unseen"), [(None, ["dark"]), (np.arange(4), [])])
def test_a_label_is_without_samples_if_those_that_may_follow_have_none_either(among, unseen):
    measured = _measurement(among=among)
    assert measured.unseen_labels == unseen
    assert measured.plain["balanced_accuracy"](Intervals()).value is None


def test_an_interval_of_the_worst_subgroup_knows_of_those_that_nobody_looked_at_yet():
    """A subgroup whose samples follow may be as bad as can be; if none follow, there is no such subgroup."""
    halves = {("sex", "F"): np.array([True, True, False, False]), ("sex", "M"): np.array([False, False, True, True])}
    bound = Bound(metric="worst_subgroup.accuracy", at_least=True, value=0.5)
    (among,) = _measurement(among=np.arange(4), members=halves).required([bound]).values()
    (alone,) = _measurement(among=None, members=halves).required([bound]).values()
    assert (among.slice, among.value, among.low) == ("sex=F", 1, 0)
    assert alone == replace(Intervals().rate(np.ones(2, bool)), slice="sex=F")


def test_findings_that_all_samples_have_or_none_are_left_out_of_balanced_accuracy():
    readings = _readings([0b011, 0b010], [0b011, 0b010], [0b010, 0b000], findings=3)
    assert (
        measure(readings, attackable=None, intervals=Intervals())["balanced_accuracy"].value == 1 / 2
    )  # finding 0: 0 of 1 and 1 of 1
    everywhere = _readings([0b1, 0b1], [0b1, 0b1], [0b1, 0b1], positive=None, findings=1)
    assert measure(everywhere, attackable=None, intervals=Intervals())["balanced_accuracy"].value is None


@given(st.integers(1, 500), st.floats(0, 1))
def test_intervals_are_clopper_pearson(samples, share):
    successes = round(samples * share)
    metric = Intervals().rate(np.arange(samples) < successes)
    low = beta.ppf(0.025, successes, samples - successes + 1) if successes else 0
    high = beta.ppf(0.975, successes + 1, samples - successes) if successes < samples else 1
    assert (metric.low, metric.high) == (pytest.approx(low), pytest.approx(high))


def test_a_metric_without_samples_is_undefined_and_its_gate_an_error():
    metrics = measure(_readings([0, 0], [0, 0], [0, 0]), attackable=None, intervals=Intervals())
    assert metrics["sensitivity"].value is None
    requirements = compare([Bound.parse("sensitivity", 0.5), Bound.parse("accuracy", 0.5)], metrics)
    assert [requirement.met for requirement in requirements] == [None, True]
    assert judge(requirements, metrics) == "error"


@pytest.mark.parametrize(("value", "met"), [(0.7, True), (">= 0.71", False), ("<= 0.7", True), ("<= 0.69", False)])
def test_meeting_a_bound_exactly_is_enough(value, met):
    metrics = {"accuracy": Intervals().rate(np.arange(10) < 7)}
    (requirement,) = compare([Bound.parse("accuracy", value)], metrics)
    assert requirement.met is met


def test_a_bound_that_is_not_met_fails_the_gate_whatever_else_is_undefined():
    requirements = [Requirement(metric=str(met), bound="", met=met) for met in (True, None, False)]
    assert judge(requirements, {}) == "fail"


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["fail", "inconclusive"], "fail"),
        (["fail", "error", "pass"], "error"),
        ([], "error"),
    ],
)
def test_the_heaviest_verdict_is_the_report_s(verdicts, whole):
    assert overall(verdicts) == whole
    assert overall(verdicts, interrupted=True) == "error"


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["pass", "inconclusive"], "pass"),
        (["inconclusive", "inconclusive"], "inconclusive"),
        (["fail", "inconclusive"], "fail"),
        (["error", "inconclusive"], "error"),
        (["pass"], "pass"),
        ([], "error"),
    ],
)
def test_where_open_gates_are_allowed_a_report_is_a_pass_only_if_a_gate_is(verdicts, whole):
    assert overall(verdicts, allow=True) == whole
    assert overall(verdicts, allow=True, interrupted=True) == "error"


def _entry(distance, gate="pgd"):
    return Entry(
        decision=1, distance=distance, score=None, found_by=gate, attack="", restart=0, step=0, file=None, sha256=""
    )


def test_a_counterexample_is_one_at_every_larger_budget_of_its_family_and_at_no_smaller():
    ledger = Ledger()
    ledger.add("linf", 7, _entry(2))
    assert set(ledger.within("linf", 4)) == set(ledger.within("linf", 2)) == {7}
    assert ledger.within("linf", 1) == {}
    assert ledger.within("l2", 4) == {}


def test_the_nearest_counterexample_is_kept_in_whatever_order_gates_run():
    ledger = Ledger()
    for distance, gate in ((4, "large"), (2, "small"), (3, "between")):
        ledger.add("linf", 7, _entry(distance, gate))
    assert ledger.within("linf", 8)[7].found_by == "small"


def test_a_mean_that_meets_its_bound_exactly_is_not_failed_by_rounding():
    labels = [0] * 10 + [1] * 10
    after = [0] * 1 + [1] * 9 + [1] * 7 + [0] * 3  # recalls of .1 and .7, whose floats average to less than .4
    metrics = measure(_readings(labels, labels, after), attackable=None, intervals=Intervals())
    assert compare([Bound.parse("balanced_accuracy", 0.4)], metrics)[0].met
