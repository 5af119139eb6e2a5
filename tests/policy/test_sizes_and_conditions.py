"""How large patches are, and how images are seen, as users type it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from robustcheck.policy import ConditionsSpec, Size
from robustcheck.policy.patch_checks import find


@given(st.decimals(min_value="0.001", max_value="99.999", places=3))
def test_shares_of_the_area_are_exact(percent):
    for text in (f"{percent}%", f" {percent} %"):
        size = Size.parse(text)
        assert size.area == Fraction(percent) / 100
        assert size.text == f"{percent}%"
        assert size.pixels is None


@pytest.mark.parametrize("text", ["32 px", "32px", " 32   px "])
def test_sides_are_in_pixels(text):
    assert Size.parse(text) == Size(text="32 px", pixels=Fraction(32))


def _is_none(text):
    return not text.rstrip().endswith(("%", "px"))


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.lists(st.integers()),
        st.text("0123456789.px %x", max_size=4).filter(_is_none),
        st.floats(),
    )
)
def test_anything_else_is_a_sentence(value):
    with pytest.raises(ValueError, match=r"^found "):
        Size.parse(value)


@pytest.mark.parametrize(
    ("key", "value", "ends"),
    [
        ("rotation", 15, (-15, 15)),
        ("scale", 0.1, (0.9, 1.1)),
        ("scale", [0.5, 1], (0.5, 1)),
        ("translation", 0.05, (-0.05, 0.05)),
        ("contrast", 0.2, (0.8, 1.2)),
        ("brightness", [0, 0.1], (0, 0.1)),
        ("blur", 1, (0, 1)),
        ("noise", 0.02, (0, 0.02)),
        ("resampling", 0.5, (0.5, 1)),
        ("jpeg", 50, (50, 100)),
    ],
)
def test_a_number_stands_for_the_range_that_its_key_means(key, value, ends):
    spec = ConditionsSpec(**{key: value})
    assert spec.model_dump(exclude_unset=True) == {key: pytest.approx(ends)}
    assert ConditionsSpec(**{key: list(getattr(spec, key))}) == spec


@pytest.mark.parametrize("value", [True, "5", None, [], [1, 2, 3], [2, 1], float("nan"), 500, [-500, 0], {"a": 1}])
def test_what_is_no_range_is_refused(value):
    if value is None:
        assert ConditionsSpec(rotation=None).rotation is None
        return
    with pytest.raises(ValidationError, match=r"^1 validation error for ConditionsSpec\nrotation"):
        ConditionsSpec(rotation=value)


@pytest.mark.parametrize(
    ("conditions", "reach"),
    [
        ({"rotation": 10}, (0.2, 0.3)),
        ({"brightness": 0.1}, (0.1, 0.4)),
        ({"brightness": [0.15, 0.3]}, (0.0, 0.3)),
        ({"contrast": [0.5, 2]}, (0.0, 0.4)),  # .4 becomes .3 where contrast is doubled, and -.1 .2 where it is halved
        ({"contrast": [0, 1]}, (0.2, 0.3)),
        ({"contrast": [2, 2], "brightness": 0.1}, (0.2, 0.45)),  # .45 becomes .3 where it is .1 darker
    ],
)
def test_what_a_look_may_bring_into_a_window(conditions, reach):
    assert ConditionsSpec(**conditions).reach((0.2, 0.3)) == pytest.approx(reach)


@pytest.mark.parametrize(
    ("perspective", "angles", "outside"),
    [
        (30, [-30, 0, 30], None),
        ([10, 30], [-30, -10, 10, 30], None),
        ([-30, -10], [-30, 10, 30], None),
        ([-10, 30], [-30, 0, 30], None),
        (30, [-40], -40),
        ([10, 30], [-20, 5], 5),
        ([10, 30], [-20, 0], 0),
        ([-10, 30], [-31], -31),
    ],
)
def test_a_grid_s_angles_to_either_side_are_those_that_stickers_are_painted_for(perspective, angles, outside):
    attack = {"name": "rp2", "stickers": [0, 0, 0.5, 1], "distances": 1, "angles": angles}
    gate = {"id": "gate", "attack": attack, "conditions": {"perspective": perspective}, "require": {"accuracy": 0}}
    faults = [words for where, words in find(gate, (), {}, Path()) if where == ("attack", "angles")]
    if outside is None:
        assert faults == []
    else:
        assert [words.split(",")[0] for words in faults] == [f"found {outside}"]
