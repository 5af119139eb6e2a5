"""Convolutions of small maps as one matrix product.

A convolution works on an image at a time, so that all its weights are read again for each. For large images that is
nothing; the last stage of a ResNet for 28×28 pixels has 4×4 of them and 4.7 MB of weights, and waits for
memory. Unfolded (each position with its neighbourhood as one row; Chellapilla et al. 2006), a batch is one product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustcheck.models.fast.packed import answer_size

_MOST_POSITIONS = 25  # of a map; above it the copies cost more than they save (ARCHITECTURE.md)


def can_unfold(layer: nn.Conv2d) -> bool:
    """Whether a plain convolution can be such a product, and is not one already."""
    assert not isinstance(layer.padding, str)
    return (
        layer.groups == 1
        and layer.stride == layer.dilation == (1, 1)
        and layer.kernel_size != (1, 1)
        and all(pad < size for pad, size in zip(layer.padding, layer.kernel_size, strict=True))
    )


class Unfolded:
    """A frozen convolution that `can_unfold`, and its gradient, as matrix products."""

    def __init__(self, layer: nn.Conv2d) -> None:
        weight = layer.weight.detach()  # (K, C, kernel height, kernel width)
        self._layer, self._kernel = layer, (weight.shape[2], weight.shape[3])
        self._padding = (int(layer.padding[0]), int(layer.padding[1]))
        self._weight = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
        # The gradient is a convolution of the answer's, with the kernel rotated, and in and out swapped.
        self._backward_weight = weight.flip(2, 3).permute(1, 2, 3, 0).flatten(1).contiguous()

    def suits(self, inputs: Tensor) -> bool:
        """Whether the answer to inputs (N, C, H, W) is so small that a product is faster."""
        _, _, height, width = answer_size(self._layer, inputs.shape)
        return height * width <= _MOST_POSITIONS

    def __call__(self, inputs: Tensor) -> Tensor:
        """The answer (N, K, H', W') to inputs (N, C, H, W), channels last."""
        rows = nn.functional.linear(_unfold(inputs, self._kernel, self._padding), self._weight, self._layer.bias)
        # Not a view of the rows to autograd: later layers may write into it.
        return _maps(rows, answer_size(self._layer, inputs.shape)).detach()

    def gradient(self, gradient: Tensor, inputs: Tensor) -> Tensor:
        """The gradient of inputs (N, C, H, W), given that of their answer."""
        outside = (self._kernel[0] - 1 - self._padding[0], self._kernel[1] - 1 - self._padding[1])
        rows = nn.functional.linear(_unfold(gradient, self._kernel, outside), self._backward_weight)
        return _maps(rows, inputs.shape)


def _unfold(maps: Tensor, kernel: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """The neighbourhoods (N·H'·W', kernel height·kernel width·C) of all positions of maps (N, C, H, W)."""
    (down, across), (above, beside) = kernel, padding
    padded = nn.functional.pad(maps.permute(0, 2, 3, 1), (0, 0, beside, beside, above, above))
    windows = padded.unfold(1, down, 1).unfold(2, across, 1)  # (N, H', W', C, kernel height, kernel width)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, down * across * maps.shape[1])


def _maps(rows: Tensor, size: torch.Size) -> Tensor:
    """Rows (N·H·W, C) as maps of size (N, C, H, W)."""
    count, channels, height, width = size
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)
