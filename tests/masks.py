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


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = chest_cnn()

    def forward(self, image):
        return self.network(image)


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


class Partial(Masked):  # three pixels in four are read, and have no gradient
    def before(self, pixels):
        followed = torch.rand(pixels.shape[1:], generator=torch.Generator().manual_seed(1)) < 0.25
        return torch.where(followed, pixels, pixels.detach())


class Half(Masked):  # every other pixel has a gradient
    def before(self, pixels):
        rows, columns = torch.meshgrid(*(torch.arange(size) for size in pixels.shape[2:]), indexing="ij")
        return torch.where((rows + columns) % 2 == 0, pixels, pixels.detach())


class Cut(Masked):  # the first two columns in three have a gradient
    def before(self, pixels):
        columns = torch.arange(pixels.shape[3])
        return torch.where(columns < 2 * len(columns) / 3, pixels, pixels.detach())


class Averaged(Masked):  # the gradient is that of the means of 7x7 pixels
    def before(self, pixels):
        means = nn.functional.interpolate(nn.functional.avg_pool2d(pixels, 7), scale_factor=7.0)
        return means + (pixels - means).detach()


class Turned(Masked):  # by a hook: of three signs in ten
    def before(self, pixels):
        signs = torch.where(torch.rand(pixels.shape[1:], generator=torch.Generator().manual_seed(2)) < 0.3, -1.0, 1.0)
        pixels = pixels + 0
        if pixels.requires_grad:
            pixels.register_hook(lambda gradient: gradient * signs)
        return pixels


class StraightThrough(Masked):  # steps of four grey levels, with the gradient of what is rounded: it hides nothing
    def before(self, pixels):
        return pixels + ((pixels * 63.75).round() / 63.75 - pixels).detach()


class Bent(Masked):  # smooth, the same readings, exact gradients
    def after(self, logits):
        margin = self.bend(logits[:, 1] - logits[:, 0])
        return torch.stack([-margin, margin], dim=1) / 2


class Moat(Bent):  # a wall of scores before the border
    def bend(self, margin):
        size = margin.abs()
        wall = 2.5 * torch.exp(-(((size - 1.2) / 0.5) ** 2)) - 2.5 * math.exp(-((1.2 / 0.5) ** 2)) * torch.exp(-size)
        return margin.sign() * (size + wall)


class Waves(Bent):
    def bend(self, margin):
        return margin + 0.6 * torch.sin(2 * margin)


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
    preprocess: str = "{mean: 0.5, std: 0.25}",
    bits: int = 8,
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
  preprocess: {preprocess}
  device: cpu
data: {{source: '{xrays}', samples: {samples}, bits: {bits}}}
gates:
{textwrap.indent(textwrap.dedent(gates), "  ")}
{extra}
""")
    return run(load_policy(folder / "policy.yaml"), folder=folder / "out").gates
