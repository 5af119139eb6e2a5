"""Candidates that draw one of two networks in each call, whose logits are of unlike scale, or an answer for a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from building import brightness_policy, candidate
from safetensors.torch import save_file
from seeing import GOAL, conditions_of, draws_of

from robustcheck import load_policy, run
from robustcheck.attacks import objective
from robustcheck.evaluation.looks.choice import eot_of
from robustcheck.evaluation.looks.conditions import ConditionsEOT, Grid, RandomLooks
from robustcheck.evaluation.planning.planning import plan
from robustcheck.models import WhiteBox
from robustcheck.threats.viewing import grid_looks

SOURCE = """
import torch

class Brightness(torch.nn.Module):  # bright along one of two templates, of which the second is drawn less often
    def __init__(self):
        super().__init__()
        self.templates = torch.nn.Parameter(torch.zeros(2, 8, 8))

    def forward(self, image):
        template = self.templates[int(torch.rand(1) > 0.7)]
        excess = ((image - 128 / 255) * template).flatten(1).mean(dim=1)
        return torch.stack([-excess, excess], dim=1)
"""


def _project(folder, loudness):
    """Two images, 2 levels beyond the border of both templates."""
    (folder / "brightness.py").write_text(SOURCE)
    across, down = torch.ones(8, 8), torch.ones(8, 8)
    across[:, 1::2] = down[1::2] = -1
    save_file({"templates": torch.stack([20 * across, loudness * down])}, folder / "brightness.safetensors")
    apart = 2 * (across + down).numpy()
    images = np.stack([128 + apart, 128 - apart]).astype(np.uint8)
    np.savez(folder / "flat.npz", test_images=images, test_labels=np.array([[1], [0]]))


@pytest.mark.parametrize("attack", ["{name: pgd, steps: 20}", "{name: apgd, steps: 20}", "{name: fmn, steps: 40}"])
@pytest.mark.parametrize("loudness", [1.0, 1000.0])
@pytest.mark.parametrize("seen", ["", ", conditions: {contrast: 0.01, holds_on: 0.51, judged_on: 10}"])
def test_what_most_calls_read_is_turned_however_loud_the_others_are(attack, loudness, seen, tmp_path):
    """The templates agree on half of the pixels: along the second one alone the first is not turned at all."""
    _project(tmp_path, loudness)
    gate = f"  - {{id: gate, attack: {attack}, epsilon: 6/255, require: {{accuracy: 0}}{seen}}}\n"
    (tmp_path / "policy.yaml").write_text(brightness_policy(gate))
    policy = load_policy(tmp_path / "policy.yaml")
    (planned,), (found,) = plan(policy).gates, run(policy, folder=tmp_path / "out").gates
    assert found.metrics["accuracy"].value == 0
    assert found.cost.forward <= planned.forward
    if seen:
        assert (found.threat.conditions["judged_on"], found.threat.conditions["candidate_draws"]) == (100, True)
        drawing = replace(candidate(torch.nn.Flatten()), randomness=1.0)
        assert eot_of(policy.gates[0], drawing).at_once == 1


@pytest.mark.parametrize(("holds_on", "left"), [(0.51, 0), (0.9, 0.5)])
def test_stickers_turn_what_they_turn_on_enough_of_the_calls(holds_on, left, tmp_path):
    """In three calls of ten the other template, which is all zeros, reads whatever it is shown as dark."""
    _project(tmp_path, 0.0)
    attack = "{name: rp2, stickers: [0, 0, 1, 1], steps: 20, step_size: 0.1, distances: 1, angles: 0}"
    conditions = f"{{perspective: 0.001, holds_on: {holds_on}, draws: 4}}"
    gate = f"  - {{id: gate, attack: {attack}, conditions: {conditions}, require: {{accuracy: 0}}}}\n"
    (tmp_path / "policy.yaml").write_text(brightness_policy(gate))
    policy = load_policy(tmp_path / "policy.yaml")
    (planned,), (found,) = plan(policy).gates, run(policy, folder=tmp_path / "out").gates
    assert found.error is None
    assert found.metrics["accuracy"].value == left
    assert found.cost.forward <= planned.forward


class Coin(torch.nn.Module):
    """Bright in every other call, whatever is shown, and all images of a batch alike."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, image):
        self.calls.append(len(image))
        bright = image.flatten(1).mean(dim=1) * 0 + (1.0 if len(self.calls) % 2 else -1.0)
        return torch.stack([-bright, bright], dim=1)


def _coin():
    network = Coin()
    return replace(candidate(network), randomness=1.0), network.calls


IMAGES, LABELS, AT = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize("judged_on", [10, 100])
@pytest.mark.parametrize(("holds_on", "calls"), [(0.5, 200), (0.9, 40)])
def test_under_conditions_each_look_at_an_image_is_a_call_of_its_own(holds_on, calls, judged_on):
    """Half of the calls is half of the looks: not all of them, and not none, as if one call had all of them."""
    asked, made = _coin()
    conditions = conditions_of(brightness=0.1, noise=0.01, holds_on=holds_on, judged_on=judged_on)
    look = RandomLooks(candidate=asked, goal=GOAL, conditions=conditions, maximum=255)
    seen = look(IMAGES, LABELS, draws_of(3), AT)
    assert made == [3] * calls
    assert seen.share.tolist() == [0.5] * 3
    assert seen.wanted.tolist() == [holds_on == 0.5] * 3


@pytest.mark.parametrize(("conditions", "calls"), [({"scale": [0.5, 1]}, 100), ({"brightness": 0.1}, 100)])
@pytest.mark.parametrize(("holds_on", "times"), [(0.5, 2), (0.9, 1)])
def test_on_a_grid_so_is_each_look_from_each_place(conditions, calls, holds_on, times):
    asked, made = _coin()
    grid = Grid(
        candidate=asked,
        goal=GOAL,
        maximum=255,
        places=grid_looks((1.0, 2.0), (0.0, 0.0), torch.device("cpu")),
        count=4,
        conditions=conditions_of(**conditions, holds_on=holds_on),
    )
    seen = grid(IMAGES, LABELS, draws_of(3), AT)
    assert made == [3] * calls * times
    assert seen.share.tolist() == [0.5] * 3
    assert seen.wanted.tolist() == [holds_on == 0.5] * 3
    assert seen.cells.tolist() == [[True, False, True, False]] * 3, "of each cell every other call"


def test_cells_are_those_of_the_calls_that_confirm():
    """Of seven places fifteen times a hundred and five: the second time begins on the coin's other side."""
    asked, made = _coin()
    places = grid_looks((1.0,), (0.0,) * 7, torch.device("cpu"))
    conditions = conditions_of(brightness=0.1, holds_on=0.5)
    grid = Grid(candidate=asked, goal=GOAL, maximum=255, places=places, count=7, conditions=conditions)
    seen = grid(IMAGES, LABELS, draws_of(3), AT)
    assert len(made) == 210
    assert seen.wanted.tolist() == [False] * 3
    assert seen.cells.tolist() == [[False, True, False, True, False, True, False]] * 3


def test_of_a_candidate_that_draws_batches_are_as_large_as_without_conditions():
    asked, _ = _coin()
    conditions = conditions_of(brightness=0.1)
    viewers = (
        RandomLooks(candidate=asked, goal=GOAL, conditions=conditions, maximum=255),
        Grid(
            candidate=asked,
            goal=GOAL,
            maximum=255,
            places=grid_looks((1.0,), (0.0,), torch.device("cpu")),
            count=1,
            conditions=conditions,
        ),
    )
    assert [viewer.at_once for viewer in viewers] == [1, 1]


def test_searches_ask_each_look_in_a_call_of_its_own():
    asked, made = _coin()
    eot = ConditionsEOT(conditions=conditions_of(brightness=0.1, noise=0.01), count=8, drawing=True)
    goal = objective("margin", GOAL)
    logits, loss, _ = eot.gradient(WhiteBox(asked), IMAGES, LABELS, LABELS, goal, draws_of(3), AT)
    assert made == [3] * 8
    assert logits.shape == (3, 8, 2)
    assert loss.tolist() == [0.0] * 3, "half of the looks are read as bright"


def test_looks_are_the_same_whether_they_share_a_call_or_not():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    given = (WhiteBox(candidate(network)), torch.rand(3, 1, 4, 4), LABELS, LABELS, objective("margin", GOAL))
    conditions = conditions_of(brightness=0.1, rotation=10)  # noise is drawn look by look, so that none is kept
    together, apart = (
        ConditionsEOT(conditions=conditions, count=4, drawing=drawing).gradient(*given, draws_of(3), AT)
        for drawing in (False, True)
    )
    for one, other in zip(together[:2], apart[:2], strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.nn.functional.cosine_similarity(together[2].flatten(1), apart[2].flatten(1)).min() > 0.99
