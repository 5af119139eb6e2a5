"""ONNX (.onnx) through ONNX Runtime: predictions on the shipped bytes.

A file is checked before anything runs it. External data has to lie inside the model's folder as plain files, and the
digest covers every one of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from robustcheck.errors import CandidateError
from robustcheck.models.network import Forward, Network, Takes, first_line, in_batches

NO_GRADIENTS = (
    "ONNX candidates give predictions in this version, not gradients, and this attack needs gradients; gate the "
    "PyTorch form of the same network (.safetensors with architecture, .pt2 or .ts), or leave the attack out"
)
_FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
_MAX_GRAPH_BYTES = 2 * 1024**3
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})


def onnx_files(path: Path) -> list[Path]:
    """The model file and its external data, checked.

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
    nodes, tensors = _parts(model)
    foreign = sorted({node.domain for node in nodes} - _DOMAINS - {function.domain for function in model.functions})
    if foreign:
        raise CandidateError(
            f"{path.name} uses custom operators ({', '.join(foreign)}), which need code that is not run"
        )
    external = sorted({_location(tensor, path) for tensor in tensors if uses_external_data(tensor)})
    files = [path, *(_inside(location, path) for location in external)]
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise CandidateError(f"{path.name} is not valid ONNX: {first_line(error)}") from None
    return files


def load_onnx(path: Path, device: torch.device) -> Network:
    """Start a session on the file that `onnx_files` has checked."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would print is raised, too
    notes: list[str] = []
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=_providers(device, notes))
    except Exception as error:  # noqa: BLE001 (ONNX Runtime's exceptions share no base but Exception)
        raise CandidateError(f"ONNX Runtime cannot load {path.name}: {first_line(error)}") from None
    ask = _Session(session, path.name)
    forward: Forward = ask
    batch = ask.takes[0] if ask.takes else None
    if batch:
        forward = in_batches(ask, least=batch, most=batch)
        notes.append(f"its batch size is fixed at {batch}: images are padded to it")
    return Network(
        forward=forward,
        device=torch.device("cpu"),
        no_gradients=NO_GRADIENTS,
        takes=ask.takes,
        notes=(*notes, f"ONNX Runtime on {session.get_providers()[0]}"),
    )


class _Session:
    """An ONNX Runtime session as a function of torch tensors."""

    def __init__(self, session: Any, name: str) -> None:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1:
            raise CandidateError(
                f"{name} has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); one image is needed"
            )
        if len(outputs) != 1:
            raise CandidateError(
                f"{name} has {len(outputs)} outputs ({', '.join(o.name for o in outputs)}); "
                "export it with the scores alone"
            )
        if inputs[0].type not in (*_FLOATS, "tensor(uint8)"):
            raise CandidateError(f"{name} takes {inputs[0].type}; float, float16, double and uint8 inputs can be given")
        if outputs[0].type not in _FLOATS:
            raise CandidateError(f"{name} answers with {outputs[0].type}, not with scores; export it with the scores")
        self._session, self._input, self._type = session, inputs[0].name, inputs[0].type
        self.takes: Takes | None = tuple(
            size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape or ()
        )

    def __call__(self, inputs: torch.Tensor, /) -> torch.Tensor:
        inputs = inputs.detach().cpu()
        if self._type == "tensor(uint8)":
            values = inputs.round().clamp(0, 255).byte()
        else:
            values = inputs.to(_FLOATS[self._type])
        try:
            (scores,) = self._session.run(None, {self._input: values.contiguous().numpy()})
        except Exception as error:  # noqa: BLE001 (as above; the caller tells memory from the rest)
            raise RuntimeError(" ".join(str(error).split())) from None  # the numbers stand in its further lines
        return torch.from_numpy(scores).float()


def _providers(device: torch.device, notes: list[str]) -> list[Any]:
    if device.type != "cuda":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        notes.append("this ONNX Runtime has no CUDA provider: predictions run on the CPU")
        return ["CPUExecutionProvider"]
    onnxruntime.preload_dlls()  # the CUDA libraries that torch's wheels brought
    return [("CUDAExecutionProvider", {"device_id": device.index or 0, "use_tf32": 0}), "CPUExecutionProvider"]


def _parts(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Every node and tensor of a model, those in attributes, subgraphs and functions too."""
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
