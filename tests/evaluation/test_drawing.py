"""Candidates that draw one of two networks in each call, whose logits are of unlike scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from building import brightness_policy
from safetensors.torch import save_file

from robustcheck import load_policy, run

SOURCE = """
import torch

class Brightness(torch.nn.Module):  # bright along one of two templates, of which the second is drawn less often
    def __init__(self):
        super().__init__()
        self.templates = torch.nn.Parameter(torch.zeros(2, 8, 8))

    def forward(self, image):
        template = self.templates[int(torch.rand(1) > 0.7)]
        excess = ((image - 128 / 255) * template).flatten(1).mean(dim=1)
        return torch.stack([-excess, excess], dim=1)
"""


@pytest.mark.parametrize("attack", ["{name: pgd, steps: 20}", "{name: apgd, steps: 20}", "{name: fmn, steps: 40}"])
@pytest.mark.parametrize("loudness", [1.0, 1000.0])
def test_what_most_calls_read_is_turned_however_loud_the_others_are(attack, loudness, tmp_path):
    """The templates agree on half of the pixels: along the second one alone the first is not turned at all."""
    (tmp_path / "brightness.py").write_text(SOURCE)
    across, down = torch.ones(8, 8), torch.ones(8, 8)
    across[:, 1::2] = down[1::2] = -1
    save_file({"templates": torch.stack([20 * across, loudness * down])}, tmp_path / "brightness.safetensors")
    apart = 2 * (across + down).numpy()  # 2 levels beyond the border of both
    images = np.stack([128 + apart, 128 - apart]).astype(np.uint8)
    np.savez(tmp_path / "flat.npz", test_images=images, test_labels=np.array([[1], [0]]))
    gate = f"  - {{id: gate, attack: {attack}, epsilon: 6/255, require: {{accuracy: 0}}}}\n"
    (tmp_path / "policy.yaml").write_text(brightness_policy(gate))
    (found,) = run(load_policy(tmp_path / "policy.yaml"), folder=tmp_path / "out").gates
    assert found.metrics["accuracy"].value == 0
