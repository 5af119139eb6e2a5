"""A differentiable twin of an ONNX graph: torch's answer to the same image, and its gradient.

The twin only searches. It is compared with ONNX Runtime before it is used (`agreement`), and decides no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from onnx import ModelProto, NodeProto
from onnx2fx.exceptions import UnsupportedOpError
from onnx2fx.graph_builder import GraphBuilder
from torch import fx

from robustcheck.models.axes import GREY, ROWS, with_axes
from robustcheck.models.memory import is_out_of_memory
from robustcheck.models.network import ONLY_ASKS, Forward, first_line, freeze
from robustcheck.models.onnx.file import put_in_order
from robustcheck.models.twin import (
    attention,
    contrib,
    layers,
    linear_models,
    quantised,
    resize,
    rounding,
    sizes,
    standard,
)
from robustcheck.models.twin.graph import (
    LARGEST_BYTES,
    anonymise,
    bytes_of,
    cut_resized_bytes,
    folded,
    free_batch,
    keep_only,
    make_dense,
    nodes,
    take_apart,
    widen,
)
from robustcheck.models.twin.held import HELD_AS
from robustcheck.models.twin.rounded_values import rounds
from robustcheck.models.twin.weight_only import unpack

# Importing these registers their operators with onnx2fx; the name keeps the imports.
_REGISTERED = (layers, rounding, quantised, resize, attention, standard, sizes, linear_models, contrib)

_ASK = f"{ONLY_ASKS} or transfer"
_ADVICE = f"export the network again with other operators, or {_ASK}"
_SMALLER = f"export it in float16, or {_ASK}"
_CLASSICAL = "operator ai.onnx.ml."
"""How those of trees, support vectors and encoders are named: the standard's others cannot say the same."""
_LAID_OUT = ("com.microsoft.nchwc.", "com.microsoft.Nhwc", "com.microsoft.QLinearConv")
"""How operators' names begin that ONNX Runtime makes when it optimises all that it can."""
ROUNDED_OPERATORS = frozenset(
    {
        "QuantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
    }
)
"""Where there is one of these, a graph works on whole numbers."""


class NoTwinError(Exception):
    """A graph has no differentiable form; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A graph in torch."""

    module: fx.GraphModule  # float32 inputs (N, …) to scores; weights frozen
    batch: int | None  # the only batch size of the graph, which `module` should not depend on; None: any
    bound: Callable[[], fx.GraphModule]  # the graph as it is, for its own batch size only
    holds: Callable[[torch.Tensor], torch.Tensor]  # inputs as the graph's own type of input holds them
    quantised: bool  # it works on whole numbers somewhere, which gradients go straight through
    rounds: bool  # it does that, or rounds what it makes of the image
    halves: bool  # it works in float16 somewhere, and its twin in float32


def make_twin(path: Path, output: str, device: torch.device, *, axes: int | None = None) -> Twin:
    """Convert the graph of a checked file.

    Args:
        path: the .onnx file.
        output: which of its outputs are the scores.
        device: where the twin lives.
        axes: how many its input has; None: as many as images have.

    Raises:
        NoTwinError: it cannot be converted.
    """
    model, quantised, rounds, halves, kind = _prepared(path, output)
    batch = free_batch(model.graph)

    def make(model: ModelProto) -> fx.GraphModule:
        module = converted(model)
        _adapt_inputs(module, kind, axes)
        module.graph.eliminate_dead_code()
        module = fx.GraphModule(module, module.graph)  # which keeps only what its graph still reads
        freeze(module)
        return module.eval().to(device)

    return Twin(
        module=make(model),
        batch=batch,
        bound=lambda: make(_prepared(path, output)[0]),
        holds=HELD_AS.get(kind, lambda values: values),
        quantised=quantised,
        rounds=rounds,
        halves=halves,
    )


def _prepared(path: Path, output: str) -> tuple[ModelProto, bool, bool, bool, int]:
    """A graph to convert; whether it is quantised, rounds, and works in halves; and the type of its input."""
    model = _loaded(path)
    try:
        put_in_order(model.graph)
        make_dense(model.graph)
        keep_only(model.graph, output)
        quantised = any(node.op_type in ROUNDED_OPERATORS for node in nodes(model.graph))
        rounded = rounds(model)
        cut_resized_bytes(model)
        take_apart(model.graph)
        quantised |= unpack(model.graph)
        halves = widen(model)
        kind = anonymise(model)
    except Exception as error:  # noqa: BLE001 (as in `converted`)
        raise NoTwinError(f"its graph cannot be prepared ({first_line(error)}); {_ADVICE}") from None
    return model, quantised, quantised or rounded, halves, kind


def _loaded(path: Path) -> ModelProto:
    model = folded(path)
    if (size := bytes_of(model)) > LARGEST_BYTES:
        raise NoTwinError(f"its weights take {size / 2**30:.1f} GiB, but more than 2 cannot be followed; {_SMALLER}")
    return model


def converted(model: ModelProto) -> fx.GraphModule:
    """A graph in torch, operator by operator.

    Raises:
        NoTwinError: an operator of it has no differentiable form.
    """
    at = "graph"
    try:
        builder = _Builder(model)
        try:
            return builder.build()
        finally:
            at = builder.at
    except Exception as error:  # noqa: BLE001 (a converter's code meets any graph there is)
        if any(name in at for name in _LAID_OUT):
            raise NoTwinError(
                f"its {at} is laid out for one kind of processor; save the graph with at most ORT_ENABLE_EXTENDED, "
                f"or {_ASK}"
            ) from None
        why = "" if isinstance(error, UnsupportedOpError) else f" ({first_line(error)})"
        advice = _ASK if at.startswith(_CLASSICAL) else _ADVICE
        raise NoTwinError(f"its {at} has no differentiable form here{why}; {advice}") from None


_AT = "robustcheck_operator"  # in the meta of a step: which operator of the file it is part of


def telling(module: fx.GraphModule) -> Forward:
    """A twin on trial: its errors say in which operator they arose.

    Raises (when it is asked):
        TwinFailsError: a step failed that is part of an operator.
    """

    def ask(inputs: torch.Tensor) -> torch.Tensor:
        try:
            scores: torch.Tensor = module.forward(inputs)
        except Exception as error:
            if is_out_of_memory(error, rows=len(inputs)) or (operator := _operator_of(error, module, inputs)) is None:
                raise
            raise TwinFailsError(f"its {operator} fails ({first_line(error)})") from error
        return scores

    return ask


def _operator_of(error: Exception, module: fx.GraphModule, inputs: torch.Tensor) -> str | None:
    """The operator of the step that fails, if the same step fails twice."""
    steps = _Steps(module)
    steps.extra_traceback = False
    try:
        steps.run(inputs)
    except Exception as again:  # noqa: BLE001 - what the first one raised
        operator: str | None = steps.at.get(_AT)
        return operator if first_line(again) == first_line(error) else None
    return None


class TwinFailsError(Exception):
    """A twin fails when it is asked; the message says in which operator."""


class _Steps(fx.Interpreter):
    """Runs step after step, and knows which one it is at."""

    at: Mapping[str, Any] = MappingProxyType({})

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.meta
        return super().run_node(n)


class _Builder(GraphBuilder):
    """onnx2fx's, and it knows which operator it is at, as do the steps that it makes."""

    at = "graph"

    def call_function(self, *settings: Any, **more: Any) -> fx.Node:
        return self._told(super().call_function(*settings, **more))

    def call_module(self, *settings: Any, **more: Any) -> fx.Node:
        return self._told(super().call_module(*settings, **more))

    def _told(self, step: fx.Node) -> fx.Node:
        step.meta[_AT] = self.at
        return step

    def _resolve_handler(self, node: NodeProto) -> tuple[Any, str, int]:
        domain = f"{node.domain}." if node.domain else ""
        self.at = f"operator {domain}{node.op_type} (opset {self.get_opset_version(node.domain)})"
        found: tuple[Any, str, int] = super()._resolve_handler(node)
        return found

    def _convert_nodes(self) -> None:
        """Convert nodes as they stand, which is in order: onnx2fx would compare each with all others to sort them."""
        for node in self.model.graph.node:
            handler, domain, _ = self._resolve_handler(node)
            made: fx.Node | tuple[fx.Node, ...] = handler(self, node)
            if isinstance(made, tuple):  # a step for each answer
                self.env.update(zip(node.output, made, strict=True))
                continue
            self._tag_operator_node(node, made, domain)
            if isinstance(made, fx.Node):
                made.meta["operator"] = node.op_type  # whose answer it is, for forms that leave some off
            self._register_outputs(node, made, domain)


def _adapt_inputs(module: fx.GraphModule, kind: int, axes: int | None) -> None:
    """Images as the file's own input holds them: whole numbers, halves, or of fewer axes."""
    image = held = next(node for node in module.graph.nodes if node.op == "placeholder")
    users = list(image.users)
    steps: list[tuple[Callable[..., torch.Tensor], tuple[Any, ...]]] = []
    if kind in HELD_AS:
        steps.append((HELD_AS[kind], ()))
    if axes in (ROWS, GREY):
        steps.append((with_axes, (axes,)))
    for step, settings in steps:
        with module.graph.inserting_after(held):
            held = module.graph.call_function(step, (held, *settings))
    for user in users:
        user.replace_input_with(image, held)
