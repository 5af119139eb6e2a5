"""Quantised operators: whole numbers, kept as floats where a gradient passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnx import NodeProto
from torch import Tensor, fx
from torch.nn import functional

from robustcheck.models.twin.builder import (
    RUNTIME,
    Builder,
    NotFollowedError,
    attribute,
    computes,
    constant,
    function_for,
    inputs_of,
    torch_type,
)
from robustcheck.models.twin.layers import Convolution, convolution_of, convolve
from robustcheck.models.twin.rounding import straight_through

_BEYOND = 1 / 16  # of the range
_BOUNDS = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 65535),
    torch.int16: (-32768, 32767),
}


def _along(parameter: Tensor, axis: int, values: Tensor, block: int) -> Tensor:
    """A scale or zero point, a number or one for each place of an axis, or for each block of it, to go with values."""
    parameter = parameter.float()
    if block:
        return parameter.repeat_interleave(block, dim=axis).narrow(axis, 0, values.shape[axis])
    if parameter.ndim > 1 or parameter.numel() == 1:
        return parameter if parameter.ndim > 1 else parameter.reshape(())
    shape = [1] * values.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def _to_whole(shares: Tensor, zero: Tensor | None, low: int, high: int) -> Tensor:
    """Shares of a scale, rounded, moved by a zero point, and clipped at the ends.

    Gradients pass a little beyond the ends, where a network's answers often lie; but not below a zero point that is the
    low end itself: there the clipping is what is left of a ReLU.
    """
    moved = shares if zero is None else shares + zero
    whole = (shares.round() if zero is None else shares.round() + zero).clamp(low, high)
    if not shares.requires_grad:
        return whole
    beyond = _BEYOND * (high - low)
    floor = torch.as_tensor(0.0 if zero is None else zero, device=shares.device)
    floor = torch.where(floor == low, low, low - beyond)
    return straight_through(torch.maximum(moved, floor).clamp_max(high + beyond), whole)


def _quantise(
    values: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1, kind: torch.dtype | None = None, block: int = 0
) -> Tensor:
    kind = kind or (zero.dtype if zero is not None else torch.uint8)
    axis = axis if values.ndim else 0
    shares = values.float() / _along(scale, axis, values, block)
    whole = _to_whole(shares, None if zero is None else _along(zero, axis, values, block), *_BOUNDS[kind])
    return whole if whole.requires_grad else whole.to(kind)


@function_for("DequantizeLinear", 3, axis=1, block_size=0)
@function_for("DequantizeLinear", 3, domain=RUNTIME, axis=1, block_size=0)
def _dequantise(values: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1, block: int = 0) -> Tensor:
    whole = values.float()
    if zero is not None:
        whole = whole - _along(zero, axis, values, block)
    return whole * _along(scale, axis, values, block)


@computes("QuantizeLinear")
@computes("QuantizeLinear", domain=RUNTIME)
def _quantize_linear(builder: Builder, node: NodeProto) -> fx.Node:
    code = attribute(node, "output_dtype", 0)
    kind = torch_type(code) if code else None
    zero = constant(builder, node, 2)
    if (kind or (zero.dtype if zero is not None else torch.uint8)) not in _BOUNDS:
        raise NotFollowedError("to other types than of 8 and 16 bits")
    settings = (attribute(node, "axis", 1), kind, attribute(node, "block_size", 0))
    return builder.call_function(_quantise, args=(*inputs_of(builder, node, 3), *settings))


@function_for("DynamicQuantizeLinear", 1)
def _quantise_dynamically(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each image (N, …) by its own range, since the network is asked about one image at a time."""
    flat = values.detach().flatten(1) if values.ndim > 1 else values.detach()[None]
    shape = (-1, *[1] * (values.ndim - 1)) if values.ndim > 1 else ()
    low, high = flat.amin(dim=1).clamp_max(0).reshape(shape), flat.amax(dim=1).clamp_min(0).reshape(shape)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, 1.0, scale)
    zero = (-low / scale).round().clamp(0, 255)
    whole = _to_whole(values / scale, zero, 0, 255)
    if whole.requires_grad:
        return whole, scale, zero
    return whole.to(torch.uint8), scale, zero.to(torch.uint8)


def _whole(values: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    return values.float() if zero is None else values.float() - _along(zero, axis, values, 0)


def _as_integers(answer: Tensor) -> Tensor:
    return answer if answer.requires_grad else answer.to(torch.int32)


@function_for("MatMulInteger", 4)
def _multiply_integers(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    return _as_integers(_whole(a, a_zero, a.ndim - 2) @ _whole(b, b_zero, b.ndim - 1))


def _convolve_integers(x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, how: Convolution) -> Tensor:
    return _as_integers(convolve(_whole(x, x_zero, 1), _whole(w, w_zero, 0), None, how))


@function_for("MatMulIntegerToFloat", 7, domain=RUNTIME)
def _multiply_integers_to_floats(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Tensor | None,
    b_zero: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    answer = _multiply_integers(a, b, a_zero, b_zero).float() * a_scale * b_scale
    return answer if bias is None else answer + bias


@function_for("DynamicQuantizeMatMul", 5, domain=RUNTIME)
def _multiply_dynamically(
    values: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None
) -> Tensor:
    whole, its_scale, its_zero = _quantise_dynamically(values)
    return _multiply_integers_to_floats(whole, weight, its_scale, scale, its_zero, zero, bias)


@computes("ConvInteger")
def _conv_integer(builder: Builder, node: NodeProto) -> fx.Node:
    how = convolution_of(node)
    return builder.call_function(_convolve_integers, args=(*inputs_of(builder, node, 4), how))


def _convolve_quantised(*values: Any) -> Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias, how = values
    scaled = None if bias is None else bias.float() * x_scale.reshape(()) * w_scale
    answer = convolve(_dequantise(x, x_scale, x_zero), _dequantise(w, w_scale, w_zero, 0), scaled, how)
    return _quantise(answer, y_scale, y_zero)


@computes("QLinearConv")
def _qlinear_conv(builder: Builder, node: NodeProto) -> fx.Node:
    how = convolution_of(node)
    return builder.call_function(_convolve_quantised, args=(*inputs_of(builder, node, 9), how))


@function_for("QLinearMatMul", 8)
def _multiply_quantised(*values: Tensor) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = values
    answer = _dequantise(a, a_scale, a_zero, a.ndim - 2) @ _dequantise(b, b_scale, b_zero, b.ndim - 1)
    return _quantise(answer, y_scale, y_zero, answer.ndim - 1)


@function_for("QGemm", 9, domain=RUNTIME, alpha=1.0, transA=0, transB=0)
def _gemm_quantised(*values: Any) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, bias, y_scale, y_zero, alpha, trans_a, trans_b = values
    left = _dequantise(a, a_scale, a_zero)
    right = _dequantise(b, b_scale, b_zero, 0 if trans_b else 1)
    answer = alpha * ((left.T if trans_a else left) @ (right.T if trans_b else right))
    if bias is not None:
        answer = answer + alpha * bias.float() * a_scale * b_scale
    return answer if y_scale is None else _quantise(answer, y_scale, y_zero)


def _quantised(name: str, function: Callable[..., Tensor], tensors: int, *attributes: tuple[str, Any]) -> None:
    """Register com.microsoft's form of an operator on (values, scale, zero point)s, with those of the answer.

    Args:
        name: the operator's.
        function: of so many dequantised tensors, and then the attributes.
        tensors: how many.
        attributes: their names and defaults.
    """

    @computes(name, domain=RUNTIME)
    def _handle(builder: Builder, node: NodeProto) -> fx.Node:
        if attribute(node, "channels_last", 0):
            raise NotFollowedError("with its channels last")
        settings = tuple(attribute(node, key, default) for key, default in attributes)
        values = inputs_of(builder, node, 3 * tensors + 2)
        # Three steps, so that a last softmax or sigmoid is found and left off.
        parts = [
            builder.call_function(_dequantise, args=values[start : start + 3]) for start in range(0, 3 * tensors, 3)
        ]
        answer = builder.call_function(function, args=(*parts, *settings))
        return builder.call_function(_quantise, args=(answer, *values[3 * tensors :]))


_quantised("QLinearAdd", torch.add, 2)
_quantised("QLinearMul", torch.mul, 2)
_quantised("QLinearSigmoid", torch.sigmoid, 1)
_quantised("QLinearLeakyRelu", functional.leaky_relu, 1, ("alpha", 0.01))
_quantised("QLinearSoftmax", functional.softmax, 1, ("axis", -1))
_quantised("QLinearGlobalAveragePool", lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True), 1)


def _join_quantised(axis: int, y_scale: Tensor, y_zero: Tensor, *values: Tensor) -> Tensor:
    parts = [_dequantise(*part) for part in zip(values[::3], values[1::3], values[2::3], strict=True)]
    return _quantise(torch.cat(parts, dim=axis), y_scale, y_zero)


@computes("QLinearConcat", domain=RUNTIME)
def _qlinear_concat(builder: Builder, node: NodeProto) -> fx.Node:
    values = inputs_of(builder, node, len(node.input))
    return builder.call_function(_join_quantised, args=(attribute(node, "axis"), *values))
