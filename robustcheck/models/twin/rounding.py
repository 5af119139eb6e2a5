"""Rounding that gradients pass straight through, so that quantised graphs can be followed."""

from __future__ import annotations

import torch
from onnx import NodeProto
from torch import Tensor, fx

from robustcheck.models.twin.builder import (
    Builder,
    attribute,
    computes,
    function_for,
    input_of,
    inputs_of,
    theirs,
    torch_type,
)


def straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, with the gradient of those before (Bengio et al. 2013, arXiv 1308.3432)."""
    return values + (rounded - values).detach() if values.requires_grad else rounded


_their_subtraction = theirs("Sub")


@function_for("Round", 1)
def _round(values: Tensor) -> Tensor:
    return straight_through(values, values.round())


@function_for("Floor", 1)
def _floor(values: Tensor) -> Tensor:
    return straight_through(values, values.floor())


@function_for("Ceil", 1)
def _ceil(values: Tensor) -> Tensor:
    return straight_through(values, values.ceil())


def _fraction(values: Tensor) -> Tensor:
    return values - values.floor()


@computes("Sub")
def _subtract(builder: Builder, node: NodeProto) -> fx.Node:
    """What floor takes off a number rises with the number; it would not if gradients went through both."""
    number, floor = inputs_of(builder, node, 2)
    if floor is not None and (floor.target, floor.args) == (_floor, (number,)):
        return builder.call_function(_fraction, args=(number,))
    return _their_subtraction(builder, node)


def _cast_to(values: Tensor, kind: torch.dtype) -> Tensor:
    if kind is torch.bool:
        return values != 0
    if kind.is_floating_point or not values.requires_grad:
        return values.to(kind)
    return straight_through(values, values.to(kind).to(values.dtype))


@computes("Cast")
def _cast(builder: Builder, node: NodeProto) -> fx.Node:
    kind = torch_type(attribute(node, "to"))
    return builder.call_function(_cast_to, args=(input_of(builder, node, 0), kind))
