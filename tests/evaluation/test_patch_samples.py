"""Which images a gate with a patch trains on and judges, and where the patch has room on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from building import brightness_manifest, brightness_policy
from patching import FIXED, patch_policy, run_patches
from PIL import Image

from robustcheck import load_policy, run
from robustcheck.evaluation.patches import judging, training
from robustcheck.evaluation.patches.judging import lies_under
from robustcheck.evaluation.patches.training import Trainer
from robustcheck.threats.patch import Placements, lay


def _run(folder, text):
    (folder / "policy.yaml").write_text(text)
    return run(load_policy(folder / "policy.yaml"), folder=folder / "out").gates


def test_images_of_one_patient_are_all_trained_on_or_all_judged(patched):
    rows = [(level, f"p{number}", "f") for number, level in enumerate((90, 95, 100, 105, 150, 155, 160, 165))]
    brightness_manifest(patched, rows, images=3)
    gate = f"  - {{id: one, attack: {FIXED}, train_on: 0.5}}, size: 4 px, require: {{attack_success: '<= 1'}}}}"
    for seed in range(3):
        text = brightness_policy(gate, data="source: patients.csv, group: patient", extra=f"seed: {seed}")
        (result,) = _run(patched, text)
        assert result.error is None
        judged = [outcome.sample.split("-")[0] for outcome in result.samples]
        assert len(judged) == 12
        assert len(set(judged)) == 4
        assert sum(outcome.label == "dark" for outcome in result.samples) == 6, "stratified by what they are"
    brightness_manifest(patched, rows[:1], images=4)
    (result,) = _run(patched, brightness_policy(gate, data="source: patients.csv, group: patient"))
    assert result.error == (
        "attack.train_on: 0.5 of 1 groups (data.group) leaves none to train the patch on; add samples, or train on the "
        "train split"
    )


def _folder(patched, split, *, dark, bright):
    """Even images of these shapes."""
    for label, level, shapes in (("dark", 100, dark), ("bright", 150, bright)):
        folder = patched / "split" / split / label
        folder.mkdir(parents=True)
        for number, shape in enumerate(shapes):
            pixels = np.full(shape, level + (split == "train"), np.uint8)
            Image.fromarray(pixels).save(folder / f"{split}-{number}.png")


def _policy(target):
    return patch_policy(f"{FIXED}, target: {target}}}").replace("source: flat.npz", "source: split, split: test")


def test_training_images_that_are_too_small_are_left_out(patched):
    _folder(patched, "train", dark=[(16, 16), (6, 6), (16, 18)], bright=[(16, 16)])
    _folder(patched, "test", dark=[(16, 16)], bright=[(16, 16)])
    (gate,) = _run(patched, _policy("bright"))
    assert gate.error is None
    assert gate.patch.origin.endswith("on 2 images of the train split")


def test_an_image_that_is_not_attacked_may_be_too_small(patched):
    for split in ("train", "test"):
        _folder(patched, split, dark=[(16, 16)], bright=[(16, 16), (6, 6)])
    (gate,) = _run(patched, _policy("bright"))
    assert gate.error is None
    (gate,) = _run(patched, _policy("dark"))
    assert "has no room for it" in gate.error


@pytest.mark.parametrize("universal", ["true", "false"])
def test_where_a_turned_patch_has_no_place_is_known_before_anything_is_trained(universal, patched, monkeypatch):
    """A square of 8 pixels has room in the ten that are left, and turned by more than 15 degrees it has none."""
    monkeypatch.setattr(Trainer, "_train", lambda *_: pytest.fail("it was trained"))
    boxes = "[[0, 0, 0.375, 1], [0, 0, 1, 0.375]]"  # 10×10 pixels are left
    attack = f"{{name: patch, shape: square, scale: 0, rotation: ANGLE, universal: {universal}, keep_out: {boxes}}}"
    (gate,) = run_patches(patched, attack.replace("ANGLE", "40"))
    assert gate.verdict == "error"
    assert gate.error.startswith("a patch of 8 px has no place on test/0 without covering what attack.keep_out")
    with pytest.raises(pytest.fail.Exception, match="it was trained"):
        run_patches(patched, attack.replace("ANGLE", "5"))


@pytest.mark.parametrize("kind", ["steps: 3, draws: 8", "steps: 3, draws: 8, universal: false", "patch: white.png"])
def test_where_memory_runs_out_fewer_are_laid_on_at_a_time(kind, patched, monkeypatch):
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(patched / "white.png")
    attack, ends = f"{{name: patch, target: bright, {kind}}}", []

    def short(textures, *given):
        if len(textures) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return lay(textures, *given)

    for laid in (lay, short):
        for room in (training, judging):
            monkeypatch.setattr(room, "lay", laid)
        (gate,) = run_patches(patched, attack)
        assert gate.error is None
        ends.append([(outcome.status, outcome.sha256) for outcome in gate.samples])
    assert ends[0] == ends[1]
    assert ("batch-halved" in [finding.code for finding in gate.findings]) == ("steps" in kind)


def test_nothing_that_may_not_be_covered_ever_changes():
    clean = torch.zeros(2, 1, 6, 6, dtype=torch.int64)
    stored, keep_out = clean.clone(), torch.zeros(2, 6, 6, dtype=torch.bool)
    stored[:, 0, 2:4, 2:4] = 9
    keep_out[1, 3, 3] = True
    three, zero = torch.full((2,), 3.0), torch.zeros(2)
    at = Placements(x=three, y=three, side=zero + 2, angle=zero)
    assert lies_under(stored, clean, at, "square").tolist() == [True, True]
    assert lies_under(stored, clean, at, "square", keep_out).tolist() == [True, False]
