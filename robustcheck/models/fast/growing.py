"""Concatenations that grow: in a DenseNet each layer is given all maps before it, put together anew for each.

With room for all, each map is written once, and a layer is given the first channels of the room. The gradient, which
was summed map by map, then takes one sum per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp

from robustcheck.models.fast.pre_activation import Shifted


def let_grow(traced: fx.GraphModule, image: torch.Tensor) -> None:
    """Let each concatenation that begins with all of another one share its memory.

    Args:
        traced: in evaluation mode; it is changed.
        image: (1, C, H, W), which fits.
    """
    chains = _chains(traced)
    if not chains:
        return
    with torch.no_grad():
        ShapeProp(traced).propagate(image)
    replaced = dict[fx.Node, fx.Node]()  # what is put together in one chain may be a map of another
    for chain in chains:
        step: Callable[..., torch.Tensor] = room
        given = chain[-1].node.meta["tensor_meta"].shape[1]
        for link in chain:
            added = (replaced.get(each, each) for each in link.added)
            with traced.graph.inserting_before(link.node):
                together = traced.graph.call_function(step, (given, *added))
            link.node.replace_all_uses_with(together)
            traced.graph.erase_node(link.node)
            replaced[link.node] = together
            step, given = grown, together
    traced.recompile()


def room(channels: int, *maps: torch.Tensor) -> torch.Tensor:
    """Maps (N, C, H, W) put together (N, ΣC, H, W), with room behind them for others, in all for so many channels."""
    answer: torch.Tensor = _Room.apply(channels, *maps)
    return answer


def grown(before: torch.Tensor, *maps: torch.Tensor) -> torch.Tensor:
    """What lies in a room (N, C, H, W), and maps that are written behind it, put together; the former is not copied."""
    answer: torch.Tensor = _Grown.apply(before, *maps)
    return answer


class _Room(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, channels: int, *maps: torch.Tensor) -> torch.Tensor:
        first, ctx.channels = maps[0], [each.shape[1] for each in maps]
        is_last = first.is_contiguous(memory_format=torch.channels_last)
        room = torch.empty(
            (len(first), channels, *first.shape[2:]),
            dtype=first.dtype,
            device=first.device,
            memory_format=torch.channels_last if is_last else torch.contiguous_format,
        )
        return _write(room[:, : sum(ctx.channels)], 0, maps)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *gradient.split(ctx.channels, dim=1)


class _Grown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grown: torch.Tensor, *maps: torch.Tensor) -> torch.Tensor:
        ctx.channels = [grown.shape[1], *(each.shape[1] for each in maps)]
        # The same memory, taken for wider: torch refuses what would go beyond its end.
        wider = grown.as_strided((len(grown), sum(ctx.channels), *grown.shape[2:]), grown.stride())
        return _write(wider, grown.shape[1], maps)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts: tuple[torch.Tensor, ...] = gradient.split(ctx.channels, dim=1)
        return parts


def _write(room: torch.Tensor, first: int, maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Write maps from a channel on; returns the room."""
    for each in maps:
        room[:, first : first + each.shape[1]].copy_(each)
        first += each.shape[1]
    return room


@dataclass(frozen=True)
class _Link:
    """A concatenation, and what it adds to the one before it."""

    node: fx.Node
    added: tuple[fx.Node, ...]


def _chains(traced: fx.GraphModule) -> list[list[_Link]]:
    """Concatenations that each begin with all of the one before, and may share its memory."""
    chains = dict[fx.Node, list[_Link]]()  # by the last of each
    for node in traced.graph.nodes:
        if (maps := _maps(node)) is None:
            continue
        before = next((last for last in reversed(chains) if _added(maps, last)), None)
        if before is None or not _leaves_alone(traced, before, node):
            chains[node] = [_Link(node, maps)]
        else:
            chains[node] = [*chains.pop(before), _Link(node, _added(maps, before))]
    return [chain for chain in chains.values() if len(chain) > 1]


def _maps(node: fx.Node) -> tuple[fx.Node, ...] | None:
    """What a concatenation of channels puts together; None if the node is none."""
    if node.op != "call_function" or node.target not in (torch.cat, torch.concat):
        return None
    maps = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if dim != 1 or not isinstance(maps, (list, tuple)) or not all(isinstance(each, fx.Node) for each in maps):
        return None
    return tuple(maps)


def _added(maps: tuple[fx.Node, ...], before: fx.Node) -> tuple[fx.Node, ...]:
    """What comes after all of another concatenation: it is the first map, or its maps are the first ones."""
    begins = _maps(before)
    assert begins is not None
    if maps[0] is before:
        return maps[1:]
    return maps[len(begins) :] if maps[: len(begins)] == begins else ()


def _leaves_alone(traced: fx.GraphModule, node: fx.Node, then: fx.Node) -> bool:
    """Whether only the next concatenation keeps or changes these maps: their memory is written to again."""
    others = (user for user in node.users if user is not then)
    return all(
        user.op == "call_module" and isinstance(traced.get_submodule(str(user.target)), Shifted) for user in others
    )
