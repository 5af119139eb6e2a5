"""Images go into a network that works in bfloat16 as the sum of two parts, where a plain convolution comes first."""

from __future__ import annotations

import torch
from torch import nn


class InTwoParts(nn.Module):
    """A first convolution that works in bfloat16 and still sees images as they are.

    Near 1.0 a bfloat16 has steps of a grey level. So each value goes in as the sum of two, what bfloat16 holds of it
    and what that leaves; the convolution adds them up in float32. The gradient is the first part's alone: both
    would be twice what it is.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        twice = torch.cat([layer.weight, layer.weight], dim=1).to(torch.bfloat16)
        self.layer: nn.Module = layer.to(torch.bfloat16)
        self.layer.weight = nn.Parameter(twice.contiguous(memory_format=torch.channels_last), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The layer's answer, in bfloat16."""
        held = inputs.to(torch.bfloat16)
        left = (inputs.detach() - held.detach()).to(torch.bfloat16)
        both = torch.cat([held, left], dim=1).contiguous(memory_format=torch.channels_last)
        answer: torch.Tensor = self.layer(both)
        return answer
