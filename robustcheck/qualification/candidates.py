"""Networks that are fragile by a known amount, and the ways to hide it that the field knows.

All of them read an image by how much brighter it is along a template, so the best change is known: along the template.
What hides their gradients changes that by little or nothing (Athalye, Carlini, Wagner 2018, arXiv 1802.00420).
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor, nn

from robustcheck.qualification.images import SIDE, template

GAIN = 0.25  # of the logits, a grey level
_MAXIMUM = 255


class Template(nn.Module):
    """Two logits of an image, (N, 1, 16, 16) in [0, 1]: how many grey levels its mean along the template is above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.template = nn.Parameter(torch.from_numpy(template()).float().view(1, SIDE, SIDE))

    def excess(self, image: Tensor) -> Tensor:
        """How many grey levels (N,) the mean along the template is above 0."""
        return (image * self.template).flatten(1).mean(dim=1) * _MAXIMUM

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 2)."""
        return self.logits(self.excess(image))

    def logits(self, excess: Tensor) -> Tensor:
        """Logits (N, 2) of what was measured (N,)."""
        return torch.stack([-excess, excess], dim=1) * GAIN


class Quantised(Template):
    """Each pixel goes to one of nine levels first: no gradient comes back through rounding."""

    def excess(self, image: Tensor) -> Tensor:
        """Grey levels (N,) of the rounded image."""
        return super().excess((image * 8).round() / 8)


class Thermometer(Template):
    """Each pixel becomes a code of thresholds that it passes (Buckman et al. 2018); what is decided is their sum."""

    def excess(self, image: Tensor) -> Tensor:
        """Grey levels (N,) of the sum of the code, which has no gradient."""
        thresholds = (torch.arange(16, device=image.device) + 0.5) / 16
        code = image[:, :, None] > thresholds.view(1, 1, -1, 1, 1)
        coded: Tensor = code.float().mean(dim=2)
        return super().excess(coded)


class SaturatedSoftmax(Template):
    """Probabilities that are 0 or 1 in float32, as after training at a high temperature (defensive distillation)."""

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (N, 2)."""
        return (self.logits(self.excess(image)) * 400).softmax(dim=1)


class SaturatedSigmoid(Template):
    """A sigmoid in the middle that is 0 or 1 in float32."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 2)."""
        return self.logits(torch.sigmoid(200 * self.excess(image)) * 20 - 10)


class Noisy(Template):
    """Noise on every pixel, drawn anew in each call."""

    def excess(self, image: Tensor) -> Tensor:
        """Grey levels (N,) of the noisy image."""
        return super().excess(image + 0.1 * torch.randn_like(image))


class RandomlyShifted(Template):
    """The image is brightened, and its logits are scaled, by chance (as random resizing and padding do)."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 2)."""
        drawn = torch.rand(2, device=image.device)
        factor, shift = drawn[0], drawn[1]
        return self.logits(self.excess(image * (0.8 + 0.2 * factor)) + 3 * (shift - 0.5)) * (0.5 + factor)


class Shattered(Template):
    """A ripple of a level and a half a pixel, too fast to be followed: the gradient is the ripple's."""

    def excess(self, image: Tensor) -> Tensor:
        """Grey levels (N,) of the rippled image."""
        return super().excess(image + 1.5 / _MAXIMUM * torch.sin(2 * pi * 450 * image))


class PartlyFollowed(Template):
    """One pixel in ten has a gradient: along itself it is right."""

    def excess(self, image: Tensor) -> Tensor:
        """Grey levels (N,) of the image."""
        generator = torch.Generator().manual_seed(5)
        followed = torch.rand(image.shape[1:], generator=generator).to(image.device) < 0.1
        return super().excess(torch.where(followed, image, image.detach()))


class WinnersTakeAll(Template):
    """k-winners-take-all (Xiao, Zhong, Zheng 2020): of many noisy copies of the measurement the largest decide.

    Which of them do changes with the image, and the gradient knows only those that do now.
    """

    copies = 512
    winners = 32

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.directions = nn.Parameter(torch.randn(self.copies, SIDE * SIDE, generator=generator))

    def excess(self, image: Tensor) -> Tensor:
        """The winners' measurements (N,): the share of those upwards, less the share of those downwards."""
        signs = torch.ones(self.copies, device=image.device)
        signs[::2] = -1
        noise = image.flatten(1) @ self.directions.T
        measured = signs * super().excess(image)[:, None] + noise - noise.mean(dim=1, keepdim=True)
        least = measured.topk(self.winners, dim=1).values[:, -1:]
        won = torch.where(measured >= least, measured, 0.0)
        upwards: Tensor = (won * signs).sum(dim=1) / won.sum(dim=1)
        return upwards * 40
