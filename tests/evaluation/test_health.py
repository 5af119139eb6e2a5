"""Attacks that did not work are seen, and attacks that did are not accused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from building import ARCHITECTURE, brightness_gates, brightness_policy, brightness_project, flat_images
from chest import gates_on_xrays
from masks import masked_gates
from safetensors.torch import save_file

from robustcheck import load_policy, run
from robustcheck.errors import EvaluationError
from robustcheck.evaluation.health import probing
from robustcheck.evaluation.health.checks import MEANINGS, as_findings, explains, predicts, with_inherited
from robustcheck.evaluation.health.examination import Examination
from robustcheck.evaluation.health.explaining import Explained
from robustcheck.results import HealthCheck

PGD = "- {id: pgd, attack: {name: pgd, steps: 10}, epsilon: 4/255, require: {accuracy: 0.3}}"


def _suspected(gate):
    return {check.name for check in gate.health if check.outcome in ("suspect", "broken")}


# --- masked gradients ------------------------------------------------------------------------------------------------


@pytest.mark.xrays
@pytest.mark.parametrize(
    ("mask", "by"),
    [
        ("Quantised", "loss-rises"),
        ("SaturatedSigmoid", "gradients"),
        ("Shattered", "gradient-predicts"),
    ],
)
def test_candidates_that_hide_their_gradients_do_not_pass(mask, by, tmp_path, xrays):
    (gate,) = masked_gates(tmp_path, xrays, mask, PGD)
    assert gate.metrics["accuracy"].value > 0.6  # the attack failed, and without these checks the gate had passed
    assert gate.verdict == "error"
    assert by in _suspected(gate)


@pytest.mark.xrays
@pytest.mark.parametrize(
    ("mask", "by"),
    [
        ("Partial", "gradient-explains"),
        ("Averaged", "gradient-explains"),
        ("Turned", "gradient-explains"),
        ("Moat", "beats-single-steps"),
        ("Waves", "beats-single-steps"),
    ],
)
def test_gradients_that_are_right_as_far_as_they_go(mask, by, tmp_path, xrays):
    """A step along them brings what they promise."""
    gate = "- {id: pgd, attack: {name: pgd, steps: 40}, epsilon: 4/255, require: {accuracy: 0.5}}"
    (gate,) = masked_gates(tmp_path, xrays, mask, gate, samples=64)
    assert gate.metrics["accuracy"].value > 0.5
    assert gate.verdict == "error"
    assert [check.name for check in gate.health if check.outcome == "broken"] == [by]
    assert MEANINGS[by] in gate.error


@pytest.mark.xrays
@pytest.mark.parametrize(("mask", "where"), [("Partial", "error"), ("Base", "pass")])
def test_one_step_along_a_part_of_the_gradient_passes_nothing(mask, where, tmp_path, xrays):
    """Whatever it costs, of gates of a hundred passes and more."""
    fgsm = "- {id: fgsm, attack: fgsm, epsilon: 2/255, require: {accuracy: 0.3}}"
    mask, kind = ("Masked", "hardened") if mask == "Base" else (mask, "standard")
    (gate,) = masked_gates(tmp_path, xrays, mask, fgsm, kind=kind)
    assert gate.verdict == where
    assert gate.cost.health_forward <= 12 + 40 * (1 + (where == "error"))


@pytest.mark.xrays
def test_where_half_of_the_gradient_may_be_left_out_a_search_without_one_tells(tmp_path, xrays):
    """Whatever that costs; a budget of a tenth would pay for nothing of it."""
    fgsm = "- {id: fgsm, attack: fgsm, epsilon: 4/255, require: {accuracy: 0.2}}"
    (gate,) = masked_gates(tmp_path, xrays, "Cut", fgsm, samples=64)
    found = {check.name: check for check in gate.health}
    assert found["gradient-explains"].outcome == "suspect"
    assert re.search(r", and no more of what far smaller ones do \(7\d%\)", found["gradient-explains"].evidence)
    assert re.search(
        r"square with 1\d\d queries turned \d of 5 that held", found["beats-searches-without-gradients"].evidence
    )


@pytest.mark.xrays
def test_half_of_the_gradient_passes_nothing(tmp_path, xrays):
    """Far smaller patterns show that it is missing: of networks that merely bend, they are explained."""
    gate = "- {id: pgd, attack: {name: pgd, steps: 40}, epsilon: 4/255, require: {accuracy: 0.3}}"
    (gate,) = masked_gates(tmp_path, xrays, "Half", gate, samples=64)
    assert gate.metrics["accuracy"].value > 0.4  # of .03
    assert gate.verdict == "error"
    assert [check.name for check in gate.health if check.outcome == "broken"] == ["gradient-explains"]


@pytest.mark.xrays
def test_patterns_change_no_more_than_the_ball_admits(tmp_path, xrays):
    """A 255th of the range is a sixteenth of what values of 12 bits in 16 have."""
    archive = dict(np.load(xrays))
    images = archive["test_images"].astype(np.uint16) * 16
    np.savez(tmp_path / "deep.npz", test_images=images, test_labels=archive["test_labels"])
    gate = "- {id: pgd, attack: {name: pgd, steps: 20}, epsilon: 32/65535, require: {accuracy: 0.3}}"
    scaled = "{mean: 0.03112, std: 0.01556}"  # those of 8 bits, of 4080 of 65535
    (gate,) = masked_gates(tmp_path, tmp_path / "deep.npz", "Plain", gate, preprocess=scaled, bits=16)
    assert not gate.error, gate.error
    (check,) = [check for check in gate.health if check.name == "gradient-explains"]
    assert check.outcome == "sound"
    assert "random patterns of 32 grey levels" in check.evidence


@pytest.mark.xrays
def test_in_l2_patterns_are_as_long_as_the_ball_admits_and_said_to_be(tmp_path, xrays):
    """Over 28x28 pixels 0.05 of the range is 0.46 levels each."""
    gate = [{"id": "l2", "attack": {"name": "pgd", "steps": 5}, "norm": "l2", "epsilon": 0.05}]
    found = gates_on_xrays(tmp_path, xrays, "standard", gate, samples=40)["l2"]
    (check,) = [check for check in found.health if check.name == "gradient-explains"]
    assert check.outcome == "sound"
    assert "random patterns of 0.46 grey levels" in check.evidence


@pytest.mark.xrays
def test_pixels_that_are_rounded_within_are_tried_with_larger_changes(tmp_path, xrays):
    """One level more or less is nothing to a network that reads steps of four, or a jump."""
    fgsm = "- {id: fgsm, attack: fgsm, epsilon: 2/255, require: {accuracy: 0}}"
    (gate,) = masked_gates(tmp_path, xrays, "StraightThrough", fgsm)
    (check,) = [check for check in gate.health if check.name == "gradient-explains"]
    assert check.outcome == "sound"
    assert "random patterns of 4 grey levels" in check.evidence


@pytest.mark.xrays
def test_few_samples_are_asked_about_often_before_many_are(tmp_path, xrays):
    gate = [{"id": "gate", "attack": {"name": "pgd", "steps": 20}, "epsilon": "2/255"}]
    found = gates_on_xrays(tmp_path, xrays, "hardened", gate, samples=300)["gate"]
    (check,) = [check for check in found.health if check.name == "beats-searches-without-gradients"]
    queries, tried = map(
        int, re.search(r"square with (\d+) queries turned 0 of (\d+) that held", check.evidence).groups()
    )
    assert check.outcome == "sound"
    assert tried >= 3
    assert queries >= 40
    assert tried == 3 or queries >= 150


@pytest.mark.parametrize(
    ("share", "outcome"),
    [(0.51, "sound"), (0.49, "suspect"), (0.32, "broken"), (1.9, "sound"), (2.1, "suspect"), (3.1, "broken")],
)
def test_how_much_of_what_is_promised_has_to_come(share, outcome):
    assert predicts([1.0] * 3, [share] * 3, "one grey level", None, attacked_count=9).outcome == outcome
    assert predicts([share] * 3, [], "one grey level", None, attacked_count=9).outcome == outcome


@pytest.mark.parametrize(
    ("at_images", "in_ball", "outcome"),
    [([1.0] * 2, [0.1] * 3, "not examined"), ([1.0] * 3, [0.1] * 2, "sound"), ([0.1] * 3, [1.0] * 3, "broken")],
)
def test_of_two_samples_nothing_is_concluded(at_images, in_ball, outcome):
    assert predicts(at_images, in_ball, "one grey level", None, attacked_count=9).outcome == outcome


@pytest.mark.parametrize(("share", "outcome"), [(0.61, "sound"), (0.59, "suspect"), (0.49, "broken"), (-2.0, "broken")])
def test_how_much_has_to_be_explained(share, outcome):
    check = explains(Explained(share=share, change="one grey level"), None, attacked_count=9, few_passes=False)
    assert check.outcome == outcome
    assert f"the gradient explains {share:.0%} " in check.evidence


@pytest.mark.xrays
@pytest.mark.parametrize("mask", ["Distilled", "SaturatedSoftmax"])
def test_masks_that_the_attack_goes_through(mask, tmp_path, xrays):
    (gate,) = masked_gates(tmp_path, xrays, mask, PGD)
    assert gate.verdict == "fail"
    assert gate.metrics["accuracy"].value < 0.1
    assert not _suspected(gate)


@pytest.mark.xrays
@pytest.mark.parametrize(
    ("attack", "samples", "grown"), [("pgd", 180, "sound"), ("{name: fmn, steps: 20}", 40, "not examined")]
)
def test_a_robust_candidate_behind_a_saturated_softmax_is_not_accused(attack, samples, grown, tmp_path, xrays):
    """Its own gradient is zero on nearly all samples: searches for the nearest counterexample follow what is before."""
    gate = f"- {{id: gate, attack: {attack}, epsilon: 2/255, require: {{accuracy: 0.3}}}}"
    (found,) = masked_gates(tmp_path, xrays, "SaturatedSoftmax", gate, samples=samples, kind="hardened")
    assert (found.verdict, _suspected(found)) == ("pass", set())
    assert [check.outcome for check in found.health if check.name == "falls-as-budget-grows"] == [grown]


@pytest.mark.xrays
def test_a_candidate_without_gradients_is_no_pass(tmp_path, xrays):
    (gate,) = masked_gates(tmp_path, xrays, "Thermometer", PGD)
    assert gate.verdict == "error"
    assert "it has no gradient" in gate.error


@pytest.mark.xrays
def test_what_an_ensembles_square_turns_hides_no_mask(tmp_path, xrays):
    """It turns many of the samples whose gradients are zero; those that are left are blind all the same."""
    ensemble = "{name: ensemble, steps: 8, queries: 150}"
    gate = f"- {{id: all, attack: {ensemble}, epsilon: 8/255, require: {{accuracy: 0.05}}}}"
    (found,) = masked_gates(tmp_path, xrays, "HalfQuantised", gate, samples=96)
    assert found.metrics["accuracy"].value > 0.05
    assert found.verdict == "error"
    assert "the attack had little or nothing to follow on" in found.error
    (check,) = [check for check in found.health if check.name == "beats-searches-without-gradients"]
    assert check.outcome == "broken"
    assert check.evidence.startswith("square turned ")
    assert "nes with " in check.evidence


@pytest.mark.xrays
def test_one_step_is_examined_too(tmp_path, xrays):
    fgsm = "- {id: fgsm, attack: fgsm, epsilon: 4/255, require: {accuracy: 0.3}}"
    (gate,) = masked_gates(tmp_path, xrays, "Shattered", fgsm)
    assert (gate.verdict, _suspected(gate)) == ("error", {"gradient-predicts", "gradient-explains"})


@pytest.mark.xrays
def test_warn_only_says_it(tmp_path, xrays):
    (gate,) = masked_gates(tmp_path, xrays, "Shattered", PGD, extra="health: warn")
    assert gate.verdict == "pass"
    errors = {finding.code for finding in gate.findings if finding.severity == "error"}
    assert {"gradient-predicts"} <= errors <= {"gradient-predicts", "gradient-explains", "loss-rises"}


@pytest.mark.parametrize("health", ["strict", "warn"])
def test_where_there_was_nothing_to_follow_nothing_is_passed_in_any_case(health, tmp_path):
    brightness_project(tmp_path)
    source = (tmp_path / "brightness.py").read_text()
    (tmp_path / "brightness.py").write_text(
        source.replace("excess = (", "image = image.clamp_min(0.5)\n        excess = (")
    )
    gate = "  - {id: pgd, attack: {name: pgd, steps: 4}, epsilon: 1/255, require: {accuracy: 0.6}}\n"
    (found,) = brightness_gates(tmp_path, gate, extra=f"health: {health}")
    assert found.verdict == "error"
    assert "the attack had little or nothing to follow on " in found.error
    assert found.error.endswith("or replace the attack with one that needs none, such as square or transfer")


@pytest.mark.parametrize("attack", ["{name: pgd, steps: 8, random_start: false}", "{name: fmn, steps: 20}"])
def test_a_few_pixels_without_a_gradient_make_no_sample_blind(attack, tmp_path):
    """A root of black is steep without end; the other pixels are followed."""
    brightness_project(tmp_path)
    source = (tmp_path / "brightness.py").read_text()
    (tmp_path / "brightness.py").write_text(
        source.replace(
            "excess = (", "image = torch.cat([image, 0 * image[..., :1].mul(0).sqrt()], 3)\n        excess = ("
        )
    )
    gate = f"  - {{id: gate, attack: {attack}, epsilon: 1/255, require: {{accuracy: 0.5}}}}\n"
    (found,) = brightness_gates(tmp_path, gate)
    assert found.verdict == "pass", found.error
    assert "0 samples held where" in {check.name: check.evidence for check in found.health}["gradients"]


@pytest.mark.parametrize("health", ["strict", "warn"])
@pytest.mark.parametrize("lost", ["image + ((image - image.detach()) ** 2 + ~between).sqrt() * 0", "image.detach()"])
def test_gradients_that_are_there_only_at_stored_images_make_no_pass(lost, health, tmp_path):
    """Its first gradient can be followed, and those between grey levels cannot: they are NaN, or zero."""
    brightness_project(tmp_path)
    source = (tmp_path / "brightness.py").read_text()
    (tmp_path / "brightness.py").write_text(
        source.replace(
            "excess = (",
            "levels = image.detach() * 255\n"
            "        between = (levels - levels.round()).abs().amax(dim=(1, 2, 3), keepdim=True) > 1e-3\n"
            f"        image = torch.where(between, {lost}, image)\n"
            "        excess = (",
        )
    )
    attack = "{name: pgd, steps: 8, random_start: false}"
    gate = f"  - {{id: pgd, attack: {attack}, epsilon: 4/255, require: {{accuracy: 0.5}}}}\n"
    (found,) = brightness_gates(tmp_path, gate, extra=f"health: {health}")
    assert found.metrics["accuracy"].value >= 0.5
    assert found.verdict == "error"
    assert "the attack had little or nothing to follow on " in found.error
    (check,) = [check for check in found.health if check.name == "gradients"]
    assert check.outcome == "suspect"


# --- candidates that draw --------------------------------------------------------------------------------------------


@pytest.mark.xrays
@pytest.mark.parametrize("mask", ["RandomResizing", "Noisy"])
def test_candidates_that_draw_are_attacked_by_the_mean_of_their_gradients(mask, tmp_path, xrays):
    gates = """
    - {id: clean, require: {accuracy: 0.7}}
    - {id: pgd, attack: {name: pgd, steps: 10}, epsilon: 16/255, require: {accuracy: 0.5}}
    """
    clean, pgd = masked_gates(tmp_path, xrays, mask, gates, samples=10)
    assert clean.verdict == "pass"
    assert "same-answers" in _suspected(pgd)
    assert any("depend on chance" in finding.message for finding in pgd.findings)
    assert pgd.verdict == "fail"
    assert {outcome.attacked for outcome in pgd.samples if outcome.status == "broken"} <= {"normal", "pneumonia"}
    assert [gate.samples for gate in masked_gates(tmp_path, xrays, mask, gates, samples=10)] == [
        clean.samples,
        pgd.samples,
    ]  # what a candidate draws derives from the seed


@pytest.mark.xrays
def test_one_lucky_call_is_no_counterexample(tmp_path, xrays):
    """Of noise as strong as this, single calls would misread many a sample some time; most calls do not."""
    noise = "- {id: noise, attack: noise, epsilon: 1/255, queries: 30, require: {accuracy: 0.5}}"
    (gate,) = masked_gates(tmp_path, xrays, "Noisy", noise, samples=16, kind="hardened")
    assert gate.metrics["attack_success"].value == 0
    assert "same-answers" in _suspected(gate)


@pytest.mark.xrays
def test_what_is_concluded_depends_on_no_other_gate(tmp_path, xrays):
    gates = [
        {"id": "long", "attack": {"name": "pgd", "steps": 20}, "epsilon": "2/255"},
        {"id": "short", "attack": {"name": "pgd", "steps": 4}, "epsilon": "2/255"},
    ]
    both = gates_on_xrays(tmp_path, xrays, "hardened", gates, samples=40)
    alone = gates_on_xrays(tmp_path, xrays, "hardened", gates[1:], samples=40)
    assert both["short"].health == alone["short"].health


@pytest.mark.xrays
def test_health_of_the_smallest_gates_stays_small(tmp_path, xrays):
    """Three samples are tried whatever that costs, and then nothing else."""
    gate = [{"id": "fgsm", "attack": "fgsm", "epsilon": "2/255"}]
    found = gates_on_xrays(tmp_path, xrays, "hardened", gate, samples=20)["fgsm"]
    assert (found.cost.health_forward, found.cost.health_gradient) == (6, 3)


@pytest.mark.xrays
def test_gradients_that_are_known_are_not_asked_for_again(tmp_path, xrays):
    """Three are known of `gradient-predicts`, and `gradient-explains` is about eight, those three among them."""
    gate = [{"id": "fgsm", "attack": "fgsm", "epsilon": "2/255"}]
    found = gates_on_xrays(tmp_path, xrays, "hardened", gate, samples=60)["fgsm"]
    assert {check.outcome for check in found.health if check.name.startswith("gradient-")} == {"sound"}
    assert found.cost.health_gradient == 8


# --- whose gradients are looked at, and where ------------------------------------------------------------------------

BOTH = "torch.stack([-excess, excess], dim=1)"
TOO_STEEP = "(10 * excess - 9 * excess.detach())"  # its gradient promises ten times what comes
PGD_FORTY = "attack: {name: pgd, steps: 40}, epsilon: 2/255, require: {accuracy: 0}"


def _checks(folder, gates, *, excess="excess", logits=BOTH, levels=range(20, 60), labels="[dark, bright]"):
    """What is concluded of gates on `brightness_project`'s network with another excess and other logits."""
    brightness_project(folder)
    source = ARCHITECTURE.replace(f"return {BOTH}", f"excess = {excess}\n        return {logits}")
    (folder / "brightness.py").write_text(source)
    flat_images(folder, levels, [0] * len(levels))
    (folder / "policy.yaml").write_text(brightness_policy(gates).replace("[dark, bright]", labels))
    found = run(load_policy(folder / "policy.yaml")).gates
    return [{check.name: check for check in gate.health} for gate in found]


@pytest.mark.parametrize("goals", [("dim", "bright"), ("bright", "dim")])
def test_what_is_seen_of_one_goal_s_gradient_is_not_said_of_another_s(goals, tmp_path):
    gates = [f"  - {{id: {goal}, goal: targeted, target: {goal}, {PGD_FORTY}}}\n" for goal in goals]
    logits = f"torch.stack([0 * excess, excess - 1, {TOO_STEEP} - 30], dim=1)"
    found = _checks(tmp_path, "".join(gates), logits=logits, labels="[dark, dim, bright]")
    for goal, checks in zip(goals, found, strict=True):
        outcomes = {checks[name].outcome for name in ("gradient-predicts", "gradient-explains")}
        assert outcomes == {"sound" if goal == "dim" else "broken"}


def test_a_gradient_that_is_right_at_images_alone_is_seen_around_them(tmp_path):
    """It is where all pixels are alike that it is."""
    excess = f"torch.where(image.flatten(1).std(dim=1) < 1e-4, excess, {TOO_STEEP})"
    (checks,) = _checks(tmp_path, f"  - {{id: pgd, {PGD_FORTY}}}\n", excess=excess)
    check = checks["gradient-predicts"]
    assert check.outcome == "broken"
    assert "raises the margin 1.00 times as much as the gradient says" in check.evidence
    assert "and 0.10 times at points of the ball" in check.evidence


def test_an_image_without_a_finite_gradient_says_nothing_of_how_much_is_explained(tmp_path):
    marked = "(image[:, 0, 0, 0] == image.new_tensor(20 / 255)).float()"
    excess = f"excess + 0 * (image.flatten(1).mean(dim=1) * (1 - {marked})).sqrt()"
    (checks,) = _checks(tmp_path, f"  - {{id: pgd, {PGD_FORTY}}}\n", excess=excess, levels=range(20, 28))
    assert checks["gradient-explains"].outcome == "sound"
    assert "the gradient explains 100% " in checks["gradient-explains"].evidence


_SENSES = """
import torch

class Senses(torch.nn.Module):  # the first finding, or label, is near and hardly moves; the second is far and moves
    def __init__(self):
        super().__init__()
        self.slow = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, image):
        signs = torch.where((torch.arange(196) * 7919 + torch.arange(196) ** 2 * 31) % 5 < 2, 1.0, -1.0)
        pixels = image.flatten(1) - 0.5
        slow, quick = self.slow * pixels.mean(dim=1), (pixels * (signs - signs.mean())).mean(dim=1)
        return torch.stack([0.5 + slow, 0.505 + 60 * quick]{more}, dim=1)
"""


@pytest.mark.parametrize(
    ("task", "labels", "more"),
    [("multilabel", "slow, quick", ""), ("multiclass", "slow, quick, right", " + [torch.full((len(image),), 1.005)]")],
)
def test_what_is_nearest_elsewhere_is_not_held_against_the_gradient(task, labels, more, tmp_path):
    """A random pattern turns over to the finding, or the label, that moves: the margin of the nearest has a kink."""
    (tmp_path / "senses.py").write_text(_SENSES.format(more=more))
    save_file({"slow": torch.tensor(0.1)}, tmp_path / "senses.safetensors")
    levels = np.arange(100, 124, 2, dtype=np.uint8)
    wanted = np.ones((len(levels), 2), np.uint8) if task == "multilabel" else np.full((len(levels), 1), 2)
    images = np.broadcast_to(levels[:, None, None], (len(levels), 14, 14))
    np.savez(tmp_path / "levels.npz", test_images=images, test_labels=wanted)
    (tmp_path / "policy.yaml").write_text(f"""
robustcheck: 1
model: {{path: senses.safetensors, architecture: "senses:Senses", task: {task}, labels: [{labels}], output: logits}}
data: {{source: levels.npz}}
gates:
  - {{id: pgd, attack: pgd, epsilon: 1/255, require: {{accuracy: 0.5}}}}
""")
    (gate,) = run(load_policy(tmp_path / "policy.yaml")).gates
    (check,) = [check for check in gate.health if check.name == "gradient-explains"]
    assert check.outcome == "sound", check.evidence
    assert "explains 100% " in check.evidence


# --- what is inherited -----------------------------------------------------------------------------------------------


@pytest.mark.xrays
@pytest.mark.parametrize("attack", ["{name: pgd, steps: 10}, ladder: descending", "{name: fmn, steps: 10}"])
def test_who_inherits_from_a_search_inherits_its_health(attack, tmp_path, xrays):
    gates = f"- {{id: gate, attack: {attack}, epsilon: [2/255, 4/255], require: {{accuracy: 0.3}}}}"
    for gate in masked_gates(tmp_path, xrays, "Shattered", gates):
        assert gate.verdict == "error", gate.id
        assert "gradient-predicts" in _suspected(gate)


@pytest.mark.parametrize("attack", ["{name: pgd, steps: 10}, ladder: descending", "{name: fmn, steps: 10}"])
def test_who_would_inherit_from_a_search_that_was_not_examined_searches_itself(attack, tmp_path, monkeypatch):
    brightness_project(tmp_path)
    gates = f"  - {{id: gate, attack: {attack}, epsilon: [2/255, 1/255], require: {{accuracy: 0.3}}}}\n"
    whole, failed = Examination.checks, list[str]()

    def fails_once(self: Examination, *given: object) -> object:
        if failed:
            return whole(self, *given)
        failed.append("once")
        raise EvaluationError("memory ran out")

    plain = brightness_gates(tmp_path, gates)
    assert any(
        outcome.evidence == "inherited" for gate in plain for outcome in gate.samples if outcome.status == "held"
    )
    monkeypatch.setattr(Examination, "checks", fails_once)
    first, second = sorted(brightness_gates(tmp_path, gates), key=lambda gate: gate.verdict != "error")
    assert (first.verdict, second.verdict) == ("error", "pass")
    assert "inherited" not in {outcome.evidence for outcome in second.samples if outcome.status == "held"}


@pytest.mark.parametrize(
    ("own", "other", "outcome", "whose"),
    [
        ("sound", "broken", "broken", "other"),
        ("suspect", "broken", "broken", "other"),
        ("not examined", "sound", "sound", "other"),
        ("broken", "suspect", "broken", "own"),
        ("sound", "sound", "sound", "own"),
        (None, "sound", "sound", "other"),
    ],
)
def test_of_a_check_that_is_inherited_the_one_counts_that_weighs_more(own, other, outcome, whose):
    mine = () if own is None else (HealthCheck(name="gradients", outcome=own, evidence="own"),)
    (found,) = with_inherited(mine, (HealthCheck(name="gradients", outcome=other, evidence="other"),))
    assert (found.outcome, found.evidence.split()[0]) == (outcome, whose)


@pytest.mark.parametrize(
    ("name", "outcome", "severities"),
    [
        ("gradients", "sound", []),
        ("gradients", "not examined", []),
        ("gradients", "suspect", ["warning"]),
        ("gradients", "broken", ["error"]),
        ("gradient-predicts", "not examined", ["warning"]),  # the sharpest of them: that it is missing is told
    ],
)
def test_what_is_told_of_a_check(name, outcome, severities):
    found = [*as_findings([HealthCheck(name=name, outcome=outcome, evidence="seen")])]
    assert [finding.severity for finding in found] == severities
    assert all(finding.code == name and finding.message.endswith("; seen") for finding in found)


# --- patches and small gates -----------------------------------------------------------------------------------------


@pytest.mark.xrays
def test_patches_follow_gradients_too(tmp_path, xrays):
    patch = "- {id: patch, attack: {name: patch, steps: 5, train: samples}, size: 10%, require: {accuracy: 0.3}}"
    (gate,) = masked_gates(tmp_path, xrays, "Shattered", patch.replace(", train: samples", ""), samples=20)
    assert (gate.verdict, _suspected(gate)) == ("error", {"gradient-predicts", "gradient-explains"})


@pytest.mark.xrays
@pytest.mark.parametrize("extra", ["", "decision: {stop: early}"])
def test_a_few_samples_are_examined_however_small_the_gate_is(extra, tmp_path, xrays):
    fgsm = "- {id: fgsm, attack: fgsm, epsilon: 2/255, require: {accuracy: 0.3}}"
    (gate,) = masked_gates(tmp_path, xrays, "Shattered", fgsm, samples=24, extra=extra)
    assert (gate.verdict, _suspected(gate)) == ("error", {"gradient-predicts"})


@pytest.mark.xrays
def test_noise_on_the_scores_hides_no_mask(tmp_path, xrays):
    (gate,) = masked_gates(tmp_path, xrays, "ShatteredAndNoisy", PGD, samples=16)
    assert gate.verdict == "error"
    assert _suspected(gate) == {"gradient-predicts", "same-answers"}


# --- nobody is accused who did nothing -------------------------------------------------------------------------------


@pytest.mark.xrays
@pytest.mark.parametrize("kind", ["standard", "hardened"])
def test_plain_candidates_on_xrays_are_not_accused(kind, tmp_path, xrays):
    gates = [
        {"id": "fgsm", "attack": "fgsm", "epsilon": "2/255"},
        {"id": "pgd", "attack": {"name": "pgd", "steps": 10}, "epsilon": ["1/255", "4/255"]},
        {"id": "l2", "attack": {"name": "pgd", "steps": 10}, "norm": "l2", "epsilon": 0.5},
        {"id": "apgd", "attack": {"name": "apgd", "steps": 10, "loss": "dlr"}, "epsilon": "2/255"},
        {"id": "fmn", "attack": {"name": "fmn", "steps": 20}, "epsilon": "2/255"},
        {
            "id": "blur",
            "attack": {"name": "pgd", "steps": 5},
            "epsilon": "2/255",
            "conditions": {"blur": 1, "judged_on": 10},
        },
    ]
    for gate in gates_on_xrays(tmp_path, xrays, kind, gates, samples=120).values():
        assert not _suspected(gate), gate.id
        assert {check.name for check in gate.health if check.outcome == "sound"} >= {"gradients", "same-answers"}


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", "16/255"), ("l2", "8.0")])
def test_a_plain_candidate_that_holds_on_large_images_is_not_accused(norm, epsilon, tmp_path):
    """All are 29.5 levels from turning, which is 14.8 in L2."""
    brightness_project(tmp_path)
    labels = np.arange(40) % 2
    images = np.where(labels == 1, 157, 98).astype(np.uint8)[:, None, None] * np.ones((1, 128, 128), np.uint8)
    np.savez(tmp_path / "flat.npz", test_images=images, test_labels=labels[:, None])
    gate = f"{{id: pgd, attack: {{name: pgd, steps: 120}}, norm: {norm}, epsilon: {epsilon}, require: {{accuracy: 1}}}}"
    (found,) = brightness_gates(tmp_path, f"  - {gate}\n")
    (check,) = [check for check in found.health if check.name == "falls-as-budget-grows"]
    assert (found.verdict, check.outcome) == ("pass", "sound")


@pytest.mark.slow
@pytest.mark.xrays
def test_a_resnet18_is_not_accused(tmp_path, xrays):
    from benchmarks.candidates import CANDIDATES
    from benchmarks.training import ensure

    candidate = CANDIDATES["resnet18"]
    ensure(candidate, xrays)
    (tmp_path / "architectures.py").write_text(candidate.module.read_text())
    (tmp_path / "policy.yaml").write_text(f"""
robustcheck: 1
model:
  path: {candidate.weights}
  architecture: {candidate.architecture}
  task: multiclass
  labels: [normal, pneumonia]
  preprocess: {{mean: 0.5, std: 0.25}}
data: {{source: '{xrays}', samples: 100}}
gates:
  - {{id: pgd, attack: {{name: pgd, steps: 10}}, epsilon: [1/255, 4/255], require: {{accuracy: 0}}}}
""")
    for gate in run(load_policy(tmp_path / "policy.yaml")).gates:
        assert not _suspected(gate)


# --- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.xrays
@pytest.mark.parametrize(
    "attack",
    [
        "fgsm",
        {"name": "pgd", "steps": 20},
        {"name": "apgd", "steps": 10},
        {"name": "ensemble", "steps": 4, "queries": 20},
    ],
)
def test_health_costs_a_tenth_at_most(attack, tmp_path, xrays, monkeypatch):
    gate = [{"id": "gate", "attack": attack, "epsilon": "2/255"}]
    examined = gates_on_xrays(tmp_path, xrays, "hardened", gate, samples=300)["gate"]
    monkeypatch.setattr(probing.Probes, "run", lambda *_, **__: probing.Probed(at_images=[1, 1, 1]))
    plain = gates_on_xrays(tmp_path, xrays, "hardened", gate, samples=300)["gate"]
    cost = examined.cost
    assert 0 < cost.health_forward <= cost.forward / 10
    assert 0 < cost.health_gradient <= cost.gradient / 10
    assert (cost.forward, cost.gradient) == (plain.cost.forward, plain.cost.gradient)
    assert replace(plain, cost=cost, health=()) == replace(examined, health=())  # and changes nothing


def test_what_probes_find_is_in_no_ledger_and_no_file(tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, [127, 128, *[150] * 598], [0, *[1] * 599])
    (gate,) = brightness_gates(
        tmp_path, "  - {id: pgd, attack: {name: pgd, steps: 20}, epsilon: 1/255, require: {accuracy: 0}}\n"
    )
    outcomes = {check.name: check for check in gate.health}
    assert outcomes["beats-searches-without-gradients"].outcome == "sound"
    assert outcomes["falls-as-budget-grows"].outcome == "sound"  # at least half of those probed were turned
    written = [path.name for path in (tmp_path / "out").rglob("*.png") if path.parent.name == "pgd"]
    assert len(written) == 2  # of 127 and 128: those that a level turns
    assert sum(outcome.status == "broken" for outcome in gate.samples) == 2


def test_health_is_strict_unless_the_policy_says_otherwise(tmp_path: Path):
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text("")
    gates = "  - {id: clean, require: {accuracy: 0}}\n"
    for extra, health in (("", "strict"), ("health: warn", "warn")):
        (tmp_path / "policy.yaml").write_text(brightness_policy(gates, extra=extra))
        assert run(load_policy(tmp_path / "policy.yaml")).health == health
