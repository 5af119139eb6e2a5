"""What the nodes of a traced network do, for the passes over it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn

_RELUS: tuple[Any, ...] = (nn.functional.relu, torch.relu, torch.relu_, "relu", "relu_")


class _Tracer(fx.Tracer):
    """Reads no annotations: Python 3.14 evaluates them then, and they may name what only type checkers import."""

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """What follows a network's code, and what its code is given."""
        return super().create_args_for_root(_unannotated(root_fn), is_module, concrete_args)


def _unannotated(function: Any) -> Any:
    """A copy of a function, and of those that it wraps."""
    if not isinstance(function, FunctionType):
        return function
    closure = function.__closure__
    plain = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, closure)
    plain.__kwdefaults__ = function.__kwdefaults__
    if hasattr(function, "__wrapped__"):
        plain.__wrapped__ = _unannotated(function.__wrapped__)  # type: ignore[attr-defined]
    return plain


def graph_of(module: nn.Module) -> fx.Graph:
    """What a module's code does, without doing it.

    Raises:
        Exception: its code cannot be followed, or raises whatever it may.
    """
    return _Tracer().trace(module)


def traced_copy(module: nn.Module) -> fx.GraphModule | None:
    """A copy as a graph; None if its code cannot be followed."""
    if isinstance(module, fx.GraphModule):
        return copy.deepcopy(module)
    try:
        copied = copy.deepcopy(module)
        return fx.GraphModule(copied, graph_of(copied), type(module).__name__)
    except Exception:  # noqa: BLE001 (a network's code may do anything; what cannot be traced is asked as it is)
        return None


def module_of(traced: fx.GraphModule, node: fx.Node) -> Any:
    """The layer that a node calls; None if it does something else."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_hooked(layer: nn.Module) -> bool:
    """Whether code looks at what a layer is given, or at what it answers."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that uses a node's answer; None if there is none, or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def only_follower(node: fx.Node) -> fx.Node | None:
    """The same, if it uses nothing else."""
    user = only_user(node)
    return user if user is not None and user.all_input_nodes == [node] else None


def is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a ReLU, however it was written, and nothing else."""
    if node.op != "call_module":
        return node.target in _RELUS
    layer = module_of(traced, node)
    return type(layer) is nn.ReLU and not is_hooked(layer)


def scale_and_shift(norm: nn.BatchNorm2d, bias: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """By what (C,) a frozen batch norm multiplies, and what it then adds, in double precision.

    `bias` (C,) is that of the layer before it, where the scale goes into that one's weights.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = (-norm.running_mean.double() if bias is None else bias.detach().double() - norm.running_mean) * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()
