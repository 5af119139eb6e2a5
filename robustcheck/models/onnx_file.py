"""The bytes of an ONNX candidate, checked before anything runs them.

External data has to lie inside the model's folder as plain files, and the digest covers every one of them.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from math import inf, prod
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from robustcheck.errors import CandidateError
from robustcheck.models.network import first_line

_MAX_GRAPH_BYTES = 2 * 1024**3
_MOST_ELEMENTS = 2**31  # of one tensor: 8 GiB of float32
_MOST_IN_ALL = 2**33  # of all tensors; a ResNet-152 on an image of a megapixel has an eighth of that
_OF_THE_RUNTIME = {"LayerNormalization": 17, "SimplifiedLayerNormalization": inf}  # until so many opsets
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})


def onnx_files(path: Path, *, operators: bool = False) -> list[Path]:
    """The model file and its external data, checked.

    Args:
        path: the .onnx file.
        operators: the policy names libraries of operators that it may need.

    Raises:
        CandidateError: it is not ONNX, not valid, or reaches outside its folder.
    """
    if path.stat().st_size >= _MAX_GRAPH_BYTES:
        raise CandidateError(f"{path.name} is 2 GiB or larger, more than an ONNX file can be; use external data")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise CandidateError(f"{path.name} is not an ONNX file: {first_line(error)}") from None
    if not model.graph.node or not model.graph.output:
        raise CandidateError(f"{path.name} is not an ONNX model: its graph is empty")
    if (order := in_order(model.graph)) is not None:
        del model.graph.node[:]
        model.graph.node.extend(order)
    nodes, tensors = _parts(model)
    foreign = sorted({node.domain for node in nodes} - _DOMAINS - {function.domain for function in model.functions})
    if foreign and not operators:
        raise CandidateError(
            f"{path.name} uses custom operators ({', '.join(foreign)}), which need code that is not run; if you trust "
            "the library that has them, name it in model.operators"
        )
    external = sorted({_location(tensor, path) for tensor in tensors if uses_external_data(tensor)})
    files = [path, *(_inside(location, path) for location in external)]
    try:
        found: onnx.ModelProto | str = model if order is not None else str(path)
        onnx.checker.check_model(str(path) if external else _to_check(found, model, nodes))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise CandidateError(f"{path.name} is not valid ONNX: {first_line(error)}") from None
    _check_sizes(model, path)
    return files


def _to_check(
    found: onnx.ModelProto | str, model: onnx.ModelProto, nodes: list[onnx.NodeProto]
) -> onnx.ModelProto | str:
    """What was found; or a copy whose operators are in their own domains, where ONNX Runtime wrote some into the
    standard's.

    The checker lets operators of domains pass that it does not know. Of a copy it would find no external data.
    """
    standard = max((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), default=1)
    theirs = {name for name, since in _OF_THE_RUNTIME.items() if standard < since}
    mixed = any(node.op_type in theirs and not node.domain for node in nodes)
    if not mixed:
        return found
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in _parts(copy)[0]:
        if node.op_type in theirs and not node.domain:
            node.domain = "com.microsoft"
    if all(opset.domain != "com.microsoft" for opset in copy.opset_import):
        copy.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return copy


def in_order(graph: onnx.GraphProto) -> list[onnx.NodeProto] | None:
    """The graph's nodes, each after those that it needs; None if they are in such an order, or there is none."""
    made = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    needs = [{made[name] for name in _read_by(node) if name in made} for node in graph.node]
    if all(number > max(earlier, default=-1) for number, earlier in enumerate(needs)):
        return None
    try:
        order = list(TopologicalSorter(dict(enumerate(needs))).static_order())
    except CycleError:
        return None
    return [graph.node[number] for number in order]


def _read_by(node: onnx.NodeProto) -> set[str]:
    """The names of what a node reads, also inside its subgraphs."""
    inner, _ = _parts(node)
    return {name for one in inner for name in one.input if name}


def nodes_of(path: Path) -> list[onnx.NodeProto]:
    """Every node of a checked file, those of subgraphs and functions too."""
    return _parts(onnx.load(path, load_external_data=False))[0]


def _check_sizes(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph that makes a tensor, for one image, that no memory holds: a small file can ask for any size."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 (what cannot be inferred is seen when it runs)
        return
    total = 0
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        sizes = [max(1, dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        total += (elements := prod(sizes))
        if elements > _MOST_ELEMENTS:
            shape = "×".join(map(str, sizes))
            raise CandidateError(
                f"{path.name} computes a tensor of {shape} ({value.name[:40]!r}), which is {elements:.1e} numbers; "
                f"at most {_MOST_ELEMENTS:.1e} are computed"
            )
    if total > _MOST_IN_ALL:
        raise CandidateError(
            f"{path.name} computes {total:.1e} numbers for one batch; at most {_MOST_IN_ALL:.1e} are computed"
        )


def _parts(model: Message) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Every node and tensor of a model or a node, those in attributes, subgraphs and functions too."""
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    stack: list[Any] = [model]
    while stack:
        message = stack.pop()
        if isinstance(message, onnx.TensorProto):
            tensors.append(message)
            continue
        if isinstance(message, onnx.NodeProto):
            nodes.append(message)
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack.extend(value if field.is_repeated else [value])
    return nodes, tensors


def _location(tensor: onnx.TensorProto, path: Path) -> str:
    locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
    # ONNX Runtime keeps a location with asterisks for itself: it stands for an address in memory.
    if len(locations) != 1 or not locations[0] or "*" in locations[0]:
        raise CandidateError(
            f"{path.name} keeps the tensor {tensor.name!r} in an external file and does not name one: {locations}"
        )
    return locations[0]


def _inside(location: str, path: Path) -> Path:
    folder, file = path.parent, path.parent / location
    if Path(location).is_absolute() or ".." in Path(location).parts:
        raise CandidateError(f"{path.name} names external data outside its folder: {location!r}; it is not read")
    parts = [file, *(parent for parent in file.parents if folder in parent.parents)]
    if any(part.is_symlink() for part in parts):
        raise CandidateError(f"{path.name} names external data through a symbolic link: {location!r}; it is not read")
    if not file.is_file():
        raise CandidateError(f"{path.name} needs its external data file {location!r}, which is not there")
    if file.stat().st_nlink != 1:
        raise CandidateError(
            f"{path.name} names external data with a hard link elsewhere: {location!r}; it is not read"
        )
    return file
