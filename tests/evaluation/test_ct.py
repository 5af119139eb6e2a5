"""Gates on CT: budgets in Hounsfield units, of DICOM and of arrays, against the closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from building import LEVELS, accuracy_at, brightness_policy, brightness_project
from patching import BRIGHT, DARK, FIXED, patch_policy, turned
from PIL import Image
from scans import CT, save_scan

from robustcheck import load_policy, run
from robustcheck.attacks import objective
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.patch import PatchTraining
from robustcheck.threats import Goal, viewing

LADDER = """
  - id: clean
    require: {accuracy: 1.0}
  - id: pgd
    attack: {name: pgd, steps: 5}
    epsilon: [1 HU, 4 HU]
    require: {accuracy: [0.8, 0.5]}
"""
# The network sees 0 to 255 HU as what it knows as dark and bright.
WINDOW = "preprocess: {window: [0, 255]}"


def _report(folder, data, gates=LADDER, model=WINDOW):
    (folder / "policy.yaml").write_text(brightness_policy(gates, model=model, data=data))
    return run(load_policy(folder / "policy.yaml"), folder=folder / "out")


@pytest.fixture
def project(tmp_path):
    brightness_project(tmp_path)
    for level in LEVELS:
        label = "bright" if level > 127.5 else "dark"
        signed = level % 2
        stored = np.full((8, 8), level + 1024, np.int16 if signed else np.uint16)
        save_scan(tmp_path / "scans" / label / f"{level}.dcm", stored, bits=16 if signed else 12, **CT)
    images = np.stack([np.full((8, 8), level + 1024, np.uint16) for level in LEVELS])
    np.savez(tmp_path / "ct.npz", test_images=images, test_labels=np.array(LEVELS)[:, None] // 128)
    return tmp_path


@pytest.mark.parametrize(("model", "told"), [(WINDOW, False), ("", True)])
def test_how_much_of_their_range_files_use_is_told_where_no_window_says_what_is_seen(model, told, project):
    for level in (100, 155):
        path = project / "signed" / ("bright" if level > 127.5 else "dark") / f"{level}.dcm"
        save_scan(path, np.full((8, 8), level + 1024, np.int16), bits=16, **CT)
    report = _report(project, "source: signed", "  - {id: clean, require: {accuracy: 0}}", model)
    assert report.data is not None, report.gates[0].error
    assert any("which budgets and brightness are shares of" in note for note in report.data.notes) == told


@pytest.mark.parametrize("source", ["scans", "ct.npz"])
def test_hounsfield_units_are_the_closed_form(source, project):
    report = _report(project, f"source: {source}, bits: 12, hounsfield: -1024")
    assert [gate.metrics["accuracy"].value for gate in report.gates] == [1.0, accuracy_at(1), accuracy_at(4)]
    assert report.data.hounsfield == -1024
    ball = report.gates[2].threat.ball
    assert (ball.epsilon, ball.levels) == ("4 HU", 4)
    assert "Somebody" not in str(report)
    broken = [outcome for outcome in report.gates[2].samples if outcome.status == "broken"]
    assert len(broken) == 6
    for outcome in broken:  # from within 4 HU of the threshold to its other side
        stored = np.asarray(Image.open(project / "out" / outcome.counterexample)).astype(int)
        assert abs(stored.mean() - 1024 - 127.5) <= 4


def test_a_budget_in_hounsfield_units_of_images_that_are_no_ct(project):
    for level in LEVELS:
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(project / f"{level}.png")
    rows = "".join(f"{level}.png,{'bright' if level > 127.5 else 'dark'}\n" for level in LEVELS)
    (project / "data.csv").write_text(f"path,label\n{rows}")
    report = _report(project, "source: data.csv", model="")
    assert [gate.verdict for gate in report.gates] == ["pass", "error", "error"]
    assert report.gates[1].error == (
        "epsilon 1 HU is in Hounsfield units, and data.csv holds no CT; if it does, set data.hounsfield to what level "
        "0 is in Hounsfield units"
    )


@pytest.mark.parametrize(
    "kind",
    [
        {"attack": "{name: transfer, train: {architecture: 'brightness:Brightness'}}", "epsilon": "4 HU"},
        {"attack": "patch", "size": "2 px"},
    ],
)
def test_a_train_split_of_another_pixel_space_teaches_nothing(kind, project):
    for label, stored in (("dark", np.int16), ("bright", np.int16)):
        save_scan(project / "split/train" / label / "a.dcm", np.full((8, 8), 1024, stored), **CT)
        for level in (100, 150):
            save_scan(project / "split/test" / label / f"{level}.dcm", np.full((8, 8), level, np.uint16), bits=12, **CT)
    keys = "".join(f"    {key}: {value}\n" for key, value in kind.items())
    report = _report(project, "source: split, split: test", f"\n  - id: taught\n{keys}    require: {{accuracy: 0}}\n")
    assert report.gates[0].verdict == "error"
    assert "its images store -33792 to 31743 HU, and those that are judged -1024 to 3071 HU" in report.gates[0].error


def _scans(images):
    return np.stack([np.full((16, 16), level + 1024, np.uint16) for level in images])


@pytest.mark.parametrize("target", ["dark", "bright"])
@pytest.mark.parametrize("attack", [FIXED, f"{FIXED}, universal: false", f"{FIXED}, restarts: 3"])
def test_a_patch_is_trained_within_the_window(attack, target, project):
    """The middle of what is stored, 1,024 HU, is as white as white can be, and no gradient leads back from there."""
    train = (40, 70, 100, 160, 190, 220)
    arrays = {"test_images": _scans(DARK + BRIGHT), "test_labels": np.array([0] * 6 + [1] * 6)[:, None]}
    arrays |= {"train_images": _scans(train), "train_labels": np.array([0] * 3 + [1] * 3)[:, None]}
    np.savez(project / "scans.npz", **arrays)
    text = patch_policy(f"{attack}, target: {target}}}").replace("positive: bright", f"positive: bright\n  {WINDOW}")
    text = text.replace("{source: flat.npz}", "{source: scans.npz, bits: 12, hounsfield: -1024}")
    (project / "policy.yaml").write_text(text)
    (gate,) = run(load_policy(project / "policy.yaml"), folder=project / "out").gates
    assert gate.verdict == "pass", gate.error
    black = {level for level in BRIGHT if level * 3 / 4 < 127.5}
    white = {level for level in DARK if level * 3 / 4 + 255 / 4 > 127.5}
    assert turned(gate) == {"dark": black, "bright": white}[target]
    assert {one.name: one.success.successes for one in gate.controls}["grey patch"] == 0
    if gate.patch is not None:
        stored = np.load(project / "out" / gate.patch.array)
        assert stored.min() >= 1024, "it stays where it can be seen"
        assert stored.max() <= 1024 + 255


@pytest.mark.parametrize("restart", [0, 1])
def test_training_a_patch_in_a_window_is_training_on_what_it_shows(restart):
    draws, gradients = Draws.of([3, 4], torch.device("cpu")), torch.randn(5, 2, 1, 3, 3)
    low, high, ends = 0.25, 0.375, []
    for visible in ((0.0, 1.0), (low, high)):
        raised = objective("margin", Goal(labels=2))
        training = PatchTraining(objective=raised, steps=5, step_size=0.2, visible=visible, reach=visible)
        state = training.start((1, 3, 3), draws, restart)
        for number, gradient in enumerate(gradients):
            state = training.step(state, gradient, number)
        ends.append(state["patches"])
    assert ends[0].unique().numel() > 4
    torch.testing.assert_close(low + (high - low) * ends[0], ends[1])


def test_a_patch_may_be_brighter_than_the_window_where_a_look_may_be_darker(project):
    """Looks are up to 40 HU darker: what is to stay white on most of them has to be brighter than the window shows."""
    darker = f", conditions: {{brightness: [{-40 / 4095}, 0]}}"
    text = patch_policy(f"{FIXED}, target: bright}}", gate=darker)
    text = text.replace("positive: bright", f"positive: bright\n  {WINDOW}")
    text = text.replace("{source: flat.npz}", "{source: scans.npz, bits: 12, hounsfield: -1024}")
    arrays = {"test_images": _scans(DARK + BRIGHT), "test_labels": np.array([0] * 6 + [1] * 6)[:, None]}
    arrays |= {"train_images": _scans((40, 70, 100, 160)), "train_labels": np.array([0] * 3 + [1])[:, None]}
    np.savez(project / "scans.npz", **arrays)
    (project / "policy.yaml").write_text(text)
    (gate,) = run(load_policy(project / "policy.yaml"), folder=project / "out").gates
    stored = np.load(project / "out" / gate.patch.array)
    assert stored.max() > 1024 + 255 + 20
    assert stored.max() <= 1024 + 255 + 41


def test_stickers_on_air_come_into_the_window(project):
    """The left half is at -1,000 HU, as dark as dark can be; it has to become bright on images that are dark."""
    images = _scans((100, 150, 200))
    images[..., :8] = 24
    np.savez(project / "air.npz", test_images=images, test_labels=np.zeros((3, 1), int))
    gates = """
  - id: stickers
    attack: {name: rp2, stickers: [0, 0, 0.5, 1], steps: 60, step_size: 0.2, distances: 1, angles: 0, printable: [0, 1]}
    conditions: {contrast: [0.99, 1.01], draws: 2}
    require: {accuracy: 0}
"""
    (gate,) = _report(project, "source: air.npz, bits: 12, hounsfield: -1024", gates).gates
    assert gate.verdict == "pass", gate.error
    assert [outcome.status for outcome in gate.samples] == ["broken"] * 3
    stored = np.asarray(Image.open(project / "out" / gate.samples[0].counterexample))
    assert 1024 <= stored[:, :8].min() <= stored[:, :8].max() <= 1024 + 255


@pytest.mark.parametrize(
    ("attack", "size"),
    [
        ("{name: pgd, steps: 2}", "epsilon: 1 HU, "),
        ("{name: rp2, stickers: [0, 0, 0.5, 1], steps: 2, distances: 1, angles: 0}", ""),
        ("{name: patch, steps: 2, draws: 2, train_on: 0.5}", "size: 4 px, "),
    ],
)
def test_conditions_compress_what_the_window_shows(attack, size, project, monkeypatch):
    """Images differ by a level or two in 255 of 4,096: eight bits of the full range would make most of them alike."""
    seen, whole = set(), viewing._compressed
    monkeypatch.setattr(
        viewing,
        "_compressed",
        lambda *given: (seen.add(tuple(round(end * 4095) for end in given[2:])), whole(*given))[1],
    )
    gates = f"  - {{id: seen, attack: {attack}, {size}conditions: {{jpeg: 100}}, require: {{accuracy: 0}}}}"
    (gate,) = _report(project, "source: ct.npz, bits: 12, hounsfield: -1024", gates).gates
    assert gate.verdict == "pass", gate.error
    assert seen == {(1024, 1024 + 255)}
    unattacked = [one.success.successes for one in gate.controls if one.name == "no attack"]
    assert unattacked in ([], [0])


def test_a_surrogate_is_trained_on_what_the_window_shows(project, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(project / "cache"))
    archive = dict(np.load(project / "ct.npz"))
    archive |= {"train_images": archive["test_images"] + 1, "train_labels": archive["test_labels"]}
    np.savez(project / "ct.npz", **archive)
    gates = """
  - id: transfer
    attack: {name: transfer, train: {architecture: "brightness:Brightness", epochs: 2}}
    epsilon: 4 HU
    require: {accuracy: 0.1}
"""
    report = _report(project, "source: ct.npz, bits: 12, hounsfield: -1024", gates)
    (gate,) = report.gates
    assert gate.verdict == "pass", gate.error
    assert gate.metrics["accuracy"].value == accuracy_at(4)


@pytest.mark.parametrize(
    ("budget", "change"),
    [
        ("4 HU", "a change of one grey level along"),
        ("0.1, norm: l2", "a change of one grey level, of 6,554 in L2 at most, along"),
        ("3 levels, norm: l2", "a change of one grey level, of 3 in L2 at most, along"),
    ],
)
def test_the_gradient_is_tried_by_a_small_change_of_what_the_window_shows(budget, change, tmp_path):
    """A share of what 16 bits store would be four times as wide as the window, and nothing like what is promised."""
    brightness_project(tmp_path)  # 130 HU is in the middle
    levels = np.array((108, 112, 116, 120, 140, 144, 148, 152))
    images = np.stack([np.full((8, 8), 32768 + level, np.uint16) for level in levels])
    np.savez(tmp_path / "ct16.npz", test_images=images, test_labels=(levels > 130).astype(int)[:, None])
    gate = f"  - {{id: pgd, attack: {{name: pgd, steps: 5}}, epsilon: {budget}, require: {{accuracy: 0}}}}\n"
    (found,) = _report(
        tmp_path, "source: ct16.npz, bits: 16, hounsfield: -32768", gate, "preprocess: {window: [100, 160]}"
    ).gates
    (check,) = [check for check in found.health if check.name == "gradient-predicts"]
    assert (check.outcome, found.verdict) == ("sound", "pass")
    assert check.evidence.startswith(change)
