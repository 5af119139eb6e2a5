"""How many operators an ONNX graph runs for one batch, its loops counted: a small file can ask for any number.

Counted is what the file itself tells: a number of rounds that it holds, and a condition that cannot change. What ends
by what is computed is left to the `clock`.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from math import inf, prod
from typing import TypeAlias

import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data

from robustcheck.errors import CandidateError

_MOST_RUN = 10**7  # operators: some ten seconds, if they do nothing; a large network has some ten thousand
_FOR_EVER = 2**62  # rounds, from which on exporters mean that only the condition counts
_STANDARD = ("", "ai.onnx")
_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)

_Known: TypeAlias = ChainMap[str, int | None]
"""Values, by their names, that are one number, or true or false; None: it is not known."""


def check_loops(model: onnx.ModelProto, shapes: Mapping[str, list[int]], name: str) -> None:
    """Refuse a graph with a loop that never ends, or with loops that run more operators than anybody waits for.

    Args:
        model: the graph, and functions that do not call themselves.
        shapes: of its values, as far as they are known.
        name: of its file.

    Raises:
        CandidateError: it is such a graph.
    """
    known = functions_of(model)
    calls = {key: {called_by(node) for node in _all(function.node)} & known.keys() for key, function in known.items()}
    counter = _Counter(shapes=shapes)
    for key in TopologicalSorter(calls).static_order():
        counter.functions[key] = counter.nodes(known[key].node, ChainMap())
    run = counter.graph(model.graph, ChainMap())
    if run == inf:
        raise CandidateError(
            f"{name} has a Loop that never ends: nothing says how often it goes round, and its condition never changes"
        )
    if run > _MOST_RUN:
        raise CandidateError(
            f"{name} runs {run:.1e} operators for one batch, as often as its loops go round; at most {_MOST_RUN:.1e} "
            "are run"
        )


@dataclass(frozen=True, kw_only=True)
class _Counter:
    """Counts operators: a loop of which it is not known how often it goes round once, of two branches the longer."""

    shapes: Mapping[str, list[int]]
    functions: dict[tuple[str, str, str], float] = field(default_factory=dict)  # what a call of each comes to

    def graph(self, graph: onnx.GraphProto, known: _Known) -> float:
        """The operators of a graph of which `known` is known; what is learned of it is added."""
        known.update({tensor.name: number_in(tensor) for tensor in graph.initializer})
        return self.nodes(graph.node, known)

    def nodes(self, nodes: Iterable[onnx.NodeProto], known: _Known) -> float:
        """The operators that some come to."""
        total = 0.0
        for node in nodes:
            total += 1 + self._inside(node, known)
            known.update(_learned(node, known))
        return total

    def _inside(self, node: onnx.NodeProto, known: _Known) -> float:
        graphs = {found.name: found.g for found in node.attribute if found.type == onnx.AttributeProto.GRAPH}
        if node.op_type == "Loop" and node.domain in _STANDARD:
            return self._loop(node, graphs["body"], known)
        parts = {name: self.graph(graph, known.new_child()) for name, graph in graphs.items()}
        if node.op_type == "Scan" and node.domain in _STANDARD:
            return self._scan_length(node) * (1 + parts["body"])
        if node.op_type == "If" and node.domain in _STANDARD:
            holds = known.get(node.input[0])
            return max(parts.values()) if holds is None else parts["then_branch" if holds else "else_branch"]
        return self.functions.get(called_by(node), 0) + sum(parts.values())

    def _loop(self, node: onnx.NodeProto, body: onnx.GraphProto, known: _Known) -> float:
        rounds, begins = (
            known.get(name) if name else unsaid
            for name, unsaid in zip([*node.input, "", ""], (_FOR_EVER, 1), strict=False)
        )
        inner = known.new_child({value.name: 1 for value in body.input[1:2]})  # inside, the condition holds
        run = 1 + self.graph(body, inner)
        goes_on = [inner.get(value.name) for value in body.output[:1]]
        if begins == 0 or (rounds is not None and rounds <= 0):
            return 0
        if goes_on != [1] or rounds is None:
            return run  # once at least
        return inf if rounds >= _FOR_EVER else rounds * run

    def _scan_length(self, node: onnx.NodeProto) -> int:
        settings = {found.name: onnx.helper.get_attribute_value(found) for found in node.attribute}
        name = next(iter(node.input[-settings.get("num_scan_inputs", 1) :]), "")
        axis = next(iter(settings.get("scan_input_axes", ())), 0)
        shape = self.shapes.get(name, [])
        return max(1, shape[axis]) if -len(shape) <= axis < len(shape) else 1


def _learned(node: onnx.NodeProto, known: _Known) -> dict[str, int | None]:
    """What is known of a node's answers."""
    value = None
    if node.op_type in ("Identity", "Cast") and node.domain in _STANDARD:
        value = known.get(node.input[0])
        to = next((found.i for found in node.attribute if found.name == "to"), None)
        value = int(bool(value)) if value is not None and to == TensorProto.BOOL else value
    elif node.op_type == "Constant" and node.domain in _STANDARD:
        held = {found.name: found for found in node.attribute if not found.ref_attr_name}  # that a function is given
        value = number_in(held["value"].t) if "value" in held else held["value_int"].i if "value_int" in held else None
    return dict.fromkeys(node.output, value)


def number_in(tensor: TensorProto) -> int | None:
    """A tensor's one number; of true and false 1 and 0."""
    if tensor.data_type not in _WHOLE or prod(tensor.dims) != 1 or uses_external_data(tensor):
        return None
    try:
        return int(numpy_helper.to_array(tensor).item())
    except (ValueError, TypeError):  # of the wrong size: nothing that runs reads it
        return None


def _all(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those inside them."""
    for node in nodes:
        yield node
        for found in node.attribute:
            yield from _all(found.g.node)


def functions_of(model: onnx.ModelProto) -> dict[tuple[str, str, str], onnx.FunctionProto]:
    """A file's own functions, by what `called_by` says of nodes that call them."""
    return {(function.domain, function.name, function.overload): function for function in model.functions}


def called_by(node: onnx.NodeProto) -> tuple[str, str, str]:
    """What a node calls: its domain, its operator or function, and which of those of one name."""
    return node.domain, node.op_type, node.overload
