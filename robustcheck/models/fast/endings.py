"""A network without the softmax or sigmoid that it ends in, whose gradient is zero where the network is sure.

What follows it may cut the ends of probabilities, round them, divide them by their sum, change their shape, or put
several beside each other: a sigmoid per finding, a single one as `[1 - p, p]`, or those of -z and z. A softmax may be
written out: exponentials, divided by their sum.
"""

from __future__ import annotations

import operator
from typing import Any, Literal

import torch
from torch import fx, nn

from robustcheck.models.fast.nodes import module_of, traced_copy

Ending = Literal["softmax", "sigmoid"]
_ENDINGS: dict[Any, Ending] = {
    torch.softmax: "softmax",
    nn.functional.softmax: "softmax",
    nn.Softmax: "softmax",
    torch.sigmoid: "sigmoid",
    nn.functional.sigmoid: "sigmoid",
    nn.Sigmoid: "sigmoid",
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    # Of logarithms of probabilities, which are logits as well, or of logits: then their sum divides them.
    **dict.fromkeys((torch.exp, "exp"), "softmax"),
}
# Steps are known by what they call, those of a twin by the operator of ONNX as well.
_CUTS: frozenset[Any] = frozenset(
    {
        *(torch.clamp, torch.clip, "clamp", "clip"),
        *("Clip", "QuantizeLinear", "DequantizeLinear", "QLinearSoftmax", "QLinearSigmoid"),
    }
)
_SHAPES: frozenset[Any] = frozenset(
    {
        *(torch.squeeze, torch.unsqueeze, torch.flatten, torch.reshape, nn.Flatten, nn.Identity),
        *("squeeze", "unsqueeze", "flatten", "reshape", "view"),
        *("Squeeze", "Unsqueeze", "Flatten", "Reshape", "Identity"),
    }
)
_JOINS: frozenset[Any] = frozenset({torch.cat, torch.concat, torch.stack, "Concat"})
_COMPLEMENTS: frozenset[Any] = frozenset({torch.sub, operator.sub, "Sub"})  # 1 - p
_QUOTIENTS: frozenset[Any] = frozenset({torch.div, operator.truediv, "div", "Div"})
_SUMS: frozenset[Any] = frozenset({torch.sum, "sum", "ReduceSum"})


def leave_off(module: nn.Module, ending: Ending) -> nn.Module | None:
    """A traced copy of a network that gives its logits; None if it does not end in probabilities of that kind.

    Whether its logits are those of the network is for `alike` to find out.
    """
    traced = traced_copy(module)
    if traced is None:
        return None
    output = next(node for node in traced.graph.nodes if node.op == "output")
    steps = _up_to_the_ending(traced, output.args[0])
    last = [node for node in steps if _kind(traced, node)]
    kinds = {_kind(traced, node) for node in last}
    complements = any(_does(traced, node, _COMPLEMENTS) for node in steps)
    two_sides = ending == "softmax" and kinds == {"sigmoid"} and len(last) == (1 if complements else 2)
    if not two_sides and (kinds != {ending} or complements or (ending == "softmax" and len(last) > 1)):
        return None
    if kinds == {"sigmoid"} and any(_does(traced, node, _QUOTIENTS) for node in steps):
        return None  # shares of sigmoids are no sigmoids, and the logits of those not theirs
    for node in steps:
        if node in last or _does(traced, node, _CUTS | _QUOTIENTS):
            before = node.all_input_nodes[0]
            instead = _centred_before(node) if two_sides and node in last else before
            # Another step of the network may use the probability itself, as that of the next label in a chain does.
            node.replace_all_uses_with(instead, delete_user_cb=lambda user: user in steps or user is output)
    for node in steps:  # nothing else is removed: a statement whose answer is not used may write into its input
        if not node.users:
            traced.graph.erase_node(node)
    traced.recompile()
    return traced


def _up_to_the_ending(traced: fx.GraphModule, last: Any) -> list[fx.Node]:
    """The steps from a network's scores back to the softmax or sigmoids, the last first; none if others lie between."""
    found, waiting = set[fx.Node](), [last]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, fx.Node) or not node.all_input_nodes:
            return []
        found.add(node)
        if _kind(traced, node):
            if len(node.all_input_nodes) != 1:
                return []
        elif _does(traced, node, _CUTS | _SHAPES):  # the others say where it is cut, or which shape it gets
            waiting.append(node.all_input_nodes[0])
        elif total := _sum_below(traced, node):
            found.update(total)
            waiting.append(node.all_input_nodes[0])
        elif _does(traced, node, _JOINS | _COMPLEMENTS):
            waiting += [each for each in node.all_input_nodes if each.op != "get_attr"]
        else:
            return []
    return [node for node in reversed(traced.graph.nodes) if node in found]


def _sum_below(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The sum of what a node divides, by which it does that, after what changes its shape; empty if it does not."""
    if not _does(traced, node, _QUOTIENTS) or len(node.all_input_nodes) != 2 or node.kwargs.get("rounding_mode"):
        return []
    whole, total = node.all_input_nodes
    steps = [total]
    while _does(traced, steps[-1], _SHAPES) and len(steps[-1].users) == 1:
        steps.append(steps[-1].all_input_nodes[0])
    of_it = _does(traced, steps[-1], _SUMS) and steps[-1].all_input_nodes[0] is whole
    return steps if of_it and len(steps[-1].users) == 1 else []


def _centred_before(sigmoid: fx.Node) -> fx.Node:
    """What stands for a sigmoid p of z: then [1 - p, p], and those of -z and z, are logits that are z apart."""
    with sigmoid.graph.inserting_before(sigmoid):
        return sigmoid.graph.call_function(_centred, (sigmoid.all_input_nodes[0],))


def _centred(logits: torch.Tensor) -> torch.Tensor:
    return 0.5 + logits / 2


def _does(traced: fx.GraphModule, node: fx.Node, steps: frozenset[Any]) -> bool:
    """Whether a node makes one of these steps."""
    if node.op == "call_module":
        return type(module_of(traced, node)) in steps
    called = node.op in ("call_function", "call_method")
    return called and (node.target in steps or node.meta.get("operator") in steps)


def _kind(traced: fx.GraphModule, node: fx.Node) -> Ending | None:
    if node.op == "call_module":
        return _ENDINGS.get(type(module_of(traced, node)))
    return _ENDINGS.get(node.target) if node.op in ("call_function", "call_method") else None
