"""How much of a network's work its convolutions do.

`torch.utils.flop_counter` counts as well, but imports torch's compiler for it: two seconds of every run.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from robustcheck.models.network import Forward

_aten = torch.ops.aten
_FACTORS = {_aten.mm: 0, _aten.bmm: 0, _aten.addmm: 1, _aten.baddbmm: 1}  # the place of the first one
_ATTENTION = (
    _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_efficient_attention,
    _aten._scaled_dot_product_cudnn_attention,
)


def share_of_convolutions(forward: Forward, inputs: torch.Tensor) -> float:
    """Convolutions' share of the multiplications that a network does for some inputs; 0 where it does none.

    What torch runs as one operator, as its own transformer layers in evaluation, is not counted.
    """
    with _Counter() as counter, torch.no_grad():  # type: ignore[no-untyped-call] # torch's own
        forward(inputs)
    total = counter.convolutions + counter.products
    return counter.convolutions / total if total else 0.0


class _Counter(TorchDispatchMode):
    """Multiplications of what runs meanwhile: of convolutions, and of matrix products, attention's among them."""

    convolutions = products = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler first, which is what takes two seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        operator = func.overloadpacket
        if operator is _aten.convolution:
            inputs, weight, transposed = args[0], args[1], args[6]
            self.convolutions += (inputs if transposed else answer).numel() * prod(weight.shape[1:])
        elif operator in _FACTORS:
            self.products += answer.numel() * args[_FACTORS[operator]].shape[-1]
        elif operator in _ATTENTION:
            query, key, value = args[:3]
            self.products += prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return answer
