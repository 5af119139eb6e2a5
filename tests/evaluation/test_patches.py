"""What patches turn, and on which images they are trained and judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from building import ARCHITECTURE, brightness_gates, brightness_policy
from patching import BRIGHT, DARK, FIXED, patch_archive, patch_policy, run_patches, turned
from PIL import Image
from safetensors.torch import save_file

from robustcheck import load_policy, run
from robustcheck.attacks.patch import PatchTraining
from robustcheck.errors import PolicyError
from robustcheck.evaluation.patches.training import Trainer
from robustcheck.models import WhiteBox


@pytest.mark.parametrize("universal", ["true", "false"])
def test_it_turns_what_a_white_or_black_square_turns_and_nothing_else(universal, patched):
    bright, dark = run_patches(
        patched,
        f"{FIXED}, target: bright, universal: {universal}}}",
        f"{FIXED}, target: dark, universal: {universal}}}",
    )
    assert bright.verdict == dark.verdict == "pass", (bright.error, dark.error)
    assert turned(bright) == {level for level in DARK if level * 3 / 4 + 255 / 4 > 127.5}
    assert turned(dark) == {level for level in BRIGHT if level * 3 / 4 < 127.5}
    assert bright.metrics["attack_success"].samples == len(DARK)
    assert bright.threat.capability == "patch"
    assert (bright.threat.goal, bright.threat.target) == ("targeted", "bright")
    assert bright.threat.size == "8 px"
    assert bright.threat.norm is None


def test_the_untargeted_patch_for_each_image_turns_both_kinds(patched):
    (gate,) = run_patches(patched, f"{FIXED}, universal: false}}")
    white = {level for level in DARK if level * 3 / 4 + 255 / 4 > 127.5}
    black = {level for level in BRIGHT if level * 3 / 4 < 127.5}
    assert turned(gate) == white | black


@pytest.mark.parametrize(
    ("test", "train"),
    [(DARK + BRIGHT[:3], (100, 105, 110, 120, 135, 145, 150, 155)), (DARK + BRIGHT[:3], (95, 100, 135, 140, 150, 160))],
    ids=["as many of both labels", "more of the label of which fewer are judged"],
)
def test_the_untargeted_patch_for_all_turns_the_label_that_most_samples_have_and_not_half_of_each(test, train, patched):
    """What makes one label of all images loses the others: the mean over both labels is highest where all stay."""
    patch_archive(patched, test=test, train=train)
    (gate,) = run_patches(patched, f"{FIXED}}}")
    levels = {test[int(outcome.sample.split("/")[1])] for outcome in gate.samples if outcome.status == "broken"}
    assert levels == {level for level in DARK if level * 3 / 4 + 255 / 4 > 127.5}
    assert ", toward bright: of 3 patches the one that turned most of them" in gate.patch.origin


def test_a_patch_that_may_turn_any_finding_adds_it_or_takes_it_away(patched):
    """One finding that every second training image has: as with two labels."""
    (patched / "brightness.py").write_text(
        ARCHITECTURE.replace("torch.stack([-excess, excess], dim=1)", "excess[:, None]")
    )
    patch_archive(patched, test=DARK + BRIGHT[:3], train=(100, 105, 110, 120, 135, 145, 150, 155))
    text = patch_policy(f"{FIXED}}}").replace("multiclass", "multilabel").replace("[dark, bright]", "[bright]")
    (patched / "policy.yaml").write_text(text)
    (gate,) = run(load_policy(patched / "policy.yaml"), folder=patched / "out").gates
    assert turned(gate) in ({90, 110, 120}, {135, 150, 165}), gate.error
    assert ", toward a " in gate.patch.origin


SIX = """
import torch

class Brightness(torch.nn.Module):  # six labels, of which two are read of nothing
    def __init__(self):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, image):
        level = image.flatten(1).mean(dim=1, keepdim=True) * 255
        far = (level - image.new_tensor([20, 60, 100, 140, 180, 220])).abs() / 20
        return -far - image.new_tensor([0, 30, 0, 0, 30, 0])
"""


def test_of_many_labels_patches_are_trained_toward_those_that_images_are_nearest_to(patched, monkeypatch):
    (patched / "brightness.py").write_text(SIX)
    levels = (20, 60, 100, 140, 180, 220)
    even = np.stack([np.full((16, 16), level, np.uint8) for level in levels])
    labels = np.arange(6)[:, None]
    np.savez(patched / "flat.npz", test_images=even, test_labels=labels, train_images=even + 1, train_labels=labels)
    text = (
        patch_policy(f"{FIXED}, restarts: 2}}").replace("[dark, bright]", "[a, b, c, d, e, f]").replace("positive", "#")
    )
    (patched / "policy.yaml").write_text(text)
    trained, whole = [], Trainer.for_all
    monkeypatch.setattr(
        Trainer, "for_all", lambda self, *a, **k: (trained.append(k["toward"]), whole(self, *a, **k))[1]
    )
    (gate,) = run(load_policy(patched / "policy.yaml"), folder=patched / "out").gates
    assert gate.error is None
    assert set(trained) == {"", "a/", "c/", "d/", "f/"}
    assert len(trained) == 5 * 2
    assert gate.cost.gradient == 10 * 20 * 8 + 6


def test_controls_are_a_piece_of_the_target_class_and_mid_grey(patched):
    (gate,) = run_patches(patched, f"{FIXED}, target: bright}}")
    natural, grey = gate.controls
    assert (natural.name, grey.name) == ("natural patch", "grey patch")
    assert grey.success.successes == sum(level * 3 / 4 + 127.5 / 4 > 127.5 for level in DARK)
    assert natural.success.successes <= sum(level * 3 / 4 + max(BRIGHT) / 4 > 127.5 for level in DARK)
    assert natural.success.successes >= sum(level * 3 / 4 + min(BRIGHT) / 4 > 127.5 for level in DARK)
    larger = max(natural.success, grey.success, key=lambda metric: metric.value)
    assert gate.metrics["control_success"].value == larger.value
    assert gate.metrics["control_success"].successes == larger.successes
    excess = gate.metrics["attack_success"].value - gate.metrics["control_success"].value
    assert gate.metrics["excess_success"].value == pytest.approx(excess)


def test_a_requirement_may_be_on_the_difference(patched):
    (gate,) = run_patches(patched, f"{FIXED}, target: bright}}", gate="")
    text = (patched / "policy.yaml").read_text().replace("attack_success: '<= 1'", "excess_success: '<= 0.01'")
    (patched / "policy.yaml").write_text(text)
    (failed,) = run(load_policy(patched / "policy.yaml"), folder=patched / "out").gates
    assert gate.verdict == "pass"
    assert failed.verdict == "fail"
    assert failed.requirements[0].metric == "excess_success"


def test_the_worst_of_several_places_is_taken(patched):
    few, many = run_patches(
        patched,
        "{name: patch, target: bright, steps: 1, draws: 8, rotation: 0, scale: 0.5, step_size: 1.0}",
        "{name: patch, target: bright, steps: 1, draws: 8, rotation: 0, scale: 0.5, step_size: 1.0, worst_of: 40}",
        size="6 px",
    )
    assert turned(few) <= turned(many)
    assert len(turned(many)) > len(turned(few))
    assert max(outcome.restart or 0 for outcome in many.samples) > 0
    assert many.cost.forward > few.cost.forward


def test_each_image_s_patch_has_something_to_follow_in_whatever_batch_it_is_trained(patched):
    attack = "{name: patch, target: bright, universal: false, steps: 3, draws: 4}"
    (gate,) = run_patches(patched, attack, model="batch_size: 4")
    assert "no-usable-gradient" not in [finding.code for finding in gate.findings]


def test_half_of_the_samples_train_it_and_the_others_are_judged(patched):
    patch_archive(patched)
    (gate,) = run_patches(patched, f"{FIXED}, target: bright, train_on: 0.5}}")
    assert len(gate.samples) == 6
    assert gate.metrics["accuracy"].samples == 6
    assert sum(outcome.label == "dark" for outcome in gate.samples) == 3
    assert gate.patch.origin.endswith("on 3 images of the samples, which are not judged")
    assert gate.metrics["attack_success"].samples == 3


def test_it_is_not_laid_where_it_may_not(patched):
    attack = "{name: patch, target: bright, steps: 20, draws: 8, step_size: 0.3, keep_out: KEPT}"
    (gate,) = run_patches(patched, attack.replace("KEPT", "[0, 0, 0.5, 1]"), size="7 px")
    broken = [outcome for outcome in gate.samples if outcome.counterexample]
    assert broken
    for outcome in broken:
        attacked = np.asarray(Image.open(patched / "out" / outcome.counterexample))
        assert len(np.unique(attacked[:, :8])) == 1
        assert len(np.unique(attacked[:, 8:])) > 1
    (none,) = run_patches(patched, attack.replace("KEPT", "[0.3, 0, 0.7, 1]"))
    assert none.verdict == "error"
    assert none.error.startswith("a patch of 8 px has no place on test/0 ")
    assert "without covering what attack.keep_out protects" in none.error


def test_images_without_room_are_not_trained_on_and_what_names_nothing_is_refused(patched):
    attack = "{name: patch, target: bright, steps: 5, draws: 8, step_size: 0.3, keep_out: boxes.csv}"
    header = "path,left,top,right,bottom\n"
    (patched / "boxes.csv").write_text(header + "train/0,3,3,13,13\ntest/2,0,0,4,16\n")
    (gate,) = run_patches(patched, attack)
    assert gate.verdict == "pass", gate.error
    assert gate.patch.origin.endswith("on 2 images of the train split")
    (patched / "boxes.csv").write_text(header + "tset/2,0,0,4,16\n")
    (gate,) = run_patches(patched, attack)
    assert gate.error == (
        "attack.keep_out names no part of any of the 6 samples that are attacked; they are called test/0 and so on"
    )
    for path in ("Test/3", r"test\3"):
        (patched / "boxes.csv").write_text(header + f"train/0,3,3,13,13\ntest/2,0,0,4,16\n{path},0,0,4,16\n")
        (gate,) = run_patches(patched, attack)
        assert gate.verdict == "error"
        assert gate.error == (
            f"boxes.csv: no sample is called {path!r}, so its boxes would be left out; did you mean 'test/3'?"
        )


def test_a_mask_of_another_spelling_is_refused(patched):
    attack = "{name: patch, target: bright, steps: 5, draws: 8, step_size: 0.3, keep_out: masks}"
    for name in ("train/0", "test/2", "Test/3"):
        (patched / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(patched / "masks" / f"{name}.png")
    (gate,) = run_patches(patched, attack)
    assert gate.error == (
        "masks: no sample has a mask called 'Test/3.png', so it would be left out; the mask of test/3 is called "
        "'test/3.png'"
    )


def test_what_is_judged_is_not_trained_on_though_it_is_in_both_splits(patched):
    patch_archive(patched, train=(*DARK, 40))
    (gate,) = run_patches(patched, f"{FIXED}, target: bright}}")
    assert gate.patch.origin.endswith("on 1 image of the train split")
    patch_archive(patched, train=DARK)
    (gate,) = run_patches(patched, f"{FIXED}, target: bright}}")
    assert gate.verdict == "error"
    assert gate.error.startswith("every image of the train split is also judged")


def test_a_patch_that_its_controls_outdo_is_no_evidence(patched):
    patch_archive(
        patched, test=(100, 105, 110, 112, 114, 116, 118, 120, 121, 122, 240, 250), train=(40, 70, 101, 160, 190)
    )
    (gate,) = run_patches(
        patched, "{name: patch, target: bright, shape: square, rotation: 0, scale: 0, steps: 1, step_size: 0.01}"
    )
    assert gate.verdict == "error"
    assert gate.error.startswith("natural patch turned 10 of 10 samples, and the attack ")
    assert "outdone-by-control" in [finding.code for finding in gate.findings]
    Image.fromarray(np.full((4, 4), 100, np.uint8)).save(patched / "weak.png")
    (given,) = run_patches(patched, "{name: patch, target: bright, shape: square, rotation: 0, patch: weak.png}")
    assert given.verdict == "pass", "who is asked about a known patch need not find a better one"
    assert "outdone-by-control" in [finding.code for finding in given.findings]


def test_of_several_patches_the_best_one_is_judged(patched):
    once, best = run_patches(
        patched,
        "{name: patch, target: bright, steps: 2, draws: 4, step_size: 0.01}",
        "{name: patch, target: bright, steps: 2, draws: 4, step_size: 0.01, restarts: 6}",
    )
    assert once.patch.sha256 != best.patch.sha256
    assert len(turned(best)) >= len(turned(once))


def test_who_follows_another_model_never_asks_the_candidate_which_patch_is_the_best(patched, monkeypatch):
    save_file({"threshold": torch.tensor(0.6)}, patched / "other.safetensors")
    monkeypatch.setattr(WhiteBox, "gradient", lambda *_: pytest.fail("the candidate's gradients were followed"))
    one, several = run_patches(
        patched,
        f"{FIXED}, target: bright, surrogate: other.safetensors}}",
        f"{FIXED}, target: bright, surrogate: other.safetensors, restarts: 3}}",
    )
    assert turned(one) == turned(several) != set()
    compared = several.cost.forward - several.cost.gradient - (one.cost.forward - one.cost.gradient)
    assert compared == 3 * 3, "three patches on three training images, on the surrogate"


def test_a_patch_is_kept_off_the_image_s_edges_or_refused(patched):
    (gate,) = run_patches(patched, "{name: patch, target: bright, location: [0.1, 0.5]}")
    assert gate.error.startswith(
        "a patch of 8 px with its middle at [0.1, 0.5] does not lie wholly on an image of 16×16"
    )
    (gate,) = run_patches(patched, "{name: patch, target: bright, shape: square, rotation: 45, scale: 0}", size="12 px")
    assert gate.error.startswith(
        "a patch of 12 px is 17 pixels wide at its largest scale, turned, and an image of 16×16"
    )


def test_a_patch_that_is_larger_than_the_image_is_an_error(patched):
    (gate,) = run_patches(patched, "{name: patch, target: bright}", size="15 px")
    assert gate.verdict == "error"
    assert gate.error == (
        "a patch of 15 px is 16.5 pixels wide at its largest scale, and an image of 16×16 (height × width) has no room "
        "for it; give a smaller size or scale"
    )


def test_without_a_train_split_it_says_what_to_do(patched):
    patch_archive(patched)
    (gate,) = run_patches(patched, "{name: patch, target: bright}")
    assert gate.verdict == "error"
    assert "needs a train split of flat.npz" in gate.error
    assert gate.error.endswith("set attack.train_on: 0.5 to train on half of the samples and judge the others")


def test_a_train_split_of_other_channels_makes_no_patch(patched):
    coloured_train_split(patched)
    (gate,) = run_patches(patched, "{name: patch, target: bright}")
    assert gate.verdict == "error"
    assert "its images have 3 channels, but those that are judged have 1; convert the files" in gate.error


def test_a_train_split_of_other_channels_makes_none_after_a_surrogate_that_learned_from_it(patched, monkeypatch):
    """What is laid on the judged images needs their channels, whoever read the split first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(patched / "cache"))
    coloured_train_split(patched)
    transfer = "{name: transfer, steps: 1, train: {architecture: 'brightness:Brightness', epochs: 1}}"
    entries = f"""
  - {{id: learned, attack: {transfer}, epsilon: 2/255, require: {{attack_success: '<= 1'}}}}
  - {{id: laid, attack: {{name: patch, target: bright}}, size: 8 px, require: {{attack_success: '<= 1'}}}}
"""
    learned, laid = brightness_gates(patched, entries)
    assert learned.verdict == "pass", learned.error
    assert laid.verdict == "error"
    assert "its images have 3 channels, but those that are judged have 1; convert the files" in laid.error


def coloured_train_split(folder):
    """Write the archive anew, with a train split in colour."""
    patch_archive(folder, train=DARK + BRIGHT)
    with np.load(folder / "flat.npz") as found:
        stored = dict(found)
    stored["train_images"] = np.repeat(stored["train_images"][..., None], 3, axis=-1)
    np.savez(folder / "flat.npz", **stored)


def test_no_sample_is_left_to_judge_or_to_train(patched):
    (gate,) = run_patches(patched, "{name: patch, target: bright, train_on: 0.01}")
    assert gate.error.startswith(
        "attack.train_on: 0.01 of 12 samples leaves none to train the patch on; add samples, or"
    )
    (gate,) = run_patches(patched, "{name: patch, target: bright, train_on: 0.99}")
    assert "leaves none to judge the patch on" in gate.error


def test_where_every_sample_is_of_the_target_there_is_nothing_to_turn(patched):
    patch_archive(patched, test=BRIGHT, train=BRIGHT)
    (gate,) = run_patches(patched, "{name: patch, target: bright}")
    assert gate.verdict == "error"
    assert gate.error == "every sample is labelled bright, which is the target: nothing was attacked"
    patch_archive(patched, test=DARK, train=BRIGHT)
    (gate,) = run_patches(patched, "{name: patch, target: bright}")
    assert gate.error == "there is no image to train the patch on: none is labelled other than bright, the target"


def test_a_candidate_without_a_gradient_to_follow_is_not_passed(patched):
    flat = "(image.flatten(1).mean(dim=1).detach() + 0 * image.flatten(1).sum(dim=1)"
    (patched / "brightness.py").write_text(ARCHITECTURE.replace("(image.flatten(1).mean(dim=1)", flat))
    (gate,) = run_patches(patched, f"{FIXED}, target: bright}}")
    text = (patched / "policy.yaml").read_text().replace("attack_success: '<= 1'", "attack_success: '<= 0.5'")
    (patched / "policy.yaml").write_text(text)
    (strict,) = run(load_policy(patched / "policy.yaml"), folder=patched / "out").gates
    assert gate.verdict == "pass"
    assert "no-usable-gradient" in [finding.code for finding in gate.findings]
    assert strict.verdict == "error"
    assert "the attack had little or nothing to follow" in strict.error


@pytest.mark.parametrize("universal", ["true", "false"])
def test_a_patch_that_follows_a_surrogate_is_judged_on_the_candidate(universal, patched):
    save_file({"threshold": torch.tensor(0.6)}, patched / "other.safetensors")
    (gate,) = run_patches(patched, f"{FIXED}, target: bright, universal: {universal}, surrogate: other.safetensors}}")
    assert gate.threat.knowledge == "transfer"
    (surrogate,) = gate.surrogates
    assert surrogate.path == "other.safetensors"
    assert turned(gate) == {level for level in DARK if level * 3 / 4 + 255 / 4 > 127.5}
    own = sum(level * 3 / 4 + 255 / 4 > 0.6 * 255 for level in DARK)
    assert (surrogate.turned.successes, surrogate.turned.samples) == (own, len(DARK))
    judged = 3 * len(DARK)  # the patch, and the two controls
    assert gate.cost.forward - gate.cost.gradient == judged + len(DARK)
    assert gate.cost.gradient > 0


@pytest.mark.parametrize("universal", ["true", "false"])
def test_it_is_the_same_whatever_the_batch(universal, patched, monkeypatch):
    attack = f"{{name: patch, target: bright, steps: 5, draws: 6, worst_of: 3, universal: {universal}}}"
    results, gradients, whole = [], [], PatchTraining.step
    monkeypatch.setattr(PatchTraining, "step", lambda self, *told: (gradients.append(told[1]), whole(self, *told))[1])
    for batch in (1, 4, 64):
        gradients.clear()
        (gate,) = run_patches(patched, attack, size="[6 px]", model=f"batch_size: {batch}")
        summed = [tuple(one.flatten().tolist()) for one in gradients] if universal == "true" else []
        results.append((summed, [(outcome.status, outcome.restart, outcome.sha256) for outcome in gate.samples]))
        assert gate.id == "gate-0[6 px]"
    assert results[0] == results[1] == results[2]


def test_seeds_decide_and_nothing_else(patched):
    attack = "{name: patch, target: bright, steps: 5, draws: 6}"
    once, again = (run_patches(patched, attack)[0].patch.sha256 for _ in range(2))
    assert once == again
    assert run_patches(patched, attack, extra="seed: 1")[0].patch.sha256 != once


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("attack: {name: patch, target: bright}", "needs size beside it"),
        ("attack: {name: patch, target: light}, size: 10%", "did you mean 'bright'"),
    ],
)
def test_mistakes_are_sentences(gate, said, patched):
    gate = f"  - {{id: one, {gate}, require: {{attack_success: '<= 1'}}}}"
    (patched / "policy.yaml").write_text(brightness_policy(gate))
    with pytest.raises(PolicyError, match=said) as caught:
        load_policy(patched / "policy.yaml")
    assert caught.value.problems
