"""Sizes, and tensors that are made of sizes: on the device of the tensor that they are asked about.

onnx2fx makes them on the CPU. With a twin on a GPU they meet constants of the graph, which lie there, and torch neither
joins the two nor looks one up by the other.
"""

from __future__ import annotations

from math import ceil

import torch
from onnx import NodeProto, TensorProto, numpy_helper
from torch import Tensor, fx

from robustcheck.models.twin.builder import Builder, attribute, computes, function_for, input_of, torch_type


@function_for("Shape", 1, start=0, end=None)
def _shape_of(values: Tensor, start: int, end: int | None) -> Tensor:
    return torch.tensor(values.shape[start:end], dtype=torch.int64, device=values.device)


@function_for("Size", 1)
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


@function_for("Range", 3)
def _counted(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """A range; empty where the limit lies before the start."""
    count = max(0, ceil((limit.item() - start.item()) / delta.item()))
    return start + delta * torch.arange(count, dtype=start.dtype, device=start.device)
