"""Operators that onnx2fx lacks, or computes differently from the standard."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, prod
from typing import TypeAlias

import torch
from onnx import NodeProto
from torch import Tensor, fx
from torch.nn import functional

from robustcheck.models.twin.builder import (
    Builder,
    NotFollowedError,
    as_list,
    attribute,
    computes,
    constant,
    first_or_all,
    function_for,
    given,
    input_of,
    inputs_of,
    shape_of,
    theirs,
    versions_of,
    whole_numbers,
)
from robustcheck.words import listed


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
    """Before opset 13 all axes from this one on were merged; that makes no difference if it is the last."""
    axis, shape = attribute(node, "axis", 1), shape_of(builder, node.input[0])
    if shape is not None and axis in (len(shape) - 1, -1):
        return builder.call_function(functional.softmax, args=(input_of(builder, node, 0),), kwargs={"dim": axis})
    return builder.call_function(
        lambda x, axis: x.flatten(axis).softmax(dim=-1).reshape(x.shape), args=(input_of(builder, node, 0), axis)
    )


@function_for("SpaceToDepth", 1, blocksize=None, mode="DCR")
def _to_depth(values: Tensor, block: int, mode: str) -> Tensor:
    if mode == "CRD":
        return functional.pixel_unshuffle(values, block)
    count, channels, height, width = values.shape
    parts = values.reshape(count, channels, height // block, block, width // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(count, -1, height // block, width // block)


@function_for("LpNormalization", 1, p=2, axis=-1)
def _normalise(values: Tensor, order: int, axis: int) -> Tensor:
    """A row of zeros stays one."""
    length = torch.linalg.vector_norm(values, order, dim=axis, keepdim=True)
    return values / torch.where(length == 0, 1.0, length)


@function_for("GatherElements", 2, axis=0)
def _gather(values: Tensor, places: Tensor, axis: int) -> Tensor:
    return values.gather(axis, places.long() % values.shape[axis])  # from the end, where they are negative


@function_for("GatherND", 2, batch_dims=0)
def _gather_at(values: Tensor, places: Tensor, shared: int) -> Tensor:
    """The values at places (…, depth) of the axes after those that both share, all at once."""
    own = [
        torch.arange(values.shape[axis], device=values.device).view(-1, *[1] * (places.ndim - 2 - axis))
        for axis in range(shared)
    ]
    return values[(*own, *places.long().unbind(-1))]


@function_for("ScatterND", 3, reduction="none")
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


Reduce: TypeAlias = Callable[[Tensor, list[int], bool], Tensor]
"""Of a tensor, along axes from the first on, which are kept as ones or not."""


def _reduces(name: str, reduce: Reduce, of_nothing: float) -> None:
    @computes(name)
    def handler(builder: Builder, node: NodeProto) -> fx.Node:
        axes = attribute(node, "axes") or whole_numbers(builder, node, 1)
        kept, of_none = bool(attribute(node, "keepdims", 1)), not attribute(node, "noop_with_empty_axes", 0)

        def reduced(values: Tensor, axes: list[int] | Tensor | None) -> Tensor:
            along = [] if axes is None else sorted(axis % values.ndim for axis in as_list(axes))
            if not along and of_none:
                along = list(range(values.ndim))
            if not all(values.shape[axis] for axis in along):
                sizes = [1 if axis in along else size for axis, size in enumerate(values.shape)]
                nothing = values.new_full(sizes, of_nothing)
                return nothing if kept else nothing.squeeze(tuple(along))
            return reduce(values, along, kept) if along else values

        return builder.call_function(reduced, args=(input_of(builder, node, 0), axes))


def _product(values: Tensor, along: list[int], kept: bool) -> Tensor:
    for axis in reversed(along):
        values = values.prod(dim=axis, keepdim=kept)
    return values


_reduces("ReduceMax", torch.amax, -inf)
_reduces("ReduceMin", torch.amin, inf)
_reduces("ReduceProd", _product, 1.0)


@computes("Squeeze", since=13)
@computes("Squeeze")
def _squeeze(builder: Builder, node: NodeProto) -> fx.Node:
    axes = attribute(node, "axes") or whole_numbers(builder, node, 1)
    return builder.call_function(_without, args=(input_of(builder, node, 0), axes))


def _without(values: Tensor, axes: list[int] | Tensor | None) -> Tensor:
    return values.squeeze() if axes is None else values.squeeze(tuple(as_list(axes)))


@computes("Unsqueeze", since=13)
@computes("Unsqueeze")
def _unsqueeze(builder: Builder, node: NodeProto) -> fx.Node:
    axes = attribute(node, "axes") or whole_numbers(builder, node, 1)
    return builder.call_function(_with, args=(input_of(builder, node, 0), axes))


def _with(values: Tensor, axes: list[int] | Tensor) -> Tensor:
    """Axes are those of the answer."""
    added = as_list(axes)
    for axis in sorted(axis % (values.ndim + len(added)) for axis in added):
        values = values.unsqueeze(axis)
    return values


@computes("Pad", since=11)
def _pad(builder: Builder, node: NodeProto) -> fx.Node:
    filled = constant(builder, node, 2)
    fill = input_of(builder, node, 2) if filled is None else filled.item()
    numbers = whole_numbers(builder, node, 1), whole_numbers(builder, node, 3)
    mode = _PADS[attribute(node, "mode", "constant")]
    return builder.call_function(_padded, args=(input_of(builder, node, 0), *numbers, fill, mode))


_PADS = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "wrap"}


def _padded(
    values: Tensor, pads: list[int] | Tensor, axes: list[int] | Tensor | None, fill: float | Tensor | None, mode: str
) -> Tensor:
    """Pads are those before each axis, then those behind each; axes may be left out or count from the end."""
    sizes, around = as_list(pads), [(0, 0)] * values.ndim
    half = len(sizes) // 2
    padded = range(values.ndim) if axes is None else as_list(axes)
    for axis, before, after in zip(padded, sizes[:half], sizes[half:], strict=True):
        around[axis] = before, after
    if mode == "wrap":  # torch's `circular` goes round once at most
        for axis, (before, after) in enumerate(around):
            size = values.shape[axis]
            places = torch.arange(-before, size + after, device=values.device) % size
            values = values.index_select(axis, places) if before or after else values
        return values
    while len(around) > max(1, values.ndim - 2) and around[0] == (0, 0):  # torch repeats along the last axes only
        around = around[1:]
    value = {"value": float(fill or 0)} if mode == "constant" else {}
    return functional.pad(values, [size for sides in reversed(around) for size in sides], mode, **value)


def _recurs(name: str, usual: tuple[str, ...]) -> None:
    their_handler = theirs(name)

    @computes(name)
    def handler(builder: Builder, node: NodeProto) -> fx.Node:
        """onnx2fx's own, for what it does not silently ignore."""
        functions = [function.decode() for function in attribute(node, "activations", [])]
        if functions != list(usual) * (len(functions) // len(usual)):
            raise NotFollowedError(f"with activations {listed(functions)}")
        if attribute(node, "clip") is not None:
            raise NotFollowedError("with clip")
        lengths, shape = constant(builder, node, 4), shape_of(builder, node.input[0])
        length = shape[attribute(node, "layout", 0)] if shape else None
        if lengths is not None and length is not None and bool((lengths != length).any()):
            raise NotFollowedError("with sequence_lens")
        return their_handler(builder, node)


_recurs("LSTM", ("Sigmoid", "Tanh", "Tanh"))
_recurs("GRU", ("Sigmoid", "Tanh"))
_recurs("RNN", ("Tanh",))


def _answers_with_all(name: str, since: int) -> None:
    """An operator of which onnx2fx gives a tuple, also where a node has one output."""
    their_handler = theirs(name, opset=since)

    @computes(name, since=since)
    def handler(builder: Builder, node: NodeProto) -> fx.Node:
        return first_or_all(builder, node, their_handler(builder, node))


for _name in ("Loop", "Scan", "Split"):
    for _since in versions_of(_name):
        _answers_with_all(_name, _since)


@computes("Concat")
def _concat(builder: Builder, node: NodeProto) -> fx.Node:
    parts, axis = inputs_of(builder, node, len(node.input)), attribute(node, "axis", 0)
    held = [constant(builder, node, place) for place in range(len(parts))]
    same = any(part is not None and part.ndim and len(part) == 1 and axis % part.ndim for part in held)
    return builder.call_function(_joined if same else torch.cat, args=(parts, axis))


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    """What a graph holds once, such as a class token, is given to each image, however many there are."""
    count = max(map(len, parts))
    return torch.cat([part.expand(count, *part.shape[1:]) if len(part) == 1 else part for part in parts], axis)


@computes("Reshape")
def _reshape(builder: Builder, node: NodeProto) -> fx.Node:
    settings = whole_numbers(builder, node, 1), bool(attribute(node, "allowzero", 0))
    return builder.call_function(_reshaped, args=(input_of(builder, node, 0), *settings))


def _reshaped(values: Tensor, sizes: list[int] | Tensor, zeros: bool) -> Tensor:
    """A size of zero means the input's own, unless zeros are sizes."""
    wanted = as_list(sizes)
    return values.reshape([values.shape[axis] if not (size or zeros) else size for axis, size in enumerate(wanted)])


@computes("Expand")
def _expand(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(
        lambda x, sizes: x.expand(torch.broadcast_shapes(x.shape, as_list(sizes))),
        args=(input_of(builder, node, 0), whole_numbers(builder, node, 1)),
    )


@computes("Tile")
def _tile(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(
        lambda x, times: x.tile(as_list(times)), args=(input_of(builder, node, 0), whole_numbers(builder, node, 1))
    )
