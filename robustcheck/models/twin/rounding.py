"""Rounding that gradients pass straight through, so that quantised graphs can be followed."""

from __future__ import annotations

import torch
from onnx import NodeProto
from torch import Tensor, fx

from robustcheck.models.twin.builder import Builder, attribute, computes, input_of, torch_type


def straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, with the gradient of those before (Bengio et al. 2013, arXiv 1308.3432)."""
    return values + (rounded - values).detach() if values.requires_grad else rounded


@computes("Round")
def _round(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(lambda x: straight_through(x, x.round()), args=(input_of(builder, node, 0),))


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
