"""Patches and what they turned as files, of images of every kind."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from patching import BRIGHT, DARK, FIXED, patch_archive, patch_policy, run_patches, turned
from PIL import Image

from robustcheck import load_policy, run
from robustcheck.evaluation.patches import judging
from robustcheck.results import AuditReport


def test_counterexamples_differ_under_the_patch_only_and_are_stored(patched):
    (gate,) = run_patches(patched, "{name: patch, target: bright, steps: 10, draws: 8, step_size: 0.3}")
    broken = [outcome for outcome in gate.samples if outcome.status == "broken"]
    assert broken
    for outcome in broken:
        attacked = np.asarray(Image.open(patched / "out" / outcome.counterexample)).astype(int)
        level = (DARK + BRIGHT)[int(outcome.sample.split("/")[1])]
        changed = attacked != level
        area = np.pi * 16 * 1.21
        assert 0 < changed.sum() <= area * 1.1
        assert attacked.mean() > 127.5
        assert outcome.distance_levels is None


def test_the_patch_is_a_file_that_another_run_can_be_given(patched):
    trained = run_patches(patched, f"{FIXED}, target: bright}}")[0]
    assert trained.patch.origin == "trained here in 20 steps on 3 images of the train split"
    assert trained.patch.side == 16
    out = patched / "out"
    picture, array = out / trained.patch.picture, out / trained.patch.array
    assert np.load(array).shape == (1, 16, 16)
    assert (np.asarray(Image.open(picture)) == np.load(array)[0]).all()
    (patched / "kept.png").write_bytes(picture.read_bytes())
    (patched / "kept.npy").write_bytes(array.read_bytes())
    given = run_patches(
        patched,
        *(
            f"{{name: patch, shape: square, rotation: 0, scale: 0, target: bright, patch: kept.{end}}}"
            for end in ("png", "npy")
        ),
    )
    for gate in given:
        assert gate.patch.sha256 == trained.patch.sha256
        assert gate.threat.knowledge == "none"
        assert gate.cost.gradient == 0
        assert turned(gate) == turned(trained)
    assert given[0].patch.origin == "given: kept.png"


def test_a_picture_of_eight_bits_is_judged_as_whole_levels_of_deeper_images(patched):
    images = np.stack([np.full((16, 16), level * 16, np.uint16) for level in DARK + BRIGHT])
    np.savez(patched / "flat.npz", test_images=images, test_labels=np.array([0] * 6 + [1] * 6)[:, None])
    Image.fromarray(np.arange(0, 256, 4, np.uint8).reshape(8, 8)).save(patched / "ramp.png")
    text = patch_policy("{name: patch, shape: square, rotation: 0, scale: 0, patch: ramp.png}")
    (patched / "policy.yaml").write_text(text.replace("flat.npz", "flat.npz, bits: 12"))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        whole = judging.lay
        patch.setattr(judging, "lay", lambda *given: (seen.append(given[0]), whole(*given))[1])
        (gate,) = run(load_policy(patched / "policy.yaml"), folder=patched / "out").gates
    assert gate.error is None
    levels = seen[0][0].numpy() * 4095
    assert np.abs(levels - np.load(patched / "out" / gate.patch.array)).max() < 1e-3


def test_a_picture_of_one_bit_is_black_and_white(patched):
    """Whatever the depth of the images."""
    Image.fromarray(np.eye(8, dtype=bool)).save(patched / "eye.png")
    (gate,) = run_patches(patched, "{name: patch, shape: square, rotation: 0, scale: 0, patch: eye.png}")
    assert (np.load(patched / "out" / gate.patch.array)[0] == np.eye(8) * 255).all()


@pytest.mark.parametrize("name", ["sticker.png", "sticker.npy"])
def test_a_grey_patch_that_is_stored_as_colour_is_read_as_grey(name, patched):
    grey = np.arange(0, 256, 4, np.uint8).reshape(8, 8)
    Image.fromarray(grey).convert("RGB").save(patched / "sticker.png")
    np.save(patched / "sticker.npy", np.stack([grey] * 3))
    (gate,) = run_patches(patched, f"{{name: patch, shape: square, rotation: 0, scale: 0, patch: {name}}}")
    assert gate.error is None
    assert gate.patch.origin == f"given: {name}, stored as colour of three equal channels, and read as grey"
    assert (np.load(patched / "out" / gate.patch.array) == grey).all()


def test_a_picture_that_is_finer_than_the_image_is_seen_as_what_its_pixels_cover(patched):
    """Stripes of which three in four are white: at single points most pixels would see white, or all black."""
    stripes = np.tile(np.array([0, 255, 255, 255], np.uint8), (160, 40))
    Image.fromarray(stripes).save(patched / "stripes.png")
    fine, kept = run_patches(
        patched,
        "{name: patch, target: bright, shape: square, rotation: 0, scale: 0, patch: stripes.png}",
        "{name: patch, target: bright, shape: square, rotation: 0, scale: 0, patch: stripes.png, resolution: 16}",
    )
    assert fine.patch.origin == (
        "given: stripes.png, shrunk from 160 pixels a side to 16 by averaging: it covers few of the image's"
    )
    assert fine.patch.side == 16
    assert turned(fine) == {level for level in DARK if level * 3 / 4 + 255 * 3 / 4 / 4 > 127.5}
    assert (kept.patch.side, kept.patch.origin) == (160, "given: stripes.png")
    (patched / "kept.npy").write_bytes((patched / "out" / fine.patch.array).read_bytes())
    (again,) = run_patches(
        patched, "{name: patch, target: bright, shape: square, rotation: 0, scale: 0, patch: kept.npy}"
    )
    assert again.patch.origin == "given: kept.npy"
    assert again.patch.sha256 == fine.patch.sha256


def test_an_archive_under_the_name_of_an_array_is_a_sentence(patched):
    with (patched / "kept.npy").open("wb") as file:
        np.savez(file, patch=np.zeros((1, 16, 16), np.uint8))
    (gate,) = run_patches(patched, "{name: patch, shape: square, rotation: 0, scale: 0, patch: kept.npy}")
    assert gate.error == "kept.npy is an archive of arrays (.npz); a patch is one array, as np.save writes it"


def test_each_image_has_a_file_of_its_own_patch(patched):
    (gate,) = run_patches(patched, f"{FIXED}, target: bright, universal: false}}")
    broken = [outcome for outcome in gate.samples if outcome.status == "broken"]
    assert gate.patch is None
    assert all(np.asarray(Image.open(patched / "out" / outcome.patch)).shape == (16, 16) for outcome in broken)
    assert len({outcome.patch for outcome in broken}) == len(broken) > 0


def test_deep_images_and_images_of_several_sizes(patched):
    for folder, shapes in (("deep", [(16, 16)] * 4), ("sizes", [(16, 16), (20, 24), (16, 16), (24, 20)])):
        for label, levels in (("dark", (20000, 28000)), ("bright", (40000, 60000))):
            (patched / folder / label).mkdir(parents=True)
            for number, (level, shape) in enumerate(zip(levels, shapes, strict=False)):
                Image.fromarray(np.full(shape, level, np.uint16)).save(patched / folder / label / f"{number}.png")
        text = patch_policy(f"{FIXED}, target: bright, universal: false}}", size="40%").replace("flat.npz", folder)
        (patched / "policy.yaml").write_text(text)
        (gate,) = run(load_policy(patched / "policy.yaml"), folder=patched / "out").gates
        assert gate.verdict == "pass", gate.error
        broken = [outcome for outcome in gate.samples if outcome.status == "broken"]
        assert [outcome.label for outcome in broken] == ["dark", "dark"]
        assert np.asarray(Image.open(patched / "out" / broken[0].patch)).dtype == np.uint16


@pytest.mark.parametrize(
    ("name", "pixels", "said"),
    [
        ("wide.png", np.zeros((4, 6), np.uint8), r"wide.png is 4×6 pixels \(height × width\); a patch is square"),
        (
            "colour.png",
            np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
            r"colour.png has 3 channels, and the images have 1 \(it is no grey patch: its channels differ\)$",
        ),
        ("two.npy", np.zeros((2, 4, 4), np.uint8), "two.npy has 2 channels, and the images have 1$"),
        ("floats.npy", np.zeros((4, 4), np.float32), "floats.npy holds float32 of shape"),
        ("deep.npy", np.full((1, 4, 4), 300, np.uint16), "deep.npy holds values up to 300; with 8 bits, 0 to 255"),
        ("objects.npy", np.array([{}], dtype=object), "objects.npy: it cannot be read"),
        ("text.npy", None, "text.npy: it cannot be read"),
        ("empty.npy", np.zeros((1, 0, 0), np.uint8), "empty.npy holds no pixels"),
    ],
)
def test_a_file_that_is_no_patch_is_said(name, pixels, said, patched):
    if pixels is None:
        (patched / name).write_text("no array")
    elif name.endswith("png"):
        Image.fromarray(pixels).save(patched / name)
    else:
        np.save(patched / name, pixels, allow_pickle=True)
    (gate,) = run_patches(patched, f"{{name: patch, target: bright, patch: {name}}}", size="4 px")
    assert gate.verdict == "error"
    assert re.search(said, gate.error)


def test_colour_images_that_are_not_square(patched):
    patch_archive(patched, train=(40, 70, 100, 160), shape=(12, 20, 3))
    (gate,) = run_patches(patched, f"{FIXED}, target: bright}}", channels=3)
    assert turned(gate) == {level for level in DARK if level * (1 - 64 / 240) + 255 * 64 / 240 > 127.5}
    assert np.load(patched / "out" / gate.patch.array).shape == (3, 16, 16)
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(patched / "white.png")
    (grey,) = run_patches(
        patched, "{name: patch, target: bright, patch: white.png, shape: square, rotation: 0, scale: 0}", channels=3
    )
    assert turned(grey) == turned(gate)


def test_a_report_with_patches_round_trips(patched):
    (patched / "policy.yaml").write_text(patch_policy(f"{FIXED}, target: bright}}"))
    report = run(load_policy(patched / "policy.yaml"), folder=patched / "out")
    assert AuditReport.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["gates"][0]["controls"][0]["name"] == "natural patch"
