"""Frozen convolutions whose weights oneDNN lays out once, instead of at every call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEAK = 1e-30  # slope of a ReLU below 0: oneDNN's plain one turns a NaN into 0, and so makes up an answer


def can_pack() -> bool:
    """Whether torch has oneDNN's convolutions, whose weights can be laid out beforehand."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def is_plain(layer: nn.Conv2d) -> bool:
    """Whether a convolution's maps are padded with zeros, by a known number."""
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def answer_size(layer: nn.Conv2d, size: torch.Size) -> torch.Size:
    """The size of a plain convolution's answer (N, K, H', W') to inputs (N, C, H, W)."""
    assert not isinstance(layer.padding, str)
    sides = [
        (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for side, pad, dilation, kernel, stride in zip(
            size[2:], layer.padding, layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    ]
    return torch.Size((size[0], layer.out_channels, *sides))


class Packed:
    """A frozen convolution, without a gradient.

    Args:
        weight: (K, C / groups, kernel height, kernel width), float32 or bfloat16, on a CPU.
        bias: (K,), of the same type.
        padding, stride, dilation: down and across.
        groups: of channels.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        padding: tuple[int, ...],
        stride: tuple[int, ...] = (1, 1),
        dilation: tuple[int, ...] = (1, 1),
        groups: int = 1,
    ) -> None:
        self._weight, self._bias = _laid_out(weight), bias
        self._where = list(padding), list(stride), list(dilation), groups
        self._by_size, self._by_layout = dict[torch.Size, Tensor](), dict[bytes, Tensor]()

    @classmethod
    def of(cls, layer: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> Packed:
        """A plain layer, with these numbers."""
        assert not isinstance(layer.padding, str)
        return cls(
            weight, bias, padding=layer.padding, stride=layer.stride, dilation=layer.dilation, groups=layer.groups
        )

    def __call__(self, inputs: Tensor, *, rectifies: bool = False) -> Tensor:
        """The answer (N, K, H', W'), or its ReLU, to inputs (N, C, H, W) of the weights' type."""
        then = ("leaky_relu", [_LEAK]) if rectifies else ("none", [])
        answer: Tensor = torch.ops.mkldnn._convolution_pointwise(
            _laid_out(inputs), self._for(inputs.shape), self._bias, *self._where, *then, ""
        )
        return answer

    def plus(self, inputs: Tensor, other: Tensor) -> Tensor:
        """The answer and another (N, K, H', W') of the same type, added before either is rounded."""
        answer: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            *(_laid_out(inputs), other, self._for(inputs.shape), self._bias, *self._where),
            *("add", 1.0, None, [], ""),
        )
        return answer

    def _for(self, size: torch.Size) -> Tensor:
        """The weights as inputs of this size need them.

        Laid out for others, they would be laid out again at each call, some in oneDNN's slowest way: a DenseNet-121
        takes twice the time for it. There are many sizes, a batch being of any number, and few layouts.
        """
        if (found := self._by_size.get(size)) is None:
            groups = self._where[-1]
            if size[1] != (wanted := groups * self._weight.shape[1]):
                raise RuntimeError(f"a convolution of {wanted} channels was given {size[1]}")
            laid_out = torch.ops.mkldnn._reorder_convolution_weight(self._weight, *self._where, size)
            layout = torch.ops.mkldnn._get_mkldnn_serialized_md(laid_out).numpy().tobytes()
            found = self._by_size[size] = self._by_layout.setdefault(layout, laid_out)
        return found


def _laid_out(maps: Tensor) -> Tensor:
    """Channels last, as the answer is then."""
    return maps.contiguous(memory_format=torch.channels_last)
