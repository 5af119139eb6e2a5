"""Sizes, and tensors that are made of sizes: on the device of the tensor that they are asked about.

onnx2fx makes them on the CPU. With a twin on a GPU they meet constants of the graph, which lie there, and torch neither
joins the two nor looks one up by the other.
"""

from __future__ import annotations

from math import ceil

import torch
from onnx import NodeProto, TensorProto, numpy_helper
from torch import Tensor, fx

from robustcheck.models.twin.builder import Builder, attribute, computes, input_of, inputs_of, torch_type


@computes("Shape")
def _shape(builder: Builder, node: NodeProto) -> fx.Node:
    between = attribute(node, "start", 0), attribute(node, "end")
    return builder.call_function(_shape_of, args=(input_of(builder, node, 0), *between))


def _shape_of(values: Tensor, start: int, end: int | None) -> Tensor:
    return torch.tensor(values.shape[start:end], dtype=torch.int64, device=values.device)


@computes("Size")
def _size(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(_size_of, args=(input_of(builder, node, 0),))


def _size_of(values: Tensor) -> Tensor:
    return torch.tensor(values.numel(), dtype=torch.int64, device=values.device)


@computes("ConstantOfShape")
def _constant_of_shape(builder: Builder, node: NodeProto) -> fx.Node:
    told: TensorProto | None = attribute(node, "value")
    value, kind = (0.0, torch.float32) if told is None else (_only(told), torch_type(told.data_type))
    return builder.call_function(_filled, args=(input_of(builder, node, 0), value, kind))


def _only(told: TensorProto) -> float | int | bool:
    value: float | int | bool = numpy_helper.to_array(told).item()
    return value


def _filled(shape: Tensor, value: float, kind: torch.dtype) -> Tensor:
    return torch.full([int(size) for size in shape.tolist()], value, dtype=kind, device=shape.device)


@computes("Range")
def _range(builder: Builder, node: NodeProto) -> fx.Node:
    return builder.call_function(_counted, args=tuple(inputs_of(builder, node, 3)))


def _counted(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Empty if the limit lies before the start."""
    count = max(0, ceil((limit.item() - start.item()) / delta.item()))
    return start + delta * torch.arange(count, dtype=start.dtype, device=start.device)
