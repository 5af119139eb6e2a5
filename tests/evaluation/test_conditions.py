"""Gates whose images are seen under conditions, on a network whose answer is the mean brightness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from building import brightness_gates, brightness_policy, brightness_project, candidate, flat_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from seeing import GOAL, LEVELS, Brightness, conditions_of, draws_of

from robustcheck import load_policy, run
from robustcheck.attacks import objective
from robustcheck.evaluation.looks.conditions import ConditionsEOT, RandomLooks
from robustcheck.evaluation.looks.look import Once
from robustcheck.evaluation.planning.planning import plan
from robustcheck.models import WhiteBox
from robustcheck.threats.viewing import Conditions


def test_gradients_and_losses_are_means_over_looks():
    """A contrast drawn from 0 to 2 has a mean of 1, and the loss is linear: its gradient is 40 / pixels on average."""
    eot = ConditionsEOT(conditions=conditions_of(contrast=[0.2, 1.8]), count=512)
    box = WhiteBox(candidate(Brightness()))
    images, labels = torch.full((3, 1, 4, 4), 0.4), torch.tensor([0, 0, 1])
    given_ = (images, labels, labels, objective("margin", GOAL))
    at = torch.zeros(3, dtype=torch.int64)
    logits, loss, gradient = eot.gradient(box, *given_, draws_of(3), at)
    assert logits.shape == (3, 512, 2)
    assert torch.allclose(
        loss,
        objective("margin", GOAL)(logits.flatten(0, 1), labels.repeat_interleave(512), labels).view(3, 512).mean(1),
    )
    expected = torch.tensor([40 / 16, 40 / 16, -40 / 16]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    assert torch.allclose(gradient, expected, rtol=0.1)
    again = eot.gradient(box, *given_, draws_of(3), at)[2]
    other = eot.gradient(box, *given_, draws_of(3), at + 1)[2]
    assert torch.equal(gradient, again)
    assert not torch.equal(gradient, other)


@settings(max_examples=25, deadline=None)
@given(level=st.floats(0.3, 0.7), holds_on=st.floats(0.05, 1), judged_on=st.integers(1, 70))
def test_what_is_judged_early_is_judged_the_same(level, holds_on, judged_on):
    asked = candidate(Brightness())
    conditions = conditions_of(brightness=0.2, judged_on=judged_on, holds_on=holds_on)
    images, labels = torch.full((4, 1, 3, 3), level), torch.zeros(4, dtype=torch.int64)
    at = torch.zeros(4, dtype=torch.int64)
    seen = RandomLooks(candidate=asked, goal=GOAL, conditions=conditions, maximum=255)(images, labels, draws_of(4), at)
    lenient = Conditions(spec=conditions.spec.model_copy(update={"holds_on": 1e-9}))
    everything = RandomLooks(candidate=asked, goal=GOAL, conditions=lenient, maximum=255)
    first, second = (everything.look(images, labels, draws_of(4).apart(purpose), at).share for purpose in (2, 3))
    needed = holds_on * judged_on - 1e-6
    assert seen.wanted.tolist() == ((first * judged_on >= needed) & (second * judged_on >= needed)).tolist()
    assert torch.equal(seen.share[seen.wanted], second[seen.wanted])
    assert set(seen.decision[seen.wanted].tolist()) <= {1}


def test_fresh_looks_are_stored_images_and_each_proposal_has_its_own():
    asked, seen = candidate(Brightness()), []
    forward = asked.network.forward
    object.__setattr__(asked.network, "forward", lambda inputs: (seen.append(inputs), forward(inputs))[1])
    look = RandomLooks(
        candidate=asked, goal=GOAL, conditions=conditions_of(noise=[0.05, 0.05], judged_on=6), maximum=255
    )
    images, labels = torch.full((2, 1, 3, 3), 0.6), torch.zeros(2, dtype=torch.int64)
    for at in (0, 0, 1):
        look(images, labels, draws_of(2), torch.full((2,), at))
    (first, confirmed), (again, _), (other, _) = zip(seen[::2], seen[1::2], strict=True)
    assert not torch.equal(first, confirmed), "what holds is looked at by others once more"
    levels = first * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(image.flatten().tolist()) for image in first}) == 12


def test_a_look_that_is_wanted_on_none_counts_as_none():
    seen = Once(candidate=candidate(Brightness()), goal=GOAL)(
        torch.full((1, 1, 2, 2), 0.2), torch.tensor([0]), draws_of(1), torch.zeros(1, dtype=torch.int64)
    )
    assert not seen.wanted.any()
    assert seen.share is None


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen")
    brightness_project(folder, levels=LEVELS)
    return folder


ATTACKS = [
    "fgsm",
    "{name: pgd, steps: 8}",
    "{name: apgd, steps: 12}",
    "{name: fmn, steps: 30}",
    "{name: ensemble, steps: 8}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_holds_on_nine_tenths_of_the_looks_is_a_counterexample(attack, project):
    """Brightness moves by up to a tenth of the range, 25.5 levels, either way: ε has to reach .8 of that further."""
    (gate,) = brightness_gates(
        project,
        f"  - {{id: seen, attack: {attack}, epsilon: 44/255, require: {{accuracy: 0}}, "
        "conditions: {brightness: 0.1, judged_on: 400, draws: 64}}",
    )
    assert gate.verdict == "pass", gate.error
    reach = 44 - 0.8 * 25.5  # 23.6
    broken = {level for level, outcome in zip(LEVELS, gate.samples, strict=True) if outcome.status == "broken"}
    assert broken == {level for level in LEVELS if abs(level - 127.5) <= reach} == {118, 137}
    for outcome in gate.samples:
        assert (outcome.share is not None) == (outcome.status == "broken")
        assert outcome.share is None or 0.9 <= outcome.share <= 1
    (control,) = gate.controls
    assert control.name == "no attack"
    assert control.success.successes == 0
    assert gate.threat.conditions["brightness"] == pytest.approx([-0.1, 0.1])


def test_one_look_less_and_it_is_none(project):
    """Without conditions the same ε turns more: that it holds on most looks is what is asked here."""
    plain, seen = brightness_gates(
        project,
        "  - {id: plain, attack: pgd, epsilon: 44/255, require: {accuracy: 0}}\n"
        "  - {id: seen, attack: pgd, epsilon: 44/255, conditions: {brightness: 0.1}, require: {accuracy: 0}}",
    )
    broken = [sum(outcome.status == "broken" for outcome in gate.samples) for gate in (plain, seen)]
    assert broken[0] > broken[1] > 0
    assert all(outcome.found_by != "plain" for outcome in seen.samples), "who sees otherwise shares nothing"


def test_going_up_a_counterexample_is_one_at_larger_budgets(project):
    small, large = brightness_gates(
        project,
        "  - {id: seen, attack: pgd, epsilon: [32/255, 60/255], conditions: {brightness: 0.1}, require: {accuracy: 0}}",
    )
    inherited = [outcome for outcome in large.samples if outcome.evidence == "inherited"]
    assert {outcome.found_by for outcome in inherited} == {small.id}
    assert all(outcome.share >= 0.9 for outcome in inherited)


def test_what_conditions_alone_turn_is_a_control(project):
    (gate,) = brightness_gates(
        project,
        "  - {id: dark, attack: pgd, epsilon: 1/255, require: {excess_success: '>= 0'}, "
        "conditions: {brightness: [-0.2, -0.19]}}",
    )
    turned = sum(127.5 < level < 127.5 + 0.19 * 255 for level in LEVELS)
    assert gate.controls[0].success.successes == turned > 0
    assert gate.metrics["control_success"].successes == turned
    assert gate.metrics["excess_success"].value == pytest.approx(
        gate.metrics["attack_success"].value - turned / len(LEVELS)
    )


@pytest.mark.parametrize(("bound", "verdict"), [(0.95, "error"), (0.9, "pass")])
def test_what_conditions_alone_turn_decides_if_it_would_change_the_verdict(bound, verdict, tmp_path):
    """An attack that changes nothing turns nothing, and three of forty are turned by what it leaves to chance."""
    brightness_project(tmp_path)
    flat_images(tmp_path, [160] * 3 + [240] * 37, [1] * 40)
    (gate,) = brightness_gates(
        tmp_path,
        "  - {id: dark, attack: {name: pgd, steps: 4, step_size: 1/2550, random_start: false}, epsilon: 1/255, "
        f"conditions: {{brightness: [-0.2, -0.19]}}, require: {{accuracy: {bound}}}}}",
    )
    assert (gate.controls[0].success.successes, gate.metrics["attack_success"].successes) == (3, 0)
    assert gate.verdict == verdict
    if verdict == "error":
        assert gate.error.startswith("no attack turned 3 of 40 samples that held, which the adversary may do too")


def test_the_batch_changes_nothing(project):
    gates = (
        "  - {id: seen, attack: {name: pgd, steps: 5}, epsilon: 40/255, conditions: {brightness: 0.1, noise: 0.05,"
        " rotation: 5}, require: {accuracy: 0}}"
    )
    results = []
    for batch in (1, 16, 64):
        (gate,) = brightness_gates(project, gates, model=f"batch_size: {batch}")
        results.append([(outcome.status, outcome.sha256, outcome.share) for outcome in gate.samples])
    assert results[0] == results[1] == results[2]


def test_conditions_go_with_a_patch(project):
    arrays = {}
    for split, levels in (("train", (50, 75, 105, 150)), ("test", LEVELS)):
        arrays[f"{split}_images"] = np.stack([np.full((8, 8), level, np.uint8) for level in levels])
        arrays[f"{split}_labels"] = np.array([[int(level > 127.5)] for level in levels])
    np.savez(project / "both.npz", **arrays)
    patch = "{name: patch, target: bright, shape: square, rotation: 0, scale: 0, steps: 10, step_size: 0.4, draws: 8}"
    plain = f"attack: {patch}, size: 4 px, require: {{attack_success: '<= 1'}}"
    gates = f"  - {{id: plain, {plain}}}\n  - {{id: seen, {plain}, conditions: {{brightness: [-0.12, -0.1]}}}}"
    text = brightness_policy(gates).replace("flat.npz", "both.npz")
    (project / "patches.yaml").write_text(text)
    plain, seen = run(load_policy(project / "patches.yaml")).gates
    for gate, less in ((plain, 0), (seen, 0.12 * 255)):
        broken = {level for level, outcome in zip(LEVELS, gate.samples, strict=True) if outcome.status == "broken"}
        assert broken == {level for level in LEVELS if level < 127.5 and level * 3 / 4 + 255 / 4 - less > 127.5}
    assert all(outcome.share is None or outcome.share >= 0.9 for outcome in seen.samples)


@pytest.mark.parametrize(
    ("given", "verdict"), [("steps: 10, step_size: 0.4, draws: 4", "error"), ("patch: black.png", "pass")]
)
def test_a_patch_under_conditions_has_a_control_without_it(given, verdict, project):
    """So much brighter two dark images are read as bright, unless a black patch lies on them."""
    arrays = {}
    for split, levels in (("train", (180, 200)), ("test", LEVELS)):
        arrays[f"{split}_images"] = np.stack([np.full((8, 8), level, np.uint8) for level in levels])
        arrays[f"{split}_labels"] = np.array([[int(level > 127.5)] for level in levels])
    np.savez(project / "both.npz", **arrays)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(project / "black.png")
    patch = f"{{name: patch, shape: square, rotation: 0, scale: 0, {given}}}"
    conditions = "conditions: {brightness: [0.12, 0.12], judged_on: 20}"
    gates = f"  - {{id: seen, attack: {patch}, size: 4 px, {conditions}, require: {{accuracy: 0.9}}}}"
    (project / "patches.yaml").write_text(brightness_policy(gates).replace("flat.npz", "both.npz"))
    policy = load_policy(project / "patches.yaml")
    (planned,), (gate,) = plan(policy).gates, run(policy).gates
    assert gate.metrics["attack_success"].successes == 0
    unattacked = gate.controls[-1]
    assert (unattacked.name, unattacked.success.successes, unattacked.success.samples) == ("no attack", 2, 8)
    assert gate.verdict == verdict
    assert gate.error is None or gate.error.startswith("no attack turned 2 of 8 samples that held, which the adversary")
    assert gate.cost.forward <= planned.forward
