"""What handlers of operators need of an ONNX node and of onnx2fx's builder."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import onnx
import torch
from onnx import NodeProto
from onnx.helper import tensor_dtype_to_np_dtype
from onnx2fx import op_registry, register_op
from onnx2fx.graph_builder import GraphBuilder
from torch import Tensor, fx, nn

RUNTIME = "com.microsoft"
"""The domain of operators that are ONNX Runtime's own."""


class NotFollowedError(Exception):
    """A handler cannot make a differentiable form of its operator; the message says of what."""


Builder: TypeAlias = GraphBuilder
Handler: TypeAlias = Callable[[Builder, NodeProto], fx.Node]
_AnyHandler = TypeVar("_AnyHandler", bound=Callable[[Builder, NodeProto], fx.Node | tuple[fx.Node, ...]])
"""Gives a step, or one for each answer of the operator."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


def computes(name: str, *, domain: str = "", since: int = 1) -> Callable[[_AnyHandler], _AnyHandler]:
    """Register a handler of an operator, from an opset on, in place of onnx2fx's own."""

    def register(handler: _AnyHandler) -> _AnyHandler:
        register_op(name, cast("Any", handler), domain=domain, since_version=since)
        return handler

    return register


def function_for(name: str, inputs: int, /, *, domain: str = "", **attributes: Any) -> Callable[[_Function], _Function]:
    """Register a function as an operator.

    It is given the operator's first inputs, of which those that a node leaves out are None, and then the attributes
    that are named here, in this order, with these defaults.
    """

    def register(function: _Function) -> _Function:
        @computes(name, domain=domain)
        def handler(builder: Builder, node: NodeProto) -> fx.Node:
            settings = [attribute(node, key, default) for key, default in attributes.items()]
            return builder.call_function(function, args=(*inputs_of(builder, node, inputs), *settings))

        return function

    return register


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


def whole_numbers(builder: Builder, node: NodeProto, place: int) -> list[int] | fx.Node | None:
    """An input of sizes or axes: Python numbers if the graph holds them, which no pass over a GPU has to wait for."""
    held = constant(builder, node, place)
    return input_of(builder, node, place) if held is None else [int(number) for number in held.flatten().tolist()]


def as_list(numbers: list[int] | Tensor) -> list[int]:
    """`whole_numbers` when the graph is run."""
    return numbers if isinstance(numbers, list) else [int(number) for number in numbers.flatten().tolist()]


def shape_of(builder: Builder, name: str) -> list[int | None] | None:
    """The shape of a value, as far as it is known; builders of inner graphs know none."""
    known = getattr(builder, "value_info_map", {}).get(name)
    return known[0] if known else None


def call(builder: Builder, node: NodeProto, module: nn.Module, *inputs: Any) -> fx.Node:
    """A module in the graph, its weights frozen."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    name = builder.register_submodule(f"m_{node.output[0]}", module)
    return builder.call_module(name, args=inputs)


def first_or_all(builder: Builder, node: NodeProto, answers: fx.Node) -> fx.Node:
    """The first of a tuple of answers where a node has no other, else all."""
    return builder.call_function(operator.getitem, args=(answers, 0)) if len(node.output) == 1 else answers


def theirs(name: str, *, opset: int | None = None) -> Handler:
    """onnx2fx's own handler of an operator in an opset (None: the newest), before another takes its place."""
    opset = opset or max(versions_of(name))
    handler = cast("Handler | None", op_registry.get_handler(name, opset_version=opset))
    assert handler is not None
    return handler


def versions_of(name: str) -> list[int]:
    """The opsets from which onnx2fx has a handler of its own of an operator."""
    return op_registry.get_handler_versions(name)


def torch_type(code: int) -> torch.dtype:
    """The type that an attribute names.

    Raises:
        NotFollowedError: torch has none that is a number.
    """
    try:
        name = tensor_dtype_to_np_dtype(code).name
        kind = getattr(torch, name, None)
    except (KeyError, TypeError):
        kind = None
    if not isinstance(kind, torch.dtype):
        raise NotFollowedError(f"to {onnx.TensorProto.DataType.Name(code)}")
    return kind
