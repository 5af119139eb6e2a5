"""A region in which pixels are free, and outside of which nothing may change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from robustcheck.data import load_area
from robustcheck.threats import Region


def test_only_what_lies_inside_may_change(tmp_path):
    region = Region(area=load_area([(0.0, 0.0, 0.5, 1.0)], tmp_path), maximum=255)
    clean = torch.randint(0, 256, (3, 1, 4, 6), generator=torch.Generator().manual_seed(0))
    changed = clean.clone()
    changed[0, 0, :, :3] = 255 - clean[0, 0, :, :3]
    changed[1, 0, 2, 3] = (clean[1, 0, 2, 3] + 1) % 256
    changed[2, 0, 0, 0] = 256
    assert region.contains(changed, clean).tolist() == [True, False, False]
    wild = clean / 255 + torch.randn(clean.shape)
    projected = region.project(wild, clean / 255)
    assert torch.equal(projected[..., 3:], (clean / 255)[..., 3:])
    assert 0 <= projected.min() <= projected.max() <= 1
    assert region.contains((projected * 255).round().int(), clean).all()
    seen = replace(region, visible=(0.25, 0.5), reach=(0.25, 0.5))
    for inside in (seen.project(wild, clean / 255), seen.sample(clean / 255, torch.rand(clean.shape))):
        assert torch.equal(inside[..., 3:], (clean / 255)[..., 3:])
        assert 0.25 <= inside[..., :3].min() < inside[..., :3].max() <= 0.5
    assert np.array_equal(region.mask(4, 6).numpy(), np.arange(24).reshape(4, 6) % 6 < 3)


def test_within_a_radius_pixels_of_the_region_stay_near_their_own_values(tmp_path):
    region = Region(area=load_area([(0.0, 0.0, 0.5, 1.0)], tmp_path), maximum=255)
    clean = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.1, 0.5, 0.5, 0.5]]).view(2, 1, 1, 4)
    wild = torch.tensor([[0.9, 0.6, 0.9, 0.1], [-0.4, 0.0, 0.9, 0.1]]).view(2, 1, 1, 4)
    near = region.within(wild, clean, torch.tensor([0.2, 0.3]))
    expected = torch.tensor([[0.7, 0.6, 0.5, 0.5], [0.0, 0.2, 0.5, 0.5]])
    torch.testing.assert_close(near.flatten(1), expected)


def test_directions_and_how_fast_a_function_rises_along_them_are_those_inside(tmp_path):
    region = Region(area=load_area([(0.0, 0.0, 0.5, 1.0)], tmp_path), maximum=255)
    gradient = torch.tensor([[3.0, -2.0, 5.0, -7.0], [0.0, 1.0, 1.0, 0.0]]).view(2, 1, 1, 4)
    assert region.steepest(gradient).flatten(1).tolist() == [[1, -1, 0, 0], [0, 1, 0, 0]]
    assert region.dual_norm(gradient).tolist() == [5, 1]


def test_starts_are_what_looks_different_even_where_more_is_reached(tmp_path):
    area = load_area([(0.0, 0.0, 1.0, 1.0)], tmp_path)
    region = Region(area=area, maximum=255, visible=(0.25, 0.5), reach=(0.0, 1.0))
    starts = region.sample(torch.zeros(1, 1, 1, 3), torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3))
    assert starts.flatten().tolist() == [0.25, 0.375, 0.5]
