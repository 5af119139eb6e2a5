"""Convolutions that also do the batch norm and ReLU after them, in place of a network's own while it is asked.

The artefact still answers: its own module, running its own code. Only what lies between two of its layers is no longer
written to memory, and weights are laid out once instead of at every call, which is what ONNX Runtime does
with a graph when it loads one. Scores differ in their last bits. Nothing here has a gradient.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from robustcheck.models.fast.nodes import graph_of, is_hooked, only_follower, scale_and_shift
from robustcheck.models.fast.packed import Packed, can_pack, is_plain


@dataclass(frozen=True)
class _Place:
    """A layer of a module, and what stands in for it."""

    parent: nn.Module
    name: str
    own: nn.Module
    stand_in: nn.Module


class FusedLayers:
    """Layers that stand in for a module's own, at these places, for as long as this is entered."""

    def __init__(self, *places: _Place) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> None:
        try:
            for place in self._places:
                place.parent._modules[place.name] = place.stand_in
        except BaseException:  # such as a time limit
            self._leave()
            raise

    def __exit__(self, *_error: object) -> None:
        try:
            self._leave()
        finally:  # it may strike here too, and later gates ask the same module
            self._leave()

    def _leave(self) -> None:
        for place in self._places:
            place.parent._modules[place.name] = place.own


def fuse(module: nn.Module) -> FusedLayers:
    """Stand-ins for a module's convolutions and for what they do besides; none if its code cannot be followed.

    Args:
        module: in evaluation mode, frozen, in float32, on a CPU; it is not changed.
    """
    try:
        nodes = list(graph_of(copy.deepcopy(module)).nodes)
    except Exception:  # noqa: BLE001 (a network's code may do anything; what cannot be followed is asked as it is)
        return FusedLayers()
    return FusedLayers(*_places(module, nodes))


def _places(module: nn.Module, nodes: list[fx.Node]) -> Iterator[_Place]:
    names = Counter(layer for _, layer in module.named_modules(remove_duplicate=False))
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    looked_at = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}

    def layer_of(node: fx.Node | None, kind: type[nn.Module]) -> nn.Module | None:
        """What a node calls, if it is of exactly this kind and is called only once."""
        if node is None or node.op != "call_module":
            return None
        target = str(node.target)
        layer = module.get_submodule(target)
        sole = calls[target] == names[layer] == 1 and target not in looked_at
        return layer if type(layer) is kind and sole and not is_hooked(layer) else None

    def place(node: fx.Node, stand_in: nn.Module) -> _Place:
        parent, _, name = str(node.target).rpartition(".")
        own = module.get_submodule(str(node.target))
        return _Place(module.get_submodule(parent), name, own, stand_in.eval())

    for node in nodes:
        convolution = layer_of(node, nn.Conv2d)
        if not isinstance(convolution, nn.Conv2d) or not is_plain(convolution):
            continue
        after = only_follower(node)
        norm = layer_of(after, nn.BatchNorm2d)
        if after is not None and isinstance(norm, nn.BatchNorm2d) and _is_frozen(norm):
            yield place(after, nn.Identity())
            after = only_follower(after)
        else:
            norm = None
        rectifies = layer_of(after, nn.ReLU) is not None
        if after is not None and rectifies:
            yield place(after, nn.Identity())
        yield place(node, _Convolution(convolution, norm, rectifies=rectifies))


class _Convolution(nn.Module):
    """A frozen convolution with the batch norm and the ReLU that follow it."""

    def __init__(self, layer: nn.Conv2d, norm: nn.BatchNorm2d | None, *, rectifies: bool) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias  # code may look at them; what is multiplied is below
        self._rectifies, (weight, bias) = rectifies, _with_norm(layer, norm)
        weight = weight.contiguous(memory_format=torch.channels_last)
        self._packed = Packed.of(layer, weight, bias) if can_pack() else None
        assert not isinstance(layer.padding, str)
        self._plain = weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups

    def forward(self, inputs: Tensor) -> Tensor:
        """Its answer (N, K, H', W') to inputs (N, C, H, W)."""
        if self._packed is not None:
            return self._packed(inputs, rectifies=self._rectifies)
        answer = nn.functional.conv2d(inputs, *self._plain)
        return answer.relu_() if self._rectifies else answer


def _is_frozen(norm: nn.BatchNorm2d) -> bool:
    """Whether its statistics are its own, and not those of the batch."""
    return norm.running_mean is not None and not norm.training


def _with_norm(layer: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """The weight and bias of a convolution that also does its batch norm, computed in double precision."""
    if norm is None:
        return layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    scale, bias = scale_and_shift(norm, layer.bias)
    return (layer.weight.detach().double() * scale[:, None, None, None]).float(), bias.float()
