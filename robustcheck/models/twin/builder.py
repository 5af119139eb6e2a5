"""What handlers of operators ask of an ONNX node and of onnx2fx's builder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import onnx
import torch
from onnx import NodeProto
from onnx.helper import tensor_dtype_to_np_dtype
from onnx2fx import op_registry
from torch import Tensor, fx, nn

Builder: TypeAlias = Any
"""onnx2fx's GraphBuilder: values by name, and functions and modules that are put into the graph."""

Handler: TypeAlias = Callable[[Builder, NodeProto], fx.Node]


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value, text as str; the default where the node has none."""
    for found in node.attribute:
        if found.name == name:
            value = onnx.helper.get_attribute_value(found)
            return value.decode() if isinstance(value, bytes) else value
    return default


def given(node: NodeProto, place: int) -> bool:
    """Whether a node has an input at a place."""
    return len(node.input) > place and bool(node.input[place])


def input_of(builder: Builder, node: NodeProto, place: int) -> fx.Node | None:
    """The value of an input; None if it is left out."""
    return builder.get_value(node.input[place]) if given(node, place) else None


def inputs_of(builder: Builder, node: NodeProto, count: int) -> list[fx.Node | None]:
    """The first inputs."""
    return [input_of(builder, node, place) for place in range(count)]


def constant(builder: Builder, node: NodeProto, place: int) -> Tensor | None:
    """What the graph itself holds for an input."""
    return builder.initializer_map.get(node.input[place]) if given(node, place) else None


def call(builder: Builder, node: NodeProto, module: nn.Module, *inputs: Any) -> fx.Node:
    """A module in the graph, its weights frozen."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    name = builder.register_submodule(f"m_{node.output[0]}", module)
    return builder.call_module(name, args=inputs)


def theirs(name: str) -> Handler:
    """onnx2fx's own handler of an operator, before another takes its place."""
    handler: Handler | None = op_registry.get_handler(name)
    assert handler is not None
    return handler


def torch_type(code: int, node: NodeProto) -> torch.dtype:
    """The type that an attribute names.

    Raises:
        NotImplementedError: torch has none that is a number.
    """
    try:
        name = tensor_dtype_to_np_dtype(code).name
        kind = getattr(torch, name, None)
    except (KeyError, TypeError):
        kind = None
    if not isinstance(kind, torch.dtype):
        raise NotImplementedError(f"{node.op_type} to {onnx.TensorProto.DataType.Name(code)}")
    return kind
