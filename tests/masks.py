"""Ways to hide gradients that the field knows, around the shipped chest X-ray network."""

from __future__ import annotations

import textwrap
from pathlib import Path

from safetensors.torch import load_file, save_file

from robustcheck import load_policy, run
from robustcheck.results import GateResult

CANDIDATES = Path(__file__).parents[1] / "policies"

SOURCE = """
import math

import torch
from networks import SmallCNN, chest_cnn
from torch import nn

MEAN, STD = 0.5, 0.25


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = chest_cnn()

    def forward(self, image):
        pixels = image * STD + MEAN
        return self.after(self.network((self.before(pixels) - MEAN) / STD))

    def before(self, pixels):
        return pixels

    def after(self, logits):
        return logits


class Quantised(Masked):  # Guo et al. 2018: bit depth reduction
    def before(self, pixels):
        return (pixels * 15).round() / 15


class HalfQuantised(Quantised):  # of the brighter images alone
    def before(self, pixels):
        bright = pixels.mean(dim=(1, 2, 3), keepdim=True) > 0.55
        return torch.where(bright, super().before(pixels), pixels)


class Thermometer(Masked):  # Buckman et al. 2018
    def before(self, pixels):
        return torch.stack([(pixels > (level + 0.5) / 16).float() for level in range(16)]).mean(dim=0)


class Distilled(Masked):  # Papernot et al. 2016: trained at a temperature, asked at 1
    def after(self, logits):
        return logits * 100


class Softmax(Masked):  # which hides nothing
    def after(self, logits):
        return logits.softmax(dim=1)


class SaturatedSoftmax(Masked):
    def after(self, logits):
        return (logits * 1000).softmax(dim=1)


class SaturatedSigmoid(Masked):
    def after(self, logits):
        return torch.sigmoid(60 * logits) * 4


class Shattered(Masked):
    def before(self, pixels):
        return pixels + 2 / 255 * torch.sin(2 * math.pi * 400 * pixels)


class RandomResizing(Masked):  # Xie et al. 2018: resized and padded at random, once a call
    def before(self, pixels):
        size = int(torch.randint(24, 33, (1,)))
        top, left = (int(torch.randint(0, 41 - size, (1,))) for _ in range(2))
        small = nn.functional.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
        return nn.functional.pad(small, (left, 40 - size - left, top, 40 - size - top))


class ShatteredAndNoisy(Shattered):
    def after(self, logits):
        return logits + 0.5 * torch.randn_like(logits)


class Noisy(Masked):
    def before(self, pixels):
        return pixels + 0.05 * torch.randn_like(pixels)
"""


def masked_gates(
    folder: Path,
    xrays: Path,
    mask: str,
    gates: str,
    *,
    samples: int = 60,
    extra: str = "",
    kind: str = "standard",
    path: str | None = None,
) -> tuple[GateResult, ...]:
    """The results of gates of the standard candidate behind a mask; `gates` is the text below `gates:`.

    A graph at `path` in the folder stands for it, if there is one.
    """
    model = f"path: {path}" if path else f"path: masked.safetensors\n  architecture: masks:{mask}"
    (folder / "networks.py").write_text((CANDIDATES / "networks.py").read_text())
    (folder / "masks.py").write_text(SOURCE)
    weights = load_file(CANDIDATES / "candidates" / f"pneumonia_{kind}.safetensors")
    save_file({f"network.{name}": values for name, values in weights.items()}, folder / "masked.safetensors")
    (folder / "policy.yaml").write_text(f"""
robustcheck: 1
model:
  {model}
  task: multiclass
  labels: [normal, pneumonia]
  positive: pneumonia
  preprocess: {{mean: 0.5, std: 0.25}}
  device: cpu
data: {{source: '{xrays}', samples: {samples}}}
gates:
{textwrap.indent(textwrap.dedent(gates), "  ")}
{extra}
""")
    return run(load_policy(folder / "policy.yaml"), folder=folder / "out").gates
