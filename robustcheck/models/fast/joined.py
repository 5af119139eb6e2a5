"""Convolutions with the sum and the ReLU behind them, and their gradients, in place of a traced network's layers.

A ReLU of its own reads and writes a whole map to change half of it, and a residual network has one behind each
convolution and a sum behind every third. Weights are also laid out once, which small batches would otherwise wait for.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn

from robustcheck.models.fast.nodes import is_hooked, is_relu, module_of, only_user
from robustcheck.models.fast.packed import Packed, answer_size, is_plain
from robustcheck.models.fast.two_parts import InTwoParts
from robustcheck.models.fast.unfolded import Unfolded, can_unfold

_SUMS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_PLACE: tuple[Any, ...] = (operator.iadd, "add_")


def join(traced: fx.GraphModule, *, unfold: bool) -> None:
    """Let each convolution do what is done only to its answer, and what else is done to its input.

    Args:
        traced: frozen, on a CPU, channels last; it is changed.
        unfold: whether convolutions of small maps are matrix products.
    """
    asked = Counter(module_of(traced, node) for node in traced.graph.nodes)
    for node in list(traced.graph.nodes):
        layer = module_of(traced, node)
        own = layer.layer if isinstance(layer, InTwoParts) else layer
        if asked[layer] == 1 and isinstance(own, nn.Conv2d) and _is_frozen(own):
            _join(traced, _Place.of(traced, node, alone=own is not layer), layer, own, unfold=unfold)
    traced.delete_all_unused_submodules()
    traced.recompile()


class Joined(nn.Module):
    """A frozen convolution on a CPU, and what is done with its answer.

    Args:
        layer: a plain one, in float32 or bfloat16.
        rectifies: whether a ReLU is behind it, and behind the sum if there is one.
        unfold: whether small maps are matrix products.
        forks: whether its input is used once more, after it: then it passes that on, and adds up the gradients.
    """

    def __init__(self, layer: nn.Conv2d, *, rectifies: bool, unfold: bool, forks: bool) -> None:
        super().__init__()
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        self.layer, self.rectifies, self.forks = layer, rectifies, forks
        self._packed, self._packed_gradient = Packed.of(layer, weight, bias), _packed_gradient(layer, weight)
        self._unfolded = Unfolded(layer) if unfold and can_unfold(layer) else None

    def forward(self, inputs: Tensor, other: Tensor | float | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The answer (N, K, H', W') to inputs (N, C, H, W) with another one added; and the inputs, if they fork."""
        answer: Tensor
        given = inputs.to(self.layer.weight.dtype)
        if other is None or self._is_like_answer(other, given):
            answer, same = _Convolved.apply(given, other, self, self.rectifies)
        else:  # it is spread out, of another type, or a number
            answer, same = _Convolved.apply(given, None, self, False)
            answer = (answer + other).relu() if self.rectifies else answer + other
        if not self.forks:
            return answer
        return answer, (same if given is inputs else inputs)

    def _is_like_answer(self, other: Tensor | float, inputs: Tensor) -> TypeGuard[Tensor]:
        if not isinstance(other, Tensor):
            return False
        return (other.dtype, other.shape) == (inputs.dtype, answer_size(self.layer, inputs.shape))

    def answer(self, inputs: Tensor, other: Tensor | None, *, rectifies: bool) -> Tensor:
        """The same without a gradient."""
        if self._unfolded is not None and self._unfolded.suits(inputs):
            answer = self._unfolded(inputs)
            if other is not None:
                answer = answer.add_(other)
        elif other is None:
            return self._packed(inputs, rectifies=rectifies)
        else:
            answer = self._packed.plus(inputs, other)
        return answer.relu_() if rectifies else answer  # oneDNN's ReLU, behind a sum, makes 0 of a NaN

    def gradient(self, gradient: Tensor, inputs: Tensor, other: Tensor | None) -> Tensor:
        """The gradient of inputs (N, C, H, W), given that of their answer; another gradient of theirs is added."""
        if self._unfolded is not None and self._unfolded.suits(inputs):
            answer = self._unfolded.gradient(gradient, inputs)
        elif self._packed_gradient is not None and self.layer.stride == (1, 1):
            if other is None:
                return self._packed_gradient(gradient)
            return self._packed_gradient.plus(gradient, other)
        elif self._packed_gradient is not None:  # each of so many pixels alone was looked at
            down, across = self.layer.stride
            answer = torch.zeros_like(inputs)
            answer[:, :, ::down, ::across] = self._packed_gradient(gradient)
        else:
            layer, nothing = self.layer, [0, 0]
            answer = torch.ops.aten.convolution_backward(
                *(gradient, inputs, layer.weight, None, layer.stride, layer.padding, layer.dilation),
                *(False, nothing, layer.groups, [True, False, False]),
            )[0]
        return answer if other is None else answer.add_(other)


def _packed_gradient(layer: nn.Conv2d, weight: Tensor) -> Packed | None:
    """The convolution that turns an answer's gradient into the inputs'.

    None if there is none: if the layer's stride leaves some pixels out and its kernel reads several.
    """
    assert not isinstance(layer.padding, str)
    parts = zip(layer.dilation, layer.kernel_size, layer.padding, strict=True)
    padding = tuple(dilation * (kernel - 1) - pad for dilation, kernel, pad in parts)
    alone = layer.stride == (1, 1) or (layer.kernel_size == (1, 1) and padding == (0, 0))
    if not alone or layer.groups != 1 or min(padding) < 0:
        return None
    return Packed(weight.flip(2, 3).transpose(0, 1), None, padding=padding, dilation=layer.dilation)


class _Convolved(torch.autograd.Function):
    """The answer of a joined convolution, and its inputs once more."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, other: Tensor | None, of: Joined, rectifies: bool) -> tuple[Tensor, Tensor]:
        answer = of.answer(inputs, other, rectifies=rectifies)
        ctx.of = of
        ctx.set_materialize_grads(False)  # these would be zeros that nothing uses
        ctx.save_for_backward(inputs, answer if rectifies else None)
        return answer, inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, other: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, answer = ctx.saved_tensors
        if gradient is None:
            return other, None, None, None
        if answer is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, answer, 0)
        assert gradient is not None
        given = ctx.of.gradient(gradient, inputs, other) if ctx.needs_input_grad[0] else None
        return given, gradient if ctx.needs_input_grad[1] else None, None, None


@dataclass(frozen=True)
class _Place:
    """A convolution in a graph, and what it can do besides."""

    nodes: tuple[fx.Node, ...]  # the convolution first
    other: fx.Node | None  # what is added to its answer
    rectifies: bool
    skip: fx.Node | None  # the only other one that uses what the convolution is given

    @classmethod
    def of(cls, traced: fx.GraphModule, node: fx.Node, *, alone: bool) -> _Place:
        """That of a node; `alone` if what it asks takes and answers one tensor."""
        nodes, other = [node], None
        after = only_user(node)
        # Nothing may be between the two: it might write into what is added, or into what is convolved.
        if not alone and after is node.next and after is not None:
            other = _added(traced, after, node)
        if other is not None:
            assert after is not None
            nodes.append(after)
            after = only_user(after)
        rectifies = after is not None and is_relu(traced, after)
        if rectifies:
            assert after is not None
            nodes.append(after)
        return cls(tuple(nodes), other, rectifies, None if alone else _skip(traced, node, nodes))


def _is_sum(node: fx.Node) -> bool:
    return node.op != "call_module" and node.target in _SUMS


def _added(traced: fx.GraphModule, node: fx.Node, convolution: fx.Node) -> fx.Node | None:
    """What a node adds to a convolution's answer; None if it does something else, or writes into that."""
    if not _is_sum(node) or len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    other = second if first is convolution else first
    if not isinstance(other, fx.Node) or other is convolution:
        return None
    # A convolution's answer is its own memory; if only this uses it, it may be overwritten unseen.
    fresh = isinstance(module_of(traced, other), (Joined, nn.Conv2d)) and only_user(other) is node
    return other if node.target not in _IN_PLACE or first is convolution or fresh else None


def _skip(traced: fx.GraphModule, node: fx.Node, nodes: list[fx.Node]) -> fx.Node | None:
    """The other node that uses a convolution's input, if it comes later and writes into nothing."""
    (given,) = node.all_input_nodes
    others = [user for user in given.users if user is not node]
    if len(others) != 1 or given.op == "placeholder" or others[0] in nodes or others[0] < node:
        return None
    (other,) = others
    convolves = isinstance(module_of(traced, other), (Joined, nn.Conv2d))
    adds = _is_sum(other) and (other.target not in _IN_PLACE or other.args[0] is not given)
    return other if convolves or adds else None


def _join(traced: fx.GraphModule, place: _Place, layer: nn.Module | None, own: nn.Conv2d, *, unfold: bool) -> None:
    node, skip = place.nodes[0], place.skip
    joined = Joined(own, rectifies=place.rectifies, unfold=unfold, forks=skip is not None)
    if isinstance(layer, InTwoParts):
        layer.layer = joined
    taken = {name for name, _ in traced.named_modules()}
    name = next(name for number in count() if (name := f"{node.name}_joined_{number}") not in taken)
    traced.add_submodule(name, layer if isinstance(layer, InTwoParts) else joined)
    (given,) = node.all_input_nodes
    with traced.graph.inserting_before(node):
        answer = traced.graph.call_module(name, (given,) if place.other is None else (given, place.other))
        if skip is not None:
            both = answer
            answer, same = (traced.graph.call_function(operator.getitem, (both, part)) for part in (0, 1))
            skip.replace_input_with(given, same)
    place.nodes[-1].replace_all_uses_with(answer)
    for done in reversed(place.nodes):
        traced.graph.erase_node(done)


def _is_frozen(layer: nn.Conv2d) -> bool:
    """Whether its answer depends on nothing but its weights."""
    return type(layer) is nn.Conv2d and is_plain(layer) and not is_hooked(layer)
