"""What a patch begins with and how far its steps lead, where part of the range is visible."""

from __future__ import annotations

import pytest
import torch

from robustcheck.attacks import objective
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.patch import PatchTraining
from robustcheck.threats import Goal

DRAWS = Draws(keys=torch.arange(3))
TRAINING = PatchTraining(
    objective=objective("margin", Goal(labels=2)), steps=10, step_size=0.5, visible=(0.2, 0.6), reach=(0.1, 0.7)
)


def test_a_patch_is_mid_grey_of_what_is_visible_at_first_and_later_anything_visible():
    first = TRAINING.start((1, 20, 20), DRAWS, 0)["patches"]
    torch.testing.assert_close(first, torch.full((3, 1, 20, 20), 0.4))
    later = TRAINING.start((1, 20, 20), DRAWS, 1)["patches"]
    assert (float(later.min()), float(later.max())) == pytest.approx((0.2, 0.6), abs=0.01)
    assert len(later.flatten(1).unique(dim=0)) == 3


@pytest.mark.parametrize(("way", "expected"), [(1, [0.6, 0.7]), (-1, [0.2, 0.1])])
def test_a_step_is_a_share_of_what_is_visible_and_stays_in_what_any_look_reaches(way, expected):
    state, gradient = TRAINING.start((1, 2, 2), DRAWS, 0), torch.full((3, 1, 2, 2), float(way))
    for number, value in enumerate(expected):
        state = TRAINING.step(state, gradient, number)
        torch.testing.assert_close(state["patches"], torch.full_like(gradient, value))
