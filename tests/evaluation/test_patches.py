"""Gates with a patch, on a network whose answer is the mean brightness: what a patch can turn is known."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from building import ARCHITECTURE
from PIL import Image
from safetensors.torch import save_file

from robustcheck import load_policy, run
from robustcheck.errors import PolicyError
from robustcheck.models import WhiteBox
from robustcheck.results import AuditReport

DARK, BRIGHT = (20, 60, 80, 90, 110, 120), (135, 150, 165, 180, 200, 240)
SIDE = 16


@pytest.fixture
def project(tmp_path):
    """Even images of 16×16: a white patch of 8 pixels' side adds 255/4 to three quarters of what was there."""
    (tmp_path / "brightness.py").write_text(ARCHITECTURE)
    save_file({"threshold": torch.tensor(0.5)}, tmp_path / "brightness.safetensors")
    _archive(tmp_path, train=(40, 70, 100, 160, 190, 220))
    return tmp_path


def _archive(folder, *, test=DARK + BRIGHT, train=None, shape=(SIDE, SIDE)):
    def part(name, levels):
        images = np.stack([np.full(shape, level, np.uint8) for level in levels])
        return {f"{name}_images": images, f"{name}_labels": np.array([[int(level > 127.5)] for level in levels])}

    np.savez(folder / "even.npz", **part("test", test), **(part("train", train) if train else {}))


def _run(folder, *attacks, size="8 px", gate="", channels=None, extra=""):
    (folder / "policy.yaml").write_text(_policy(*attacks, size=size, gate=gate, channels=channels, extra=extra))
    return run(load_policy(folder / "policy.yaml"), folder=folder / "out").gates


def _policy(*attacks, size="8 px", gate="", channels=None, extra=""):
    entries = "".join(
        f"  - {{id: gate-{number}, attack: {attack}, size: {size}, require: {{attack_success: '<= 1'}} {gate}}}\n"
        for number, attack in enumerate(attacks)
    )
    return f"""
robustcheck: 1
model:
  path: brightness.safetensors
  architecture: brightness:Brightness
  task: multiclass
  labels: [dark, bright]
  positive: bright
  {f"preprocess: {{channels: {channels}}}" if channels else ""}
data: {{source: even.npz}}
{extra}
gates:
{entries}"""


FIXED = "{name: patch, shape: square, rotation: 0, scale: 0, steps: 20, draws: 8, step_size: 0.3"


def _turned(gate, levels=DARK + BRIGHT):
    return {
        level
        for level in levels
        if any(one.status == "broken" and one.sample == f"test/{(DARK + BRIGHT).index(level)}" for one in gate.samples)
    }


@pytest.mark.parametrize("universal", ["true", "false"])
def test_it_turns_what_a_white_or_black_square_turns_and_nothing_else(universal, project):
    bright, dark = _run(
        project,
        f"{FIXED}, target: bright, universal: {universal}}}",
        f"{FIXED}, target: dark, universal: {universal}}}",
    )
    assert bright.verdict == dark.verdict == "pass", (bright.error, dark.error)
    assert _turned(bright) == {level for level in DARK if level * 3 / 4 + 255 / 4 > 127.5}
    assert _turned(dark) == {level for level in BRIGHT if level * 3 / 4 < 127.5}
    assert bright.metrics["attack_success"].samples == len(DARK)
    assert bright.threat.capability == "patch"
    assert (bright.threat.goal, bright.threat.target) == ("targeted", "bright")
    assert bright.threat.size == "8 px"
    assert bright.threat.norm is None


def test_the_untargeted_patch_for_each_image_turns_both_kinds(project):
    (gate,) = _run(project, f"{FIXED}, universal: false}}")
    white = {level for level in DARK if level * 3 / 4 + 255 / 4 > 127.5}
    black = {level for level in BRIGHT if level * 3 / 4 < 127.5}
    assert _turned(gate) == white | black


def test_controls_are_a_piece_of_the_target_class_and_mid_grey(project):
    (gate,) = _run(project, f"{FIXED}, target: bright}}")
    natural, grey = gate.controls
    assert (natural.name, grey.name) == ("natural patch", "grey patch")
    assert grey.success.successes == sum(level * 3 / 4 + 127.5 / 4 > 127.5 for level in DARK)
    assert natural.success.successes <= sum(level * 3 / 4 + max(BRIGHT) / 4 > 127.5 for level in DARK)
    assert natural.success.successes >= sum(level * 3 / 4 + min(BRIGHT) / 4 > 127.5 for level in DARK)
    assert gate.metrics["control_success"] == max(natural.success, grey.success, key=lambda metric: metric.value)
    excess = gate.metrics["attack_success"].value - gate.metrics["control_success"].value
    assert gate.metrics["excess_success"].value == pytest.approx(excess)


def test_a_requirement_may_be_on_the_difference(project):
    (gate,) = _run(project, f"{FIXED}, target: bright}}", gate="")
    text = (project / "policy.yaml").read_text().replace("attack_success: '<= 1'", "excess_success: '<= 0.01'")
    (project / "policy.yaml").write_text(text)
    (failed,) = run(load_policy(project / "policy.yaml"), folder=project / "out").gates
    assert gate.verdict == "pass"
    assert failed.verdict == "fail"
    assert failed.requirements[0].metric == "excess_success"


def test_counterexamples_differ_under_the_patch_only_and_are_stored(project):
    (gate,) = _run(project, "{name: patch, target: bright, steps: 10, draws: 8, step_size: 0.3}")
    broken = [outcome for outcome in gate.samples if outcome.status == "broken"]
    assert broken
    for outcome in broken:
        attacked = np.asarray(Image.open(project / "out" / outcome.counterexample)).astype(int)
        level = (DARK + BRIGHT)[int(outcome.sample.split("/")[1])]
        changed = attacked != level
        area = np.pi * 16 * 1.21
        assert 0 < changed.sum() <= area * 1.1
        assert attacked.mean() > 127.5
        assert outcome.distance_levels is None


def test_the_patch_is_a_file_that_another_run_can_be_given(project):
    trained = _run(project, f"{FIXED}, target: bright}}")[0]
    assert trained.patch.origin == "trained here in 20 steps on 3 images of the train split"
    assert trained.patch.side == 16
    out = project / "out"
    picture, array = out / trained.patch.picture, out / trained.patch.array
    assert np.load(array).shape == (1, 16, 16)
    assert (np.asarray(Image.open(picture)) == np.load(array)[0]).all()
    (project / "kept.png").write_bytes(picture.read_bytes())
    (project / "kept.npy").write_bytes(array.read_bytes())
    given = _run(
        project,
        *(
            f"{{name: patch, shape: square, rotation: 0, scale: 0, target: bright, patch: kept.{end}}}"
            for end in ("png", "npy")
        ),
    )
    for gate in given:
        assert gate.patch.sha256 == trained.patch.sha256
        assert gate.threat.knowledge == "none"
        assert gate.cost.gradient == 0
        assert _turned(gate) == _turned(trained)
    assert given[0].patch.origin == "given: kept.png"


def test_each_image_has_a_file_of_its_own_patch(project):
    (gate,) = _run(project, f"{FIXED}, target: bright, universal: false}}")
    broken = [outcome for outcome in gate.samples if outcome.status == "broken"]
    assert gate.patch is None
    assert all(np.asarray(Image.open(project / "out" / outcome.patch)).shape == (16, 16) for outcome in broken)
    assert len({outcome.patch for outcome in broken}) == len(broken) > 0


def test_the_worst_of_several_places_is_taken(project):
    few, many = _run(
        project,
        "{name: patch, target: bright, steps: 1, draws: 8, rotation: 0, scale: 0.5, step_size: 1.0}",
        "{name: patch, target: bright, steps: 1, draws: 8, rotation: 0, scale: 0.5, step_size: 1.0, worst_of: 40}",
        size="6 px",
    )
    assert _turned(few) <= _turned(many)
    assert len(_turned(many)) > len(_turned(few))
    assert max(outcome.restart or 0 for outcome in many.samples) > 0
    assert many.cost.forward > few.cost.forward


def test_half_of_the_samples_train_it_and_the_others_are_judged(project):
    _archive(project)
    (gate,) = _run(project, f"{FIXED}, target: bright, train_on: 0.5}}")
    assert len(gate.samples) == 6
    assert gate.metrics["accuracy"].samples == 6
    assert sum(outcome.label == "dark" for outcome in gate.samples) == 3
    assert gate.patch.origin.endswith("on 3 images of the samples, which are not judged")
    assert gate.metrics["attack_success"].samples == 3


def test_it_is_not_laid_where_it_may_not(project):
    attack = "{name: patch, target: bright, steps: 20, draws: 8, step_size: 0.3, keep_out: KEPT}"
    (gate,) = _run(project, attack.replace("KEPT", "[0, 0, 0.5, 1]"), size="7 px")
    broken = [outcome for outcome in gate.samples if outcome.counterexample]
    assert broken
    for outcome in broken:
        attacked = np.asarray(Image.open(project / "out" / outcome.counterexample))
        assert len(np.unique(attacked[:, :8])) == 1
        assert len(np.unique(attacked[:, 8:])) > 1
    (none,) = _run(project, attack.replace("KEPT", "[0.3, 0, 0.7, 1]"))
    assert none.verdict == "error"
    assert none.error.startswith("a patch of 8 px has no place on train/")
    assert "without covering what attack.keep_out says it may not" in none.error


def test_images_without_room_are_not_trained_on_and_what_names_nothing_is_refused(project):
    attack = "{name: patch, target: bright, steps: 5, draws: 8, step_size: 0.3, keep_out: boxes.csv}"
    header = "path,left,top,right,bottom\n"
    (project / "boxes.csv").write_text(header + "train/0,3,3,13,13\ntest/2,0,0,4,16\n")
    (gate,) = _run(project, attack)
    assert gate.verdict == "pass", gate.error
    assert gate.patch.origin.endswith("on 2 images of the train split")
    (project / "boxes.csv").write_text(header + "tset/2,0,0,4,16\n")
    (gate,) = _run(project, attack)
    assert gate.error == (
        "attack.keep_out names no part of any of the 6 samples that are attacked; they are called test/0 and so on"
    )


def test_what_is_judged_is_not_trained_on_though_it_is_in_both_splits(project):
    _archive(project, train=(*DARK, 40))
    (gate,) = _run(project, f"{FIXED}, target: bright}}")
    assert gate.patch.origin.endswith("on 1 images of the train split")
    _archive(project, train=DARK)
    (gate,) = _run(project, f"{FIXED}, target: bright}}")
    assert gate.verdict == "error"
    assert gate.error.startswith("every image of the train split is judged as well")


def test_a_patch_that_its_controls_outdo_is_no_evidence(project):
    _archive(project, test=(100, 105, 110, 112, 114, 116, 118, 120, 121, 122, 240, 250), train=(40, 70, 101, 160, 190))
    (gate,) = _run(
        project, "{name: patch, target: bright, shape: square, rotation: 0, scale: 0, steps: 1, step_size: 0.01}"
    )
    assert gate.verdict == "error"
    assert gate.error.startswith("natural patch turned 10 of 10 samples, and the attack ")
    assert "outdone-by-control" in [finding.code for finding in gate.findings]
    Image.fromarray(np.full((4, 4), 100, np.uint8)).save(project / "weak.png")
    (given,) = _run(project, "{name: patch, target: bright, shape: square, rotation: 0, patch: weak.png}")
    assert given.verdict == "pass", "who is asked about a known patch need not find a better one"
    assert "outdone-by-control" in [finding.code for finding in given.findings]


def test_of_several_patches_the_best_one_is_judged(project):
    once, best = _run(
        project,
        "{name: patch, target: bright, steps: 2, draws: 4, step_size: 0.01}",
        "{name: patch, target: bright, steps: 2, draws: 4, step_size: 0.01, restarts: 6}",
    )
    assert once.patch.sha256 != best.patch.sha256
    assert len(_turned(best)) >= len(_turned(once))


def test_who_follows_another_model_never_asks_the_candidate_which_patch_is_the_best(project, monkeypatch):
    save_file({"threshold": torch.tensor(0.6)}, project / "other.safetensors")
    monkeypatch.setattr(WhiteBox, "gradient", lambda *_: pytest.fail("the candidate's gradients were followed"))
    one, several = _run(
        project,
        f"{FIXED}, target: bright, surrogate: other.safetensors}}",
        f"{FIXED}, target: bright, surrogate: other.safetensors, restarts: 3}}",
    )
    assert _turned(one) == _turned(several) != set()
    compared = several.cost.forward - several.cost.gradient - (one.cost.forward - one.cost.gradient)
    assert compared == 3 * 3, "three patches on three training images, on the surrogate"


def test_deep_images_and_images_of_several_sizes(project):
    for folder, shapes in (("deep", [(16, 16)] * 4), ("sizes", [(16, 16), (20, 24), (16, 16), (24, 20)])):
        for label, levels in (("dark", (20000, 28000)), ("bright", (40000, 60000))):
            (project / folder / label).mkdir(parents=True)
            for number, (level, shape) in enumerate(zip(levels, shapes, strict=False)):
                Image.fromarray(np.full(shape, level, np.uint16)).save(project / folder / label / f"{number}.png")
        text = _policy(f"{FIXED}, target: bright, universal: false}}", size="40%").replace("even.npz", folder)
        (project / "policy.yaml").write_text(text)
        (gate,) = run(load_policy(project / "policy.yaml"), folder=project / "out").gates
        assert gate.verdict == "pass", gate.error
        broken = [outcome for outcome in gate.samples if outcome.status == "broken"]
        assert [outcome.label for outcome in broken] == ["dark", "dark"]
        assert np.asarray(Image.open(project / "out" / broken[0].patch)).dtype == np.uint16


def test_a_patch_is_kept_off_the_image_s_edges_or_refused(project):
    (gate,) = _run(project, "{name: patch, target: bright, location: [0.1, 0.5]}")
    assert gate.error.startswith("a patch of 8 px with its middle at [0.1, 0.5] does not lie on an image of 16×16")
    (gate,) = _run(project, "{name: patch, target: bright, shape: square, rotation: 45, scale: 0}", size="12 px")
    assert gate.error.startswith(
        "a patch of 12 px is 17 pixels wide at its largest scale, turned, and an image of 16×16"
    )


def test_a_patch_that_is_larger_than_the_image_is_an_error(project):
    (gate,) = _run(project, "{name: patch, target: bright}", size="15 px")
    assert gate.verdict == "error"
    assert gate.error == (
        "a patch of 15 px is 16.5 pixels wide at its largest scale, and an image of 16×16 (height × width) has no room "
        "for it; give a smaller size or scale"
    )


def test_without_a_train_split_it_says_what_to_do(project):
    _archive(project)
    (gate,) = _run(project, "{name: patch, target: bright}")
    assert gate.verdict == "error"
    assert "needs a train split of even.npz" in gate.error
    assert gate.error.endswith("write attack.train_on: 0.5 to train on half of the samples, and judge the others")


def test_no_sample_is_left_to_judge_or_to_train(project):
    (gate,) = _run(project, "{name: patch, target: bright, train_on: 0.01}")
    assert gate.error.startswith(
        "attack.train_on: 0.01 of 12 samples leaves none to train the patch on; add samples, or"
    )
    (gate,) = _run(project, "{name: patch, target: bright, train_on: 0.99}")
    assert "leaves none to judge it on" in gate.error


def test_where_every_sample_is_of_the_target_there_is_nothing_to_turn(project):
    _archive(project, test=BRIGHT, train=BRIGHT)
    (gate,) = _run(project, "{name: patch, target: bright}")
    assert gate.verdict == "error"
    assert gate.error == "every sample is labelled bright, which is the target: nothing was attacked"
    _archive(project, test=DARK, train=BRIGHT)
    (gate,) = _run(project, "{name: patch, target: bright}")
    assert gate.error == "there is no image to train the patch on: none is labelled other than bright, the target"


def test_a_candidate_without_a_gradient_to_follow_is_not_passed(project):
    flat = "(image.flatten(1).mean(dim=1).detach() + 0 * image.flatten(1).sum(dim=1)"
    (project / "brightness.py").write_text(ARCHITECTURE.replace("(image.flatten(1).mean(dim=1)", flat))
    (gate,) = _run(project, f"{FIXED}, target: bright}}")
    text = (project / "policy.yaml").read_text().replace("attack_success: '<= 1'", "attack_success: '<= 0.5'")
    (project / "policy.yaml").write_text(text)
    (strict,) = run(load_policy(project / "policy.yaml"), folder=project / "out").gates
    assert gate.verdict == "pass"
    assert "no-usable-gradient" in [finding.code for finding in gate.findings]
    assert strict.verdict == "error"
    assert "the attack had nothing to follow" in strict.error


@pytest.mark.parametrize(
    ("name", "pixels", "said"),
    [
        ("wide.png", np.zeros((4, 6), np.uint8), r"wide.png is 4×6 pixels \(height × width\); a patch is square"),
        ("colour.png", np.zeros((4, 4, 3), np.uint8), "colour.png has 3 channels, and the images have 1"),
        ("floats.npy", np.zeros((4, 4), np.float32), "floats.npy holds float32 of shape"),
        ("deep.npy", np.full((1, 4, 4), 300, np.uint16), "deep.npy holds values up to 300; with 8 bits, 0 to 255"),
        ("objects.npy", np.array([{}], dtype=object), "objects.npy: it cannot be read"),
        ("text.npy", None, "text.npy: it cannot be read"),
        ("empty.npy", np.zeros((1, 0, 0), np.uint8), "empty.npy holds no pixels"),
    ],
)
def test_a_file_that_is_no_patch_is_said(name, pixels, said, project):
    if pixels is None:
        (project / name).write_text("no array")
    elif name.endswith("png"):
        Image.fromarray(pixels).save(project / name)
    else:
        np.save(project / name, pixels, allow_pickle=True)
    (gate,) = _run(project, f"{{name: patch, target: bright, patch: {name}}}", size="4 px")
    assert gate.verdict == "error"
    assert re.search(said, gate.error)


def test_colour_images_that_are_not_square(project):
    _archive(project, train=(40, 70, 100, 160), shape=(12, 20, 3))
    (gate,) = _run(project, f"{FIXED}, target: bright}}", channels=3)
    assert _turned(gate) == {level for level in DARK if level * (1 - 64 / 240) + 255 * 64 / 240 > 127.5}
    assert np.load(project / "out" / gate.patch.array).shape == (3, 16, 16)
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(project / "white.png")
    (grey,) = _run(
        project, "{name: patch, target: bright, patch: white.png, shape: square, rotation: 0, scale: 0}", channels=3
    )
    assert _turned(grey) == _turned(gate)


@pytest.mark.parametrize("universal", ["true", "false"])
def test_a_patch_that_follows_a_surrogate_is_judged_on_the_candidate(universal, project):
    save_file({"threshold": torch.tensor(0.6)}, project / "other.safetensors")
    (gate,) = _run(project, f"{FIXED}, target: bright, universal: {universal}, surrogate: other.safetensors}}")
    assert gate.threat.knowledge == "transfer"
    (surrogate,) = gate.surrogates
    assert surrogate.path == "other.safetensors"
    assert _turned(gate) == {level for level in DARK if level * 3 / 4 + 255 / 4 > 127.5}
    own = sum(level * 3 / 4 + 255 / 4 > 0.6 * 255 for level in DARK)
    assert (surrogate.turned.successes, surrogate.turned.samples) == (own, len(DARK))
    judged = 3 * len(DARK)  # the patch, and the two controls
    assert gate.cost.forward - gate.cost.gradient == judged + len(DARK)
    assert gate.cost.gradient > 0


def test_it_is_the_same_whatever_the_batch(project):
    attack = "{name: patch, target: bright, steps: 5, draws: 6, worst_of: 3, universal: false}"
    results = []
    for batch in (1, 4, 64):
        (gate,) = _run(project, attack, extra="", size="[6 px]")
        text = (
            (project / "policy.yaml")
            .read_text()
            .replace("positive: bright", f"positive: bright\n  batch_size: {batch}")
        )
        (project / "policy.yaml").write_text(text)
        (gate,) = run(load_policy(project / "policy.yaml"), folder=project / "out").gates
        results.append([(outcome.status, outcome.restart, outcome.sha256) for outcome in gate.samples])
        assert gate.id == "gate-0[6 px]"
    assert results[0] == results[1] == results[2]


def test_seeds_decide_and_nothing_else(project):
    attack = "{name: patch, target: bright, steps: 5, draws: 6}"
    once, again = (_run(project, attack)[0].patch.sha256 for _ in range(2))
    assert once == again
    assert _run(project, attack, extra="seed: 1")[0].patch.sha256 != once


def test_a_report_with_patches_round_trips(project):
    _run(project, f"{FIXED}, target: bright}}")
    report = run(load_policy(project / "policy.yaml"), folder=project / "out")
    assert AuditReport.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["gates"][0]["controls"][0]["name"] == "natural patch"


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("attack: {name: patch, target: bright}", "needs size beside it"),
        ("attack: {name: patch, target: light}\n    size: 10%", "did you mean 'bright'"),
    ],
)
def test_mistakes_are_sentences(gate, said, project):
    (project / "policy.yaml").write_text(f"""
robustcheck: 1
model:
  path: brightness.safetensors
  architecture: brightness:Brightness
  task: multiclass
  labels: [dark, bright]
data: {{source: even.npz}}
gates:
  - id: one
    {gate}
    require: {{attack_success: "<= 1"}}
""")
    with pytest.raises(PolicyError, match=said) as caught:
        load_policy(project / "policy.yaml")
    assert caught.value.problems
