"""The patch operator: exact where it can be, differentiable, and nowhere but where it may be."""

from __future__ import annotations

from math import pi, radians

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcheck.errors import EvaluationError
from robustcheck.policy import PatchSpec, Size
from robustcheck.threats.patch import PLACEMENT_DRAWS, NoPlaceError, Placements, Placing, covered, lay, shrunk

shapes = st.tuples(st.integers(1, 3), st.integers(12, 30), st.integers(12, 30))
seeds = st.integers(0, 2**31)


def _random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _at(x, y, side, angle=0.0):
    return Placements(x=torch.tensor([x]), y=torch.tensor([y]), side=torch.tensor([side]), angle=torch.tensor([angle]))


@pytest.mark.parametrize(("left", "top"), [(0, 0), (3, 5), (11, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_unturned_patch_on_whole_pixels_is_copied(left, top, channels):
    image, patch = _random(1, channels, 14, 19), _random(1, channels, 8, 8, seed=1)
    placed = lay(patch, image, _at(left + 4.0, top + 4.0, 8.0), "square")
    expected = image.clone()
    expected[..., top : top + 8, left : left + 8] = patch
    assert torch.allclose(placed, expected, atol=1e-5)
    outside = torch.ones(14, 19, dtype=torch.bool)
    outside[top : top + 8, left : left + 8] = False
    assert torch.equal(placed[..., outside], image[..., outside])
    stored = (patch * 255).round() / 255
    back = lay(stored, image, _at(left + 4.0, top + 4.0, 8.0), "square")[..., top : top + 8, left : left + 8]
    assert torch.equal((back * 255).round(), (stored * 255).round())


@given(
    side=st.integers(1, 9),
    shape=st.tuples(st.integers(9, 40), st.integers(9, 40)),
    place_=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    grid=st.sampled_from([0.5, 0.25, 0.1, None]),
)
@settings(max_examples=300)
def test_an_unturned_square_covers_as_many_pixels_as_its_side_has_wherever_it_lies(side, shape, place_, grid):
    centre = [side / 2 + share * (length - side) for share, length in zip(place_, reversed(shape), strict=True)]
    if grid is not None:
        centre = [max(side / 2, round(value / grid) * grid) for value in centre]
    covers = covered(torch.Size((1, 1, *shape)), _at(*centre, float(side)), "square")[0]
    assert sorted(covers.any(dim=dim).sum().item() for dim in (0, 1)) == [side, side]
    assert covers.sum() == side**2


@pytest.mark.parametrize(("side", "length"), [(7, 28), (8, 28), (8, 27), (3, 10)])
@pytest.mark.parametrize("quarter", [0, 1])
def test_a_square_in_the_middle_has_its_own_size(side, length, quarter):
    at = _at(length / 2, length / 2, float(side), radians(90 * quarter))
    assert covered(torch.Size((1, 1, length, length)), at, "square").sum() == side**2


@pytest.mark.parametrize(("side", "room"), [(4, 4), (5, 5), (8, 8)])
def test_a_square_that_is_moved_lies_where_there_is_just_room(side, room):
    keep_out = torch.ones(1, 20, 20, dtype=torch.bool)
    keep_out[:, 6 : 6 + room, 3 : 3 + room] = False
    placing = Placing(size=Size.parse(f"{side} px"), outline="square")
    at = placing.draw(torch.zeros(1, PLACEMENT_DRAWS), 20, 20, keep_out)
    assert torch.equal(covered(torch.Size((1, 1, 20, 20)), at, "square"), ~keep_out)


@given(
    outline=st.sampled_from(["circle", "square"]),
    rotation=st.sampled_from([0.0, 3.0, 22.5, 80.0]),
    side=st.integers(5, 8),
    room=st.tuples(st.integers(5, 13), st.integers(5, 13)),
    seed=seeds,
)
@settings(max_examples=60)
def test_where_room_is_found_every_draw_has_a_place(outline, rotation, side, room, seed):
    keep_out = torch.ones(16, 20, dtype=torch.bool)
    keep_out[1 : 1 + room[0], 2 : 2 + room[1]] = False
    placing = Placing(size=Size.parse(f"{side} px"), outline=outline, rotation=rotation, scale=0.1)
    try:
        placing.check_room(16, 20, keep_out)
    except NoPlaceError:
        assert min(room) < side * 1.1 * 1.05 * (1 if outline == "circle" else 2**0.5) + 1, "there is room enough"
        return
    at = placing.draw(_random(64, PLACEMENT_DRAWS, seed=seed), 16, 20, keep_out.expand(64, -1, -1))
    assert not (covered(torch.Size((64, 1, 16, 20)), at, outline) & keep_out).any()


def test_room_is_looked_for_where_a_patch_has_to_lie():
    keep_out = torch.zeros(20, 20, dtype=torch.bool)
    keep_out[10, 14] = True
    fixed = {"size": Size.parse("8 px"), "outline": "square", "location": (0.5, 0.5)}
    Placing(**fixed).check_room(20, 20, keep_out)
    with pytest.raises(NoPlaceError):
        Placing(**fixed, scale=0.2).check_room(20, 20, keep_out)
    with pytest.raises(EvaluationError, match="has no room for it"):
        Placing(size=Size.parse("21 px"), outline="square").check_room(20, 30)


def test_room_is_looked_for_between_the_angles_that_are_tried():
    """One pixel that a corner reaches between two of them, and on neither."""
    keep_out = torch.zeros(20, 20, dtype=torch.bool)
    keep_out[3, 7] = True
    placing = Placing(size=Size.parse("10 px"), outline="square", rotation=45, location=(0.5, 0.5))
    draws = torch.full((1001, PLACEMENT_DRAWS), 0.5)
    draws[:, 0] = torch.linspace(0, 1, 1001)
    with pytest.raises(NoPlaceError):
        placing.draw(draws, 20, 20, keep_out.expand(1001, -1, -1))
    with pytest.raises(NoPlaceError):
        placing.check_room(20, 20, keep_out)


def test_a_quarter_turn_turns_it_clockwise():
    image, patch = torch.zeros(1, 1, 12, 12), _random(1, 1, 6, 6)
    placed = lay(patch, image, _at(6.0, 6.0, 6.0, radians(90)), "square")[0, 0, 3:9, 3:9]
    assert torch.allclose(placed, torch.from_numpy(np.rot90(patch[0, 0].numpy(), k=-1).copy()), atol=1e-5)


def test_twice_the_side_shows_each_pixel_twice_as_large():
    image, patch = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 2, 2)
    patch[0, 0, 0, 1] = 1.0
    placed = lay(patch, image, _at(8.0, 8.0, 8.0), "square")[0, 0]
    assert placed[4:6, 10:12].min() == 1
    assert placed[10:12].max() == 0
    assert placed.sum() == pytest.approx(16, rel=0.01)


@pytest.mark.parametrize("outline", ["circle", "square"])
@given(shape=shapes, seed=seeds)
@settings(max_examples=20)
def test_only_what_lies_under_it_changes_and_it_lies_on_the_image(outline, shape, seed):
    channels, height, width = shape
    placing = Placing(size=Size.parse("12%"), outline=outline, rotation=30, scale=0.1)
    at = placing.draw(_random(16, PLACEMENT_DRAWS, seed=seed), height, width)
    images, patches = _random(16, *shape, seed=seed), 2 + _random(16, channels, 5, 5, seed=seed + 1)
    placed = lay(patches, images, at, outline)
    under = covered(images.shape, at, outline)
    assert torch.equal((placed != images).any(dim=1), under)
    reach = at.side / 2 if outline == "circle" else at.side / 2 * (at.angle.cos().abs() + at.angle.sin().abs())
    for centre, length in ((at.x, width), (at.y, height)):
        assert (centre >= reach - 1e-4).all()
        assert (centre <= length - reach + 1e-4).all()


@pytest.mark.parametrize(
    ("size", "outline", "share"), [("10%", "circle", 0.1), ("10%", "square", 0.1), ("40 px", "square", 0.16)]
)
def test_it_covers_the_share_of_the_area_that_its_size_says(size, outline, share):
    placing = Placing(size=Size.parse(size), outline=outline, rotation=22.5, scale=0.1)
    at = placing.draw(_random(400, PLACEMENT_DRAWS), 100, 100)
    areas = covered(torch.Size((400, 1, 100, 100)), at, outline).float().mean(dim=(1, 2))
    assert areas.mean() == pytest.approx(share, rel=0.03)
    assert (at.side.max() / at.side.min()).item() == pytest.approx(1.1 / 0.9, rel=0.02)
    assert at.angle.abs().max().item() == pytest.approx(radians(22.5), rel=0.02)


def test_placements_are_even_over_the_image():
    at = Placing(size=Size.parse("1%"), outline="circle").draw(_random(4000, PLACEMENT_DRAWS), 64, 128)
    radius = (0.01 * 64 * 128 / pi) ** 0.5
    for centre, length in ((at.x, 128), (at.y, 64)):
        room = (centre - radius) / (length - 2 * radius)
        assert torch.histc(room, 8, 0, 1).min() > 400


@pytest.mark.parametrize("outline", ["circle", "square"])
def test_it_is_differentiable_as_finite_differences_say(outline):
    patches = _random(3, 2, 4, 4).double().requires_grad_()
    images, weights = _random(3, 2, 12, 15, seed=1).double(), _random(3, 2, 12, 15, seed=2).double()
    at = Placing(size=Size.parse("20%"), outline=outline, rotation=40, scale=0.2).draw(
        _random(3, PLACEMENT_DRAWS, seed=3), 12, 15
    )
    at = Placements(**{name: getattr(at, name).double() for name in ("x", "y", "side", "angle")})
    assert torch.autograd.gradcheck(lambda p: (lay(p, images, at, outline) * weights).sum(), patches)


def test_a_batch_is_what_its_images_are_alone():
    patches, images = _random(5, 1, 6, 6), _random(5, 1, 20, 20, seed=1)
    at = Placing(size=Size.parse("8%"), rotation=20, scale=0.1).draw(_random(5, PLACEMENT_DRAWS), 20, 20)
    together = lay(patches, images, at, "circle")
    for row in range(5):
        alone = Placements(**{name: getattr(at, name)[row : row + 1] for name in ("x", "y", "side", "angle")})
        assert torch.equal(lay(patches[row : row + 1], images[row : row + 1], alone, "circle")[0], together[row])


@pytest.mark.parametrize("outline", ["circle", "square"])
@given(seed=seeds)
@settings(max_examples=25)
def test_what_it_may_not_cover_it_does_not_and_all_other_places_are_taken(outline, seed):
    keep_out = torch.zeros(8, 16, 20, dtype=torch.bool)
    keep_out[:, 4:9, 6:14] = True
    placing = Placing(size=Size.parse("6%"), outline=outline, rotation=45, scale=0.2)
    at = placing.draw(_random(8, PLACEMENT_DRAWS, seed=seed), 16, 20, keep_out)
    under = covered(torch.Size((8, 1, 16, 20)), at, outline)
    assert not (under & keep_out).any()
    assert under.flatten(1).any(dim=1).all()


def test_free_places_are_even_among_those_that_there_are():
    keep_out = torch.zeros(2000, 9, 9, dtype=torch.bool)
    keep_out[:, :, 5:] = True
    at = Placing(size=Size.parse("3 px"), outline="square").draw(_random(2000, PLACEMENT_DRAWS), 9, 9, keep_out)
    assert not (covered(torch.Size((2000, 1, 9, 9)), at, "square") & keep_out).any()
    assert torch.histc(at.x, 3, 1.5, 4).min() > 450
    assert torch.histc(at.y, 6, 1.5, 7.5001).min() > 220


def test_where_there_is_no_place_the_row_is_named():
    keep_out = torch.zeros(3, 10, 10, dtype=torch.bool)
    keep_out[1, ::3, ::3] = True
    with pytest.raises(NoPlaceError) as caught:
        Placing(size=Size.parse("5 px"), outline="square").draw(_random(3, PLACEMENT_DRAWS), 10, 10, keep_out)
    assert caught.value.row == 1
    fixed = Placing(size=Size.parse("3 px"), outline="square", location=(0.5, 0.5))
    with pytest.raises(NoPlaceError):
        fixed.draw(_random(3, PLACEMENT_DRAWS), 10, 10, keep_out)


def test_a_fixed_place_is_one():
    placing = Placing(size=Size.parse("4 px"), outline="square", location=(0.25, 0.75))
    at = placing.draw(_random(3, PLACEMENT_DRAWS), 20, 40)
    assert at.x.tolist() == [10, 10, 10]
    assert at.y.tolist() == [15, 15, 15]
    assert at.angle.abs().max() == 0


@pytest.mark.parametrize(("size", "scale"), [("0.9 px", 0.0), ("1 px", 0.1), ("0.05%", 0.0)])
def test_a_patch_that_may_cover_no_pixel_is_refused(size, scale):
    placing = Placing(size=Size.parse(size), outline="square", scale=scale)
    with pytest.raises(EvaluationError, match=r"pixels wide at its smallest scale .* covering none"):
        placing.draw(_random(1, PLACEMENT_DRAWS), 20, 40)


@pytest.mark.parametrize(("size", "scale"), [("25 px", 0.0), ("19 px", 0.1), ("99%", 0.0)])
def test_a_patch_that_is_larger_than_the_image_is_refused(size, scale):
    placing = Placing(size=Size.parse(size), outline="square", scale=scale)
    with pytest.raises(EvaluationError, match=r"has no room for it; give a smaller size or scale"):
        placing.draw(_random(1, PLACEMENT_DRAWS), 20, 60)


@pytest.mark.parametrize(
    ("size", "more", "why"),
    [
        ("1 px", {}, None),
        ("1 px", {"scale": 0.01}, "covering none"),
        ("1 px", {"outline": "circle"}, "covering none"),
        ("1.42 px", {"rotation": 45.0}, None),
        ("1.41 px", {"rotation": 45.0}, "covering none"),
        ("1.5 px", {"rotation": 45.0, "scale": 0.1}, "covering none"),
        ("14 px", {"rotation": 45.0}, None),
        ("15 px", {"rotation": 45.0}, "pixels wide at its largest scale, turned, and"),
        ("15 px", {"rotation": 80.0}, "pixels wide at its largest scale, turned, and"),  # which turns it by 45, too
        ("15 px", {"rotation": 80.0, "outline": "circle"}, None),
        ("8 px", {"location": (0.1, 0.2)}, None),
        ("8 px", {"location": (0.9, 0.8)}, None),
        ("8 px", {"location": (0.09, 0.5)}, "does not lie wholly on"),
        ("8 px", {"location": (0.91, 0.5)}, "does not lie wholly on"),
        ("8 px", {"location": (0.5, 0.19)}, "does not lie wholly on"),
        ("8 px", {"location": (0.5, 0.81)}, "does not lie wholly on"),
        ("8 px", {"location": (0.1, 0.5), "scale": 0.1}, "does not lie wholly on"),
        ("8 px", {"location": (0.1, 0.5), "rotation": 5.0}, "does not lie wholly on"),
    ],
)
def test_a_patch_is_refused_where_a_draw_would_not_lie_on_the_image_or_cover_nothing(size, more, why):
    placing = Placing(**{"size": Size.parse(size), "outline": "square", **more})
    if why is None:
        assert placing.side(20, 40) == float(size.split()[0])
    else:
        with pytest.raises(EvaluationError, match=why):
            placing.side(20, 40)


@pytest.mark.parametrize(("length", "finest"), [(40, 20), (20, 10)])
def test_on_smaller_images_a_texture_is_seen_as_what_each_pixel_covers(length, finest):
    """A fine check of black and white is grey from afar; on the image that it was made for it is what it is."""
    spec = PatchSpec.model_validate(
        {"name": "patch", "shape": "square", "rotation": 0, "scale": 0, "location": [0.50625] * 2}
    )
    placing = Placing.of(spec, Size.parse("6.25%"))
    at = placing.draw(_random(1, PLACEMENT_DRAWS), length, length)
    assert at.finest == finest
    check = ((torch.arange(20)[:, None] + torch.arange(20)) % 2).float()[None, None].requires_grad_()
    image = torch.full((1, 1, length, length), 0.5)
    seen = lay(check, image, at, "square")
    whole = lay(check, image, Placements(x=at.x, y=at.y, side=at.side, angle=at.angle), "square")
    assert torch.equal(seen, whole), "so it is, too, where nobody has said how fine images show it"
    if length == 40:
        assert (seen - 0.5).abs().max() > 0.4
    else:
        assert torch.allclose(seen, image)
        (gradient,) = torch.autograd.grad(seen.sum(), check)
        assert (gradient > 0).float().mean() > 0.8


def _lie(resolution, given="", **more):
    """Sixty-four placements of a patch of 8 pixels, and the number of its texture's."""
    entry = {"name": "patch", "shape": "square", "resolution": resolution, **more} | ({"patch": given} if given else {})
    at = Placing.of(PatchSpec.model_validate(entry), Size.parse("8 px")).draw(_random(64, PLACEMENT_DRAWS), 24, 24)
    return at, 8 * resolution * (2 if given else 1)


@pytest.mark.parametrize("scale", [0, 0.1, 0.5])
@pytest.mark.parametrize(("resolution", "given"), [(2, "a.png"), (4, ""), (4, "a.png"), (16, ""), (16, "a.png")])
def test_however_fine_a_patch_is_what_a_pixel_covers_is_what_is_seen(resolution, given, scale):
    """One white texel in every pixel's worth of black ones is next to nothing, wherever it lies."""
    at, side = _lie(resolution, given, scale=scale, rotation=0)
    texels = side // 8
    dots = torch.zeros(64, 1, side, side)
    dots[..., texels // 2 :: texels, texels // 2 :: texels] = 1
    seen = lay(dots, torch.zeros(64, 1, 24, 24), at, "square")
    most = (4 / 3 * (1 + scale) / (texels // 2)) ** 2  # of the quarter of a pixel that a centre may show at its largest
    assert seen.amax(dim=(1, 2, 3)).max() <= most
    assert seen.mean() > 0


@pytest.mark.parametrize(("side", "fewer"), [(27, 18), (30, 20), (32, 8), (7, 5)])
def test_what_is_shrunk_is_the_mean_of_what_each_pixel_covers(side, fewer):
    """No pixel counts more than another: each stripe of one of three, wherever it lies, leaves a third as much."""
    for phase in range(3):
        stripes = (torch.arange(side) % 3 == phase).float()
        seen = shrunk(stripes.expand(2, 1, side, side), fewer)
        assert seen.shape == (2, 1, fewer, fewer)
        assert torch.allclose(seen.mean(), stripes.mean(), atol=1e-6)
    one = torch.eye(side)[:, None, :, None] * torch.eye(side)[:, None, None, :]  # each pixel of the diagonal alone
    assert torch.allclose(shrunk(one, fewer).sum(dim=(1, 2, 3)), torch.tensor((fewer / side) ** 2), atol=1e-6)
    if side % fewer == 0:
        fine = _random(2, 3, side, side)
        assert torch.allclose(shrunk(fine, fewer), torch.nn.functional.avg_pool2d(fine, side // fewer), atol=1e-6)


@pytest.mark.parametrize("resolution", [4, 16])
def test_every_pixel_of_a_fine_patch_is_trained_in_each_look(resolution):
    at, side = _lie(resolution)
    fine = torch.full((64, 1, side, side), 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(lay(fine, torch.zeros(64, 1, 24, 24), at, "square").sum(), fine)
    assert (gradient > 0).float().mean() > 0.8


def test_how_often_it_is_shrunk_is_each_placement_s_own_and_never_at_what_is_usual():
    at, side = _lie(4, scale=0.7)
    fine, images = _random(64, 1, side, side, seed=1), torch.zeros(64, 1, 24, 24)
    together = lay(fine, images, at, "square")
    for row in range(64):
        one = slice(row, row + 1)
        alone = Placements(x=at.x[one], y=at.y[one], side=at.side[one], angle=at.angle[one], finest=at.finest)
        assert torch.equal(lay(fine[one], images[one], alone, "square")[0], together[row])
    at, side = _lie(2)  # copied where it lies on whole pixels, it is read at points everywhere
    dots = (torch.arange(side) % 2).float()[:, None].expand(64, 1, side, side)
    assert lay(dots, images, at, "square").amax(dim=(1, 2, 3)).max() > 0.9


def test_a_given_patch_is_shown_as_fine_as_it_may_be():
    given = PatchSpec.model_validate({"name": "patch", "shape": "square", "rotation": 0, "scale": 0, "patch": "a.png"})
    at = Placing.of(given, Size.parse("5 px")).draw(_random(1, PLACEMENT_DRAWS), 30, 30)
    assert at.finest == 20
