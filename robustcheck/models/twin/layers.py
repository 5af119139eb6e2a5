"""Convolutions, matrix products and batch norms as torch's modules, which faster forms of a network are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from onnx import NodeProto
from torch import Tensor, fx, nn
from torch.nn import functional

from robustcheck.models.twin.builder import (
    Builder,
    attribute,
    call,
    computes,
    constant,
    given,
    inputs_of,
    shape_of,
    theirs,
)

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

Convolution: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int, tuple[int, ...], str]
"""Stride, dilation, groups, pads and auto_pad, as ONNX has them; empty where the node does not say."""

_their_gemm, _their_matmul, _their_batch_norm = theirs("Gemm"), theirs("MatMul"), theirs("BatchNormalization")


def convolution_of(node: NodeProto) -> Convolution:
    """What a node says about its convolution."""
    stride, dilation, pads = (tuple(attribute(node, name, [])) for name in ("strides", "dilations", "pads"))
    return stride, dilation, attribute(node, "group", 1), pads, attribute(node, "auto_pad", "NOTSET")


def _in_full(how: Convolution, rank: int) -> Convolution:
    """A convolution with the defaults where its node does not say."""
    stride, dilation, groups, pads, auto = how
    pads = (0,) * 2 * rank if auto == "VALID" or not pads else pads
    return stride or (1,) * rank, dilation or (1,) * rank, groups, pads, auto


def _around(pads: tuple[int, ...]) -> list[int]:
    """Pads as functional.pad wants them: the last axis first, before and after."""
    rank = len(pads) // 2
    return [pads[side * rank + axis] for axis in reversed(range(rank)) for side in (0, 1)]


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
    rank = weight.ndim - 2
    stride, dilation, groups, pads, auto = _in_full(how, rank)
    if auto.startswith("SAME"):
        inputs = _pad_same(inputs, weight.shape[2:], stride, dilation, auto)
    elif any(pads):
        inputs = functional.pad(inputs, _around(pads))
    function = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    return function(inputs, weight, bias, stride, 0, dilation, groups)


@computes("Conv")
def conv(builder: Builder, node: NodeProto) -> fx.Node:
    """A convolution in the graph, as a module if its weights are constants."""
    inputs, weights, biases = inputs_of(builder, node, 3)
    weight, bias = constant(builder, node, 1), constant(builder, node, 2)
    if weight is None or weight.ndim - 2 not in _CONVOLUTIONS or (biases is not None and bias is None):
        return builder.call_function(convolve, args=(inputs, weights, biases, convolution_of(node)))
    rank = weight.ndim - 2
    stride, dilation, groups, pads, auto = _in_full(convolution_of(node), rank)
    padding = pads[:rank]
    if auto.startswith("SAME"):
        inputs = builder.call_function(_pad_same, args=(inputs, tuple(weight.shape[2:]), stride, dilation, auto))
        padding = (0,) * rank
    elif pads[:rank] != pads[rank:]:
        inputs = builder.call_function(functional.pad, args=(inputs, _around(pads)))
        padding = (0,) * rank
    module = nn.utils.skip_init(
        _CONVOLUTIONS[rank],
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
    )
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.bias = nn.Parameter(bias)
    return call(builder, node, module, inputs)


def _transpose_convolve(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    how: Convolution,
    more: tuple[int, ...],
    wanted: tuple[int, ...],
) -> Tensor:
    """The whole answer, then the part that the pads leave, or the wanted size; `more` is output_padding."""
    rank = weight.ndim - 2
    stride, dilation, groups, pads, auto = _in_full(how, rank)
    more, wanted = more or (0,) * rank, wanted[-rank:]
    if not wanted and auto.startswith("SAME"):
        wanted = tuple(size * step for size, step in zip(inputs.shape[2:], stride, strict=True))
    function = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}[rank]
    answer = function(inputs, weight, None, stride, 0, 0, groups, dilation)
    for axis, size in enumerate(wanted):
        total = answer.shape[2 + axis] + more[axis] - size
        small, large = total // 2, total - total // 2
        before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
        pads = (*pads[:axis], before, *pads[axis + 1 : axis + rank], after, *pads[axis + rank + 1 :])
    cut = tuple(-size for size in pads[:rank]) + tuple(
        extra - size for extra, size in zip(more, pads[rank:], strict=True)
    )
    answer = functional.pad(answer, _around(cut)) if any(cut) else answer
    return answer if bias is None else answer + bias.view(-1, *[1] * rank)


@computes("ConvTranspose")
def _conv_transpose(builder: Builder, node: NodeProto) -> fx.Node:
    more, wanted = (tuple(attribute(node, name, [])) for name in ("output_padding", "output_shape"))
    return builder.call_function(
        _transpose_convolve, args=(*inputs_of(builder, node, 3), convolution_of(node), more, wanted)
    )


def linear(builder: Builder, node: NodeProto, inputs: Any, weight: Tensor, bias: Tensor | None) -> fx.Node:
    """A linear layer of weights (out, in) in the graph."""
    module = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    module.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        module.bias = nn.Parameter(bias)
    return call(builder, node, module, inputs)


@computes("Gemm")
def gemm(builder: Builder, node: NodeProto) -> fx.Node:
    """A matrix product with a bias in the graph, as a linear layer if its weights are constants."""
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


@computes("BatchNormalization")
def _batch_norm(builder: Builder, node: NodeProto) -> fx.Node:
    """Batch norm of maps (N, C, H, W), with statistics that are constants."""
    scale, bias, mean, variance = (constant(builder, node, number) for number in range(1, 5))
    if scale is None or bias is None or mean is None or variance is None or attribute(node, "training_mode", 0):
        return _their_batch_norm(builder, node)
    if len(shape_of(builder, node.input[0]) or ()) != 4:
        return _their_batch_norm(builder, node)
    module = nn.BatchNorm2d(len(mean), eps=attribute(node, "epsilon", 1e-5), dtype=mean.dtype).eval()
    module.weight, module.bias = nn.Parameter(scale), nn.Parameter(bias)
    module.running_mean, module.running_var = mean, variance
    return call(builder, node, module, builder.get_value(node.input[0]))
