"""How a graph's own type of input holds images, and a twin without that, between whole numbers and in double precision.

The second one shows the slope of a twin: over a distance so short that nothing turns on the way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto
from torch import fx

from robustcheck.models.twin.rounding import straight_through


def _as_bytes(values: torch.Tensor) -> torch.Tensor:
    return straight_through(values, values.round().clamp(0, 255))


def _as_halves(values: torch.Tensor) -> torch.Tensor:
    return straight_through(values, values.half().float())


HELD_AS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    TensorProto.UINT8: _as_bytes,
    TensorProto.FLOAT16: _as_halves,
}


def in_double(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of a twin that computes in float64 and takes its inputs as they are."""
    module = copy.deepcopy(module).double()
    for step in list(module.graph.nodes):
        if step.target in HELD_AS.values():
            step.replace_all_uses_with(step.args[0])
            module.graph.erase_node(step)
            continue
        step.args = fx.node.map_aggregate(step.args, _doubled)
        step.kwargs = fx.node.map_aggregate(step.kwargs, _doubled)
    module.recompile()
    return module


def _doubled(setting: Any) -> Any:
    return torch.float64 if setting is torch.float32 else setting
