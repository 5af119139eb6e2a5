"""ONNX (.onnx): judged by ONNX Runtime on the shipped bytes, searched through a differentiable twin of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch

from robustcheck.errors import CandidateError
from robustcheck.models import agreement
from robustcheck.models.network import Forward, Network, in_batches
from robustcheck.models.session import Session
from robustcheck.policy import ModelSpec

if TYPE_CHECKING:
    from robustcheck.models.twin import Twin

_NO_TWIN = "this ONNX candidate gives predictions and no gradients, which this attack needs: "
_AT_ONCE = 4  # images that a gradient is tried on
_REFUSED = "export the network again, or use an attack that asks for scores only (square)"


def load_onnx(path: Path, spec: ModelSpec, libraries: Sequence[Path], device: torch.device) -> Network:
    """Start a session on the file that `onnx_files` has checked, and make its twin.

    The twin is not used before `Network.tried` has compared it with the session.
    """
    session = Session(path, device, output=spec.output_name, operators=libraries)
    forward: Forward = session
    notes = list(session.notes)
    batch = session.takes[0] if session.takes else None
    if batch:
        forward = in_batches(session, least=batch, most=batch)
        notes.append(f"its batch size is fixed at {batch}: images are padded to it")
    elif _quantises_batches(path):
        forward = in_batches(session, least=1, most=1)
        notes.append("it quantises a whole batch by its range: images are given to it one by one")
    network = Network(forward=forward, device=device, takes=session.takes, sources=tuple(libraries), notes=tuple(notes))
    from robustcheck.models.twin import NoTwin, make_twin  # onnx2fx takes a moment to import

    try:
        twin = make_twin(path, session.output, device, flat=session.flat)
    except NoTwin as reason:
        return replace(network, no_gradients=f"{_NO_TWIN}{reason}")
    return replace(network, tried=partial(_with_twin, network, twin))


def _with_twin(network: Network, twin: Twin, images: Sequence[torch.Tensor]) -> Network:
    """The network with its twin, if that agrees with ONNX Runtime on inputs (batches of (N, …)) to it.

    A graph that was exported for one batch size may be wrong at another: then its twin takes batches of that size.
    """
    allowed = agreement.ROUNDED if twin.rounded else agreement.HALF if twin.halves else agreement.FLOAT
    note = "searches follow a differentiable twin of the graph, which agrees with ONNX Runtime"
    if twin.rounded:
        note += "; gradients go straight through its rounding"
    images = [part for some in images for part in torch.split(some, _AT_ONCE)]
    ask: Forward = twin.module.forward  # a call of the module itself would print what goes wrong
    reason = agreement.difference(network.forward, ask, images, allowed)
    if reason is None:
        return replace(network, twin=ask, module=twin.module, notes=(*network.notes, note))
    if twin.batch:
        fixed = in_batches(twin.bound().forward, least=twin.batch, most=twin.batch)
        if agreement.difference(network.forward, fixed, images, allowed) is None:
            note += f"; it takes batches of {twin.batch}, as the graph does"
            return replace(network, twin=fixed, notes=(*network.notes, note))
    return replace(network, no_gradients=f"{_NO_TWIN}its differentiable twin is wrong, {reason}; {_REFUSED}")


def _quantises_batches(path: Path) -> bool:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return any(node.op_type == "DynamicQuantizeLinear" for node in nodes)


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
