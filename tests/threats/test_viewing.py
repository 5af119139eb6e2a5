"""Viewing conditions: what each does to an image, where that is known, and that gradients are right."""

from __future__ import annotations

from math import radians

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcheck.policy import ConditionsSpec
from robustcheck.threats.viewing import (
    LOOK_DRAWS,
    Conditions,
    Looks,
    _footprint,
    _homography,
    _optics,
    _resampled,
    _resampling,
    grid_looks,
    see,
    seen_from,
)

CPU = torch.device("cpu")


def _random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _one(**values):
    return Looks(**{name: torch.tensor([float(value)]) for name, value in values.items()})


IMAGE = _random(1, 2, 12, 12)


@pytest.mark.parametrize(
    "looks",
    [
        _one(rotation=0, scale=1, right=0, down=0, tilt=0, axis=1),
        _one(blur=0),
        _one(resampling=1),
        _one(contrast=1, brightness=0),
        _one(noise=0),
    ],
)
def test_conditions_that_do_nothing_change_nothing(looks):
    assert torch.allclose(see(IMAGE, looks, torch.randn(IMAGE.shape)), IMAGE, atol=1e-5)


def test_a_quarter_turn_is_clockwise():
    expected = np.rot90(IMAGE.numpy(), k=-1, axes=(2, 3)).copy()
    assert torch.allclose(see(IMAGE, _one(rotation=radians(90))), torch.from_numpy(expected), atol=1e-5)


def test_a_shift_is_a_share_of_the_side_and_what_comes_in_is_black():
    image = _random(1, 1, 8, 20)
    seen = see(image, _one(right=0.25, down=-0.125))
    assert torch.allclose(seen[..., :7, 5:], image[..., 1:, :15], atol=1e-5)
    assert seen[..., 7:, :].max() < 1e-5
    assert seen[..., :, :5].max() < 1e-5


def test_half_the_scale_is_half_the_side():
    seen = see(torch.ones(1, 1, 16, 32), _one(scale=0.5))
    inside = torch.zeros(16, 32, dtype=torch.bool)
    inside[4:12, 8:24] = True
    assert seen[0, 0][inside].min() == 1
    assert seen[0, 0][~inside].max() == 0


def test_a_tilt_about_the_vertical_axis_narrows_and_brings_one_side_nearer():
    seen = see(torch.ones(1, 1, 64, 64), _one(tilt=radians(40), axis=radians(90)))[0, 0]
    width = (seen[32] > 0.5).sum()
    assert 64 * 0.6 < width < 64 * 0.85  # cos 40° is .77
    columns = (seen > 0.5).sum(dim=0)
    columns = columns[columns > 0]
    assert abs(int(columns[1]) - int(columns[-2])) > 5, "the nearer edge looks longer"
    mirrored = see(torch.ones(1, 1, 64, 64), _one(tilt=radians(-40), axis=radians(90)))[0, 0]
    assert torch.allclose(seen, mirrored.flip(1), atol=1e-3)


@pytest.mark.parametrize("perspective", [[10, 30], [-30, -10], 30])
def test_tilts_are_drawn_to_all_sides_alike(perspective):
    looks = Conditions(spec=ConditionsSpec(perspective=perspective)).draw(_random(4000, LOOK_DRAWS))
    nearer_right, nearer_below = looks.axis.sin() * looks.tilt > 0, looks.axis.cos() * looks.tilt < 0
    for right in (True, False):
        for below in (True, False):
            share = ((nearer_right == right) & (nearer_below == below)).float().mean()
            assert share.item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("scale", [1, 0.5])
@pytest.mark.parametrize(("tilt", "axis"), [(60, 90), (-60, 90), (60, 0), (60, 45), (75, 90)])
def test_from_the_side_a_pixel_is_the_mean_of_what_it_covers(tilt, axis, scale):
    """Stripes of one pixel, or a check, that the image is narrowed across: they are grey in the middle."""
    across, along = (torch.arange(64) % 2).expand(64, 64), (torch.arange(64) % 2)[:, None].expand(64, 64)
    stripes = {90: across, 0: along, 45: across ^ along}[axis].float()[None, None]
    looks = _one(tilt=radians(tilt), axis=radians(axis), scale=scale)
    seen, covered = see(stripes, looks)[0, 0], see(torch.ones_like(stripes), looks)[0, 0]
    middle = torch.zeros(64, 64, dtype=torch.bool)
    middle[28:36, 28:36] = True
    assert (middle & (covered > 0.999)).sum() > 8
    assert seen[middle & (covered > 0.999)].std() < 0.08
    assert seen[middle & (covered > 0.999)].mean() == pytest.approx(0.5, abs=0.05)


def test_a_batch_of_tilts_is_what_each_of_them_is_alone():
    spec = ConditionsSpec(perspective=75, scale=[0.3, 1.5], rotation=180)
    looks, images = Conditions(spec=spec).draw(_random(24, LOOK_DRAWS)), _random(24, 1, 20, 28)
    together = see(images, looks)
    for row in range(24):
        alone = Looks(
            **{name: getattr(looks, name)[row : row + 1] for name in ("rotation", "scale", "tilt", "axis")},
        )
        assert torch.equal(see(images[row : row + 1], alone)[0], together[row])


def _covered(shape, looks):
    there = _homography(shape, looks, len(looks.tilt), CPU)
    return _footprint(shape, looks, there, torch.linalg.inv(there))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_no_pixel_covers_more_than_is_said_and_some_corner_covers_that(seed):
    spec = ConditionsSpec(perspective=75, scale=[0.3, 1.5], rotation=180)
    looks, shape = Conditions(spec=spec).draw(_random(1, LOOK_DRAWS, seed=seed)), torch.Size((40, 56))
    (there,) = _homography(shape, looks, 1, CPU).double()
    lie = torch.cartesian_prod(torch.linspace(-1, 1, 41), torch.linspace(-1, 1, 41)) * torch.tensor([1, 40 / 56])

    def seen(points):
        x, y, depth = (torch.cat([points, torch.ones(len(points), 1)], dim=1).double() @ there.T).unbind(dim=1)
        return torch.stack([x / depth, y / depth], dim=1)

    beside = (torch.tensor([1e-3, 0.0]), torch.tensor([0.0, 1e-3]))
    slopes = torch.stack([(seen(lie + step) - seen(lie - step)) / 2e-3 for step in beside], dim=2)
    most = torch.linalg.inv(slopes).norm(dim=1).amax(dim=0) / max(1.0, 1 / looks.scale.item())
    assert _covered(shape, looks)[0].tolist() == pytest.approx(most.tolist(), rel=1e-2)


def test_small_tilts_need_no_means():
    spec = ConditionsSpec(perspective=15, scale=[0.3, 1], rotation=180)
    looks = Conditions(spec=spec).draw(_random(1000, LOOK_DRAWS))
    assert _covered(torch.Size((28, 28)), looks).max() < 4 / 3
    from_aside = Conditions(spec=ConditionsSpec(perspective=[26, 26])).draw(_random(100, LOOK_DRAWS))
    assert _covered(torch.Size((28, 28)), from_aside).amax(dim=1).max() > 4 / 3


@pytest.mark.parametrize("distance", [2, 3, 5])
def test_from_afar_a_pixel_is_the_mean_of_what_it_covers(distance):
    """A pattern on the pixels that single points would read is diluted, and seen alike wherever it lies."""
    image = torch.zeros(1, 1, 30, 30)
    image[..., distance // 2 :: distance, distance // 2 :: distance] = 1
    seen = see(image, _one(scale=1 / distance))[0, 0]
    middle = seen[14:16, 14:16]
    assert (middle - 1 / distance**2).abs().max() < 1e-4
    noise = _random(1, 1, 30, 30)
    seen = see(noise, _one(scale=1 / distance))
    assert seen.sum() * distance**2 == pytest.approx(noise.sum().item(), rel=0.1)
    nearer = see(noise, _one(scale=1.5))
    both = Looks(scale=torch.tensor([1.5, 1 / distance]))
    assert torch.equal(see(noise.expand(2, -1, -1, -1), both), torch.cat([nearer, seen])), "near ones stay as they were"


def test_compression_of_deep_images_is_that_of_what_a_window_shows():
    """Of 12 bits with a window of a tenth of the range, 8 bits have steps of 1.6 levels; of the full range, of 16."""
    levels = torch.arange(1024, 1424).repeat(16, 1)[None, None] / 4095
    window = (1024 / 4095, 1424 / 4095)
    errors = [
        ((see(levels, _one(jpeg=100), exported=exported) - levels) * 4095).abs().max() for exported in (window, (0, 1))
    ]
    assert errors[0] < 3 < 7 < errors[1]
    beyond = see(torch.full((1, 1, 8, 8), 0.9), _one(jpeg=90), exported=window)
    assert torch.allclose(beyond, torch.full_like(beyond, window[1])), "as white as white can be"


def test_what_is_behind_the_camera_is_not_seen():
    seen = see(torch.ones(1, 1, 32, 32), _one(tilt=radians(79), axis=radians(90), scale=10))
    assert seen.isfinite().all()


def test_blur_is_gaussian_and_keeps_the_mean_inside():
    image = torch.zeros(1, 1, 41, 41)
    image[..., 20, 20] = 1.0
    seen = see(image, _one(blur=2.0))[0, 0]
    places = torch.arange(41) - 20.0
    assert seen.sum() == pytest.approx(1, abs=1e-4)
    assert (seen.sum(dim=0) * places.square()).sum() == pytest.approx(4, rel=0.01)
    assert torch.allclose(seen, seen.T, atol=1e-7)


def test_resampling_takes_means_and_goes_back_linearly():
    image = torch.tensor([0.0, 1.0, 0.0, 1.0]).repeat(4, 1)[None, None]
    assert torch.allclose(see(image, _one(resampling=0.5)), torch.full((1, 1, 4, 4), 0.5), atol=1e-6)
    steps = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(4, 1)[None, None]
    assert torch.allclose(see(steps, _one(resampling=0.5))[0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]), atol=1e-6)


def test_of_however_little_resolution_a_pixel_is_left():
    image = _random(1, 1, 6, 6)
    assert torch.allclose(see(image, _one(resampling=0.01)), image.mean().expand(1, 1, 6, 6), atol=1e-6)


def test_from_a_place_everything_is_seen_as_the_place_has_it_and_otherwise_as_the_look():
    place, look = grid_looks((2.0,), (30.0,), torch.device("cpu")), _one(tilt=0.1, axis=0.2, scale=0.3, blur=4.0)
    seen = seen_from(place, look)
    assert [float(one) for one in (seen.scale, seen.tilt, seen.axis)] == pytest.approx([0.5, radians(30), radians(90)])
    assert float(seen.blur) == 4


def test_contrast_is_about_mid_grey_then_brightness_is_added_and_the_range_is_kept():
    seen = see(torch.tensor([[[[0.25, 0.5, 0.9]]]]), _one(contrast=2.0, brightness=0.125))
    assert torch.allclose(seen, torch.tensor([[[[0.125, 0.625, 1.0]]]]))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_compression_loses_more_at_lower_quality_and_passes_gradients(channels):
    image = _random(1, channels, 24, 24)
    losses = [(see(image, _one(jpeg=quality)) - image).abs().mean() for quality in (95, 50, 5)]
    assert 0 < losses[0] < losses[1] < losses[2]
    given = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(see(given, _one(jpeg=50)).sum(), given)
    assert torch.equal(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize("tilt", [15, [40, 70]])
@settings(max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_gradients_are_what_finite_differences_say(tilt, seed):
    ranges = {"rotation": 20, "scale": 0.2, "translation": 0.1, "perspective": tilt, "resampling": 0.5, "blur": 1}
    spec = ConditionsSpec(**ranges, contrast=[0.6, 1])  # more would leave the range, and be cut off
    looks = Conditions(spec=spec).draw(_random(2, LOOK_DRAWS, seed=seed))
    images = 0.3 + 0.4 * _random(2, 1, 7, 9, seed=seed + 1)
    weights, direction = _random(2, 1, 7, 9, seed=seed + 2), _random(2, 1, 7, 9, seed=seed + 3) - 0.5
    given_images = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((see(given_images, looks) * weights).sum(), given_images)
    ahead, behind = ((see(images + sign * 0.05 * direction, looks) * weights).sum() for sign in (1, -1))
    assert (ahead - behind).item() / 0.1 == pytest.approx((gradient * direction).sum().item(), rel=1e-3, abs=1e-4)


def test_draws_lie_in_their_ranges_and_reach_their_ends():
    spec = ConditionsSpec(
        rotation=30, scale=[0.5, 1.0], translation=0.2, perspective=10, resampling=0.25, blur=2, contrast=0.3,
        brightness=[0, 0.1], noise=0.05, jpeg=40,
    )  # fmt: skip
    looks = Conditions(spec=spec).draw(_random(4000, LOOK_DRAWS))
    ends = {
        "rotation": (radians(-30), radians(30)), "scale": (0.5, 1), "right": (-0.2, 0.2), "down": (-0.2, 0.2),
        "tilt": (radians(-10), radians(10)), "axis": (0, radians(360)), "resampling": (0.25, 1), "blur": (0, 2),
        "contrast": (0.7, 1.3), "brightness": (0, 0.1), "noise": (0, 0.05), "jpeg": (40, 100),
    }  # fmt: skip
    for name, (low, high) in ends.items():
        values = getattr(looks, name)
        assert values.min() >= low - 1e-5
        assert values.max() <= high + 1e-5
        assert values.max() - values.min() > 0.98 * (high - low)
    assert torch.corrcoef(torch.stack([looks.right, looks.down]))[0, 1].abs() < 0.05


def test_a_grid_has_each_distance_at_each_angle():
    looks = grid_looks((1.0, 2.0), (-30.0, 0.0, 30.0), torch.device("cpu"))
    assert looks.scale.tolist() == [1, 1, 1, 0.5, 0.5, 0.5]
    assert torch.rad2deg(looks.tilt).round().tolist() == [-30, 0, 30] * 2
    assert torch.allclose(see(IMAGE, _first(looks, 1)), IMAGE, atol=1e-5)
    assert looks.repeated(3).scale.tolist() == looks.scale.tolist() * 3


def _first(looks, place):
    return Looks(
        scale=looks.scale[place : place + 1], tilt=looks.tilt[place : place + 1], axis=looks.axis[place : place + 1]
    )


@pytest.mark.parametrize("length", [9, 28, 31])
def test_resampling_goes_down_by_means_and_up_by_straight_lines(length):
    seen = torch.rand(length, dtype=torch.float64)
    for size in range(1, length + 1):
        fine = seen.repeat_interleave(size).view(size, length).mean(dim=1)  # each of `size` pixels covers `length`
        up = torch.nn.functional.interpolate(fine[None, None], length, mode="linear", align_corners=False)[0, 0]
        assert torch.allclose(_resampled(length, size).double() @ seen, up, atol=1e-6)


def test_large_images_do_not_fill_the_memory_with_matrices():
    for length in (28, 512, 2048):
        kept = _resampling(length, CPU).cache_info().maxsize
        assert kept >= 1
        assert kept * 4 * length**2 <= 2**26
    for device in (CPU, torch.device("meta")):  # where images lie, or each would be copied there anew
        assert _resampling(28, device)(14) is _resampling(28, device)(14)
        assert _resampling(28, device)(14).device == device


@pytest.mark.parametrize(("height", "width"), [(6, 6), (6, 4), (4, 6)])
def test_optics_work_along_each_axis_in_its_own_length(height, width):
    looks, image = _one(resampling=0.5, blur=0.8), _random(1, 1, height, width)
    along, across = (_optics(looks, length, CPU) for length in (height, width))
    assert torch.equal(see(image, looks), (along[:, None] @ image @ across[:, None].transpose(-1, -2)).clamp(0, 1))
