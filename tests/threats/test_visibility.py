"""Which conditions a policy may not ask for: those whose looks all show nothing, as the looks themselves say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from robustcheck.policy import ConditionsSpec
from robustcheck.policy.patch_checks import find
from robustcheck.threats.viewing import LOOK_DRAWS, Conditions, see

DRAWS = 256


def refused(conditions):
    """The conditions that a policy is told to be at fault."""
    faults = find({"id": "gate", "attack": "pgd", "conditions": conditions}, (), {}, Path())
    return [where[-1] for where, _ in faults]


def shown(conditions, shape=(16, 16)):
    """How much a white image and a black one differ, in the looks (and the pixel) where they differ most."""
    spec, generator = ConditionsSpec(**conditions), torch.Generator().manual_seed(0)
    uniform = torch.rand(DRAWS, LOOK_DRAWS, generator=generator)
    uniform[: DRAWS // 2] = uniform[: DRAWS // 2].round()  # the ends of all ranges
    uniform[:, 5] = torch.rand(DRAWS, generator=generator)  # axes of tilts, to all sides
    grain = torch.randn(DRAWS, 1, *shape, generator=generator)
    looks = Conditions(spec=spec).draw(uniform)
    white, black = (see(torch.full((DRAWS, 1, *shape), level), looks, grain) for level in (1.0, 0.0))
    return float((white - black).abs().max())


def ends(low, high):
    """Two numbers of two places, the second no less than the first."""
    return st.tuples(st.floats(low, high), st.floats(0, 0.2)).map(
        lambda pair: [round(pair[0], 2), round(min(high, sum(pair)), 2)]
    )


@st.composite
def shifts(draw):
    """Shifts about as far as the image is large, and what else changes where an image is seen."""
    scale = draw(ends(0.05, 3))
    given = {"scale": scale, "translation": draw(ends(0.45 + scale[1] / 2, 0.8 + scale[1] / 2))}
    if draw(st.booleans()):
        given["translation"] = [-end for end in reversed(given["translation"])]
    if draw(st.booleans()):
        given["rotation"] = draw(ends(-180, 180))
    if draw(st.booleans()):
        given["perspective"] = draw(ends(-80, 80))
    return given


LEVELS = st.fixed_dictionaries(
    {"brightness": st.one_of(ends(-1, -0.4), ends(0.4, 1))},
    optional={"contrast": ends(0, 1.5), "noise": st.just([0, 0.3]), "blur": st.just(1.0)},
)


@settings(max_examples=150, deadline=None)
@given(shifts(), st.tuples(st.integers(8, 24), st.integers(8, 24)))
def test_what_is_refused_for_its_shift_shows_nothing(conditions, shape):
    assume(refused(conditions))
    assert shown(conditions, shape) == 0


@settings(max_examples=150, deadline=None)
@given(LEVELS)
def test_what_is_refused_for_its_brightness_shows_nothing_and_what_is_not_shows_something(conditions):
    if refused(conditions):
        assert shown(conditions) < 1e-6
    else:
        low, high = ConditionsSpec(**conditions).brightness
        edge = 0.5 + conditions.get("contrast", [1, 1])[1] / 2
        assume("noise" in conditions or min(abs(low), abs(high)) < edge - 1e-3)
        assert shown(conditions) > 0


@pytest.mark.parametrize(
    ("conditions", "edge"),
    [
        ({}, 1.0),
        ({"scale": [0.2, 0.3]}, 0.65),
        ({"scale": [0.5, 2]}, 1.5 + 1 / 16),  # from as near, half a pixel beyond the image's edge is a whole one
        ({"perspective": 30}, 0.5 + 1.069 / 2 + 1.069 / 16),
        ({"perspective": 5, "scale": [0.5, 0.5]}, 0.5 + 0.506 / 2 + 0.506 / 16),
    ],
)
def test_the_nearest_shift_that_is_refused(conditions, edge):
    shift = {"translation": [edge + 0.002, edge + 0.1]}
    assert refused(conditions | shift) == ["translation"]
    assert shown(conditions | shift, (8, 8)) == 0
    # What is nearer is allowed; it is seen, unless it is nearer by less than a pixel.
    shift = {"translation": [edge - 0.1, edge]}
    assert refused(conditions | {"translation": [edge - 0.002, edge + 0.1]}) == []
    assert shown(conditions | shift, (32, 32)) > 0


def test_what_is_tilted_to_beside_the_camera_is_seen_however_far_it_is_shifted():
    conditions = {"perspective": [70, 80], "scale": [2.9, 3]}
    assert refused(conditions | {"translation": [9, 10]}) == []
    assert shown(conditions | {"translation": [3, 3.1]}) > 0
