from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robustcheck.policy import Bound
from robustcheck.results import METRICS

SHARES = st.floats(0, 1)


@given(SHARES, st.booleans())
@example(1e-5, True)
@example(0.1 + 0.2, False)
@example(5e-324, True)
def test_a_bound_reads_back_as_itself(value, at_least):
    bound = Bound(metric="accuracy", at_least=at_least, value=value)
    if value == 0 or value > 1e-20:  # no share of samples is smaller, and its text would be long
        assert Bound.parse("accuracy", str(bound)) == bound


@given(SHARES)
def test_a_number_is_at_least(value):
    assert Bound.parse("accuracy", value) == Bound(metric="accuracy", at_least=True, value=value)


@given(SHARES, SHARES)
def test_meeting_it_exactly_is_enough(value, measured):
    low, high = Bound.parse("auroc", value), Bound(metric="auroc", at_least=False, value=value)
    assert low.met_by(value)
    assert high.met_by(value)
    assert low.met_by(measured) == (measured >= value)
    assert high.met_by(measured) == (measured <= value)


@pytest.mark.parametrize(
    ("written", "text"),
    [(1, ">= 1"), (0, ">= 0"), (0.7, ">= 0.7"), ("<=0.2", "<= 0.2"), (" >= .5 ", ">= 0.5"), (">= 1.0", ">= 1")],
)
def test_what_is_a_bound(written, text):
    assert str(Bound.parse("accuracy", written)) == text


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (80, "0.8"),
        (100, "1"),
        ("80%", "0.8"),
        ("> 0.7", "'>= 0.7'"),
        ("< 0.2", "'<= 0.2'"),
        ("=> 0.7", "'>= 0.7'"),
        ("≤ 20 %", "'<= 0.2'"),
        (">= 80", "'>= 0.8'"),
        ("0.7", "0.7, without quotes"),
        ("== 0.7", None),
        (1.5, None),
        (101, None),
        (-0.5, None),
        (True, None),
        ("> 0.7 or so", None),
        (float("nan"), None),
    ],
)
def test_what_is_nearly_one(written, meant):
    with pytest.raises(ValueError, match="found") as caught:
        Bound.parse("accuracy", written)
    assert ("did you mean" in str(caught.value)) == (meant is not None)
    if meant:
        assert str(caught.value).endswith(f"; did you mean {meant}?")


@given(
    st.sampled_from(list(METRICS)),
    st.one_of(st.text(), st.text("0123456789.<>=≤ %-e", max_size=8), st.integers(), st.floats(), st.lists(st.none())),
)
@example("accuracy", 10**400)
@example("accuracy", ">= " + "9" * 100_000)
@example("accuracy", "9" * 20 + "." + "9" * 40)
def test_whatever_is_typed_is_a_bound_on_a_share_or_a_sentence(metric, value):
    try:
        answer = Bound.parse(metric, value)
    except ValueError as error:
        answer = str(error)
    if isinstance(answer, Bound):
        assert 0 <= answer.value <= 1
    else:
        assert len(answer) < 300
        assert "\n" not in answer
