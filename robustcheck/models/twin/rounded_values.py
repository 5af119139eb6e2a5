"""Whether a graph rounds what it makes of the image: such values are flat with steps, and have no slope to compare."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from robustcheck.models.twin.graph import element_types, inner_graphs, nodes, reads

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
    """Whether numbers that depend on the image, the only input, are rounded somewhere, be it in an inner graph."""
    graph = model.graph
    if not any(node.op_type in _ROUND or node.op_type == "Cast" for node in nodes(graph)):
        return False
    return _rounds(graph, {value.name for value in graph.input}, element_types(model))


def _rounds(graph: GraphProto, images: set[str], kinds: Mapping[str, int]) -> bool:
    """The same; `images` are the names of what depends on the image, to which the graph's own are added."""
    for node in graph.node:
        if node.op_type in _DECIDE or not reads(node) & images:
            continue
        if _is_rounding(node, kinds):
            return True
        if any(_rounds(each, images | {value.name for value in each.input}, kinds) for each in inner_graphs(node)):
            return True
        images.update(filter(None, node.output))
    return False


def _is_rounding(node: NodeProto, kinds: Mapping[str, int]) -> bool:
    if node.op_type != "Cast":
        return node.op_type in _ROUND
    to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
    return to not in _FLOATS | {TensorProto.BOOL} and kinds.get(node.input[0]) in _FLOATS
