"""Which conditions a policy may not ask for: those whose looks all show nothing, as the looks themselves say."""

from __future__ import annotations

from math import asin, degrees, sqrt
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from robustcheck.attacks.draws import Draws
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
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(DRAWS, LOOK_DRAWS, generator=generator)
    uniform[: DRAWS // 2] = uniform[: DRAWS // 2].round()  # the ends of all ranges
    uniform[:, 5] = torch.rand(DRAWS, generator=generator)  # axes of tilts, to all sides
    return difference(conditions, uniform, shape)


def difference(conditions, uniform, shape):
    """How much a white image and a black one differ, at most, in the looks made of numbers (N, LOOK_DRAWS)."""
    looks = Conditions(spec=ConditionsSpec(**conditions)).draw(uniform)
    grain = Draws(keys=torch.arange(len(uniform))).normal((1, *shape))
    white, black = (see(torch.full((len(uniform), 1, *shape), level), looks, grain) for level in (1.0, 0.0))
    return float((white - black).abs().max())


def shown_of_a_corner(scale, perspective, edge, shape):
    """The difference of white and black where the right lower corner, as near as a tilt brings it, is shifted back."""
    tilt = min(perspective, degrees(asin(min(1.0, scale * sqrt(2) / 4))))
    uniform = torch.ones(1, LOOK_DRAWS)
    uniform[0, 4:6] = torch.tensor([(tilt / perspective + 1) / 2, 135 / 360])
    conditions = {"scale": [scale, scale], "perspective": perspective, "translation": [-edge - 0.1, -edge]}
    return difference(conditions, uniform, shape), refused(conditions)


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
    optional={
        "contrast": ends(0, 1.5),
        "noise": st.sampled_from([[0, 0.01], [0, 0.05], [0, 0.3]]),
        "blur": st.just(1.0),
    },
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
        # Of 256 looks none has grain that is as far out as noise ever is.
        grain = 2 * conditions["noise"][1] if "noise" in conditions else -1e-3
        assume(min(abs(low), abs(high)) < edge + grain)
        assert shown(conditions) > 0


@pytest.mark.parametrize(
    ("conditions", "edge"),
    [
        ({}, 1.0),
        ({"scale": [0.2, 0.3]}, 0.65),
        ({"scale": [0.5, 2]}, 1.5 + 1 / 16),  # from as near, half a pixel beyond the image's edge is a whole one
        ({"perspective": 30}, 0.5 + 1.2262 / 2),
        ({"perspective": 5, "scale": [0.5, 0.5]}, 0.5 + 0.5702 / 2),
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


@pytest.mark.parametrize(
    ("scale", "perspective", "shape", "edge"),
    [
        (2, 45, (8, 8), 2.1),
        (2.7, 80, (8, 8), 5.6),
        (2.7, 80, (16, 16), 5.6),
        (2.7, 80, (28, 28), 5.6),
    ],
)
def test_half_a_pixel_beyond_a_tilted_corner_is_magnified_more_than_the_corner_is(scale, perspective, shape, edge):
    seen, faults = shown_of_a_corner(scale, perspective, edge, shape)
    assert seen > 0.01
    assert faults == []


@pytest.mark.parametrize(("scale", "perspective"), [(2, 45), (1.5, 60), (2.3, 60), (1, 30), (0.5, 80)])
def test_a_corner_that_is_tilted_nearest_is_not_seen_where_its_shift_is_refused(scale, perspective):
    shifts = [0.5 + 0.02 * step for step in range(800)]
    edge = next(shift for shift in shifts if shown_of_a_corner(scale, perspective, shift, (8, 8))[1])
    for shape in ((8, 8), (8, 16), (16, 16), (32, 32)):
        assert shown_of_a_corner(scale, perspective, edge, shape)[0] == 0


@pytest.mark.parametrize(
    ("brightness", "noise", "faults"),
    [(-0.6, 0.0114, ["brightness"]), (-0.6, 0.0117, []), (0.6, 0.0114, ["brightness"])],
)
def test_grain_brings_back_what_is_beyond_the_range_by_less_than_it_is_ever_drawn(brightness, noise, faults):
    conditions = {"brightness": [brightness, brightness], "contrast": [0.1, 0.1], "noise": [0, noise]}
    assert refused(conditions) == faults
    looks = torch.ones(1024, LOOK_DRAWS)  # the most noise; among so many pixels some have grain at its last quantile
    assert (difference(conditions, looks, (32, 32)) > 0) == (not faults)
