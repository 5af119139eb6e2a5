"""The bytes of an ONNX candidate, checked before anything runs them.

External data has to lie inside the model's folder as plain files, and the digest covers every one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from math import inf, prod
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from robustcheck.data.reading import memory_limit
from robustcheck.errors import CandidateError
from robustcheck.lfs_pointers import if_pointer
from robustcheck.models.call_graph import ENDLESS, is_endless
from robustcheck.models.network import first_line
from robustcheck.models.onnx.loops import called_by, check_loops, functions_of, number_in
from robustcheck.words import listed

_MAX_GRAPH_BYTES = 2 * 1024**3
_MOST_ELEMENTS = 2**31  # of one tensor: 8 GiB of float32; less where half of the memory is less
_FLOAT_BYTES = 4
_MOST_IN_ALL = 2**33  # of all tensors; a ResNet-152 on an image of a megapixel has an eighth of that
_MOST_TOLD = 100  # letters of a name that a file holds
_OF_THE_RUNTIME = {"LayerNormalization": 17, "SimplifiedLayerNormalization": inf}  # until this opset
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
_WEIGHTS_ALONE = 4  # from this version of files on, weights need not also be inputs
_CONVOLVE = ("Conv", "ConvInteger", "FusedConv")  # an image with their second input, (channels out, in, …)
_NO_OPERATOR = re.compile(r"No Op registered for (\w{1,99}) with domain_version of (\d{1,9})$")
_NOT_MADE = re.compile(r"Nodes in a graph must be topologically sorted, however input '(.+)' of node")
_TO_NCHW = [0, 3, 1, 2]
_KEEP_CHANNELS = frozenset(
    {"Add", "Cast", "Clip", "DequantizeLinear", "Div", "Identity", "Mul", "Pad", "QuantizeLinear", "Resize", "Sub"}
)


def onnx_files(path: Path, *, operators: bool = False) -> list[Path]:
    """The model file and its external data, checked.

    Args:
        path: the .onnx file.
        operators: whether the policy names libraries of operators that it may need.

    Raises:
        CandidateError: it is not ONNX, not valid, or reaches outside its folder.
    """
    if path.stat().st_size >= _MAX_GRAPH_BYTES:
        raise CandidateError(f"{path.name} is 2 GiB or larger, which no ONNX file can be; use external data")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise CandidateError(f"{path.name} is not an ONNX file: {first_line(error)}") from None
    if not model.graph.node or not model.graph.output:
        raise CandidateError(f"{path.name} is not an ONNX model: its graph is empty")
    _check_opset(model, path)
    moved = put_in_order(model.graph)
    nodes, tensors = _parts(model)
    foreign = sorted({node.domain for node in nodes} - _DOMAINS - {function.domain for function in model.functions})
    if foreign and not operators:
        raise CandidateError(
            f"{path.name} uses custom operators ({listed(foreign)}), which need code that is not run; if you trust "
            "the library that has them, name it in model.operators"
        )
    if unknown := [value.name for value in (*model.graph.input, *model.graph.output) if _lacks_shape(value)]:
        raise CandidateError(
            f"{path.name} is not valid ONNX: it gives no shape for {listed(unknown)}; export it with one, whose sizes "
            "may be symbolic"
        )
    _check_functions(model, path)
    external = sorted({_location(tensor, path) for tensor in tensors if uses_external_data(tensor)})
    files = [path, *(_inside(location, path) for location in external)]
    try:
        found: onnx.ModelProto | str = model if moved else str(path)
        onnx.checker.check_model(str(path) if external else _to_check(found, model, nodes))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise CandidateError(f"{path.name} is not valid ONNX: {_why_invalid(first_line(error))}") from None
    values = _inferred(model)
    _check_sizes(values, path)
    check_loops(model, {value.name: _sizes(value) for value in values}, path.name)
    return files


def _check_opset(model: onnx.ModelProto, path: Path) -> None:
    """Refuse operators of an opset that nothing here knows: what the checker says of them is about older ones."""
    standard, newest = _standard_opset(model), onnx.defs.onnx_opset_version()
    if standard > newest:
        raise CandidateError(
            f"{path.name} has operators of opset {standard}, and the onnx that is installed knows those up to {newest}"
            ": export it with an older opset, or install a newer onnx"
        )


def _standard_opset(model: onnx.ModelProto) -> int:
    return max((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), default=1)


def _check_functions(model: onnx.ModelProto, path: Path) -> None:
    """Refuse functions of the file's own that call each other without end, or nearly so."""
    known = functions_of(model)

    def look(name: tuple[str, str, str] | None) -> tuple[int, list[tuple[str, str, str]]]:
        nodes, _ = _parts(model.graph if name is None else known[name])
        return len(nodes), [called for called in map(called_by, nodes) if called in known]

    if model.functions and is_endless(None, look):
        raise CandidateError(f"{path.name} {ENDLESS}")


def _to_check(
    found: onnx.ModelProto | str, model: onnx.ModelProto, nodes: list[onnx.NodeProto]
) -> onnx.ModelProto | str:
    """What was found; or a copy as ONNX Runtime reads it.

    In the copy, operators of ONNX Runtime's that stand in the standard's domain are moved to its own: the checker lets
    domains pass that it does not know. And weights need not be inputs as well, as in the oldest files and what
    optimisers leave. Of a copy the checker would find no external data.
    """
    theirs = {name for name, since in _OF_THE_RUNTIME.items() if _standard_opset(model) < since}
    mixed = any(node.op_type in theirs and not node.domain for node in nodes)
    if model.ir_version < 1 or (not mixed and model.ir_version >= _WEIGHTS_ALONE):
        return found
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, _WEIGHTS_ALONE)
    if not mixed:
        return copy
    for node in _parts(copy)[0]:
        if node.op_type in theirs and not node.domain:
            node.domain = "com.microsoft"
    if all(opset.domain != "com.microsoft" for opset in copy.opset_import):
        copy.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return copy


def _why_invalid(reason: str) -> str:
    """What the checker found; of an operator that it does not know, where that comes from and what to do."""
    if missing := _NOT_MADE.match(reason):
        return (
            f"nothing before it makes {missing[1][:_MOST_TOLD]!r}, which an operator reads: a weight or an input is "
            "missing, or operators read each other in a circle"
        )
    found = _NO_OPERATOR.match(reason)
    if found is None:
        return reason
    name, opset = found[1], int(found[2])
    known = [one.since_version for one in onnx.defs.get_all_schemas_with_history() if one.name == name]
    if not known:
        return (
            f"{name} is no operator of ONNX; the converter left it there from another framework: replace the layer or "
            "function that it comes from before you convert the network"
        )
    if (first := min(known)) > opset:
        return f"opset {opset} has no operator {name}, which is known from {first} on: export it with a newer opset"
    return reason


def _lacks_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def put_in_order(graph: onnx.GraphProto) -> bool:
    """Put each of a graph's nodes after those that it needs, if they have such an order; whether any moved."""
    made = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    needs = [{made[name] for name in _read_by(node) if name in made} for node in graph.node]
    if all(number > max(earlier, default=-1) for number, earlier in enumerate(needs)):
        return False
    try:
        order = [graph.node[number] for number in TopologicalSorter(dict(enumerate(needs))).static_order()]
    except CycleError:
        return False
    del graph.node[:]
    graph.node.extend(order)
    return True


def _read_by(node: onnx.NodeProto) -> set[str]:
    """The names of what a node reads, also inside its subgraphs."""
    inner, _ = _parts(node)
    return {name for one in inner for name in one.input if name}


def parts_of(path: Path) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Every node and tensor of a checked file, those of subgraphs and functions too."""
    return _parts(onnx.load(path, load_external_data=False))


def with_channels(
    takes: tuple[int | None, ...], image: str, nodes: Sequence[onnx.NodeProto], tensors: Sequence[onnx.TensorProto]
) -> tuple[int | None, ...]:
    """What a graph says that it takes, (N, …); if it leaves channels open, as many as its first convolution takes.

    `image` is the name of its input; nodes and tensors are those of the file.
    """
    sizes = {tensor.name: list(tensor.dims) for tensor in tensors}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        readers.setdefault(next(iter(node.input), ""), []).append(node)
    waiting, seen = [(image, 1)], {image}  # a name, and which axis of the input its channels are
    while waiting and len(takes) == 4:
        name, axis = waiting.pop()
        for node in readers.get(name, []):
            settings = {attribute.name: attribute for attribute in node.attribute}
            weights = sizes.get(node.input[1], []) if len(node.input) > 1 else []
            if node.op_type in _CONVOLVE and len(weights) == 4:
                channels = weights[1] * (settings["group"].i if "group" in settings else 1)
                return tuple(channels if place == axis and size is None else size for place, size in enumerate(takes))
            last = node.op_type == "Transpose" and "perm" in settings and list(settings["perm"].ints) == _TO_NCHW
            if (last or node.op_type in _KEEP_CHANNELS) and not seen.issuperset(node.output):
                seen.update(node.output)
                waiting.append((node.output[0], 3 if last else axis))
    return takes


def left_in_training(nodes: Sequence[onnx.NodeProto], tensors: Sequence[onnx.TensorProto]) -> str | None:
    """The operator among a file's parts that is in training mode, if one is."""
    true = {tensor.name for tensor in tensors if _is_true(tensor)}
    for node in nodes:
        settings = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in settings and _is_true(settings["value"].t):
            true.update(node.output)
    for node in nodes:
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in true - {""}:
            return "Dropout"
        if node.op_type == "BatchNormalization" and any(a.name == "training_mode" and a.i for a in node.attribute):
            return "BatchNormalization"
    return None


def _is_true(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.BOOL and number_in(tensor) == 1


def _inferred(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The values of a graph, also of those inside it, with their shapes as far as these can be told before it runs."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 (what cannot be inferred is seen when it runs)
        return []
    return [message for message in _messages(inferred) if isinstance(message, onnx.ValueInfoProto)]


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    """Its shape, 1 where that is not known, such as of a batch."""
    return [max(1, dim.dim_value) for dim in value.type.tensor_type.shape.dim]


def _check_sizes(values: Sequence[onnx.ValueInfoProto], path: Path) -> None:
    """Refuse a graph that makes a tensor, for one image, that no memory holds: a small file can ask for any size."""
    total, most = 0, min(_MOST_ELEMENTS, memory_limit() // _FLOAT_BYTES)
    for value in values:
        sizes = _sizes(value)
        total += (elements := prod(sizes))
        if elements > most:
            shape = "×".join(map(str, sizes))
            raise CandidateError(
                f"{path.name} computes a tensor of {shape} ({value.name[:40]!r}), which is {elements:.1e} numbers; "
                f"at most {most:.1e} are computed"
            )
    if total > _MOST_IN_ALL:
        raise CandidateError(
            f"{path.name} computes {total:.1e} numbers for one batch; at most {_MOST_IN_ALL:.1e} are computed"
        )


def _parts(model: Message) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Every node and tensor of a model or a node, those in attributes, subgraphs and functions too."""
    found = list(_messages(model))
    nodes = [message for message in found if isinstance(message, onnx.NodeProto)]
    return nodes, [message for message in found if isinstance(message, onnx.TensorProto)]


def _messages(model: Message) -> Iterator[Any]:
    """Everything that a model or a node holds, except what is in tensors."""
    stack: list[Any] = [model]
    while stack:
        yield (message := stack.pop())
        if isinstance(message, onnx.TensorProto):
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                stack.extend(value if field.is_repeated else [value])


def _location(tensor: onnx.TensorProto, path: Path) -> str:
    locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
    # ONNX Runtime keeps a location with asterisks for itself: it stands for an address in memory.
    if len(locations) != 1 or not locations[0] or "*" in locations[0]:
        raise CandidateError(
            f"{path.name} keeps the tensor {tensor.name[:_MOST_TOLD]!r} in an external file but does not name one: "
            f"{str(locations)[:_MOST_TOLD]}"
        )
    return locations[0]


def _inside(location: str, path: Path) -> Path:
    folder, file, told = path.parent, path.parent / location, repr(location[:_MOST_TOLD])
    pieces = Path(location).parts
    if Path(location).is_absolute() or ".." in pieces:
        raise CandidateError(f"{path.name} names external data outside its folder: {told}; it is not read")
    try:
        if any(folder.joinpath(*pieces[: end + 1]).is_symlink() for end in range(len(pieces))):
            raise CandidateError(f"{path.name} names external data through a symbolic link: {told}; it is not read")
        if not file.is_file():
            why = "is not a plain file" if file.exists() else "is not there"
            raise CandidateError(f"{path.name} needs its external data file {told}, which {why}")
        links = file.stat().st_nlink
    except OSError as error:  # as of a name that is too long
        raise CandidateError(f"{path.name} needs its external data file {told}: {error.strerror}") from None
    if pointer := if_pointer(file):
        raise CandidateError(f"{path.name} needs its external data file {told}, which {pointer}")
    if links != 1:
        raise CandidateError(f"{path.name} names external data with a hard link elsewhere: {told}; it is not read")
    return file
