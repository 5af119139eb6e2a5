"""Convolutions' share of the multiplications is what torch's own counter makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from robustcheck.models.fast.multiplications import share_of_convolutions


class Attending(nn.Module):
    """Patches that look at one another."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 8, 4, stride=4), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens[..., :5])
        return self.attention(tokens, tokens, tokens)[0].mean(1) + attended.mean((1, 2))[:, None]


@pytest.mark.parametrize(
    ("module", "some"),
    [
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(6 * 14 * 14, 5)), True),
        (nn.Sequential(nn.ConvTranspose2d(3, 2, 3, stride=2), nn.Flatten(2), nn.Linear(33 * 33, 7, bias=False)), True),
        (Attending(), True),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)), False),
    ],
    ids=["convolution", "transposed", "attention", "linear"],
)
def test_it_is_torchs_own_count(module, some):
    module, image = module.eval(), torch.rand(2, 3, 16, 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(image)
    work = {str(operator): count for operator, count in counter.get_flop_counts()["Global"].items()}
    expected = work.get("aten.convolution", 0) / sum(work.values())
    assert share_of_convolutions(module, image) == pytest.approx(expected, abs=1e-12)
    assert (expected > 0.02) == some


def test_nothing_is_nothing():
    assert share_of_convolutions(nn.Flatten(), torch.rand(1, 1, 4, 4)) == 0.0
