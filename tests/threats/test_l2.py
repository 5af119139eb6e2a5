"""The L2 ball, exact in whole grey levels."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustcheck.errors import EvaluationError
from robustcheck.models.grey_levels import to_stored
from robustcheck.policy import Quantity
from robustcheck.threats import L2Ball, ball_of

balls = st.builds(
    lambda bits, share: L2Ball(levels=max(Fraction(1), Fraction(share) * (2**bits - 1)), maximum=2**bits - 1),
    st.sampled_from([1, 8, 12, 16]),
    st.floats(0, 3),
)
seeds = st.integers(0, 2**31)


def _points(ball: L2Ball, seed: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, ball.maximum + 1, (3, 2, 5, 4), generator=generator).float() / ball.maximum
    return clean, clean + shift * torch.randn(clean.shape, generator=generator)


@given(balls, seeds, st.floats(-3, 3))
def test_what_is_projected_lies_in_the_ball_and_stays_there(ball, seed, shift):
    clean, wild = _points(ball, seed, shift)
    projected = ball.project(wild, clean)
    assert (ball.norm(projected - clean) <= ball.radius * (1 + 1e-5) + 1e-6).all()
    assert ((projected >= 0) & (projected <= 1)).all()
    torch.testing.assert_close(ball.project(projected, clean), projected)


@pytest.mark.parametrize("levels", [5, 100])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 1024, 1024), (1, 300, 4000)])
def test_of_images_of_any_size_what_is_brought_to_the_border_is_measured_there(shape, levels):
    ball = L2Ball(levels=Fraction(levels), maximum=255)
    clean = torch.full((1, *shape), 100 / 255)
    for change in (torch.full(clean.shape, 0.37), torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))):
        assert ball.norm(change).item() == pytest.approx(change.double().norm().item(), rel=1e-5)
        points = ball.project(clean + change, clean)
        assert ball.norm(points - clean).item() <= ball.radius + ball.slack(clean[0].numel())
        assert ball.norm(points - clean).item() == pytest.approx(ball.radius, rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 2), (2, 5, 4)])
def test_the_widest_ball_holds_white_around_black(shape):
    widest = L2Ball(levels=Fraction(3), maximum=255).widest(shape)
    black = torch.zeros(1, *shape, dtype=torch.int32)
    assert widest.contains(black + 255, black).all()


@given(balls, seeds, st.floats(-3, 3))
def test_storable_images_lie_in_the_ball_exactly(ball, seed, shift):
    clean, wild = _points(ball, seed, shift)
    points = ball.project(wild, clean)
    direction = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed + 1))
    for stored in (ball.rounded(points, clean), ball.aside(points, clean, direction)):
        whole = to_stored(stored, ball.maximum)
        assert torch.allclose(whole / ball.maximum, stored, atol=1e-6)
        assert ball.contains(whole, to_stored(clean, ball.maximum)).all()


@pytest.mark.parametrize("maximum", [255, 4095])
@pytest.mark.parametrize("levels", [2, 3, 5, 7])
def test_at_the_border_all_of_the_budget_is_stored(levels, maximum):
    """In float32 the squares of a point at the border add up to a little less, or more, than a whole number."""
    ball, generator = L2Ball(levels=Fraction(levels), maximum=maximum), torch.Generator().manual_seed(levels)
    clean = torch.randint(maximum // 4, 3 * maximum // 4, (100, 1, 28, 28), generator=generator) / maximum
    points = ball.sample(clean, torch.rand(clean.shape, generator=generator))
    stored = to_stored(ball.rounded(points, clean), maximum)
    assert set(ball.distance(stored, to_stored(clean, maximum)).tolist()) == {levels}
    half = to_stored(ball.rounded((points + clean) / 2, clean), maximum)
    assert ball.distance(half, to_stored(clean, maximum)).max() <= levels / 2


def test_a_change_of_less_than_half_a_level_a_pixel_is_stored_where_it_is_largest():
    ball = L2Ball(levels=Fraction(10), maximum=255)
    clean = torch.full((1, 1, 40, 40), 100 / 255)
    change = torch.rand(clean.shape, generator=torch.Generator().manual_seed(0))
    change = change / ball.norm(change) * ball.radius
    assert (change * 255).max() < 0.5  # rounding alone would leave nothing
    stored = to_stored(ball.rounded(clean + change, clean), 255) - to_stored(clean, 255)
    assert 0.9 * 100 <= int((stored**2).sum()) <= 100
    moved = stored.flatten() != 0
    assert change.flatten()[moved].min() >= change.flatten()[~moved].max() - 1e-6


def test_a_change_of_less_than_a_level_in_all_is_stored_as_one():
    """Of one pixel, the one that changes most: nothing nearer can be stored."""
    ball, clean = L2Ball(levels=Fraction(10), maximum=255), torch.full((1, 1, 1, 3), 100 / 255)
    change = torch.tensor([0.1, -0.4, 0.2]).view(clean.shape)
    stored = to_stored(ball.rounded(clean + change / 255, clean), 255) - to_stored(clean, 255)
    assert stored.flatten().tolist() == [0, -1, 0]


def test_a_change_of_a_fiftieth_of_a_level_a_pixel_is_stored():
    ball, clean = L2Ball(levels=Fraction(2), maximum=255), torch.full((1, 1, 100, 100), 100 / 255)
    stored = to_stored(ball.rounded(clean + 0.02 / 255, clean), 255) - to_stored(clean, 255)
    assert int(stored.square().sum()) == 4


def test_beside_a_point_lies_what_is_half_a_level_nearer_to_the_side_of_the_direction():
    ball, clean = L2Ball(levels=Fraction(10), maximum=255), torch.full((1, 1, 1, 4), 100 / 255)
    points = clean + torch.tensor([3.6, 3.6, -3.6, 3.4]).view(clean.shape) / 255
    beside = ball.aside(points, clean, torch.tensor([7.0, -7.0, -0.1, 0.0]).view(clean.shape))
    assert (to_stored(beside, 255) - to_stored(clean, 255)).flatten().tolist() == [4, 3, -4, 3]


@pytest.mark.parametrize("pattern", ["even", "signs", "two sizes"])
def test_changes_of_equal_size_below_half_a_level_take_the_room_that_there_is(pattern):
    ball = L2Ball(levels=Fraction(10), maximum=255)
    clean = torch.full((2, 1, 40, 40), 100 / 255)
    change = torch.ones(clean.shape)
    if pattern == "signs":
        change = change * torch.where(torch.arange(40) % 2 == 0, 1, -1)
    if pattern == "two sizes":
        change[..., :20] = 0.5
    change = change / ball.norm(change).view(-1, 1, 1, 1) * ball.radius
    assert (change.abs() * 255).max() < 0.5
    stored = to_stored(ball.rounded(clean + change, clean), 255) - to_stored(clean, 255)
    assert stored.flatten(1).square().sum(dim=1).tolist() == [100, 100]
    moved = stored != 0
    assert (stored[moved].sign() == change[moved].sign()).all()
    if pattern == "signs":
        return  # in float32 those that rise change by a little more than those that fall
    largest = change.abs()[0].flatten() == change.abs().max()
    assert moved[0].flatten().nonzero().flatten().tolist() == largest.nonzero().flatten()[:100].tolist()
    assert torch.equal(stored[0], stored[1])


def test_of_pixels_that_could_all_grow_those_grow_that_change_most():
    """Half of the pixels change by .499 level more than a whole, half by .499: for all of them there is no room."""
    ball, clean = L2Ball(levels=Fraction(6), maximum=255), torch.full((1, 1, 1, 24), 100 / 255)
    change = torch.tensor([0.499] * 12 + [1.497] * 12).view(clean.shape)
    stored = to_stored(ball.rounded(clean + change / 255, clean), 255) - to_stored(clean, 255)
    assert stored.flatten().tolist() == [0] * 12 + [2] * 5 + [1] * 7


@given(balls, seeds, st.integers(1, 8))
def test_what_takes_room_stays_in_the_ball(ball, seed, sizes):
    clean, _ = _points(ball, seed, 0)
    change = torch.randint(-sizes, sizes + 1, clean.shape, generator=torch.Generator().manual_seed(seed)).float()
    length = ball.norm(change).clamp_min(1e-6).view(-1, 1, 1, 1)
    stored = to_stored(ball.rounded(clean + change / length * ball.radius, clean), ball.maximum)
    assert ball.contains(stored, to_stored(clean, ball.maximum)).all()


@given(seeds)
def test_starts_reach_the_border_in_every_direction(seed):
    ball = L2Ball(levels=Fraction(20), maximum=255)
    clean = torch.full((4, 1, 10, 10), 0.5)
    uniform = torch.rand(clean.shape, generator=torch.Generator().manual_seed(seed))
    change = ball.sample(clean, uniform) - clean
    torch.testing.assert_close(ball.norm(change), torch.full((4,), ball.radius))
    assert (change > 0).any()
    assert (change < 0).any()


def test_distances_are_roots_of_whole_numbers_and_the_border_belongs_to_the_ball():
    ball = L2Ball(levels=Fraction(5), maximum=255)
    clean = torch.tensor([[[[0, 100, 255]]]] * 4)
    stored = torch.tensor([[[[3, 104, 255]]], [[[3, 104, 254]]], [[[-1, 100, 255]]], [[[0, 100, 250]]]])
    assert ball.contains(stored, clean).tolist() == [True, False, False, True]
    assert ball.distance(stored, clean).tolist() == [5, 26**0.5, 1, 5]


def test_the_steepest_direction_has_unit_length_even_where_squares_underflow():
    ball = L2Ball(levels=Fraction(5), maximum=255)
    gradient = torch.full((1, 1, 4, 4), 1e-30)
    torch.testing.assert_close(ball.norm(ball.steepest(gradient)), torch.ones(1))
    assert not ball.steepest(torch.zeros(1, 1, 4, 4)).any()


def test_budgets_in_l2_may_exceed_the_range_and_not_fall_below_a_level():
    assert ball_of("l2", Quantity.parse("3.5", length=True), 8).levels == Fraction(7, 2) * 255
    with pytest.raises(EvaluationError, match=r"0\.255 of a grey level in L2 and admits no change"):
        ball_of("l2", Quantity.parse("0.001"), 8)
