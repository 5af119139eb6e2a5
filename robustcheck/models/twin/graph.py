"""An ONNX graph before it is converted: constants computed, one output, float32, names of ours, any batch size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from robustcheck.models.onnx.runtime import onnxruntime
from robustcheck.models.twin.builder import RUNTIME

LARGEST_BYTES = 2**31 - 2**20  # of weights: a graph is prepared as one message, which can have 2 GiB
_FOLDABLE_BYTES = 2**30  # of a file that ONNX Runtime rewrites as one
_WHOLE = (TensorProto.UINT8, TensorProto.INT8)
_NARROW = (TensorProto.FLOAT16, TensorProto.DOUBLE)


def folded(path: Path) -> ModelProto:
    """The graph with its constants computed and its batch norms in its convolutions, in standard operators."""
    model = onnx.load(path)
    if bytes_of(model) > _FOLDABLE_BYTES:
        return model
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        with tempfile.TemporaryDirectory(prefix="robustcheck-") as folder:  # a container may have no room for one
            written = Path(folder) / "folded.onnx"
            options.optimized_model_filepath = str(written)
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            return onnx.load(written)
    except Exception:  # noqa: BLE001 (then the graph is converted as it is)
        return model


def bytes_of(model: ModelProto) -> int:
    """The size of its weights in bytes, which may be more than a message can hold."""
    return sum(tensor.ByteSize() for tensor in model.graph.initializer)


def nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Nodes of a graph and of the graphs within it."""
    return (node for each in _graphs(graph) for node in each.node)


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node holds, such as a loop's."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from _graphs(inner)


def reads(node: NodeProto) -> set[str]:
    """The names of what a node reads, also inside the graphs that it holds."""
    return {*node.input, *(name for inner in inner_graphs(node) for deep in nodes(inner) for name in deep.input)}


def element_types(model: ModelProto) -> dict[str, int]:
    """What type the elements of inputs and of values in between have, by name, as far as that can be told."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*inferred.input, *inferred.value_info)}


def make_dense(graph: GraphProto) -> None:
    """Sparse weights, of which a file holds only those that are not zero, written out in full."""
    for sparse in graph.sparse_initializer:
        values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        dense = np.zeros(list(sparse.dims), values.dtype)
        if places.ndim == 1:
            dense.reshape(-1)[places] = values
        else:
            dense[tuple(places.T)] = values
        graph.initializer.append(numpy_helper.from_array(dense, sparse.values.name))
    del graph.sparse_initializer[:]


def keep_only(graph: GraphProto, output: str) -> None:
    """Drop the other outputs, what only they need, and weights among the inputs: the image is the only one left."""
    wanted, kept = {output}, list[NodeProto]()
    for node in reversed(graph.node):
        if wanted.intersection(filter(None, node.output)):  # an omitted output has no name
            kept.append(node)
            wanted.update(reads(node))
            wanted.update(value.name for inner in inner_graphs(node) for value in inner.output)
    outputs = [value for value in graph.output if value.name == output]
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    held = {tensor.name for tensor in graph.initializer}
    images = [value for value in graph.input if value.name not in held]  # old files list weights there, too
    kept_graph = onnx.helper.make_graph(kept[::-1], graph.name, images, outputs, tensors)
    graph.CopyFrom(kept_graph)


def cut_resized_bytes(model: ModelProto) -> None:
    """Truncate whole numbers after they are resized, as ONNX Runtime does: in the twin they are floats."""
    kinds, cut = element_types(model), list[NodeProto]()
    for node in model.graph.node:
        cut.append(node)
        if node.op_type in ("Resize", "Upsample") and (kind := kinds.get(node.input[0])) in _WHOLE:
            (answer,) = node.output
            node.output[0] = f"{answer}/before-it-is-cut"
            cut.append(onnx.helper.make_node("Cast", [node.output[0]], [answer], to=kind))
    del model.graph.node[:]
    model.graph.node.extend(cut)


def take_apart(graph: GraphProto) -> None:
    """Means of whole numbers as ONNX Runtime takes them, in three standard operators."""
    taken = [part for node in graph.node for part in _parts(node)]
    del graph.node[:]
    graph.node.extend(taken)


def _parts(node: NodeProto) -> list[NodeProto]:
    settings = {found.name: onnx.helper.get_attribute_value(found) for found in node.attribute}
    if (node.domain, node.op_type) != (RUNTIME, "QLinearAveragePool") or settings.pop("channels_last", 0):
        return [node]
    (answer,), floats, means = node.output, f"{node.output[0]}/floats", f"{node.output[0]}/means"
    return [
        onnx.helper.make_node("DequantizeLinear", node.input[:3], [floats]),
        onnx.helper.make_node("AveragePool", [floats], [means], **settings),
        onnx.helper.make_node("QuantizeLinear", [means, *node.input[3:]], [answer]),
    ]


def widen(model: ModelProto) -> bool:
    """Everything of another precision in float32; whether something was in float16."""
    halves = False
    for graph in _graphs(model.graph):
        del graph.value_info[:]
        for tensor in [*graph.initializer, *_tensors(graph)]:
            if tensor.data_type in _NARROW:
                halves |= tensor.data_type == TensorProto.FLOAT16
                wide = numpy_helper.to_array(tensor).astype("float32")
                tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _NARROW:
                    halves |= attribute.i == TensorProto.FLOAT16
                    attribute.i = TensorProto.FLOAT
        for value in [*graph.input, *graph.output]:
            kind = value.type.tensor_type
            if kind.elem_type in _NARROW:
                halves |= kind.elem_type == TensorProto.FLOAT16
                kind.elem_type = TensorProto.FLOAT
    return halves


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t


def anonymise(model: ModelProto) -> int:
    """Give every value a name of ours: the converter writes Python, and the file's author chose the names.

    Returns:
        The element type of the input, which becomes float: gradients are asked for there.
    """
    names: dict[str, str] = {"": ""}

    def called(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}")

    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.output):
            value.name = called(value.name)
        for tensor in graph.initializer:
            tensor.name = called(tensor.name)
        for number, node in enumerate(graph.node):
            node.name = f"n{number}"
            for field in (node.input, node.output):
                field[:] = [called(name) for name in field]
    (image,) = model.graph.input
    kind = image.type.tensor_type.elem_type
    image.type.tensor_type.elem_type = TensorProto.FLOAT
    return kind


def free_batch(graph: GraphProto) -> int | None:
    """Let a graph of a fixed batch size take any, as far as reshapes and class tokens tell; the size that was fixed."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    (image,) = graph.input
    first = image.type.tensor_type.shape.dim[0] if image.type.tensor_type.shape.dim else None
    if first is None or not first.HasField("dim_value") or first.dim_value < 1:
        return None
    batch: int = first.dim_value
    first.Clear()
    first.dim_param = "batch"

    def hold(like: TensorProto, values: NDArray[np.generic]) -> str:
        fresh = f"{like.name}_{len(graph.initializer)}"
        graph.initializer.append(numpy_helper.from_array(values, fresh))
        return fresh

    for node in graph.node:
        if node.op_type == "Reshape" and (shape := held.get(node.input[1])) is not None:
            sizes = numpy_helper.to_array(shape).copy()
            if (fresh := _freed(sizes, batch)) is not None:
                sizes[0] = fresh
                del node.attribute[:]  # allowzero, with which 0 is a size
                node.input[1] = hold(shape, sizes)
        elif node.op_type == "Concat":
            (axis,) = (found.i for found in node.attribute if found.name == "axis")
            for place, tensor in enumerate(map(held.get, node.input)):
                if tensor is not None and (row := _row_of_all(tensor, axis, batch)) is not None:
                    node.input[place] = hold(tensor, row)  # the twin joins it to each image
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return batch


def _freed(sizes: NDArray[np.generic], batch: int) -> int | None:
    """What to reshape to first, if that is now a batch, alone or with what follows: the rest, or what it was."""
    known: list[int] = sizes.tolist()
    if not known or known[0] < 1 or known[0] % batch:
        return None
    if min(known) > 0:
        return -1
    return 0 if known[0] == batch and 0 not in known else None


def _row_of_all(tensor: TensorProto, axis: int, batch: int) -> NDArray[np.generic] | None:
    """What a constant holds for each image of a batch, as (1, …); None if nothing, or if joined to other images."""
    if not tensor.dims or tensor.dims[0] != batch or axis % len(tensor.dims) == 0:
        return None
    values = numpy_helper.to_array(tensor)
    return values[:1] if (values == values[:1]).all() else None
