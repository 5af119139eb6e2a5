"""Operators into which ONNX Runtime joins several, as in files of optimised graphs that it saves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from onnx import NodeProto
from torch import Tensor, fx, nn
from torch.nn import functional

from robustcheck.models.twin.attention import Attention
from robustcheck.models.twin.builder import (
    RUNTIME,
    Builder,
    NotFollowedError,
    attribute,
    call,
    computes,
    constant,
    first_or_all,
    function_for,
    given,
    input_of,
    inputs_of,
    theirs,
)
from robustcheck.models.twin.layers import conv, gemm, linear

_fuses, _fused_function = partial(computes, domain=RUNTIME), partial(function_for, domain=RUNTIME)


def _hard_sigmoid(values: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (alpha * values + beta).clamp(0, 1)


_ACTIVATIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "LeakyRelu": lambda values, alpha=0.01: functional.leaky_relu(values, alpha),
        "Clip": torch.clamp,
        "HardSigmoid": _hard_sigmoid,
        "Elu": lambda values, alpha=1.0: functional.elu(values, alpha),
        "Softplus": functional.softplus,
        "Softsign": functional.softsign,
    }
)


def _then(builder: Builder, node: NodeProto, values: fx.Node, *settings: float, **named: float) -> fx.Node:
    """The activation that a node ends in, with its settings."""
    name = attribute(node, "activation", "")
    if not name:
        return values
    if name not in _ACTIVATIONS:
        raise NotFollowedError(f"with {name}")
    return builder.call_function(_ACTIVATIONS[name], args=(values, *settings), kwargs=named)


@_fuses("FusedConv")
def _fused_conv(builder: Builder, node: NodeProto) -> fx.Node:
    answer = conv(builder, node)
    if given(node, 3):
        answer = builder.call_function(torch.add, args=(answer, input_of(builder, node, 3)))
    return _then(builder, node, answer, *attribute(node, "activation_params", []))


@_fuses("FusedGemm")
def _fused_gemm(builder: Builder, node: NodeProto) -> fx.Node:
    settings = {name: attribute(node, f"activation_{name}") for name in ("alpha", "beta", "gamma")}
    said = {name: value for name, value in settings.items() if value is not None}
    return _then(builder, node, gemm(builder, node), **said)


def _multiply(a: Tensor, b: Tensor, alpha: float, turned: tuple[int, int], batches: tuple[int, int]) -> Tensor:
    """Matrix products, whose last two axes may be swapped, and whose first one may stand before the last."""
    a, b = (values.movedim(0, -2) if moved else values for values, moved in zip((a, b), batches, strict=True))
    a, b = (values.mT if turn and values.ndim > 1 else values for values, turn in zip((a, b), turned, strict=True))
    return alpha * (a @ b)


@_fuses("FusedMatMul")
def _fused_matmul(builder: Builder, node: NodeProto) -> fx.Node:
    turned = attribute(node, "transA", 0), attribute(node, "transB", 0)
    batches = attribute(node, "transBatchA", 0), attribute(node, "transBatchB", 0)
    alpha, weight = attribute(node, "alpha", 1.0), constant(builder, node, 1)
    if weight is not None and weight.ndim == 2 and not turned[0] and batches == (0, 0):
        return linear(builder, node, input_of(builder, node, 0), alpha * (weight if turned[1] else weight.T), None)
    return builder.call_function(_multiply, args=(*inputs_of(builder, node, 2), alpha, turned, batches))


# --- smooth steps ---


_fused_function("Gelu", 1)(functional.gelu)
_fused_function("BiasGelu", 2)(lambda values, bias: functional.gelu(values + bias))
_fused_function("QuickGelu", 1, alpha=1.702)(lambda values, alpha: values * torch.sigmoid(alpha * values))


@_fused_function("FastGelu", 2)
def _fast_gelu(values: Tensor, bias: Tensor | None) -> Tensor:
    return functional.gelu(values if bias is None else values + bias, approximate="tanh")


# --- normalisation ---


def _normalised(rows: Tensor, scale: Tensor, least: float, *, centred: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Rows scaled to a deviation of `scale`, from their mean or from 0; that centre; and 1 / their deviation."""
    mean = rows.mean(dim=-1, keepdim=True) if centred else torch.zeros_like(rows[..., :1])
    inverse = ((rows - mean).square().mean(dim=-1, keepdim=True) + least).rsqrt()
    return (rows - mean) * inverse * scale, mean, inverse


def _after_skip(
    values: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None, bias: Tensor | None, least: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum of all inputs, normalised; and its mean, 1 / its deviation, and the sum itself."""
    total = values + skip if bias is None else values + skip + bias
    answer, mean, inverse = _normalised(total, scale, least, centred=centred)
    return answer if shift is None else answer + shift, mean, inverse, total


def _normalise_sum(builder: Builder, node: NodeProto, inputs: list[fx.Node | None], *, centred: bool) -> fx.Node:
    answers = builder.call_function(_after_skip, args=(*inputs, attribute(node, "epsilon", 1e-12), centred))
    return first_or_all(builder, node, answers)


@_fuses("SkipLayerNormalization")
def _skip_layer_normalization(builder: Builder, node: NodeProto) -> fx.Node:
    return _normalise_sum(builder, node, inputs_of(builder, node, 5), centred=True)


@_fuses("SkipSimplifiedLayerNormalization")
def _skip_simplified_layer_normalization(builder: Builder, node: NodeProto) -> fx.Node:
    values, skip, scale, bias = inputs_of(builder, node, 4)
    return _normalise_sum(builder, node, [values, skip, scale, None, bias], centred=False)


computes("LayerNormalization")(theirs("LayerNormalization"))  # before opset 17 it is ONNX Runtime's


@computes("SimplifiedLayerNormalization")
def _simplified_layer_normalization(builder: Builder, node: NodeProto) -> fx.Node:
    if attribute(node, "axis", -1) != -1:
        raise NotFollowedError("along other axes than the last")
    values, scale = inputs_of(builder, node, 2)
    answers = builder.call_function(_of_its_size, args=(values, scale, attribute(node, "epsilon", 1e-5)))
    return first_or_all(builder, node, answers)


def _of_its_size(values: Tensor, scale: Tensor, least: float) -> tuple[Tensor, Tensor]:
    answer, _, inverse = _normalised(values, scale, least)
    return answer, inverse


# --- attention ---


class _FromOneProduct(nn.Module):
    """Attention whose queries, keys and values are one product of the same rows (N, length, width)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, widths: list[int], attention: Attention) -> None:
        super().__init__()
        self.together = nn.utils.skip_init(nn.Linear, *weight.shape, bias=bias is not None)
        self.together.weight = nn.Parameter(weight.T.contiguous())
        if bias is not None:
            self.together.bias = nn.Parameter(bias)
        self.widths, self.attention = widths, attention

    def forward(self, rows: Tensor, added: Tensor | None = None) -> Tensor:
        """The answer (N, length, width of the values); `added` goes to the products."""
        answer: Tensor = self.attention(*self.together(rows).split(self.widths, dim=-1), added)[0]
        return answer


def _attention_of(node: NodeProto) -> Attention:
    heads = attribute(node, "num_heads")
    return Attention(
        heads=(heads, heads),
        scale=attribute(node, "scale", 0.0) or None,
        softcap=0.0,
        causal=bool(attribute(node, "unidirectional", 0)),
        window=(-1, -1),
        mode=0,
    )


def _refuse(node: NodeProto, **others: int) -> None:
    """Inputs and answers that networks of images have no use for."""
    for name, place in others.items():
        if given(node, place):
            raise NotFollowedError(f"with {name.replace('_', ' ')}")
    if attribute(node, "do_rotary", 0):
        raise NotFollowedError("with rotary embeddings")
    if any(node.output[1:]):
        raise NotFollowedError("of whose answers more than the first are used")


@_fuses("Attention")
def _attention(builder: Builder, node: NodeProto) -> fx.Node:
    _refuse(node, mask_index=3, past=4, past_sequence_length=6)
    weight, bias = constant(builder, node, 1), constant(builder, node, 2)
    if weight is None or (bias is None and given(node, 2)):
        raise NotFollowedError("of weights that are computed")
    widths = attribute(node, "qkv_hidden_sizes", []) or [weight.shape[1] // 3] * 3
    module = _FromOneProduct(weight, bias, list(widths), _attention_of(node))
    return call(builder, node, module, input_of(builder, node, 0), input_of(builder, node, 5))


class _OfThree(nn.Module):
    """Attention to rows (N, length, width) of queries, keys and values, each moved by a part of one bias."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, added: Tensor | None = None
    ) -> Tensor:
        """The answer (N, length, width of the values)."""
        if bias is not None:
            parts = bias.split([query.shape[-1], query.shape[-1], bias.shape[0] - 2 * query.shape[-1]])
            query, key, value = (rows + part for rows, part in zip((query, key, value), parts, strict=True))
        answer: Tensor = self.attention(query, key, value, added)[0]
        return answer


@_fuses("MultiHeadAttention")
def _multi_head_attention(builder: Builder, node: NodeProto) -> fx.Node:
    _refuse(node, key_padding_mask=4, past_key=6, past_value=7, past_sequence_length=8, cache_indirection=9)
    if not (given(node, 1) and given(node, 2)):
        raise NotFollowedError("of keys and values that are packed")
    query, key, value, bias = inputs_of(builder, node, 4)
    return call(builder, node, _OfThree(_attention_of(node)), query, key, value, bias, input_of(builder, node, 5))
