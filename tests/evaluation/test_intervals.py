"""Intervals cover what they say, and gates that they do not decide are inconclusive."""

from __future__ import annotations

import numpy as np
import pytest
from building import LEVELS, brightness_policy, brightness_project
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, chi2

from robustcheck import load_policy, run
from robustcheck.evaluation.metrics.clusters import effective_size, kish_size
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.readings import of_controls
from robustcheck.evaluation.metrics.verdicts import compare, judge
from robustcheck.policy import Bound
from robustcheck.results import Control, Metric, overall

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


PATIENTS = {
    "5 equal": np.full(5, 20),
    "pairs": np.full(100, 2),
    "100 of 20": np.full(100, 20),
    "1 to 20": np.tile([1, 1, 2, 3, 5, 8, 20, 1, 2, 4], 4),
    "two huge": np.array([100, 50] + [2, 1, 3] * 25),
    "one half": np.array([100] + [1] * 100),
}


def _own_rates(dice, rate, correlation, shape):
    """Of patients: beta distributed, so that two images of one correlate so."""
    if correlation in (0, 1):
        return np.full(shape, rate) if correlation == 0 else (dice.random(shape) < rate).astype(float)
    weight = (1 - correlation) / correlation
    return dice.beta(rate * weight, (1 - rate) * weight, shape)


@pytest.mark.parametrize("sizes", PATIENTS.values(), ids=PATIENTS)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_intervals_by_patient_cover_at_or_above_their_level(sizes, confidence):
    """A smaller grid than `benchmarks/coverage.py` has."""
    dice, gates, samples = np.random.default_rng(2), 1000, sizes.sum()
    group = np.repeat(np.arange(len(sizes)), sizes)
    for rate in (0.01, 0.1, 0.5):
        for correlation in (0, 0.1, 0.6, 1):
            hits = dice.binomial(sizes, _own_rates(dice, rate, correlation, (gates, len(sizes))))
            successes, worth = hits.sum(1), effective_size(hits, sizes, confidence)
            unit, tail = worth / samples, (1 - confidence) / 2
            low = beta.ppf(tail, successes * unit, (samples - successes) * unit + 1)
            high = beta.ppf(1 - tail, successes * unit + 1, (samples - successes) * unit)
            low, high = np.where(successes > 0, low, 0), np.where(successes < samples, high, 1)
            covered = ((low <= rate) & (rate <= high)).mean()
            assert covered >= confidence - 3 * (confidence * (1 - confidence) / gates) ** 0.5
            first = np.concatenate([_hits(own, size) for own, size in zip(hits[0], sizes, strict=True)])
            metric = Intervals(confidence=confidence).rate(first, 7 - 3 * group)
            assert (metric.low, metric.high) == (pytest.approx(low[0]), pytest.approx(high[0]))
            assert (metric.groups, metric.effective) == (len(sizes), pytest.approx(worth[0]))
            assert metric.successes == successes[0]


def test_intervals_by_patient_are_hardly_wider_where_images_do_not_correlate():
    hits = np.random.default_rng(3).binomial(2, 0.5, (200, 1000))
    worth = effective_size(hits, np.full(1000, 2), 0.95)
    assert 0.8 * 2000 < worth.mean() < 2000
    assert worth.max() <= 2000


def test_images_that_always_agree_count_once():
    sizes = np.array([3, 1, 4, 1, 5])
    whole = np.array([sizes, 0 * sizes])  # all hit, or none
    assert effective_size(whole, sizes, 0.95) == pytest.approx([14**2 / 52] * 2)
    assert effective_size(np.full(6, 2), np.full(6, 4), 0.95) == pytest.approx(6)  # equal rates, nothing varies
    assert effective_size(np.array([0, 0, 4, 4, 4, 0]), np.full(6, 4), 0.95) <= 6
    assert Intervals().rate(np.ones(14, bool), np.repeat(np.arange(5), sizes)).low < 0.45


def test_the_effective_size_by_hand():
    """60 patients of three images, and one of 30."""
    sizes, hits = np.array([30] + [3] * 60), np.array([12] + [1, 0, 2] * 20)
    share, parts = 72 / 210, (hits - 72 / 210 * sizes) ** 2 / (1 - sizes / 210)
    freedom = parts.sum() ** 2 / (parts**2).sum() - 1
    design = parts.sum() / 210 / (share * (1 - share)) * freedom / chi2.ppf(0.1, freedom)
    assert 1 < design < (sizes**2).sum() / 210
    assert effective_size(hits, sizes, 0.95) == pytest.approx(210 / design, rel=1e-9)
    design *= chi2.ppf(0.1, freedom) / chi2.ppf(0.02, freedom)
    assert effective_size(hits, sizes, 0.99) == pytest.approx(210 / design, rel=1e-9)


def test_patients_whose_rate_goes_with_their_images_count_less_than_once():
    sizes = np.array([40] * 4 + [1] * 1000)
    hits = np.where(sizes == 40, 40, 0)
    assert effective_size(hits, sizes, 0.95) < kish_size(sizes)


@pytest.mark.parametrize("kind", ["clopper-pearson", "wilson"])
@given(samples=st.integers(1, 60), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_patients_of_one_image_each_change_nothing(kind, samples, share, seed):
    dice = np.random.default_rng(seed)
    hits, groups, labels = dice.random(samples) < share, dice.permutation(samples), dice.random(samples) < 0.4
    intervals, scores = Intervals(kind=kind), dice.integers(0, 9, samples) / 9
    plain, by_patient = intervals.rate(hits), intervals.rate(hits, groups)
    assert (plain.low, plain.high) == (by_patient.low, by_patient.high)
    assert (plain.effective, by_patient.effective) == (None, samples)
    (mean,) = {intervals.mean([hits, hits], samples=9, groups=at).low for at in (None, [groups, groups])}
    assert mean == intervals.mean([hits, hits], samples=9).low
    area, clustered = intervals.auroc(scores, labels), intervals.auroc(scores, labels, groups)
    assert clustered.value == area.value
    assert (clustered.low, clustered.high) == (pytest.approx(area.low, abs=1e-9), pytest.approx(area.high, abs=1e-9))


def test_a_mean_by_patient_counts_each_patient_once():
    mean = Intervals().mean(
        [np.array([True, False, True]), np.array([True, True])],
        samples=5,
        groups=[np.array([4, 4, 9]), np.array([9, 7])],
    )
    assert (mean.groups, mean.value, mean.samples) == (3, pytest.approx(5 / 6), 5)
    assert Intervals().mean([], samples=5, groups=[]).groups == 0


def test_what_is_made_of_two_rates_covers_by_patient():
    dice, gates, sizes = np.random.default_rng(5), 200, np.array([1, 1, 2, 3, 5, 8, 20, 1, 2, 4] * 2)
    group, covered, (one, other) = np.repeat(np.arange(20), sizes), np.zeros(4), (0.9, 0.7)
    true = (one - other, 0.09 / (0.09 + 0.27), 0.63 / (0.63 + 0.01), 0.7)
    for _ in range(gates):
        hits = [dice.random(len(group)) < _own_rates(dice, rate, 0.6, 20)[group] for rate in (one, other)]
        found, spared = (Intervals().rate(own, group) for own in hits)
        made = [
            Intervals().difference(found, spared),
            Intervals().ppv(found, spared, 0.1),
            Intervals().npv(found, spared, 0.1),
            Intervals().worst({str(own.sum()): lambda at, own=own: at.rate(own, group) for own in hits})[1],
        ]
        covered += [
            metric.value is None or metric.low <= at <= metric.high for metric, at in zip(made, true, strict=True)
        ]
    assert (covered / gates >= 0.95).all()


def test_a_mean_of_rates_lies_between_the_means_of_their_ends():
    hits = _hits(3, 4), _hits(800, 1000)
    few, many = (Intervals(confidence=0.975).rate(own) for own in hits)
    mean = Intervals().mean(hits, samples=1004)
    assert (mean.value, mean.low, mean.high) == pytest.approx(
        (0.775, (few.low + many.low) / 2, (few.high + many.high) / 2)
    )


def test_who_takes_the_largest_of_several_controls_is_less_sure_of_it():
    """The larger of two that are alike is so by chance: its interval has to hold for whichever is truly larger."""
    success, few, most = (Intervals().rate(_hits(hits, 40)) for hits in (35, 8, 10))
    controls = [Control(name=name, success=rate) for name, rate in (("few", few), ("most", most))]
    one, both = (
        {name: measure(Intervals()) for name, measure in of_controls(lambda _at: success, known).items()}
        for known in (controls[1:], controls)
    )
    assert one["control_success"] == most
    assert (both["control_success"].value, both["control_success"].successes) == (most.value, 10)
    assert one["excess_success"].value == both["excess_success"].value == 25 / 40
    at = Intervals(confidence=0.975).rate(_hits(10, 40))
    assert (both["control_success"].low, both["control_success"].high) == (at.low, at.high)
    rate, known = (Intervals(confidence=1 - 0.05 / 3).rate(_hits(hits, 40)) for hits in (35, 10))
    assert both["excess_success"].low == pytest.approx(rate.low - known.high)
    assert both["excess_success"].high == pytest.approx(rate.high - known.low)
    assert both["excess_success"].low < one["excess_success"].low
    assert both["excess_success"].high > one["excess_success"].high


def test_predictive_values_are_bayes_s_and_lie_between_those_of_the_ends():
    found, spared = Intervals().rate(_hits(90, 100)), Intervals().rate(_hits(160, 200))
    ppv, npv = Intervals().ppv(found, spared, 0.02), Intervals().npv(found, spared, 0.02)
    assert ppv.value == pytest.approx(0.9 * 0.02 / (0.9 * 0.02 + 0.2 * 0.98))
    assert npv.value == pytest.approx(0.8 * 0.98 / (0.8 * 0.98 + 0.1 * 0.02))
    (a, b), (c, d) = (binomtest(*n).proportion_ci(0.975, method="exact") for n in ((90, 100), (160, 200)))
    assert (ppv.low, ppv.high) == pytest.approx([x * 0.02 / (x * 0.02 + (1 - y) * 0.98) for x, y in ((a, c), (b, d))])
    assert (npv.low, npv.high) == pytest.approx([y * 0.98 / (y * 0.98 + (1 - x) * 0.02) for x, y in ((a, c), (b, d))])
    assert (ppv.samples, ppv.confidence, ppv.successes) == (300, 0.95, None)


def test_predictive_values_meet_their_bounds_exactly():
    half = Intervals().rate(_hits(5, 10))
    assert Intervals().ppv(half, half, 0.1).value == 0.1
    assert Intervals().npv(half, half, 0.1).value == 0.9
    few, most = Intervals().rate(_hits(1, 10)), Intervals().rate(_hits(8, 10))
    assert Intervals().ppv(few, most, 0.3).value == 3 / 17  # with the float next to .3, a little less


def test_predictive_values_of_nothing_are_undefined():
    none, never, always = (Intervals().rate(_hits(*n)) for n in ((0, 0), (0, 9), (9, 9)))
    for metric in (
        Intervals().ppv(none, always, 0.1),
        Intervals().npv(always, none, 0.1),
        Intervals().ppv(never, always, 0.1),
        Intervals().npv(always, never, 0.1),
    ):
        assert (metric.value, metric.low, metric.high) == (None, None, None)
    assert (Intervals().ppv(always, always, 0.1).value, Intervals().ppv(always, always, 0.1).high) == (1, 1)


def test_the_worst_slice_is_named_and_the_interval_is_of_the_worst_of_all():
    hits = {"many": _hits(800, 1000), "few": _hits(3, 4), "none": _hits(0, 0)}
    slices = {name: lambda at, own=own: at.rate(own) for name, own in hits.items()}
    many, few = (Intervals(confidence=0.975).rate(hits[name]) for name in ("many", "few"))
    name, worst = Intervals().worst(slices)
    assert (name, worst.value, worst.samples, worst.successes, worst.confidence) == ("few", 0.75, 4, 3, 0.95)
    assert (worst.low, worst.high) == (pytest.approx(few.low), pytest.approx(many.high))
    name, worst = Intervals().worst(slices, largest=True)
    assert (name, worst.value) == ("many", 0.8)
    assert (worst.low, worst.high) == (pytest.approx(many.low), pytest.approx(few.high))
    assert Intervals().worst({"none": slices["none"]}) is None
    assert Intervals().worst({}) is None
    assert Intervals().worst({"only": slices["many"]})[1] == Intervals().rate(hits["many"])


def test_a_slice_of_which_nothing_is_known_may_be_the_worst():
    """The intervals of both hold together: where nothing is known, that is from 0 to 1."""
    slices = {"seen": lambda at: at.rate(_hits(800, 1000))}
    seen = Intervals(confidence=0.975).rate(_hits(800, 1000))
    name, worst = Intervals().worst(slices, unseen=1)
    assert (name, worst.value, worst.low, worst.high) == ("seen", 0.8, 0, pytest.approx(seen.high))
    name, worst = Intervals().worst(slices, largest=True, unseen=1)
    assert (name, worst.value, worst.low, worst.high) == ("seen", 0.8, pytest.approx(seen.low), 1)


def test_the_worst_of_eight_subgroups_is_covered():
    dice, covered, draws = np.random.default_rng(6), 0, 400
    for _ in range(draws):
        hits = dice.random((8, 25)) < 0.8
        slices = {str(k): lambda at, own=own: at.rate(own) for k, own in enumerate(hits)}
        worst = Intervals().worst(slices)[1]
        covered += worst.low <= 0.8 <= worst.high
    assert covered / draws >= 0.95


@given(low=st.floats(0, 1), width=st.floats(0, 1), value=st.floats(0, 1), at_least=st.booleans())
def test_a_bound_inside_the_interval_is_undecided(low, width, value, at_least):
    high = min(1.0, low + width)
    bound = Bound(metric="accuracy", at_least=at_least, value=value)
    metrics = {"accuracy": Metric(value=(low + high) / 2, low=low, high=high, samples=9)}
    (requirement,) = compare([bound], metrics, "confident")
    meets, misses = (low >= value, high < value) if at_least else (high <= value, low > value)
    assert requirement.met is (True if meets else False if misses else None)
    assert judge([requirement], metrics) == ("pass" if meets else "fail" if misses else "inconclusive")


def test_an_undefined_metric_is_an_error_and_no_doubt():
    metrics = {"accuracy": Metric(value=0.5, low=0.4, high=0.6, samples=9), "auroc": Metric(value=None, samples=9)}
    bounds = [Bound.parse("accuracy", 0.5), Bound.parse("auroc", 0.5)]
    assert judge(compare(bounds, metrics, "confident"), metrics) == "error"
    assert judge(compare(bounds[:1], metrics, "confident"), metrics) == "inconclusive"
    assert judge(compare(bounds[:1], metrics, "estimate"), metrics) == "pass"


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
        assert report.verdict == expected
        assert report.green == (expected == "pass" or ("allow" in decision and expected == "inconclusive"))


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
