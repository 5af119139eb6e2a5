"""Intervals that hold at every number of samples: exact, valid however often one looks, and soon decided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from robustcheck.evaluation.metrics.anytime import ends
from robustcheck.evaluation.metrics.intervals import Intervals

CAP = 500
COUNTS = np.arange(1, CAP + 1)


@pytest.fixture(scope="module")
def table():
    """Both ends of each number of hits (0 … CAP) among each number of samples (1 … CAP)."""
    hits = np.arange(CAP + 1)[:, None]
    return ends(hits, np.maximum(COUNTS, hits), 0.95)


def _decide(table, rate, bound, *, runs=2000):
    """Samples until the interval decides, at most CAP, and which of the runs (R,) it decides below and above."""
    low, high = table
    hits = (np.random.default_rng(int(1000 * rate)).random((runs, CAP)) < rate).cumsum(axis=1)
    below, above = bound > high[hits, COUNTS - 1], low[hits, COUNTS - 1] >= bound
    decided = below | above
    last = np.where(decided.any(axis=1), decided.argmax(axis=1), CAP - 1)
    return last + 1, below[np.arange(runs), last], above[np.arange(runs), last]


@pytest.mark.parametrize("bound", [0.05, 0.3, 0.6, 0.8, 0.95])
def test_at_the_bound_hardly_any_run_decides(bound, table):
    _, below, above = _decide(table, bound, bound)
    assert 0.01 < (below | above).mean() <= 0.05  # valid, and not by saying nothing


@pytest.mark.parametrize(("rate", "most"), [(0.1, 12), (0.3, 30), (0.9, 25)])
def test_clear_cases_are_decided_soon(rate, most, table):
    samples, below, above = _decide(table, rate, 0.6)
    assert samples.mean() <= most
    assert (below if rate < 0.6 else above).mean() >= 0.95


@given(samples=st.integers(1, 300), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.999]))
def test_at_its_ends_the_mixture_is_as_much_as_it_may_be(samples, share, confidence):
    """The mixture over the uniform is a beta-binomial distribution: M = P(s | mixed) / P(s | p)."""
    hits = round(share * samples)
    low, high = map(float, ends(hits, samples, confidence))
    assert 0 <= low <= hits / samples <= high <= 1
    assert (low == 0) == (hits == 0)
    assert (high == 1) == (hits == samples)
    for end in {low, high} - {0.0, 1.0}:
        mixed = betabinom.logpmf(hits, samples, 1, 1) - binom.logpmf(hits, samples, end)
        assert mixed == pytest.approx(-np.log1p(-confidence), abs=1e-6)


def test_a_million_samples_and_none():
    for hits in (0, 1, 500_000, 999_999, 1_000_000):
        low, high = map(float, ends(hits, 1_000_000, 0.95))
        assert 0 <= low <= hits / 1e6 <= high <= 1
        assert high - low < 0.005
        mirrored = [1 - float(end) for end in ends(1_000_000 - hits, 1_000_000, 0.95)]
        assert (low, high) == (pytest.approx(mirrored[1], abs=1e-9), pytest.approx(mirrored[0], abs=1e-9))
    # All hit: M(p) = 1 / (n + 1) / p^n, solved by hand.
    assert float(ends(1_000_000, 1_000_000, 0.95)[0]) == pytest.approx((0.05 / 1_000_001) ** 1e-6, abs=1e-9)
    assert tuple(map(float, ends(0, 0, 0.95))) == (0, 1)


def test_more_hits_than_samples_by_a_rounding_error_are_all():
    samples = 18**2 / (3 * 25 + 9)
    low, high = map(float, ends(np.nextafter(samples, 9), samples, 0.95))
    assert low == pytest.approx((0.05 / (samples + 1)) ** (1 / samples))
    assert high == 1


def test_by_patient_no_more_runs_decide_at_the_bound():
    """Groups of four that always agree, counted as `Intervals` does, at each number of samples."""
    dice, group = np.random.default_rng(7), np.repeat(np.arange(30), 4)
    hits = (dice.random((1000, 30)) < 0.6)[:, group]
    wrong = np.zeros(1000, bool)
    for count in range(1, len(group) + 1):
        worth = Intervals(kind="anytime").rate(hits[0, :count], group[:count]).effective
        low, high = ends(hits[:, :count].sum(1) * (worth / count), worth, 0.95)
        wrong |= (high < 0.6) | (low >= 0.6)
    assert wrong.mean() <= 0.05


def test_everything_that_is_made_of_rates_follows():
    intervals, hits = Intervals(kind="anytime"), np.arange(40) < 30
    rate = intervals.rate(hits)
    assert (rate.low, rate.high) == tuple(map(float, ends(30, 40, 0.95)))
    low, high = map(float, ends(30, 40, 0.975))
    mean = intervals.mean([hits, hits], samples=40)
    assert (mean.low, mean.high) == (low, high)
    assert intervals.difference(rate, rate).high == high - low
    assert intervals.ppv(rate, rate, 0.5).low == pytest.approx(low / (low + 1 - low))
    assert intervals.worst({"a": lambda at: at.rate(hits), "b": lambda at: at.rate(hits)})[1].low == low
    area = intervals.auroc(np.arange(40.0), hits)
    assert (area.value, area.low, area.high) == (0, None, None)
    assert intervals.worst({"a": lambda at: at.auroc(np.arange(40.0), hits)})[1].low is None
