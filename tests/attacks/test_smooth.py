"""Smooth noise: normal, as wide as it says, each row's own, and worth more than independent pixels."""

from __future__ import annotations

from math import exp

import pytest
import torch

from robustcheck.attacks.draws import Draws
from robustcheck.attacks.smooth import smooth_normal

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


def test_without_blur_pixels_are_the_draws_themselves():
    assert torch.equal(smooth_normal(_draws(), (2, 5, 7), blur=0, at=3), _draws().normal((2, 5, 7), at=3))


def test_a_rows_noise_is_its_own_and_another_at_each_draw():
    together = smooth_normal(_draws(), (3, 1, 28, 28), blur=0.025, at=torch.arange(ROWS))
    alone = smooth_normal(_draws([7]), (3, 1, 28, 28), blur=0.025, at=7)
    torch.testing.assert_close(together[7], alone[0], atol=1e-6, rtol=0)
    other = smooth_normal(_draws([7]), (3, 1, 28, 28), blur=0.025, at=8)
    assert abs(float((alone * other).mean())) < 0.1
