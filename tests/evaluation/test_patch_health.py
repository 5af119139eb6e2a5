"""Whether gates with patches and stickers notice what kept them from working."""

from __future__ import annotations

import pytest
from building import ARCHITECTURE, brightness_gates, brightness_project
from patching import DARK, FIXED, patch_archive, patch_policy, run_patches, turned

from robustcheck import load_policy, run
from robustcheck.attacks.patch import PatchTraining

RETURN = "        return torch.stack([-excess, excess], dim=1)"
# Of images whose middle row begins with level 70, `marked` is 1. No patch of 4 pixels in a corner covers it.
MARKED = "        marked = (image[:, 0, 8, 0] == image.new_tensor(70 / 255)).float()\n"
NOT_FINITE = MARKED + "        excess = excess + 0 * (image.flatten(1).mean(dim=1) * (1 - marked)).sqrt()\n" + RETURN
NO_GRADIENT = MARKED + "        excess = torch.where(marked > 0, excess.detach() + 0 * excess, excess)\n" + RETURN
CORNER = FIXED.replace("{name", "{location: [0.25, 0.25], name")


def _checks(gate):
    return {check.name: check for check in gate.health}


def _candidate(folder, forward):
    (folder / "brightness.py").write_text(ARCHITECTURE.replace(RETURN, forward))


def test_one_placement_without_a_finite_gradient_spoils_no_step(patched):
    _candidate(patched, NOT_FINITE)
    patch_archive(patched, train=(40, 70, 100, 160))
    (gate,) = run_patches(patched, f"{FIXED}, target: bright}}")
    assert gate.verdict == "pass", gate.error
    assert turned(gate) == {level for level in DARK if level * 3 / 4 + 255 / 4 > 127.5}
    (finding,) = [finding for finding in gate.findings if finding.code == "gradient-not-finite"]
    count = int(_checks(gate)["gradients"].evidence.split(" had NaN")[0].split()[-1])
    assert 20 * 8 / 6 < count < 20 * 8 / 2, "a third of the images"
    assert finding.message.startswith(f"{count} gradients, on 1 image, had NaN or infinity")


def test_a_step_follows_the_mean_of_the_gradients_that_are_finite(patched, monkeypatch):
    """Of each placement they add up to 40 · 64 / 256, where the image is read as dark for sure."""
    _candidate(patched, NOT_FINITE)
    patch_archive(patched, train=(5, 40, 50, 70, 160))
    steps, whole = [], PatchTraining.step
    monkeypatch.setattr(PatchTraining, "step", lambda self, *told: (steps.append(told[1].sum()), whole(self, *told))[1])
    (gate,) = run_patches(patched, f"{FIXED}, target: bright}}")
    assert "gradient-not-finite" in [finding.code for finding in gate.findings]
    assert steps[0].item() == pytest.approx(10, rel=0.02)


def test_an_image_without_a_finite_gradient_has_no_patch_of_its_own(patched):
    _candidate(patched, NOT_FINITE)
    patch_archive(patched, test=(100, 70, 110, 120))
    (gate,) = run_patches(patched, f"{CORNER}, target: bright, universal: false}}", size="7 px")
    assert {outcome.sample for outcome in gate.samples if outcome.status == "broken"} == {"test/0", "test/2", "test/3"}
    evidence = _checks(gate)["gradients"].evidence
    assert evidence.startswith(
        f"of {4 * 20 * 8} gradients, 0 were zero and {20 * 8} had NaN or infinity; 1 sample held"
    )


def test_gradients_that_are_zero_are_counted_for_each_placement(patched):
    _candidate(patched, NO_GRADIENT)
    patch_archive(patched, test=(60, 90, 110), train=(70, 71, 91))
    (few,) = run_patches(patched, f"{CORNER}, target: bright}}")
    evidence = _checks(few)["gradients"].evidence
    assert evidence.startswith("of 160 gradients, ")
    assert 0.2 < int(evidence.split()[3]) / 160 < 0.45
    assert _checks(few)["gradients"].outcome == "sound"
    patch_archive(patched, test=(60, 90, 110), train=(70, 70, 91))
    (most,) = run_patches(patched, f"{CORNER}, target: bright}}")
    assert _checks(most)["gradients"].outcome == "suspect"
    assert "gradients" in [finding.code for finding in most.findings]


def test_an_image_that_is_turned_beyond_doubt_is_no_sign_of_hidden_gradients(patched):
    """Of logits that are 10,000 times as large the log-probability of what has been turned does not rise any more."""
    _candidate(patched, "        excess = excess * 10000\n" + RETURN)
    (gate,) = run_patches(patched, f"{FIXED}, target: bright}}", size="14 px")
    assert turned(gate) == set(DARK)
    assert _checks(gate)["gradients"].outcome == "sound"
    assert "gradients" not in [finding.code for finding in gate.findings]


def test_what_the_gradient_tells_is_looked_at_on_more_than_three_images(patched):
    (gate,) = run_patches(patched, f"{FIXED}, target: bright}}")
    check = _checks(gate)["gradient-predicts"]
    assert check.outcome == "sound"
    assert f"median of {len(DARK)} samples" in check.evidence
    (small,) = run_patches(patched, "{name: patch, target: bright, steps: 1, draws: 1}")
    assert "median of 3 samples" in _checks(small)["gradient-predicts"].evidence


def test_which_images_those_are_does_not_depend_on_their_order(patched):
    """On the first three of the archive the gradient says nothing of what a change does."""
    shattered = "        excess = excess + 5 * torch.where(image.flatten(1).mean(dim=1) < 30 / 255, "
    shattered += "torch.sin(image.flatten(1).mean(dim=1) * 255 * 6.2832 * 50) / 50, 0.0)\n"
    _candidate(patched, shattered + RETURN)
    patch_archive(patched, test=(10, 11, 12, *range(60, 120, 4)), train=(70, 90, 110))
    for draws in (4, 60):  # a tenth of which is enough for three images, and for twelve
        (gate,) = run_patches(
            patched, f"{FIXED.replace('steps: 20, draws: 8', f'steps: 2, draws: {draws}')}, target: bright}}"
        )
        assert _checks(gate)["gradient-predicts"].outcome == "sound"


def test_stickers_are_examined_on_as_many(tmp_path):
    levels = (40, 60, 80, 100, 150, 170, 190, 210)
    brightness_project(tmp_path, levels=levels)
    (gate,) = brightness_gates(
        tmp_path,
        "  - {id: rp2, attack: {name: rp2, stickers: [0, 0, 0.5, 1], steps: 40, distances: 1, angles: 0}, "
        "conditions: {contrast: [0.99, 1.01], draws: 2}, require: {accuracy: 0}}",
    )
    assert f"median of {len(levels)} samples" in _checks(gate)["gradient-predicts"].evidence


def test_a_control_that_outdoes_the_attack_counts_where_the_gate_is_inconclusive(patched):
    patch_archive(
        patched, test=(100, 105, 110, 112, 114, 116, 118, 120, 121, 122, 240, 250), train=(40, 70, 101, 160, 190)
    )
    weak = "{name: patch, target: bright, shape: square, rotation: 0, scale: 0, steps: 1, step_size: 0.1}"
    (gate,) = run_patches(patched, weak)
    success = gate.metrics["attack_success"]
    assert success.low < success.value < 0.5 < gate.controls[0].success.low
    text = (
        (patched / "policy.yaml").read_text().replace("attack_success: '<= 1'", f"attack_success: '<= {success.value}'")
    )
    for health, verdict in (("strict", "error"), ("warn", "inconclusive")):
        decided = f"decision: {{rule: confident, inconclusive: allow}}\nhealth: {health}\n"
        (patched / "policy.yaml").write_text(text + decided)
        (gate,) = run(load_policy(patched / "policy.yaml"), folder=patched / "out").gates
        assert gate.verdict == verdict


@pytest.mark.parametrize("sharpness", [1e-6, 1e-12])
def test_how_large_the_logits_are_decides_no_patch(sharpness, patched):
    """Below a logit of one an image weighs what any other does; all that is left of the scale is the scale."""
    found = []
    for value in (20, 1e-4, sharpness):
        (patched / "brightness.py").write_text(ARCHITECTURE.replace("sharpness=20.0", f"sharpness={value}"))
        (gate,) = run_patches(patched, "{name: patch, target: bright, steps: 30, draws: 8}")
        found.append((turned(gate), gate.patch.sha256))
    assert found[1] == found[2]
    assert found[0][0] == found[1][0] != set()


# --- what controls turn ----------------------------------------------------------------------------------------------


def _required(folder, attack, bound, extra=""):
    """A gate with a patch that has to leave this accuracy."""
    text = patch_policy(attack, extra=extra).replace("attack_success: '<= 1'", f"accuracy: {bound}")
    (folder / "policy.yaml").write_text(text)
    (gate,) = run(load_policy(folder / "policy.yaml")).gates
    return gate


WEAK = "{name: patch, target: bright, shape: square, rotation: 0, scale: 0, steps: 1, step_size: 0.01"


@pytest.mark.parametrize(("bound", "verdict"), [(0.95, "error"), (0.9, "pass")])
def test_a_control_that_the_adversary_might_use_decides_if_it_would_change_the_verdict(bound, verdict, patched):
    """A piece of a bright image turns three of forty, which is too few to show by itself that the attack is weak."""
    patch_archive(patched, test=[120] * 3 + [20] * 37 + [240])
    gate = _required(patched, f"{WEAK}, universal: false}}", bound)
    assert (gate.controls[0].name, gate.controls[0].success.successes) == ("natural patch", 3)
    assert gate.metrics["attack_success"].successes == 0
    assert gate.verdict == verdict
    if verdict == "error":
        assert gate.error == (
            "natural patch turned 3 of 40 samples that held, which the adversary may do too, and without them the "
            "gate would not pass; raise the attack's steps or draws"
        )
        assert "undercut-by-control" in [one.code for one in gate.findings]
        warned = _required(patched, f"{WEAK}, universal: false}}", bound, extra="health: warn")
        assert warned.verdict == "pass"
        assert "undercut-by-control" in [one.code for one in warned.findings]


def test_who_lays_one_patch_on_all_images_cannot_choose_a_piece_for_each(patched):
    patch_archive(patched, test=[120] * 3 + [20] * 37 + [240], train=(40, 70, 101, 160, 190))
    gate = _required(patched, f"{WEAK}}}", 0.95)
    assert (gate.controls[0].name, gate.controls[0].success.successes) == ("natural patch", 3)
    assert gate.verdict == "pass", gate.error


@pytest.mark.parametrize(("bound", "verdict"), [(0.95, "error"), (0.9, "pass")])
def test_a_grey_patch_is_a_patch_for_all_images(bound, verdict, patched):
    """What is trained on bright images is black, and turns no dark one; grey turns those near the threshold."""
    brightness_project(patched, threshold=0.45)
    patch_archive(patched, test=[112] * 3 + [20] * 37, train=(160, 190))
    gate = _required(patched, f"{FIXED}}}", bound)
    assert [(one.name, one.success.successes) for one in gate.controls] == [("grey patch", 3)]
    assert gate.metrics["attack_success"].successes == 0
    assert gate.verdict == verdict
    if verdict == "error":
        assert gate.error.startswith("grey patch, which the adversary may lay on all images too, turned 3 of 40 samp")


def test_what_a_grey_patch_turns_is_not_added_to_what_the_attack_turned(patched):
    """Black turns those above the threshold, and grey those just below it: one patch is laid, not both."""
    brightness_project(patched, threshold=0.45)
    patch_archive(patched, test=[112] * 3 + [130] * 3 + [20] * 34, train=(160, 190))
    gate = _required(patched, f"{FIXED}}}", 0.9)
    assert {one.name: one.success.successes for one in gate.controls}["grey patch"] == 3
    assert gate.metrics["attack_success"].successes == 3
    assert gate.verdict == "pass", gate.error


@pytest.mark.parametrize(
    ("attack", "control", "level"),
    [(f"{FIXED}}}", "grey patch", 121), (f"{WEAK}, universal: false}}", "natural patch", 117)],
)
def test_what_fails_anyway_is_undercut_by_nobody(attack, control, level, patched):
    """One is misread before the attack, which is one too many."""
    brightness_project(patched, threshold=0.48)
    patch_archive(patched, test=[level] * 3 + [125] + [20] * 36 + [240], train=(160, 190))
    gate = _required(patched, attack, 0.99)
    assert control in [one.name for one in gate.controls if one.success.successes == 3]
    assert gate.verdict == "fail"
    assert "undercut-by-control" not in [one.code for one in gate.findings]
