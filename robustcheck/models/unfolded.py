"""Convolutions of small maps as one matrix product.

A convolution is worked on an image at a time, so that all its weights are read again for each. Where images are large
that is nothing; the last stage of a ResNet for 28×28 pixels has 4×4 of them and 4.7 MB of weights, and waits for
memory. Unfolded (each position with its neighbourhood as one row; Chellapilla et al. 2006), a batch is one product.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import nn

_MOST_POSITIONS = 25  # of a map; above it the copies cost more than they save (ARCHITECTURE.md)


def can_unfold(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a convolution that `Unfolded` can stand in for."""
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward is nn.Conv2d.forward  # a kind of its own may do something else with its weights
        and layer.groups == 1
        and layer.stride == layer.dilation == (1, 1)
        and layer.kernel_size != (1, 1)  # those are products already
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and all(pad < size for pad, size in zip(layer.padding, layer.kernel_size, strict=True))
    )


class Unfolded(nn.Module):
    """A frozen convolution of stride 1, computed as a matrix product where its map is small."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        weight = layer.weight.detach()  # (K, C, kernel height, kernel width)
        self.layer, self.kernel = layer, (weight.shape[2], weight.shape[3])
        self.padding = (int(layer.padding[0]), int(layer.padding[1]))
        self.weight = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
        # The gradient is a convolution of the answer's, with the kernel turned round, and in and out swapped.
        self.backward_weight = weight.flip(2, 3).permute(1, 2, 3, 0).flatten(1).contiguous()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The layer's answer (N, K, H', W') to inputs (N, C, H, W), channels last."""
        height, width = (
            size + 2 * pad - kernel + 1
            for size, pad, kernel in zip(inputs.shape[2:], self.padding, self.kernel, strict=True)
        )
        if height * width > _MOST_POSITIONS:
            answer: torch.Tensor = self.layer(inputs)
            return answer
        rows: torch.Tensor = _Product.apply(inputs.to(self.weight.dtype), self)
        return rows.view(len(inputs), height, width, -1).permute(0, 3, 1, 2)


class _Product(torch.autograd.Function):
    """Rows (N·H'·W', K) of a convolution's answer; the weights are frozen and have no gradient."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, of: Unfolded) -> torch.Tensor:
        ctx.of, ctx.shape = of, inputs.shape
        return nn.functional.linear(_unfold(inputs, of.kernel, of.padding), of.weight, of.layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        of, (count, channels, height, width) = ctx.of, ctx.shape
        outside = (of.kernel[0] - 1 - of.padding[0], of.kernel[1] - 1 - of.padding[1])
        answered = (height + 2 * of.padding[0] - of.kernel[0] + 1, width + 2 * of.padding[1] - of.kernel[1] + 1)
        maps = gradient.reshape(count, *answered, -1).permute(0, 3, 1, 2)
        rows = nn.functional.linear(_unfold(maps, of.kernel, outside), of.backward_weight)
        return rows.view(count, height, width, channels).permute(0, 3, 1, 2), None


def _unfold(maps: torch.Tensor, kernel: tuple[int, int], padding: tuple[int, int]) -> torch.Tensor:
    """The neighbourhoods (N·H'·W', kernel height·kernel width·C) of all positions of maps (N, C, H, W)."""
    (down, across), (above, beside) = kernel, padding
    padded = nn.functional.pad(maps.permute(0, 2, 3, 1), (0, 0, beside, beside, above, above))
    windows = padded.unfold(1, down, 1).unfold(2, across, 1)  # (N, H', W', C, kernel height, kernel width)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, down * across * maps.shape[1])
