"""Operators that onnx2fx lacks, or computes otherwise than the standard says."""

from __future__ import annotations

from math import prod

import torch
from onnx import NodeProto
from torch import Tensor, fx
from torch.nn import functional

from robustcheck.models.twin.builder import Builder, attribute, computes, constant, given, input_of, inputs_of, shape_of


def _clamp(values: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    if low is not None:
        values = torch.maximum(values, low.to(values.dtype))
    return values if high is None else torch.minimum(values, high.to(values.dtype))


@computes("Clip", since=11)
def _clip(builder: Builder, node: NodeProto) -> fx.Node:
    image = builder.get_value(node.input[0])
    low, high = constant(builder, node, 1), constant(builder, node, 2)
    plain = all(bound is None or bound.numel() == 1 for bound in (low, high))
    if plain and (low is not None or not given(node, 1)) and (high is not None or not given(node, 2)):
        bounds = {"min": None if low is None else low.item(), "max": None if high is None else high.item()}
        if bounds == {"min": None, "max": None}:
            return image
        return builder.call_function(torch.clamp, args=(image,), kwargs=bounds)
    return builder.call_function(_clamp, args=tuple(inputs_of(builder, node, 3)))


@computes("Softmax", since=1)
def _softmax(builder: Builder, node: NodeProto) -> fx.Node:
    """Before opset 13 all axes from this one on were one; that is the same where it is the last."""
    axis, shape = attribute(node, "axis", 1), shape_of(builder, node.input[0])
    if shape is not None and axis in (len(shape) - 1, -1):
        return builder.call_function(functional.softmax, args=(input_of(builder, node, 0),), kwargs={"dim": axis})
    return builder.call_function(
        lambda x, axis: x.flatten(axis).softmax(dim=-1).reshape(x.shape), args=(input_of(builder, node, 0), axis)
    )


@computes("SpaceToDepth")
def _space_to_depth(builder: Builder, node: NodeProto) -> fx.Node:
    by_columns = attribute(node, "mode", "DCR") == "CRD"
    settings = (attribute(node, "blocksize"), by_columns)
    return builder.call_function(_to_depth, args=(input_of(builder, node, 0), *settings))


def _to_depth(values: Tensor, block: int, by_columns: bool) -> Tensor:
    if by_columns:
        return functional.pixel_unshuffle(values, block)
    count, channels, height, width = values.shape
    parts = values.reshape(count, channels, height // block, block, width // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(count, -1, height // block, width // block)


@computes("LpNormalization")
def _lp_normalization(builder: Builder, node: NodeProto) -> fx.Node:
    settings = (attribute(node, "p", 2), attribute(node, "axis", -1))
    return builder.call_function(_normalise, args=(input_of(builder, node, 0), *settings))


def _normalise(values: Tensor, order: int, axis: int) -> Tensor:
    """A row of zeros stays one."""
    length = torch.linalg.vector_norm(values, order, dim=axis, keepdim=True)
    return values / torch.where(length == 0, 1.0, length)


@computes("GatherElements")
def _gather_elements(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(_gather, args=(*inputs_of(builder, node, 2), attribute(node, "axis", 0)))


def _gather(values: Tensor, places: Tensor, axis: int) -> Tensor:
    return values.gather(axis, places.long() % values.shape[axis])  # from the end, where they are negative


@computes("ScatterND")
def _scatter_nd(builder: Builder, node: NodeProto) -> fx.Node:
    settings = (attribute(node, "reduction", "none"),)
    return builder.call_function(_scatter, args=(*inputs_of(builder, node, 3), *settings))


def _scatter(values: Tensor, places: Tensor, updates: Tensor, reduction: str) -> Tensor:
    """Updates at places (…, depth) of the first axes, all at once: exporters write whole tensors this way."""
    depth = places.shape[-1]
    sizes = torch.tensor(values.shape[:depth], device=values.device)
    steps = torch.tensor([prod(values.shape[axis + 1 : depth]) for axis in range(depth)], device=values.device)
    rows = ((places.long() % sizes) * steps).sum(dim=-1).flatten()  # places may count from the end
    kind = torch.promote_types(values.dtype, updates.dtype)
    before = values.to(kind).reshape(-1, *values.shape[depth:])
    new = updates.to(kind).reshape(len(rows), *values.shape[depth:])
    if reduction == "none":
        return before.index_put((rows,), new).view(values.shape)
    if reduction == "add":
        return before.index_add(0, rows, new).view(values.shape)
    everywhere = rows.view(-1, *[1] * (new.ndim - 1)).expand_as(new)
    return before.scatter_reduce(0, everywhere, new, _REDUCTIONS[reduction]).view(values.shape)


_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}
