"""A differentiable twin of an ONNX graph: torch's answer to the same image, and its gradient.

The converter is onnx2fx, and nothing outside this folder's twin files knows: another can take its place. The twin only
searches. It is compared with ONNX Runtime before it is used (`agreement`), and no verdict is its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx2fx
import onnxruntime
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx2fx.exceptions import UnsupportedOpError
from torch import fx

from robustcheck.models import twin_operators
from robustcheck.models.network import first_line, freeze

_FOLDABLE_BYTES = 2**30  # of a file that ONNX Runtime rewrites as one message, which can have 2 GiB
_NARROW = (TensorProto.FLOAT16, TensorProto.DOUBLE)
_ADVICE = "export the network again with other operators, or use an attack that asks for scores only (square)"
_ROUNDED_OPERATORS = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger")


class NoTwin(Exception):  # noqa: N818 (not a failure: the artefact still answers)
    """A graph has no differentiable form; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A graph in torch."""

    module: fx.GraphModule  # float32 inputs (N, …) to scores; weights frozen
    batch: int | None  # the only batch size that it takes; None: any
    rounded: bool  # it works on whole numbers somewhere, which gradients go straight through
    halves: bool  # it works in float16 somewhere, and its twin in float32


def make_twin(path: Path, output: str, device: torch.device, *, flat: bool = False) -> Twin:
    """Convert the graph of a checked file.

    Args:
        path: the .onnx file.
        output: which of its outputs are the scores.
        device: where the twin is to live.
        flat: it takes a row of numbers for an image.

    Raises:
        NoTwin: it cannot be converted.
    """
    model = _folded(path)
    rounded = any(node.op_type in _ROUNDED_OPERATORS for node in _nodes(model.graph))
    _keep_only(model.graph, output)
    halves = _widen(model)
    kind = _anonymise(model)
    batch = _free_batch(model.graph)
    module = converted(model)
    _adapt_inputs(module, kind, flat=flat)
    module.graph.eliminate_dead_code()
    module.recompile()
    freeze(module)
    return Twin(module=module.eval().to(device), batch=batch, rounded=rounded, halves=halves)


def converted(model: ModelProto) -> fx.GraphModule:
    """A graph in torch, operator by operator.

    Raises:
        NoTwin: an operator of it has no differentiable form.
    """
    try:
        return onnx2fx.convert(model)
    except UnsupportedOpError as error:
        domain = f"{error.domain}." if error.domain else ""
        what = f"its operator {domain}{error.op_type} (opset {error.opset_version}) has no differentiable form here"
    except NotImplementedError as error:
        what = f"its {error} has no differentiable form here"
    except Exception as error:  # noqa: BLE001 (a converter's code meets any graph there is)
        what = f"its graph cannot be converted ({first_line(error)})"
    raise NoTwin(f"{what}; {_ADVICE}")


def _folded(path: Path) -> ModelProto:
    """The graph with its constants computed and its batch norms in its convolutions, in standard operators."""
    model = onnx.load(path)
    if model.ByteSize() > _FOLDABLE_BYTES:
        return model
    with tempfile.TemporaryDirectory(prefix="robustcheck-") as folder:
        written = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(written)
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            return onnx.load(written)
        except Exception:  # noqa: BLE001 (then the graph is converted as it is)
            return model


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Nodes of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for inner in _inner(node):
            yield from _nodes(inner)


def _inner(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in _inner(node):
            yield from _graphs(inner)


def _keep_only(graph: GraphProto, output: str) -> None:
    """Drop the other outputs, and what only they need."""
    wanted, kept = {output}, list[NodeProto]()
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            wanted.update(name for inner in _inner(node) for deep in _nodes(inner) for name in deep.input)
            wanted.update(value.name for inner in _inner(node) for value in inner.output)
    outputs = [value for value in graph.output if value.name == output]
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    for field, values in ((graph.node, kept[::-1]), (graph.output, outputs), (graph.initializer, tensors)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]  # they die with the field
        del field[:]
        field.extend(copies)


def _widen(model: ModelProto) -> bool:
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


def _anonymise(model: ModelProto) -> int:
    """Give every value a name of ours: the converter writes Python, and names are the file's author's.

    Returns:
        The element type of the input, which becomes float: gradients are asked for there.
    """
    names: dict[str, str] = {"": ""}

    def called(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}")

    for graph in _graphs(model.graph):
        for value in [*graph.input, *graph.output, *graph.initializer]:
            value.name = called(value.name)
        for number, node in enumerate(graph.node):
            node.name = f"n{number}"
            for field in (node.input, node.output):
                field[:] = [called(name) for name in field]
    held = {tensor.name for tensor in model.graph.initializer}
    (image,) = (value for value in model.graph.input if value.name not in held)
    kind = image.type.tensor_type.elem_type
    image.type.tensor_type.elem_type = TensorProto.FLOAT
    return kind


def _free_batch(graph: GraphProto) -> int | None:
    """Let a graph of a fixed batch size take any, as far as its reshapes tell; the size that was fixed."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    (image,) = (value for value in graph.input if value.name not in held)
    first = image.type.tensor_type.shape.dim[0] if image.type.tensor_type.shape.dim else None
    if first is None or not first.HasField("dim_value") or first.dim_value < 1:
        return None
    batch: int = first.dim_value
    first.Clear()
    first.dim_param = "batch"
    for node in graph.node:
        if node.op_type == "Reshape" and (shape := held.get(node.input[1])) is not None:
            sizes = numpy_helper.to_array(shape).copy()
            if sizes.size and sizes[0] == batch:
                sizes[0] = 0  # that of what is reshaped
                fresh = f"{shape.name}_{len(graph.initializer)}"
                graph.initializer.append(numpy_helper.from_array(sizes, fresh))
                node.input[1] = fresh
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return batch


def _adapt_inputs(module: fx.GraphModule, kind: int, *, flat: bool) -> None:
    """Images as the file's own input holds them: whole numbers, halves, or rows."""
    steps = [_as_bytes] * (kind == TensorProto.UINT8) + [_as_halves] * (kind == TensorProto.FLOAT16)
    image = held = next(node for node in module.graph.nodes if node.op == "placeholder")
    users = list(image.users)
    for step in [*steps, *[_as_rows] * flat]:
        with module.graph.inserting_after(held):
            held = module.graph.call_function(step, (held,))
    for user in users:
        user.replace_input_with(image, held)


def _as_rows(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1)


def _as_bytes(values: torch.Tensor) -> torch.Tensor:
    return twin_operators.straight_through(values, values.round().clamp(0, 255))


def _as_halves(values: torch.Tensor) -> torch.Tensor:
    return twin_operators.straight_through(values, values.half().float())
