"""Whether a graph rounds what it makes of the image: such values are flat with steps, and have no slope to compare."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from robustcheck.models.twin.graph import inner_graphs, nodes

_ROUND = frozenset({"Round", "Floor", "Ceil"})
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_DECIDE = frozenset(
    {
        *("Shape", "Size", "ArgMax", "ArgMin", "NonZero", "IsNaN", "IsInf"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not"),
    }
)
"""Whose answers are sizes, places or truths: no gradient passes them, with rounding or without."""


def rounds(model: ModelProto) -> bool:
    """Whether numbers that depend on the image are rounded somewhere, be it in a graph within the graph."""
    graph = model.graph
    if not any(node.op_type in _ROUND or node.op_type == "Cast" for node in nodes(graph)):
        return False
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.input, *inferred.value_info)}
    held = {tensor.name for tensor in graph.initializer}
    return _rounds(graph, {value.name for value in graph.input if value.name not in held}, kinds)


def _rounds(graph: GraphProto, images: set[str], kinds: Mapping[str, int]) -> bool:
    """The same; `images` are the names of what depends on the image, to which the graph's own are added."""
    for node in graph.node:
        inner = list(inner_graphs(node))
        read = {*node.input, *(name for each in inner for deep in nodes(each) for name in deep.input)}
        if node.op_type in _DECIDE or not read & images:
            continue
        if _is_rounding(node, kinds):
            return True
        if any(_rounds(each, images | {value.name for value in each.input}, kinds) for each in inner):
            return True
        images.update(filter(None, node.output))
    return False


def _is_rounding(node: NodeProto, kinds: Mapping[str, int]) -> bool:
    if node.op_type != "Cast":
        return node.op_type in _ROUND
    to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
    return to not in _FLOATS | {TensorProto.BOOL} and kinds.get(node.input[0]) in _FLOATS
