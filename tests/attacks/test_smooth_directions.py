"""Smooth noise: normal, as wide as it says, and each row's own to the last bit."""

from __future__ import annotations

from math import exp

import pytest
import torch

from robustcheck.attacks.draws import Draws
from robustcheck.attacks.smooth_directions import _weights, smooth_normal

ROWS = 400


def _draws(rows=range(ROWS)):
    return Draws.of(list(rows), torch.device("cpu"))


@pytest.mark.parametrize(("shape", "blur"), [((1, 28, 28), 0.025), ((2, 12, 30), 0.1), ((1, 9, 9), 1.0)])
def test_every_pixel_is_standard_normal_at_the_edges_too(shape, blur):
    noise = smooth_normal(_draws(range(4000)), shape, blur=blur)
    assert noise.shape == (4000, *shape)
    assert noise.mean(dim=0).abs().max() < 0.08
    torch.testing.assert_close(noise.var(dim=0), torch.ones(shape), atol=0.13, rtol=0)


@pytest.mark.parametrize("side", [40, 160])
def test_half_of_the_variance_goes_together_as_far_as_the_blur_says(side):
    """A Gaussian of σ pixels blurs noise into one whose correlation at a distance r is exp(-r²/4σ²)."""
    sigma = 0.05 * side
    noise = smooth_normal(_draws(), (1, side, side), blur=0.05)[:, 0]
    for apart in (1, round(sigma), 3 * round(sigma)):
        expected = exp(-(apart**2) / (4 * sigma**2)) / 2
        for one, other in ((noise[:, apart:], noise[:, :-apart]), (noise[..., apart:], noise[..., :-apart])):
            assert float((one * other).mean()) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("blur", [0, 1e-300, 0.01])
def test_where_no_neighbour_has_a_share_pixels_are_the_draws_themselves(blur):
    assert torch.equal(smooth_normal(_draws(), (2, 5, 7), blur=blur, at=3), _draws().normal((2, 5, 7), at=3))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 40), (1, 40, 1)])
def test_an_image_may_be_one_pixel_wide(shape):
    noise = smooth_normal(_draws(range(4000)), shape, blur=1.0)
    torch.testing.assert_close(noise.var(dim=0), torch.ones(shape), atol=0.13, rtol=0)


@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_a_rows_noise_is_its_own_to_the_last_bit_and_another_at_each_draw(batch):
    together = smooth_normal(_draws(), (3, 1, 28, 28), blur=0.1, at=torch.arange(ROWS))
    alone = smooth_normal(_draws(range(7, 7 + batch)), (3, 1, 28, 28), blur=0.1, at=torch.arange(7, 7 + batch))
    assert torch.equal(together[7 : 7 + batch], alone)
    other = smooth_normal(_draws([7]), (3, 1, 28, 28), blur=0.1, at=8)
    assert abs(float((alone[:1] * other).mean())) < 0.1


def test_directions_and_channels_of_a_row_have_nothing_in_common():
    noise = smooth_normal(_draws(), (2, 2, 20, 20), blur=0.1).flatten(1, 2).flatten(2)
    together = torch.einsum("nap,nbp->ab", noise, noise) / (ROWS * 400)
    torch.testing.assert_close(together, torch.eye(4), atol=0.03, rtol=0)


def test_an_oblong_image_is_as_smooth_along_both_sides():
    """The blur is a share of the shorter side."""
    noise, sigma = smooth_normal(_draws(), (1, 40, 120), blur=0.1)[:, 0], 4
    for one, other in ((noise[:, sigma:], noise[:, :-sigma]), (noise[..., sigma:], noise[..., :-sigma])):
        assert float((one * other).mean()) == pytest.approx(exp(-1 / 4) / 2, abs=0.02)


@pytest.mark.parametrize(("side", "sigma", "knots"), [(40, 2.0, 20), (40, 3.0, 14), (9, 0.5, 9)])
def test_knots_lie_evenly_and_no_farther_apart_than_the_gaussian_is_wide(side, sigma, knots):
    weights = _weights(side, sigma, torch.device("cpu"))
    assert weights.shape == (side, knots)
    assert torch.equal(weights, weights.flip(0, 1))
