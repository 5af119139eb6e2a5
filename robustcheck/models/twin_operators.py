"""ONNX operators as the twin computes them, where onnx2fx's own way is not enough.

Three reasons to stand in for it: convolutions and linear layers become torch's modules, which faster forms of a network
are made of; rounding passes gradients straight through, so that quantised graphs can be followed; and some operators
are missing there, or differ from the standard. Each is held to the conformance cases of the onnx package.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import onnx
import torch
from onnx import NodeProto
from onnx.helper import tensor_dtype_to_np_dtype
from onnx2fx import op_registry, register_op
from torch import Tensor, fx, nn
from torch.nn import functional

from robustcheck.models.twin_attention import Attention
from robustcheck.models.twin_resize import Resize

Builder: TypeAlias = Any
"""onnx2fx's GraphBuilder: values by name, and functions and modules that are put into the graph."""

Handler: TypeAlias = Callable[[Builder, NodeProto], fx.Node]

_MICROSOFT = "com.microsoft"
_ML = "ai.onnx.ml"
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BOUNDS = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 65535),
    torch.int16: (-32768, 32767),
}


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value, text as str; the default where the node has none."""
    for found in node.attribute:
        if found.name == name:
            value = onnx.helper.get_attribute_value(found)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _input(builder: Builder, node: NodeProto, place: int) -> fx.Node | None:
    given = len(node.input) > place and node.input[place]
    return builder.get_value(node.input[place]) if given else None


def _inputs(builder: Builder, node: NodeProto, count: int) -> list[fx.Node | None]:
    return [_input(builder, node, place) for place in range(count)]


def _constant(builder: Builder, node: NodeProto, place: int) -> Tensor | None:
    """What the graph itself holds for an input."""
    return builder.initializer_map.get(node.input[place]) if len(node.input) > place else None


def _given(node: NodeProto, place: int) -> bool:
    return len(node.input) > place and bool(node.input[place])


def _module(builder: Builder, node: NodeProto, module: nn.Module, *inputs: Any) -> fx.Node:
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    name = builder.register_submodule(f"m_{node.output[0]}", module)
    return builder.call_module(name, args=inputs)


def _theirs(name: str, domain: str = "", version: int = 1) -> Handler:
    handler: Handler | None = op_registry.get_handler(name, domain, version)
    assert handler is not None
    return handler


# --- convolutions and matrix products, as modules ---------------------------------------------------------------------

_their_gemm, _their_matmul = _theirs("Gemm"), _theirs("MatMul")


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


def _convolve(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    node: tuple[Sequence[int], Sequence[int], int, Sequence[int], str],
) -> Tensor:
    stride, dilation, groups, pads, auto = node
    rank = weight.ndim - 2
    stride, dilation = list(stride) or [1] * rank, list(dilation) or [1] * rank
    if auto.startswith("SAME"):
        inputs = _pad_same(inputs, weight.shape[2:], stride, dilation, auto)
    elif any(pads):
        inputs = functional.pad(inputs, list(pads))
    function = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    return function(inputs, weight, bias, tuple(stride), 0, tuple(dilation), groups)


def _convolution_of(node: NodeProto, rank: int) -> tuple[list[int], list[int], int, tuple[int, ...], str]:
    """Stride, dilation, groups, padding and how it is found."""
    auto = attribute(node, "auto_pad", "NOTSET")
    pads = (0,) * 2 * rank if auto == "VALID" else _padding(node, rank)
    return attribute(node, "strides", []), attribute(node, "dilations", []), attribute(node, "group", 1), pads, auto


@register_op("Conv")
def _conv(builder: Builder, node: NodeProto) -> fx.Node:
    inputs, weights, biases = _inputs(builder, node, 3)
    weight, bias = _constant(builder, node, 1), _constant(builder, node, 2)
    if weight is None or weight.ndim - 2 not in _CONVOLUTIONS or (biases is not None and bias is None):
        known = weight if weight is not None else node
        rank = known.ndim - 2 if isinstance(known, Tensor) else len(attribute(node, "kernel_shape", [0, 0]))
        return builder.call_function(_convolve, args=(inputs, weights, biases, _convolution_of(node, rank)))
    rank = weight.ndim - 2
    stride, dilation, groups, pads, auto = _convolution_of(node, rank)
    stride, dilation = stride or [1] * rank, dilation or [1] * rank
    padding: tuple[int, ...] = tuple(pads[-2::-2])
    if auto.startswith("SAME"):
        inputs = builder.call_function(_pad_same, args=(inputs, tuple(weight.shape[2:]), stride, dilation, auto))
        padding = (0,) * rank
    elif pads[-2::-2] != pads[::-2]:
        inputs = builder.call_function(functional.pad, args=(inputs, pads))
        padding = (0,) * rank
    module = nn.utils.skip_init(
        _CONVOLUTIONS[rank],
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=tuple(stride),
        padding=padding,
        dilation=tuple(dilation),
        groups=groups,
        bias=bias is not None,
    )
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.bias = nn.Parameter(bias)
    return _module(builder, node, module, inputs)


def _linear(builder: Builder, node: NodeProto, inputs: Any, weight: Tensor, bias: Tensor | None) -> fx.Node:
    module = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    module.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        module.bias = nn.Parameter(bias)
    return _module(builder, node, module, inputs)


@register_op("Gemm")
def _gemm(builder: Builder, node: NodeProto) -> fx.Node:
    weight, bias = _constant(builder, node, 1), _constant(builder, node, 2)
    if weight is None or (bias is None and _given(node, 2)) or attribute(node, "transA", 0):
        return _their_gemm(builder, node)
    weight = weight if attribute(node, "transB", 0) else weight.T
    if bias is not None:
        if bias.numel() not in (1, len(weight)):
            return _their_gemm(builder, node)
        bias = bias.flatten().expand(len(weight)).clone() * attribute(node, "beta", 1.0)
    return _linear(builder, node, builder.get_value(node.input[0]), weight * attribute(node, "alpha", 1.0), bias)


@register_op("MatMul")
def _matmul(builder: Builder, node: NodeProto) -> fx.Node:
    weight = _constant(builder, node, 1)
    if weight is None or weight.ndim != 2 or not weight.is_floating_point():
        return _their_matmul(builder, node)
    return _linear(builder, node, builder.get_value(node.input[0]), weight.T, None)


# --- rounding that gradients pass through ----------------------------------------------------------------------------


def straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, with the gradient of those before (Bengio et al. 2013, arXiv 1308.3432)."""
    return values + (rounded - values).detach() if values.requires_grad else rounded


@register_op("Round")
def _round(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(lambda x: straight_through(x, x.round()), args=(_input(builder, node, 0),))


def _cast_to(values: Tensor, kind: torch.dtype) -> Tensor:
    if kind.is_floating_point or not values.requires_grad:
        return values.to(kind)
    return straight_through(values, values.to(kind).to(values.dtype))


@register_op("Cast")
def _cast(builder: Builder, node: NodeProto) -> fx.Node:
    kind = _torch_type(attribute(node, "to"), node)
    return builder.call_function(_cast_to, args=(_input(builder, node, 0), kind))


def _torch_type(code: int, node: NodeProto) -> torch.dtype:
    try:
        name = tensor_dtype_to_np_dtype(code).name
        kind = getattr(torch, name, None)
    except (KeyError, TypeError):
        kind = None
    if not isinstance(kind, torch.dtype) or kind.itemsize == 0:
        raise NotImplementedError(f"{node.op_type} to {onnx.TensorProto.DataType.Name(code)}")
    return kind


# --- quantised operators: whole numbers, kept as floats where a gradient passes ----------------------------------------


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


def _quantise(
    values: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1, kind: torch.dtype | None = None, block: int = 0
) -> Tensor:
    kind = kind or (zero.dtype if zero is not None else torch.uint8)
    low, high = _BOUNDS[kind]
    axis = axis if values.ndim else 0
    shares = values.float() / _along(scale, axis, values, block)
    whole = straight_through(shares, shares.round())
    if zero is not None:
        whole = whole + _along(zero, axis, values, block)
    whole = whole.clamp(low, high)
    return whole if whole.requires_grad else whole.to(kind)


def _dequantise(values: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1, block: int = 0) -> Tensor:
    whole = values.float()
    if zero is not None:
        whole = whole - _along(zero, axis, values, block)
    return whole * _along(scale, axis, values, block)


@register_op("QuantizeLinear")
def _quantize_linear(builder: Builder, node: NodeProto) -> fx.Node:
    code = attribute(node, "output_dtype", 0)
    kind = _torch_type(code, node) if code else None
    zero = _constant(builder, node, 2)
    if (kind or (zero.dtype if zero is not None else torch.uint8)) not in _BOUNDS:
        raise NotImplementedError("QuantizeLinear to other types than 8 and 16 bits")
    settings = (attribute(node, "axis", 1), kind, attribute(node, "block_size", 0))
    return builder.call_function(_quantise, args=(*_inputs(builder, node, 3), *settings))


@register_op("DequantizeLinear")
def _dequantize_linear(builder: Builder, node: NodeProto) -> fx.Node:
    settings = (attribute(node, "axis", 1), attribute(node, "block_size", 0))
    return builder.call_function(_dequantise, args=(*_inputs(builder, node, 3), *settings))


def _quantise_dynamically(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each image (N, …) by its own range: one image is asked about at a time."""
    flat = values.detach().flatten(1) if values.ndim > 1 else values.detach()[None]
    shape = (-1, *[1] * (values.ndim - 1)) if values.ndim > 1 else ()
    low, high = flat.amin(dim=1).clamp_max(0).reshape(shape), flat.amax(dim=1).clamp_min(0).reshape(shape)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, 1.0, scale)
    zero = (-low / scale).round().clamp(0, 255)
    shares = values / scale
    whole = (straight_through(shares, shares.round()) + zero).clamp(0, 255)
    if whole.requires_grad:
        return whole, scale, zero
    return whole.to(torch.uint8), scale, zero.to(torch.uint8)


@register_op("DynamicQuantizeLinear")
def _dynamic_quantize_linear(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(_quantise_dynamically, args=(_input(builder, node, 0),))


def _whole(values: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    return values.float() if zero is None else values.float() - _along(zero, axis, values, 0)


def _as_integers(answer: Tensor) -> Tensor:
    return answer if answer.requires_grad else answer.to(torch.int32)


def _multiply_integers(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    return _as_integers(_whole(a, a_zero, a.ndim - 2) @ _whole(b, b_zero, b.ndim - 1))


@register_op("MatMulInteger")
def _matmul_integer(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(_multiply_integers, args=tuple(_inputs(builder, node, 4)))


def _convolve_integers(x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, how: Any) -> Tensor:
    return _as_integers(_convolve(_whole(x, x_zero, 1), _whole(w, w_zero, 0), None, how))


@register_op("ConvInteger")
def _conv_integer(builder: Builder, node: NodeProto) -> fx.Node:
    weight = _constant(builder, node, 1)
    rank = weight.ndim - 2 if weight is not None else len(attribute(node, "kernel_shape", [0, 0]))
    how = _convolution_of(node, rank)
    return builder.call_function(_convolve_integers, args=(*_inputs(builder, node, 4), how))


def _convolve_quantised(*values: Any) -> Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias, how = values
    scaled = None if bias is None else bias.float() * x_scale.reshape(()) * w_scale
    answer = _convolve(_dequantise(x, x_scale, x_zero), _dequantise(w, w_scale, w_zero, 0), scaled, how)
    return _quantise(answer, y_scale, y_zero)


@register_op("QLinearConv")
def _qlinear_conv(builder: Builder, node: NodeProto) -> fx.Node:
    weight = _constant(builder, node, 3)
    rank = weight.ndim - 2 if weight is not None else len(attribute(node, "kernel_shape", [0, 0]))
    return builder.call_function(_convolve_quantised, args=(*_inputs(builder, node, 9), _convolution_of(node, rank)))


def _multiply_quantised(*values: Tensor) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = values
    answer = _dequantise(a, a_scale, a_zero, a.ndim - 2) @ _dequantise(b, b_scale, b_zero, b.ndim - 1)
    return _quantise(answer, y_scale, y_zero, answer.ndim - 1)


@register_op("QLinearMatMul")
def _qlinear_matmul(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(_multiply_quantised, args=tuple(_inputs(builder, node, 8)))


def _gemm_quantised(*values: Any) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, bias, y_scale, y_zero, alpha, trans_a, trans_b = values
    left = _dequantise(a, a_scale, a_zero)
    right = _dequantise(b, b_scale, b_zero, 0 if trans_b else 1)
    answer = alpha * ((left.T if trans_a else left) @ (right.T if trans_b else right))
    if bias is not None:
        answer = answer + alpha * bias.float() * a_scale * b_scale
    return answer if y_scale is None else _quantise(answer, y_scale, y_zero)


@register_op("QGemm", domain=_MICROSOFT)
def _qgemm(builder: Builder, node: NodeProto) -> fx.Node:
    settings = (attribute(node, "alpha", 1.0), attribute(node, "transA", 0), attribute(node, "transB", 0))
    return builder.call_function(_gemm_quantised, args=(*_inputs(builder, node, 9), *settings))


def _quantised(name: str, function: Callable[..., Tensor], tensors: int, *attributes: tuple[str, Any]) -> None:
    """Register com.microsoft's form of an operator that works on (values, scale, zero point)s, with those of the answer.

    Args:
        name: the operator's.
        function: of so many dequantised tensors, and then the attributes.
        tensors: how many.
        attributes: their names and defaults.
    """

    def compute(settings: tuple[Any, ...], *values: Any) -> Tensor:
        parts = [_dequantise(*values[3 * place : 3 * place + 3]) for place in range(tensors)]
        scale, zero = values[3 * tensors : 3 * tensors + 2]
        return _quantise(function(*parts, *settings), scale, zero)

    @register_op(name, domain=_MICROSOFT)
    def _handle(builder: Builder, node: NodeProto) -> fx.Node:
        if attribute(node, "channels_last", 0):
            raise NotImplementedError(f"{name} with its channels last")
        settings = tuple(attribute(node, key, default) for key, default in attributes)
        return builder.call_function(compute, args=(settings, *_inputs(builder, node, 3 * tensors + 2)))


_quantised("QLinearAdd", torch.add, 2)
_quantised("QLinearMul", torch.mul, 2)
_quantised("QLinearSigmoid", torch.sigmoid, 1)
_quantised("QLinearLeakyRelu", functional.leaky_relu, 1, ("alpha", 0.01))
_quantised("QLinearSoftmax", functional.softmax, 1, ("axis", -1))
_quantised("QLinearGlobalAveragePool", lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True), 1)


def _join_quantised(axis: int, y_scale: Tensor, y_zero: Tensor, *values: Tensor) -> Tensor:
    parts = [_dequantise(*values[place : place + 3]) for place in range(0, len(values), 3)]
    return _quantise(torch.cat(parts, dim=axis), y_scale, y_zero)


@register_op("QLinearConcat", domain=_MICROSOFT)
def _qlinear_concat(builder: Builder, node: NodeProto) -> fx.Node:
    values = _inputs(builder, node, len(node.input))
    return builder.call_function(_join_quantised, args=(attribute(node, "axis"), *values))


# --- what is missing, or differs --------------------------------------------------------------------------------------


def _clamp(values: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    if low is not None:
        values = torch.maximum(values, low.to(values.dtype))
    return values if high is None else torch.minimum(values, high.to(values.dtype))


@register_op("Clip", since_version=11)
def _clip(builder: Builder, node: NodeProto) -> fx.Node:
    low, high = _constant(builder, node, 1), _constant(builder, node, 2)
    plain = all(bound is None or bound.numel() == 1 for bound in (low, high))
    if plain and (low is not None or not _given(node, 1)) and (high is not None or not _given(node, 2)):
        bounds = {"min": None if low is None else low.item(), "max": None if high is None else high.item()}
        if bounds == {"min": None, "max": None}:
            return _input(builder, node, 0)
        return builder.call_function(torch.clamp, args=(_input(builder, node, 0),), kwargs=bounds)
    return builder.call_function(_clamp, args=tuple(_inputs(builder, node, 3)))


@register_op("Softmax", since_version=1)
def _softmax(builder: Builder, node: NodeProto) -> fx.Node:
    """Before opset 13 all axes from this one on were one; that is the same where it is the last."""
    axis, shape = attribute(node, "axis", 1), (builder.value_info_map.get(node.input[0]) or (None,))[0]
    if shape is not None and axis in (len(shape) - 1, -1):
        return builder.call_function(functional.softmax, args=(_input(builder, node, 0),), kwargs={"dim": axis})
    return builder.call_function(
        lambda x, axis: x.flatten(axis).softmax(dim=-1).reshape(x.shape), args=(_input(builder, node, 0), axis)
    )


def _resize(builder: Builder, node: NodeProto, roi: int, scales: int, sizes: int, **settings: Any) -> fx.Node:
    module = Resize(**settings)
    given = [_input(builder, node, place) if place else None for place in (0, roi, scales, sizes)]
    given[0] = _input(builder, node, 0)
    return _module(builder, node, module, *given)


@register_op("Resize", since_version=11)
def _resize_11(builder: Builder, node: NodeProto) -> fx.Node:
    return _resize(
        builder,
        node,
        1,
        2,
        3,
        mode=attribute(node, "mode", "nearest"),
        coordinates=attribute(node, "coordinate_transformation_mode", "half_pixel"),
        nearest=attribute(node, "nearest_mode", "round_prefer_floor"),
        cubic_a=attribute(node, "cubic_coeff_a", -0.75),
        exclude_outside=bool(attribute(node, "exclude_outside", 0)),
        extrapolation=attribute(node, "extrapolation_value", 0.0),
        antialias=bool(attribute(node, "antialias", 0)),
        axes=attribute(node, "axes"),
        aspect=attribute(node, "keep_aspect_ratio_policy", "stretch"),
    )


@register_op("Resize", since_version=10)
@register_op("Upsample", since_version=9)
def _resize_10(builder: Builder, node: NodeProto) -> fx.Node:
    settings = {"mode": attribute(node, "mode", "nearest"), "coordinates": "asymmetric", "nearest": "floor"}
    return _resize(builder, node, 0, 1, 0, **settings)


@register_op("Upsample", since_version=7)
def _upsample_7(builder: Builder, node: NodeProto) -> fx.Node:
    scales = tuple(attribute(node, "scales"))
    module = Resize(mode=attribute(node, "mode", "nearest"), coordinates="asymmetric", nearest="floor", scales=scales)
    return _module(builder, node, module, _input(builder, node, 0))


@register_op("Attention", since_version=23)
def _attention(builder: Builder, node: NodeProto) -> fx.Node:
    heads = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
    module = Attention(
        heads=None if None in heads else heads,
        scale=attribute(node, "scale"),
        softcap=attribute(node, "softcap", 0.0),
        causal=bool(attribute(node, "is_causal", 0)),
        window=(attribute(node, "left_window_size", -1), attribute(node, "right_window_size", -1)),
        mode=attribute(node, "qk_matmul_output_mode", 0),
    )
    answers = _module(builder, node, module, *_inputs(builder, node, 7))
    return builder.call_function(operator.getitem, args=(answers, 0)) if len(node.output) == 1 else answers


@register_op("SpaceToDepth")
def _space_to_depth(builder: Builder, node: NodeProto) -> fx.Node:
    by_columns = attribute(node, "mode", "DCR") == "CRD"
    settings = (attribute(node, "blocksize"), by_columns)
    return builder.call_function(_to_depth, args=(_input(builder, node, 0), *settings))


def _to_depth(values: Tensor, block: int, by_columns: bool) -> Tensor:
    if by_columns:
        return functional.pixel_unshuffle(values, block)
    count, channels, height, width = values.shape
    parts = values.reshape(count, channels, height // block, block, width // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(count, -1, height // block, width // block)


@register_op("LpNormalization")
def _lp_normalization(builder: Builder, node: NodeProto) -> fx.Node:
    settings = (attribute(node, "p", 2), attribute(node, "axis", -1))
    return builder.call_function(_normalise, args=(_input(builder, node, 0), *settings))


def _normalise(values: Tensor, order: int, axis: int) -> Tensor:
    """A row of zeros stays one."""
    length = torch.linalg.vector_norm(values, order, dim=axis, keepdim=True)
    return values / torch.where(length == 0, 1.0, length)


@register_op("GatherElements")
def _gather_elements(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(_gather, args=(*_inputs(builder, node, 2), attribute(node, "axis", 0)))


def _gather(values: Tensor, places: Tensor, axis: int) -> Tensor:
    return values.gather(axis, places.long() % values.shape[axis])  # from the end, where they are negative


# --- linear models of scikit-learn -------------------------------------------------------------------------------------

_AFTER: dict[str, Callable[[Tensor], Tensor]] = {
    "NONE": lambda x: x,
    "LOGISTIC": torch.sigmoid,
    "SOFTMAX": lambda x: x.softmax(dim=1),
}


@register_op("LinearClassifier", domain=_ML)
def _linear_classifier(builder: Builder, node: NodeProto) -> fx.Node:
    """Only the scores, its second output: the first is a decision."""
    intercepts = attribute(node, "intercepts")
    after = attribute(node, "post_transform", "NONE")
    rows = len(intercepts) if intercepts else len(attribute(node, "classlabels_ints") or attribute(node, "classlabels_strings"))
    weight = torch.tensor(attribute(node, "coefficients")).reshape(rows, -1)
    if after not in _AFTER or rows == 1:
        raise NotImplementedError(f"LinearClassifier with {rows} rows and {after}")
    bias = torch.tensor(intercepts) if intercepts else None
    scores = _linear(builder, node, _input(builder, node, 0), weight, bias)
    return builder.call_function(lambda x, after: (x.argmax(dim=1), _AFTER[after](x)), args=(scores, after))


@register_op("Normalizer", domain=_ML)
def _normalizer(builder: Builder, node: NodeProto) -> fx.Node:
    by = {"MAX": torch.inf, "L1": 1, "L2": 2}[attribute(node, "norm", "MAX")]
    return builder.call_function(
        lambda x, by: x / torch.linalg.vector_norm(x, by, dim=1, keepdim=True), args=(_input(builder, node, 0), by)
    )


@register_op("Scaler", domain=_ML)
def _scaler(builder: Builder, node: NodeProto) -> fx.Node:
    offset, scale = (tuple(attribute(node, name, [default])) for name, default in (("offset", 0.0), ("scale", 1.0)))
    return builder.call_function(
        lambda x, offset, scale: (x - x.new_tensor(offset)) * x.new_tensor(scale),
        args=(_input(builder, node, 0), offset, scale),
    )
