"""Gates with a patch, on a network whose answer is the mean brightness: what a patch can turn is known."""

from __future__ import annotations

import numpy as np
from building import brightness_policy

from robustcheck import load_policy, run

DARK, BRIGHT = (20, 60, 80, 90, 110, 120), (135, 150, 165, 180, 200, 240)
SIDE = 16
FIXED = "{name: patch, shape: square, rotation: 0, scale: 0, steps: 20, draws: 8, step_size: 0.3"


def patch_archive(folder, *, test=DARK + BRIGHT, train=None, shape=(SIDE, SIDE)):
    """Write an archive of flat images of these levels."""

    def part(name, levels):
        images = np.stack([np.full(shape, level, np.uint8) for level in levels])
        return {f"{name}_images": images, f"{name}_labels": np.array([[int(level > 127.5)] for level in levels])}

    np.savez(folder / "flat.npz", **part("test", test), **(part("train", train) if train else {}))


def run_patches(folder, *attacks, **options):
    """The results of gates with these patches; options are those of `patch_policy`."""
    (folder / "policy.yaml").write_text(patch_policy(*attacks, **options))
    return run(load_policy(folder / "policy.yaml"), folder=folder / "out").gates


def patch_policy(*attacks, size="8 px", gate="", channels=None, extra="", model=""):
    """Their policy: a gate a patch, whose requirement is always met."""
    entries = "".join(
        f"  - {{id: gate-{number}, attack: {attack}, size: {size}, require: {{attack_success: '<= 1'}} {gate}}}\n"
        for number, attack in enumerate(attacks)
    )
    model = f"preprocess: {{channels: {channels}}}" if channels else model
    return brightness_policy(entries, model=model, extra=extra)


def turned(gate):
    """The levels of the samples that a gate on `patch_archive`'s own broke."""
    return {
        (DARK + BRIGHT)[int(outcome.sample.split("/")[1])] for outcome in gate.samples if outcome.status == "broken"
    }
