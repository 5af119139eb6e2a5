"""Batch norm and ReLU before a convolution, as DenseNets and pre-activation ResNets have them, in half the memory.

No convolution precedes such a norm into which it could be folded. But relu(s·x + b) = |s| · relu(±x + b / |s|): the
scale goes into the weights after it, and what is left is a sum whose gradient is that of the ReLU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from robustcheck.models.fast.nodes import is_relu, module_of, scale_and_shift


def shift_pre_activations(traced: fx.GraphModule) -> None:
    """Put the scales of batch norms before a ReLU into the convolution after it, wherever nothing else is in between.

    Args:
        traced: in evaluation mode, its weights its own; it is changed.
    """
    for norm, relu, behind in list(_pre_activations(traced)):
        name = f"{norm.name}_shifted"
        traced.add_submodule(name, _shifted(module_of(traced, norm), [module_of(traced, node) for node in behind]))
        with traced.graph.inserting_before(norm):
            relu.replace_all_uses_with(traced.graph.call_module(name, (norm.all_input_nodes[0],)))
        traced.graph.erase_node(relu)
        traced.graph.erase_node(norm)
    traced.delete_all_unused_submodules()
    traced.recompile()


class Shifted(nn.Module):
    """relu(sign · x + shift), by channel: a batch norm and a ReLU whose scale went into the weights after them."""

    def __init__(self, sign: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(shift.view(1, -1, 1, 1), requires_grad=False)
        self.sign = None if bool((sign == 1).all()) else nn.Parameter(sign.view(1, -1, 1, 1), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Of maps (N, C, H, W), in their own precision."""
        answer: torch.Tensor = _ShiftedReLU.apply(inputs, self.sign, self.shift)
        return answer


class _ShiftedReLU(torch.autograd.Function):
    """Keeps only its answer, which the convolution after it keeps as well."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, sign: torch.Tensor | None, shift: torch.Tensor) -> torch.Tensor:
        ctx.sign = None if sign is None else sign.to(inputs.dtype)
        shift = shift.to(inputs.dtype)
        answer = (inputs + shift if ctx.sign is None else torch.addcmul(shift, inputs, ctx.sign)).relu_()
        ctx.save_for_backward(answer)
        return answer

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (answer,) = ctx.saved_tensors
        passed: torch.Tensor = torch.ops.aten.threshold_backward(gradient, answer, 0)
        return passed if ctx.sign is None else passed.mul_(ctx.sign), None, None


def _pre_activations(traced: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node, list[fx.Node]]]:
    """Batch norms whose only user is a ReLU, and the convolutions, asked once each, that alone use that."""
    asked = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for norm in traced.graph.nodes:
        layer = module_of(traced, norm)
        if type(layer) is not nn.BatchNorm2d or layer.training or layer.running_mean is None or len(norm.users) != 1:
            continue
        (relu,) = norm.users
        behind = list(relu.users)
        layers = [module_of(traced, node) for node in behind]
        if (
            is_relu(traced, relu)
            and all(type(layer) is nn.Conv2d and layer.groups == 1 for layer in layers)
            and all(asked.count(node.target) == 1 for node in behind)
        ):
            yield norm, relu, behind


def _shifted(norm: nn.BatchNorm2d, behind: Sequence[nn.Conv2d]) -> Shifted:
    """What is left of a norm and its ReLU; the convolutions after them are changed."""
    assert norm.running_mean is not None
    scale, shift = scale_and_shift(norm)
    size = torch.where(scale == 0, 1.0, scale.abs())
    for convolution in behind:
        weight = convolution.weight.double() * size.view(1, -1, 1, 1)
        convolution.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
    dtype = norm.running_mean.dtype
    return Shifted(scale.sign().to(dtype), (shift / size).to(dtype))
