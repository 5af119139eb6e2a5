"""The L∞ ball, exact in whole grey levels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustcheck.errors import EvaluationError
from robustcheck.models.grey_levels import to_stored
from robustcheck.policy import Quantity
from robustcheck.threats import LinfBall

balls = st.builds(
    lambda bits, share: LinfBall(levels=max(1, int(share * (2**bits - 1))), maximum=2**bits - 1),
    st.sampled_from([1, 8, 12, 16]),
    st.floats(0, 1),
)
seeds = st.integers(0, 2**31)


def _clean(ball: LinfBall, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    stored = torch.randint(0, ball.maximum + 1, (3, 2, 5, 4), generator=generator)
    return stored.float() / ball.maximum


@given(balls, seeds, st.floats(-3, 3))
def test_what_is_projected_can_be_stored_inside_the_ball(ball, seed, shift):
    clean = _clean(ball, seed)
    wild = clean + shift * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed + 1))
    projected = ball.project(wild, clean)
    assert ball.contains(to_stored(projected, ball.maximum), to_stored(clean, ball.maximum)).all()
    assert torch.equal(ball.project(projected, clean), projected)


def test_within_a_radius_of_its_own_each_row_stays_in_the_range_too():
    ball, clean = LinfBall(levels=255, maximum=255), torch.tensor([[0.5, 0.9], [0.1, 0.5]]).view(2, 1, 1, 2)
    wild = torch.tensor([[0.9, 1.2], [-0.4, 0.4]]).view(2, 1, 1, 2)
    near = ball.within(wild, clean, torch.tensor([0.2, 0.3]))
    torch.testing.assert_close(near.flatten(1), torch.tensor([[0.7, 1.0], [0.0, 0.4]]))


@given(balls, seeds)
def test_what_is_sampled_lies_in_the_ball_and_reaches_its_border(ball, seed):
    clean = torch.full((1, 1, 40, 40), 0.5)
    uniform = torch.rand(clean.shape, generator=torch.Generator().manual_seed(seed))
    points = ball.sample(clean, uniform)
    for side in (1, -1):
        offset = (side * (points - clean)).max()
        assert offset <= ball.radius + 1e-6
        assert offset >= min(ball.radius, 0.5) * 0.98


@given(balls, seeds, st.floats(-3, 3))
def test_storable_neighbours_lie_in_the_ball_on_the_side_of_the_direction(ball, seed, shift):
    clean = _clean(ball, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    points = ball.project(clean + shift * torch.randn(clean.shape, generator=generator), clean)
    direction = torch.randn(clean.shape, generator=generator)
    neighbours = ball.aside(points, clean, direction)
    assert ball.contains(to_stored(neighbours, ball.maximum), to_stored(clean, ball.maximum)).all()
    moved = (to_stored(neighbours, ball.maximum) - points * ball.maximum) * direction.sign()
    assert moved.min() >= -0.02
    assert moved.abs().max() <= 1.02


def test_without_a_side_a_pixel_goes_to_the_nearest_level():
    ball, clean = LinfBall(levels=9, maximum=255), torch.full((1, 1, 1, 4), 100 / 255)
    points = clean + torch.tensor([1.3, 1.6, 1.3, 1.6]).view(clean.shape) / 255
    beside = ball.aside(points, clean, torch.tensor([0.0, 0.0, 1.0, -1.0]).view(clean.shape))
    assert to_stored(beside, 255).flatten().tolist() == [101, 102, 102, 101]


@pytest.mark.parametrize(("change", "levels"), [(0.0, 1), (2.004, 2), (2.1, 3)])
def test_outward_is_a_level_at_least_and_none_for_what_float32_adds(change, levels):
    ball, clean = LinfBall(levels=255, maximum=255), torch.full((1, 1, 1, 2), 100 / 255)
    corner = ball.outward(clean + torch.tensor([change, 0.0]).view(clean.shape) / 255, clean, torch.ones_like(clean))
    assert (to_stored(corner, 255) - to_stored(clean, 255)).flatten().tolist() == [levels, levels]


def test_outward_lie_the_corners_of_the_smallest_ball_of_whole_levels():
    """A pixel that went at least half as far as the farthest keeps its side; else the direction decides."""
    ball, clean = LinfBall(levels=255, maximum=255), torch.full((2, 1, 1, 3), 100 / 255)
    change = torch.tensor([[3.0, 1.0, 0.0], [2.4, -1.6, 1.4]]).view(2, 1, 1, 3)
    corners = ball.outward(clean + change / 255, clean, torch.full_like(clean, -1.0))
    moved = to_stored(corners, 255) - to_stored(clean, 255)
    assert moved.flatten(1).tolist() == [[3, -3, -3], [3, -3, -3]]


def test_one_level_too_far_is_outside_and_so_is_what_cannot_be_stored():
    ball = LinfBall(levels=2, maximum=255)
    clean = torch.tensor([[[[0, 100, 255]]]] * 4)
    stored = torch.tensor([[[[2, 98, 253]]], [[[3, 100, 255]]], [[[-1, 100, 255]]], [[[0, 100, 256]]]])
    assert ball.contains(stored, clean).tolist() == [True, False, False, False]
    assert ball.distance(stored, clean).tolist() == [2, 3, 1, 1]


@pytest.mark.parametrize(
    ("budget", "bits", "levels"),
    [("2/255", 8, 2), ("0.01", 8, 2), ("3 levels", 12, 3), ("2/255", 12, 32), ("8/255", 16, 2056), ("255/255", 8, 255)],
)
def test_a_budget_admits_whole_levels_only(budget, bits, levels):
    assert LinfBall.of(Quantity.parse(budget), bits).levels == levels


def test_a_budget_below_one_level_is_refused_with_a_sentence():
    with pytest.raises(EvaluationError, match=r"0\.5/255 is 0\.5 of a grey level .* 8 bits; one level is 1/255"):
        LinfBall.of(Quantity.parse("0.5/255"), 8)
    with pytest.raises(EvaluationError, match=r"0\.0039215 is 0\.99998 of a grey level"):
        LinfBall.of(Quantity.parse("0.0039215"), 8)


def test_a_fraction_that_was_cut_to_a_decimal_is_refused_with_what_was_perhaps_meant():
    with pytest.raises(EvaluationError, match=r"epsilon 0\.00784 is 1\.999 grey levels, .*; did you mean 2/255\? give"):
        LinfBall.of(Quantity.parse("0.00784"), 8)
    assert LinfBall.of(Quantity.parse("0.00784"), 12).levels == 32


def test_a_budget_above_the_range_is_refused_and_the_whole_range_is_none():
    assert LinfBall.of(Quantity.parse("255 levels"), 8).levels == 255
    with pytest.raises(EvaluationError, match=r"^epsilon: found 300 levels; an image of 8 bits has 255$"):
        LinfBall.of(Quantity.parse("300 levels"), 8)
    assert LinfBall.of(Quantity.parse("300 levels"), 12).levels == 300
