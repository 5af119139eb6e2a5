"""Convolutions and matrix products as torch's modules, which faster forms of a network are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from onnx import NodeProto
from torch import Tensor, fx, nn
from torch.nn import functional

from robustcheck.models.twin.builder import Builder, attribute, call, computes, constant, given, inputs_of, theirs

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

Convolution: TypeAlias = tuple[Sequence[int], Sequence[int], int, tuple[int, ...], str]
"""Stride, dilation, groups, padding as functional.pad wants it, and the attribute auto_pad."""

_their_gemm, _their_matmul = theirs("Gemm"), theirs("MatMul")


def _padding(node: NodeProto, rank: int) -> tuple[int, ...]:
    """As functional.pad wants it: the last axis first, before and after."""
    pads = attribute(node, "pads") or [0] * 2 * rank
    return tuple(pads[side * rank + axis] for axis in reversed(range(rank)) for side in (0, 1))


def _pad_same(
    inputs: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], mode: str
) -> Tensor:
    """Pad so that the answer has ⌈size / stride⌉ pixels; an odd pixel goes to the end (SAME_UPPER) or the beginning."""
    pads: list[int] = []
    for size, width, step, gap in reversed(list(zip(inputs.shape[2:], kernel, stride, dilation, strict=True))):
        missing = max(0, (-(-size // step) - 1) * step + (width - 1) * gap + 1 - size)
        small, large = missing // 2, missing - missing // 2
        pads += [small, large] if mode == "SAME_UPPER" else [large, small]
    return functional.pad(inputs, pads)


def convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None, how: Convolution) -> Tensor:
    """A convolution in as many dimensions as the weights have."""
    stride, dilation, groups, pads, auto = how
    if auto.startswith("SAME"):
        inputs = _pad_same(inputs, weight.shape[2:], stride, dilation, auto)
    elif any(pads):
        inputs = functional.pad(inputs, list(pads))
    function = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[weight.ndim - 2]
    return function(inputs, weight, bias, tuple(stride), 0, tuple(dilation), groups)


def convolution_of(node: NodeProto, weight: Tensor | None) -> Convolution:
    """What a node says of its convolution; its weights, if they are known, tell in how many dimensions."""
    rank = len(attribute(node, "kernel_shape", [0, 0])) if weight is None else weight.ndim - 2
    auto = attribute(node, "auto_pad", "NOTSET")
    pads = (0,) * 2 * rank if auto == "VALID" else _padding(node, rank)
    stride, dilation = (tuple(attribute(node, name, [1] * rank)) for name in ("strides", "dilations"))
    return stride, dilation, attribute(node, "group", 1), pads, auto


@computes("Conv")
def _conv(builder: Builder, node: NodeProto) -> fx.Node:
    inputs, weights, biases = inputs_of(builder, node, 3)
    weight, bias = constant(builder, node, 1), constant(builder, node, 2)
    how = convolution_of(node, weight)
    if weight is None or weight.ndim - 2 not in _CONVOLUTIONS or (biases is not None and bias is None):
        return builder.call_function(convolve, args=(inputs, weights, biases, how))
    stride, dilation, groups, pads, auto = how
    before, after = pads[-2::-2], pads[::-2]
    if auto.startswith("SAME"):
        inputs = builder.call_function(_pad_same, args=(inputs, tuple(weight.shape[2:]), stride, dilation, auto))
        before = (0,) * len(stride)
    elif before != after:
        inputs = builder.call_function(functional.pad, args=(inputs, pads))
        before = (0,) * len(stride)
    module = nn.utils.skip_init(
        _CONVOLUTIONS[weight.ndim - 2],
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=stride,
        padding=before,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
    )
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.bias = nn.Parameter(bias)
    return call(builder, node, module, inputs)


def linear(builder: Builder, node: NodeProto, inputs: Any, weight: Tensor, bias: Tensor | None) -> fx.Node:
    """A linear layer of weights (out, in) in the graph."""
    module = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    module.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        module.bias = nn.Parameter(bias)
    return call(builder, node, module, inputs)


@computes("Gemm")
def _gemm(builder: Builder, node: NodeProto) -> fx.Node:
    weight, bias = constant(builder, node, 1), constant(builder, node, 2)
    if weight is None or (bias is None and given(node, 2)) or attribute(node, "transA", 0):
        return _their_gemm(builder, node)
    weight = weight if attribute(node, "transB", 0) else weight.T
    if bias is not None:
        if bias.numel() not in (1, len(weight)):
            return _their_gemm(builder, node)
        bias = bias.flatten().expand(len(weight)).clone() * attribute(node, "beta", 1.0)
    return linear(builder, node, builder.get_value(node.input[0]), weight * attribute(node, "alpha", 1.0), bias)


@computes("MatMul")
def _matmul(builder: Builder, node: NodeProto) -> fx.Node:
    weight = constant(builder, node, 1)
    if weight is None or weight.ndim != 2 or not weight.is_floating_point():
        return _their_matmul(builder, node)
    return linear(builder, node, builder.get_value(node.input[0]), weight.T, None)
