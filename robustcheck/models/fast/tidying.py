"""Turns traced nodes back into layers, which later passes look for.

Some libraries, such as timm, have batch norms of their own that check their input, call the function, and skip dropout
that is off. Traced, each is a handful of nodes that nothing recognises as a norm.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from robustcheck.models.fast.nodes import module_of

_PASSES = (nn.Identity, nn.Dropout, nn.Dropout2d)  # return their input, outside training
_OPERATORS = "getitem eq ne lt le gt ge add sub mul truediv floordiv mod neg not_ and_ or_ is_ is_not".split()  # noqa: SIM905
_LOOKS: tuple[Any, ...] = (
    torch._assert,
    getattr,
    *(getattr(operator, name) for name in _OPERATORS),
    *("size", "dim", "ndimension", "numel", "stride", "is_contiguous"),
)
"""What assertions are made of, and they themselves."""
_BATCH_NORM = inspect.signature(nn.functional.batch_norm)


def tidy(traced: fx.GraphModule, image: torch.Tensor) -> None:
    """Leave out assertions and layers that do nothing, and turn calls of batch norm into layers.

    Args:
        traced: in evaluation mode; it is changed.
        image: (1, C, H, W), which fits.
    """
    for node in list(traced.graph.nodes):
        layer = module_of(traced, node)
        if type(layer) in _PASSES and not layer.training:
            node.replace_all_uses_with(node.all_input_nodes[0])
            traced.graph.erase_node(node)
    _leave_out_unused(traced)
    calls = [node for node in traced.graph.nodes if node.target is nn.functional.batch_norm]
    if not calls:
        return
    with torch.no_grad():
        ShapeProp(traced).propagate(image)
    for node, inputs, layer in list(_norms(traced, calls)):
        name = f"{node.name}_layer"
        traced.add_submodule(name, layer)
        with traced.graph.inserting_before(node):
            node.replace_all_uses_with(traced.graph.call_module(name, (inputs,)))
        traced.graph.erase_node(node)
    _leave_out_unused(traced)


def _leave_out_unused(traced: fx.GraphModule) -> None:
    """Leave out what only reads, and is unused; torch's own way would also drop writes into an input."""
    for node in reversed(traced.graph.nodes):
        looks = node.op == "get_attr" or (node.op in ("call_function", "call_method") and node.target in _LOOKS)
        if looks and not node.users:
            traced.graph.erase_node(node)
    traced.recompile()


def _norms(traced: fx.GraphModule, calls: list[fx.Node]) -> Iterator[tuple[fx.Node, fx.Node, nn.BatchNorm2d]]:
    """Calls of batch norm on maps (N, C, H, W) with statistics that are the network's own, and the layer of each."""
    for node in calls:
        given: dict[str, Any] = _BATCH_NORM.bind(*node.args, **node.kwargs).arguments
        kept = {name: given.get(name) for name in ("running_mean", "running_var", "weight", "bias")}
        known = all(value is None or (isinstance(value, fx.Node) and value.op == "get_attr") for value in kept.values())
        if not known or kept["running_mean"] is None or kept["running_var"] is None:
            continue
        inputs = given["input"]
        if given.get("training", False) is not False or len(inputs.meta["tensor_meta"].shape) != 4:
            continue
        values = {name: attrgetter(str(node.target))(traced) for name, node in kept.items() if node is not None}
        layer = nn.BatchNorm2d(len(values["running_mean"]), eps=given.get("eps", 1e-5)).eval()
        layer.load_state_dict(layer.state_dict() | values)
        yield node, inputs, layer.to(values["running_mean"])
