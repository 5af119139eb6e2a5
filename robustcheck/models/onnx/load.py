"""ONNX (.onnx): judged by ONNX Runtime on the shipped bytes, searched through a differentiable twin of the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

import torch
from onnx import TensorProto

from robustcheck.errors import CandidateError, NoMemoryError
from robustcheck.models.artefact import digest
from robustcheck.models.axes import GREY, ROWS, with_a_channel
from robustcheck.models.memory import is_out_of_memory
from robustcheck.models.network import NO_GRADIENT_PASSES, ONLY_ASKS, Forward, Network, first_line, in_batches
from robustcheck.models.onnx import agreement, labels
from robustcheck.models.onnx.file import left_in_training, parts_of, with_channels
from robustcheck.models.onnx.session import Session
from robustcheck.models.twin import (
    ROUNDED_OPERATORS,
    NoTwinError,
    Twin,
    TwinFailsError,
    in_double,
    make_twin,
    telling,
)
from robustcheck.policy import ModelSpec, PreprocessSpec

_NO_TWIN = "this ONNX candidate gives predictions but no gradients, which this attack needs: "
_NO_GRADIENT = (
    f"{NO_GRADIENT_PASSES}, like nearest neighbours and graphs that answer with their decision; {ONLY_ASKS}, or "
    "transfer from a network that has one"
)
_OVERFLOWS = (
    "on this processor, scores of these samples would be off by up to {apart:.2g} (the largest is {largest:.2g}) with "
    "ONNX Runtime's own settings: without VNNI, sums of 8-bit numbers overflow unless session.x64quantprecision is set"
)
_DRAW = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_LOOP = frozenset({"Loop", "Scan", "SequenceMap"})
_NEAREST = 0.5  # a byte is the nearest whole number
_BRIGHT = 100  # white is as bright as this, in bytes, or nearly everything would be black
_APART = 0.01  # of the largest score, from which it is noted; without overflow at most a last bit differs
_AT_ONCE = 4  # images that a gradient is tried on
_UNTOLD = "its scores hardly change with the image, or only by rounding, so gradients could not be compared"
_REFUSED = f"export the network again, or {ONLY_ASKS} or transfer"


def load_onnx(path: Path, spec: ModelSpec, libraries: Sequence[Path], device: torch.device) -> Network:
    """Start a session on the file that `onnx_files` has checked, and make its twin.

    The twin is not used before `Network.settle_on` has compared it with the session.
    """
    nodes, tensors = parts_of(path)
    operators = {node.op_type for node in nodes}
    draws = bool(operators & _DRAW)
    sources = dict(zip(libraries, (one.sha256 for one in digest(libraries, path.parent)[1]), strict=True))
    loops = bool(operators & _LOOP)
    start = partial(Session, path, device, output=spec.output_name, operators=libraries, draws=draws, loops=loops)
    session = start()
    if session.whole:
        _check_whole(path, spec.preprocess)
    notes = list(session.notes)
    channels_last = spec.preprocess.layout == "NHWC"
    notes += _of_axes(session, last=channels_last)
    half = session.half or any(tensor.data_type == TensorProto.FLOAT16 for tensor in tensors)
    if half and session.on_cpu:
        notes.append("ONNX Runtime computes most of its float16 parts in float32 on a CPU")
    batched: Callable[[Forward], Forward] = _as_it_is
    if batch := session.takes[0] if session.takes else None:
        batched = partial(in_batches, least=batch, most=batch)
        notes.append(f"its batch size is fixed at {batch}: images are padded to it")
    if any(name.startswith("DynamicQuantize") for name in operators):
        batched = partial(in_batches, least=batch or 1, most=1, copies=True)
        notes.append("it quantises a whole batch by its range: images are given to it one by one")

    takes, in_training = with_a_channel(session.takes, last=channels_last), left_in_training(nodes, tensors)
    network = Network(
        forward=batched(session),
        device=device,
        precision=torch.float16 if half else torch.float32,
        takes=with_channels(takes, session.input, nodes, tensors),
        in_training=lambda: in_training,
        sources=sources,
        notes=tuple(notes),
    )
    twin: Twin | None = None
    try:
        twin = make_twin(path, session.output, device, axes=session.axes)
    except NoTwinError as reason:
        network = replace(network, no_gradients=f"{_NO_TWIN}{reason}")
    on_bytes = session.on_cpu and bool(operators & ROUNDED_OPERATORS)

    def settle_on(images: Sequence[torch.Tensor]) -> Network:
        seen = _note_overflow(network, lambda: batched(start(exact=False)), images) if on_bytes else network
        if session.label is not None and spec.task == "multiclass" and not draws:
            labels_of = batched(lambda inputs: session.labels(inputs, spec.labels))
            names = {"output": session.output, "label": session.label}
            if note := labels.differing(seen.forward, labels_of, images, spec, **names):
                seen = replace(seen, notes=(*seen.notes, note))
        return seen if twin is None else _with_twin(seen, twin, images)

    return replace(network, settle_on=settle_on)


def _of_axes(session: Session, *, last: bool) -> Sequence[str]:
    """The note on an input that has fewer axes than images; `last` is where these have their channels."""
    if session.axes == ROWS:
        return (f"it takes rows of numbers: each image is given as a row, channels {'last' if last else 'first'}",)
    if session.axes == GREY:
        return ("it takes grey images without a channel axis, and is given them so",)
    return ()


def _as_it_is(forward: Forward) -> Forward:
    return forward


def _note_overflow(network: Network, begin: Callable[[], Forward], images: Sequence[torch.Tensor]) -> Network:
    """The network, and a note if sums of 8-bit numbers overflow here in a session of ONNX Runtime's own settings."""
    apart = largest = 0.0
    try:
        by_default = begin()
        for inputs in images:
            scores, others = network.forward(inputs), by_default(inputs)
            differences = torch.where(scores == others, 0.0, (scores - others).abs())
            apart = max(apart, float(differences.nan_to_num(nan=inf).max()))
            largest = max(largest, float(scores.abs().max()))
    except Exception as error:  # noqa: BLE001 (it is only a comparison: the gate does without it)
        note = f"its scores could not be compared with those of ONNX Runtime's own settings: {first_line(error)}"
        return replace(network, notes=(*network.notes, note))
    if apart <= _APART * largest:
        return network
    return replace(network, notes=(*network.notes, _OVERFLOWS.format(apart=apart, largest=largest)))


def _with_twin(network: Network, twin: Twin, images: Sequence[torch.Tensor]) -> Network:
    """The network with its twin, if that agrees with ONNX Runtime on inputs (batches of (N, …)) to it.

    A graph that was exported for one batch size may be wrong at another: then its twin takes batches of that size.
    """
    ask: Forward = twin.module.forward  # a call of the module itself would print what goes wrong
    found = _compared(network, twin, telling(twin.module), lambda: in_double(twin.module).forward, images)
    module: torch.nn.Module | None = twin.module
    words = ["searches follow a differentiable twin of the graph, which agrees with ONNX Runtime"]
    if found.wrong and twin.batch:
        try:
            bound, module = twin.bound(), None
        except NoTwinError as reason:
            return replace(network, no_gradients=f"{_NO_TWIN}{reason}")
        in_its_batches = partial(in_batches, least=twin.batch, most=twin.batch)
        ask = in_its_batches(bound.forward)
        told = in_its_batches(telling(bound))
        found = _compared(network, twin, told, lambda: in_its_batches(in_double(bound).forward), images)
        words.append(f"it takes batches of {twin.batch}, as the graph does")
    if found.wrong:
        return replace(network, no_gradients=f"{_NO_TWIN}its differentiable twin is wrong, {found.wrong}; {_REFUSED}")
    if not found.differentiable:
        return replace(network, no_gradients=_NO_GRADIENT)
    if twin.rounds:
        words.append("gradients go straight through its rounding")
    if not found.told:
        words.append(_UNTOLD)
    return replace(network, twin=ask, module=module, notes=(*network.notes, "; ".join(words)))


def _compared(
    network: Network, twin: Twin, ask: Forward, fine: Callable[[], Forward], images: Sequence[torch.Tensor]
) -> agreement.Agreement:
    allowed = agreement.QUANTISED if twin.quantised else agreement.HALF if twin.halves else agreement.FLOAT
    if twin.rounds and not twin.quantised:
        allowed = replace(allowed, stepped=True)
    for at_once in (_AT_ONCE, 1):
        parts = [_in_company(part, twin.batch) for some in images for part in torch.split(some, at_once)]
        try:
            return agreement.compare(network.forward, ask, parts, allowed, twin.holds, fine)
        except TwinFailsError as reason:
            return agreement.Agreement(wrong=str(reason))
        except Exception as error:  # noqa: BLE001 (converted code may fail in any way)
            if not is_out_of_memory(error, rows=at_once):
                return agreement.Agreement(wrong=f"it fails: {first_line(error)}")
    raise NoMemoryError("memory ran out when the differentiable twin was tried on one image; give it smaller images")


def _in_company(images: torch.Tensor, fixed: int | None) -> torch.Tensor:
    """Images, at least two: one alone cannot show that images of a batch are mixed.

    Nor as many as the graph's batch is fixed at: those cannot show which parts still have that size.
    """
    while len(images) in (1, fixed):
        images = torch.cat([images, images[:1].flip(-1) / 2])
    return images


def _check_whole(path: Path, preprocess: PreprocessSpec) -> None:
    """Refuse images that are not bytes: cast to whole numbers they would be black, or clipped."""
    channels = max(len(preprocess.mean), len(preprocess.std))
    means, stds = (values * channels if len(values) == 1 else values for values in (preprocess.mean, preprocess.std))
    for mean, std in zip(means, stds, strict=False):
        low, high = sorted((end - mean) / std for end in preprocess.range)
        if low < -_NEAREST or high > 255 + _NEAREST or high < _BRIGHT:
            raise CandidateError(
                f"{path.name} takes whole numbers from 0 to 255, but model.preprocess makes numbers from {low:.3g} to "
                f"{high:.3g}; set model.preprocess.range: [0, 255], and neither mean nor std"
            )


def libraries_of(spec: ModelSpec, folder: Path) -> tuple[Path, ...]:
    """The libraries of custom operators that a policy trusts: they are part of the candidate.

    Raises:
        CandidateError: one is not there.
    """
    libraries = tuple(folder / name for name in spec.operators)
    for library in libraries:
        if not library.is_file():
            raise CandidateError(f"model.operators: there is no file {library}")
    return libraries
