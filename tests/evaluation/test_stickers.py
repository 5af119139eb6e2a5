"""Gates with stickers, on a network whose answer is the mean brightness: what is painted, and what it is judged on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from building import (
    ARCHITECTURE,
    brightness_gates,
    brightness_manifest,
    brightness_policy,
    brightness_project,
    candidate,
    flat_images,
)
from PIL import Image
from seeing import GOAL, LEVELS, Brightness, draws_of

from robustcheck import load_policy, run
from robustcheck.attacks import objective, rp2
from robustcheck.attacks.adam import ascend, moments
from robustcheck.attacks.base import Told
from robustcheck.attacks.draws import Draws
from robustcheck.data import load_area
from robustcheck.evaluation import conclusion
from robustcheck.evaluation.controls import Controlled
from robustcheck.evaluation.looks.conditions import Grid
from robustcheck.evaluation.search.ledger import UNKNOWN
from robustcheck.policy import ConditionsSpec, RP2Spec
from robustcheck.results import Control, Metric
from robustcheck.threats import Region
from robustcheck.threats.viewing import Conditions, grid_looks


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen")
    brightness_project(folder, levels=LEVELS)
    return folder


BOX = "[0, 0, 0.5, 1]"
RP2 = (
    f"{{name: rp2, stickers: {BOX}, steps: 60, step_size: 0.2, distances: DISTANCES, angles: ANGLES, "
    "printable: [0, 1]}"
)


def _stickers(project, distances, angles, *, attack=RP2, goal="", conditions="{contrast: [0.99, 1.01], draws: 2}"):
    attack = attack.replace("DISTANCES", str(distances)).replace("ANGLES", str(angles))
    (gate,) = brightness_gates(
        project, f"  - {{id: rp2, attack: {attack}, conditions: {conditions}, require: {{accuracy: 0}}{goal}}}"
    )
    return gate


def test_stickers_turn_what_half_of_the_image_can_turn(project):
    gate = _stickers(project, [1], [0])
    white = {level for level in LEVELS if level < 127.5 and level / 2 + 255 / 2 > 128}
    black = {level for level in LEVELS if level > 127.5 and level / 2 < 127}
    broken = {level for level, outcome in zip(LEVELS, gate.samples, strict=True) if outcome.status == "broken"}
    assert broken == white | black == set(LEVELS)
    for level, outcome in zip(LEVELS, gate.samples, strict=True):
        attacked = np.asarray(Image.open(project / "out" / outcome.counterexample))
        assert (attacked[:, 4:] == level).all(), "nothing changes outside of the mask"
    assert gate.threat.capability == "stickers"
    assert gate.threat.norm is None


def test_the_table_has_each_distance_at_each_angle(project):
    """Seen from four times as far, an image is a sixteenth of what is seen, and the rest is black: all look dark."""
    conditions = "{scale: [0.25, 1], perspective: 20, draws: 2}"
    attack = RP2.replace("printable", "size_weight: 0.05, printability: 0.5, printable")
    gate = _stickers(project, [1, 4], [0, 20], attack=attack, goal=", goal: missed_finding", conditions=conditions)
    cells = {(cell.distance, cell.angle): cell for cell in gate.cells}
    assert set(cells) == {(1, 0), (1, 20), (4, 0), (4, 20)}
    assert all(cell.success.samples == sum(level > 127.5 for level in LEVELS) for cell in gate.cells)
    assert cells[1, 0].control.value == 0
    assert cells[4, 0].control.value == cells[4, 20].control.value == 1
    assert cells[1, 0].success.value == 1
    assert gate.controls[0].success.value == 0, "two of four places are fewer than nine tenths"


@pytest.mark.parametrize(
    ("conditions", "turned"),
    [
        ("brightness: [-0.2, -0.19]", {137, 155, 165}),
        ("contrast: [0, 0.01], brightness: [-0.1, -0.09]", {137, 155, 165, 200}),
    ],
)
def test_stickers_are_judged_under_all_their_conditions(conditions, turned, project):
    """Whatever is darker than the ranges allow for, though no cell of the grid says so."""
    gate = _stickers(project, [1], [0], conditions=f"{{{conditions}, draws: 2}}")
    unattacked = next(one for one in gate.controls if one.name == "no attack")
    assert unattacked.success.successes == len(turned)
    assert gate.cells[0].control.successes == len(turned)
    assert gate.threat.conditions["judged_on"] == 100


def _grid(places, **ranges):
    grid = RP2Spec.model_validate({"name": "rp2", "stickers": "mask.png", **places})
    spec = ConditionsSpec(scale=[0.05, 20], perspective=80, **ranges)
    return Grid(
        candidate=candidate(Brightness()),
        goal=GOAL,
        maximum=255,
        places=grid_looks(grid.distances, grid.angles, torch.device("cpu")),
        count=grid.cells,
        conditions=Conditions(spec=spec),
    )


@pytest.mark.parametrize(("places", "looks"), [({"distances": 1, "angles": 0}, 100), ({}, 10)])
def test_what_no_cell_sets_is_drawn_evenly_for_each_and_for_all_images_alike(places, looks):
    """Mid-grey that is brightened is read as bright: on half of the looks. A level, and noise, is what they are off."""
    grid = _grid(places, brightness=0.4, noise=0.001)
    seen, asked = [], grid.candidate.network.forward
    object.__setattr__(grid.candidate.network, "forward", lambda inputs: (seen.append(inputs), asked(inputs))[1])
    images, labels = torch.full((2, 1, 3, 3), 0.5), torch.zeros(2, dtype=torch.int64)
    result = grid(images, labels, draws_of(2), torch.zeros(2, dtype=torch.int64))
    assert len(seen) == looks
    middles = torch.stack([one.view(2, grid.count, 3, 3)[:, :, 1, 1] for one in seen])  # of the images
    assert torch.equal(middles[:, 0], middles[:, 1])
    parts = (middles[:, 0].sort(dim=0).values - 0.1) / 0.8 * looks - torch.arange(looks)[:, None]
    assert -0.01 * looks < parts.min() < parts.max() < 1 + 0.01 * looks
    if grid.count == 1:
        assert result.share.tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    again = grid(images[1:], labels[1:], draws_of(2).rows(torch.tensor([1])), torch.ones(1, dtype=torch.int64))
    assert again.share.tolist() == result.share[1:].tolist(), "however it is looked at again"


def test_a_grid_of_which_nothing_else_varies_is_looked_at_once():
    grid = _grid({"distances": [1, 2]})
    result = grid(torch.full((1, 1, 4, 4), 0.9), torch.tensor([0]), draws_of(1), torch.zeros(1, dtype=torch.int64))
    assert grid.conditions.spec.looks_from(grid.count) == 1
    assert result.cells.tolist() == [[True] * 5 + [False] * 5], "half as large on black it is dark"
    assert result.share.tolist() == [0.5]


def test_what_stickers_of_one_ink_turn_is_a_control(tmp_path):
    """Half of an image in ink of .4, .5 or .8 of the range: white enough for dark images, and dark for hardly any."""
    brightness_project(tmp_path, levels=(20, 60, 90, 130, 140, 150, 200))
    gate = _stickers(tmp_path, [1], [0], attack=RP2.replace("[0, 1]", "[0.8, 0.4, 0.5, 0.6]"))
    control = next(one for one in gate.controls if one.name == "plain stickers")
    assert control.success.successes == len({60, 90} | {130, 140, 150})
    assert gate.metrics["control_success"].successes == control.success.successes


@pytest.mark.parametrize(("bound", "verdict"), [(0.95, "error"), (0.9, "pass")])
def test_stickers_of_one_ink_decide_if_they_would_change_the_verdict(bound, verdict, tmp_path):
    """A search of a single tiny step turns nothing; half of an image in ink turns three of forty."""
    brightness_project(tmp_path)
    flat_images(tmp_path, [140] * 3 + [250] * 37, [1] * 40)
    attack = (
        "{name: rp2, stickers: [0, 0, 0.5, 1], steps: 1, step_size: 0.001, distances: 1, angles: 0, printable: 0.3}"
    )
    (gate,) = brightness_gates(
        tmp_path,
        f"  - {{id: rp2, attack: {attack}, conditions: {{contrast: [0.99, 1.01]}}, require: {{accuracy: {bound}}}}}",
    )
    assert gate.metrics["attack_success"].successes == 0
    assert gate.verdict == verdict
    if verdict == "error":
        assert gate.error.startswith(
            "plain stickers turned 3 of 40 samples that held, which the adversary may do too, "
        )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["no attack"], "no attack turned 1 of 2 samples that held, which the adversary may do too, and without "
         "them the gate would not pass; the conditions alone turn them"),
        (["no attack", "plain stickers"], "no attack, plain stickers turned 1 of 2 samples that held, which the "
         f"adversary may do too, and without them the gate would not pass; {conclusion._STRENGTHEN}"),
    ],
)  # fmt: skip
def test_what_conditions_alone_turn_is_mended_otherwise_than_what_ink_does(names, said):
    control = Control(name="", success=Metric(value=0.5, samples=2))
    standing = SimpleNamespace(
        held=[0, 1],
        by_estimate=SimpleNamespace(verdict_if=lambda lost: "fail" if lost else "pass"),
        controlled=[
            Controlled(control=replace(control, name=name), turned={1: UNKNOWN, 2: UNKNOWN}, admitted="each")
            for name in names
        ],
    )
    assert conclusion._undercut_sample_by_sample(standing) == said


def test_the_table_counts_patients(tmp_path):
    brightness_project(tmp_path)
    brightness_manifest(tmp_path, [(90, "a", "f"), (100, "b", "f"), (150, "c", "m"), (160, "d", "m")], images=2)
    attack = RP2.replace("DISTANCES", "1").replace("ANGLES", "0").replace("steps: 60", "steps: 1")
    gate = (
        f"  - {{id: rp2, attack: {attack}, conditions: {{contrast: [0.99, 1.01], draws: 2}}, require: {{accuracy: 0}}}}"
    )
    policy = brightness_policy(gate, data="source: patients.csv, group: patient")
    (tmp_path / "policy.yaml").write_text(policy)
    (gate,) = run(load_policy(tmp_path / "policy.yaml")).gates
    (cell,) = gate.cells
    assert [(one.samples, one.groups) for one in (cell.success, cell.control)] == [(8, 4)] * 2


@pytest.mark.parametrize("sharpness", [0.4, 1e-6, 400.0])
def test_how_large_logits_are_decides_no_stickers(sharpness, tmp_path):
    """With what stickers should not be as it weighs by default; the network's own logits are 20 times the excess."""
    brightness_project(tmp_path, levels=LEVELS)
    (tmp_path / "brightness.py").write_text(ARCHITECTURE.replace("sharpness=20.0", f"sharpness={sharpness}"))
    gate = _stickers(tmp_path, [1], [0])
    assert [outcome.status for outcome in gate.samples] == ["broken"] * len(LEVELS)


def test_stickers_are_judged_at_their_end_only(project):
    gate = _stickers(project, [1], [0])
    assert {outcome.step for outcome in gate.samples if outcome.status == "broken"} == {60}
    assert gate.cost.gradient == len(LEVELS) * 60 * 2


def _faults(size_weight=0.0, smoothness=0.0, printability=0.0):
    weights = {"size_weight": size_weight, "smoothness": smoothness, "printability": printability}
    return rp2.RP2(objective=objective("margin", GOAL), steps=1, step_size=1.0, inks=(0.0, 1.0), **weights)


@pytest.mark.parametrize("steepness", [0.0, 1e-30, 1e30])
def test_a_gradient_of_any_size_or_none_leaves_stickers_images(steepness, tmp_path):
    """Of none the step follows what stickers should not be alone; the next one may have something to follow."""
    ball = Region(area=load_area([(0.0, 0.0, 0.5, 1.0)], tmp_path), maximum=255)
    attack, clean, draws = _faults(size_weight=1.0), torch.full((1, 1, 4, 4), 0.4), Draws.of([1], torch.device("cpu"))
    state = attack.start(clean + 0.1, clean, ball, draws)
    told = Told(
        step=torch.zeros(1, dtype=torch.int64),
        loss=torch.zeros(1),
        fooled=torch.zeros(1, dtype=torch.bool),
        gradient=torch.full_like(clean, steepness),
    )
    ahead = attack.step(state, told, clean, ball, draws)["images"]
    assert ahead.isfinite().all()
    assert torch.equal(ahead[..., 2:], clean[..., 2:])
    assert (ahead[..., :2] > 0.5).all() == (steepness > 0)


@pytest.fixture
def window(tmp_path):
    """The left half of images of which half of the range is visible."""
    area = load_area([(0.0, 0.0, 0.5, 1.0)], tmp_path)
    return Region(area=area, maximum=255, visible=(0.25, 0.75), reach=(0.25, 0.75))


def _steps(attack, ball, clean, *gradients):
    """States after steps along gradients of one value inside the mask and beside it."""
    draws, no = Draws(keys=torch.arange(1)), torch.zeros(1, dtype=torch.bool)
    states = [attack.start(clean, clean, ball, draws)]
    for step, gradient in enumerate(gradients):
        told = Told(
            step=torch.tensor([step]), loss=torch.zeros(1), fooled=no, gradient=torch.full_like(clean, gradient)
        )
        states.append(attack.step(states[-1], told, clean, ball, draws))
    return states


def test_gradients_are_scaled_by_the_steepest_that_a_sticker_has_met(window):
    """The second is a quarter of the first, as where an image is nearly turned, and weighs a quarter of it."""
    clean = torch.full((1, 1, 2, 4), 0.5)
    first, second = _steps(_faults(), window, clean, 2.0, 0.5)[1:]
    assert float(first["steepest"]) == float(second["steepest"]) == 4 * 2.0 * 0.5  # of what is visible
    steep = 40 * 2.0 / 4
    torch.testing.assert_close(first["mean"][..., :2], torch.full((1, 1, 2, 2), 0.1 * steep))
    torch.testing.assert_close(second["mean"][..., :2], torch.full((1, 1, 2, 2), 0.9 * 0.1 * steep + 0.1 * steep / 4))
    assert not second["mean"][..., 2:].any()


def test_a_step_is_a_share_of_what_is_visible(window):
    attack, clean = replace(_faults(), step_size=0.1), torch.full((1, 1, 2, 4), 0.5)
    images = _steps(attack, window, clean, 1.0)[1]["images"]
    torch.testing.assert_close(images, clean + torch.tensor([0.05, 0.05, 0.0, 0.0]))


def test_how_much_is_changed_counts_from_what_is_visible_of_the_image(window):
    """A black image is as dark as can be seen: stickers as dark as that change nothing, and may leave it."""
    attack = replace(_faults(size_weight=1000.0), step_size=0.1)
    images = _steps(attack, window, torch.zeros(1, 1, 2, 4), 1.0)[1]["images"]
    torch.testing.assert_close(images, torch.tensor([0.3, 0.3, 0.0, 0.0]).expand(1, 1, 2, 4))


def test_what_stickers_should_not_be_is_counted_inside_the_mask():
    """One of two pixels of the mask changed by .4; they differ by .5; from the inks 0 and 1 they are .3 and .2 away."""
    attack = _faults(size_weight=100.0, smoothness=10.0, printability=1.0)
    clean = torch.tensor([[[[0.3, 0.4, 0.9]]]])
    images = torch.tensor([[[[0.3, 0.8, 0.1]]]])
    mask = torch.tensor([[True, True, False]])
    fault = 100 * 0.4 / 2 + 10 * 0.5 / 2**0.5 + (0.3 + 0.2) / 2
    assert attack.penalty(images, clean, mask).item() == pytest.approx(fault)
    assert attack.penalty(images.mT, clean.mT, mask.mT).item() == pytest.approx(fault)
    flipped = (images.mT.flip(2), clean.mT.flip(2), mask.mT.flip(0))
    assert attack.penalty(*flipped).item() == pytest.approx(fault)


@pytest.mark.parametrize("weight", ["size_weight", "smoothness", "printability"])
@pytest.mark.parametrize(("times", "channels"), [(3, 1), (1, 3), (2, 3)])
def test_what_stickers_should_not_be_weighs_as_much_however_large_they_are_stored(weight, times, channels):
    """Small as an image is, enlarged, and with its grey in several channels."""
    images, clean = (torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[1:5, 2:] = True
    attack = _faults(**{weight: 1.0})

    def enlarged(values):
        return values.repeat_interleave(times, dim=-1).repeat_interleave(times, dim=-2)

    larger = [enlarged(values).expand(-1, channels, -1, -1) for values in (images, clean)]
    torch.testing.assert_close(attack.penalty(*larger, enlarged(mask)), attack.penalty(images, clean, mask))


@pytest.mark.parametrize("weight", ["size_weight", "printability"])
def test_the_more_a_fault_weighs_the_less_of_it_there_is(weight, project):
    """Without weights all are turned; with them stickers stay as they are, or keep to the ink."""
    ends = []
    for value in (0, 1000):
        weights = {"size_weight": 0, "printability": 0, weight: value}
        keys = ", ".join(f"{name}: {number}" for name, number in weights.items())
        attack = RP2.replace("printable: [0, 1]", f"printable: [0.45], {keys}")
        gate = _stickers(project, [1], [0], attack=attack)
        ends.append(sum(outcome.status == "broken" for outcome in gate.samples))
    assert ends[0] == len(LEVELS)
    assert ends[1] < ends[0]


def test_adam_goes_its_step_at_first_and_none_at_the_end():
    gradient = torch.tensor([[3.0, -0.01]])
    start = moments(gradient)
    change, state = ascend(start, gradient, torch.tensor([0]), size=0.1, steps=10)
    assert torch.allclose(change, torch.tensor([[0.1, -0.1]]), atol=1e-5)
    middle, _ = ascend(start, gradient, torch.tensor([5]), size=0.1, steps=10)
    assert middle.abs().max() < change.abs().max()
    assert torch.allclose(state["mean"], 0.1 * gradient)
    assert torch.allclose(state["root"], 0.1 * gradient.abs())


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**-30, 2.0**60])
def test_adam_goes_as_far_whatever_the_scale_of_the_gradients(scale):
    random = torch.Generator().manual_seed(0)
    ends = []
    gradients = torch.randn(20, 3, 1, 4, 4, generator=random) * 1e-3
    gradients[:, 0], gradients[3:, 1, :, 0] = 0, 0  # a row, and a part of one, that nothing reaches
    for factor in (1.0, scale):
        state, values = moments(gradients[0]), torch.zeros_like(gradients[0])
        for step, gradient in enumerate(gradients):
            change, state = ascend(state, gradient * factor, torch.full((3,), step), size=0.05, steps=20)
            values = values + change
        ends.append(values)
    assert (ends[0][0] == 0).all()
    assert ends[0][2].abs().min() > 0
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-9)


def test_a_mask_is_a_picture(project):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2:6] = 255
    Image.fromarray(pixels).save(project / "mask.png")
    gate = _stickers(project, [1], [0], attack=RP2.replace(BOX, "mask.png"))
    outcome = next(outcome for outcome in gate.samples if outcome.status == "broken")
    attacked = np.asarray(Image.open(project / "out" / outcome.counterexample))
    level = LEVELS[gate.samples.index(outcome)]
    assert (attacked[[0, 1, 6, 7]] == level).all()
    assert (attacked[2:6] != level).any()


def test_stickers_that_cover_nothing_are_an_error(project):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(project / "black.png")
    gate = _stickers(project, [1], [0], attack=RP2.replace(BOX, "black.png"))
    assert gate.verdict == "error"
    assert gate.error == "attack.stickers cover no pixel of an image of 8×8 (height × width)"
