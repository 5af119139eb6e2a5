"""ONNX Runtime on the shipped bytes: what every verdict about an ONNX candidate rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustcheck.errors import CandidateError
from robustcheck.models.axes import has_no_batch, with_axes
from robustcheck.models.memory import is_out_of_memory
from robustcheck.models.network import Takes, first_line
from robustcheck.models.onnx.clock import in_time
from robustcheck.models.onnx.labels import UNKNOWN, places_of
from robustcheck.models.onnx.runtime import onnxruntime
from robustcheck.words import brief, listed, printable

_FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
_TYPES = {**_FLOATS, "tensor(uint8)": torch.uint8}
_QUANTISED = frozenset({"tensor(uint8)", "tensor(int8)", "tensor(uint16)", "tensor(int16)"})
_LABELS = {"tensor(int64)", "tensor(int32)", "tensor(string)"}
_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.float64: np.float64, torch.uint8: np.uint8}
_OPERANDS = ("/x:0", "/y:0")  # which tf2onnx and Keras take for inputs where they are tensors already
_NORMALISED = (
    "; Keras leaves the mean and variance of a Normalization layer so, also after adapt(): put "
    "Rescaling(1 / sqrt(variance), -mean / sqrt(variance)) in its place"
)
_CAFFE = (
    "; Keras leaves constants of its functions so, such as the mean of preprocess_input in its caffe mode: export the "
    "network without that and put preprocess: {layout: NHWC, channels: 3, order: BGR, range: [0, 255], mean: [103.939, "
    "116.779, 123.68]} in the policy, or write it in plain layers"
)
_NEWER = "; export it for that one or an older one, or install a newer ONNX Runtime"
_ADVICE = {
    "max supported IR version": _NEWER,
    "Current official support": _NEWER,
    "Could not find an implementation": "; ONNX Runtime has the operator for other types only: export it in float32",
}
_FLOAT_INPUT = ": keep a float one when you convert the network, or put a Cast or QuantizeLinear behind one"


class Session:
    """An ONNX Runtime session as a function of torch tensors, which it reads and writes in place.

    Args:
        path: the checked file.
        device: where inputs will be.
        output: which output has the scores; None: the only one that is floats.
        operators: libraries of custom operators, whose code is run.
        exact: sums of 8-bit products do not overflow. By default they do on x86 processors without VNNI.
        draws: the graph has operators that draw. Their seed is torch's, and they begin anew where torch is seeded anew.
        loops: the graph has loops. Each of its answers has a time limit then; else the first one alone has.

    Raises:
        CandidateError: ONNX Runtime cannot load it, or it is not a function from one image to scores.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device,
        *,
        output: str | None = None,
        operators: Sequence[Path] = (),
        exact: bool = True,
        draws: bool = False,
        loops: bool = False,
    ) -> None:
        self.notes: list[str] = []
        self._device = self._obtain(device)
        self._start = partial(_start, path, _providers(self._device), operators, exact=exact)
        self._seed = _seeded() if draws else None
        self._name, self._loops = path.name, loops
        session, note = self._start()
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1:
            names = [found.name for found in inputs]
            remedy = ": make the others constants, or export a wrapper that takes the image alone" if names else ""
            of_keras = _of_keras({found.name: found.shape for found in inputs})
            raise CandidateError(
                f"{path.name} has {len(names)} inputs ({listed(names)}); one image is needed{remedy}{of_keras}"
            )
        if inputs[0].type not in _TYPES:
            remedy = "" if "string" in inputs[0].type else _FLOAT_INPUT
            raise CandidateError(
                f"{path.name} takes {inputs[0].type}; float, float16, double and uint8 inputs can be given{remedy}"
            )
        self._session, self._type = session, _TYPES[inputs[0].type]
        self.input: str = inputs[0].name
        scores = _choose(path.name, outputs, output)
        self.output: str = scores.name
        if output is None and len(outputs) > 1:
            self.notes.append(f"of its outputs, only {brief(scores.name)} can have the scores")
        self._answer_type = _FLOATS[scores.type]
        labels = [found.name for found in outputs if found.type in _LABELS and len(found.shape or ()) == 1]
        self.label = labels[0] if len(labels) == 1 else None  # what names a label, beside the scores
        self._row: tuple[int, ...] | None = None  # the shape of one image's scores, once it is known
        self.takes: Takes = tuple(
            size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape or ()
        )
        self.axes = len(self.takes)
        self.whole = self._type == torch.uint8
        self.half = torch.float16 in (self._type, self._answer_type)
        self.on_cpu = self._device.type == "cpu"
        self.notes.append(f"ONNX Runtime on {session.get_providers()[0]}")
        if not self.on_cpu and (left := _left_to_cpu(session)):
            self.notes.append(
                f"ONNX Runtime has left its operators {listed(left)} to the CPU, as it does with those about shapes "
                "and those of which it has no CUDA form"
            )
        self.notes += [note] if note else []

    def __call__(self, inputs: torch.Tensor, /) -> torch.Tensor:
        """Scores (N, …), in float32, of inputs (N, …)."""
        if self._seed not in (None, torch.initial_seed()):
            self._seed = _seeded()
            self._session = None  # one at a time is held
            self._session, _ = self._start()
        values = self._as_taken(inputs.detach())
        try:
            answer = self._answer(values)
        except CandidateError:
            raise
        except Exception as error:  # noqa: BLE001 (ONNX Runtime's exceptions share no base but Exception)
            raise RuntimeError(" ".join(str(error).split())) from None  # the numbers stand in its further lines
        return answer.float().to(inputs.device)

    def labels(self, inputs: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """The places (N, 1) of the labels that it names itself for inputs (N, …), among those of the policy.

        An answer that is not one per input is about something else: then no label is known.
        """
        assert self.label is not None
        with in_time(self._name) as options:
            (answer,) = self._session.run([self.label], {self.input: self._as_taken(inputs).cpu().numpy()}, options)
        places = places_of(np.atleast_1d(answer).tolist(), names)
        return torch.tensor(places if len(places) == len(inputs) else [float(UNKNOWN)] * len(inputs))[:, None]

    def _answer(self, values: torch.Tensor) -> torch.Tensor:
        try:
            return self._tried(values)
        except Exception as error:
            if self._device.type != "cuda" or not is_out_of_memory(error, rows=len(values)):
                raise
        torch.cuda.empty_cache()  # what torch keeps for itself no other library can use
        return self._tried(values)

    def _tried(self, values: torch.Tensor) -> torch.Tensor:
        if self._row is not None and len(values):
            try:
                return self._bound(values, self._row)
            except Exception as error:
                if isinstance(error, CandidateError) or is_out_of_memory(error, rows=len(values)):
                    raise
                self._row = None  # an answer of another shape, as of networks that squeeze; or a real failure
        return self._first(values)

    def _as_taken(self, inputs: torch.Tensor) -> torch.Tensor:
        if has_no_batch(self.takes, tuple(inputs.shape[1:])):
            sizes = "×".join(map(str, self.takes))
            raise CandidateError(f"{self._name} takes one image of {sizes}, without a batch axis: export it with one")
        inputs = with_axes(inputs.to(self._device), self.axes)
        if self._type == torch.uint8:
            inputs = inputs.round().clamp(0, 255)
        return inputs.to(self._type).contiguous()

    def _first(self, values: torch.Tensor) -> torch.Tensor:
        """An answer of any shape; it tells what the next ones will need."""
        with in_time(self._name) as options:
            (scores,) = self._session.run([self.output], {self.input: values.cpu().numpy()}, options)
        answer = torch.from_numpy(np.asarray(scores)).to(self._device)
        # Of a single image it is a row, as it seems: binding shows if it is something else.
        one = len(values) == 1 and (answer.ndim == 2 or self.takes[:1] == (1,))
        if answer.ndim and len(answer) == len(values) and (one or len(values) > 1):
            self._row = tuple(answer.shape[1:])
        return answer

    def _bound(self, values: torch.Tensor, row: tuple[int, ...]) -> torch.Tensor:
        """ONNX Runtime reads the tensor's memory and writes into the answer's: nothing goes through the host."""
        answer = values.new_empty((len(values), *row), dtype=self._answer_type)
        binding, kind, index = self._session.io_binding(), self._device.type, self._device.index or 0
        if kind == "cuda":
            # The two libraries' streams know nothing of each other. What a CPU operator reads is copied as it is bound.
            torch.cuda.current_stream(self._device).synchronize()
        binding.bind_input(self.input, kind, index, _NUMPY[values.dtype], tuple(values.shape), values.data_ptr())
        binding.bind_output(self.output, kind, index, _NUMPY[answer.dtype], tuple(answer.shape), answer.data_ptr())
        with in_time(self._name) if self._loops else nullcontext() as options:
            self._session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        return answer

    def _obtain(self, device: torch.device) -> torch.device:
        if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            self.notes.append("this ONNX Runtime has no CUDA provider: predictions run on the CPU")
            return torch.device("cpu")
        return device


def _of_keras(inputs: Mapping[str, Sequence[int | str | None]]) -> str:
    """What Keras leaves as inputs that are none: tensors within a network, and a mean of three channels."""
    within = {name: shape for name, shape in inputs.items() if "/" in name and name.endswith(":0")}
    if any(name.endswith(_OPERANDS) for name in within):
        return _NORMALISED
    return _CAFFE if [shape[-1:] for shape in within.values()] == [[3]] and len(inputs) == 2 else ""


def _seeded() -> int:
    """Give ONNX Runtime torch's seed: operators take it when a session begins, and keep their state from then on."""
    seed = torch.initial_seed()
    onnxruntime.set_seed(seed % 2**63)
    return seed


def _start(path: Path, providers: list[Any], operators: Sequence[Path], *, exact: bool) -> tuple[Any, str | None]:
    """A session, and what to know about it."""
    try:
        session, note = _begin(path, providers, operators, exact=exact)
    except CandidateError:
        raise
    except Exception as error:  # noqa: BLE001 (ONNX Runtime's exceptions share no base but Exception)
        remedy = next((advice for said, advice in _ADVICE.items() if said in str(error)), "")
        told = first_line(error).removesuffix(".")
        raise CandidateError(f"ONNX Runtime cannot load {path.name}: {told}{remedy}") from None
    wanted = providers[0][0] if isinstance(providers[0], tuple) else providers[0]
    if (obtained := session.get_providers()[0]) != wanted:
        raise CandidateError(
            f"ONNX Runtime was asked for {wanted} but uses {obtained}: its CUDA libraries do not load; "
            "repair the installation, or set device: cpu"
        )
    return session, note


def _left_to_cpu(session: Any) -> list[str]:
    """The operators of a session on a GPU that run on the CPU, as far as this ONNX Runtime tells."""
    tell: Callable[[], list[Any]] = getattr(session, "get_provider_graph_assignment_info", list)
    parts = [part for part in tell() if part.ep_name == "CPUExecutionProvider"]
    return sorted({node.op_type for part in parts for node in part.get_nodes()})


def _begin(path: Path, providers: list[Any], operators: Sequence[Path], *, exact: bool) -> tuple[Any, str | None]:
    def begin(options: Any) -> Any:
        # It would print, and go on without the GPU, but a batch that does not fit has to be halved.
        return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)

    if not exact:
        return begin(_options(operators, exact=False)), None
    try:
        return begin(_options(operators, exact=True)), None
    except Exception:  # noqa: BLE001 (as above)
        begin(_options(operators, exact=False))  # what does not load where it is deployed does not load here
    # ONNX Runtime has no exact form of operators on signed bytes; unfused, they are exact as they are.
    unfused = _options(operators, exact=True)
    unfused.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return begin(unfused), "it is run unfused: ONNX Runtime has no other exact form of its operators on signed bytes"


def _options(operators: Sequence[Path], *, exact: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would print is also raised
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would busy-wait for work on the cores that torch computes gradients with.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # see _left_to_cpu
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    for library in operators:
        try:
            options.register_custom_ops_library(str(library))
        except Exception as error:  # noqa: BLE001 (as for sessions)
            raise CandidateError(f"model.operators: {library.name} cannot be loaded: {first_line(error)}") from None
    return options


def _providers(device: torch.device) -> list[Any]:
    if device.type != "cuda":
        return ["CPUExecutionProvider"]
    onnxruntime.preload_dlls()  # the CUDA libraries that torch's wheels brought
    # Otherwise convolutions are chosen by timing, and a network's answers would differ from run to run.
    settings = {
        "device_id": device.index or 0,
        "use_tf32": 0,
        "cudnn_conv_algo_search": "DEFAULT",
        "arena_extend_strategy": "kSameAsRequested",  # it would double what it holds, and torch needs some, too
    }
    return [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]


def _choose(name: str, outputs: Sequence[Any], wanted: str | None) -> Any:
    """The output that has the scores."""
    told = listed(f"{output.name} {_shape(output)}" for output in outputs)
    numbers = [output for output in outputs if output.type in _FLOATS]
    if wanted is not None:
        found = [output for output in outputs if output.name == wanted]
        if not found:
            raise CandidateError(f"{name} has no output {wanted!r}, which model.output_name asks for; it has {told}")
    elif len(numbers) > 1:
        raise CandidateError(
            f"{name} has {len(outputs)} outputs ({told}); name the one that has the scores in model.output_name"
        )
    else:
        found = numbers or list(outputs)
    if found[0].type not in _FLOATS:
        zipped = any(output.type.startswith("seq(map") for output in outputs)  # as ZipMap leaves probabilities
        hint = " (skl2onnx: export with options={'zipmap': False}; onnxmltools: with zipmap=False)" if zipped else ""
        remedy = f"name another output in model.output_name, or export it with the scores{hint}"
        if found[0].type in _QUANTISED:
            remedy = "keep float ones when you convert the network, or put a DequantizeLinear behind these in the graph"
        raise CandidateError(
            f"{name} answers with {found[0].type} in {printable(found[0].name)}, not with scores; {remedy}"
        )
    return found[0]


def _shape(output: Any) -> str:
    sizes = "×".join("?" if size is None else str(size) for size in output.shape or ["?"])
    return f"({output.type.removeprefix('tensor(').removesuffix(')')} {sizes})"
