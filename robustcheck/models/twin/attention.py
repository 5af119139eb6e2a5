"""ONNX's Attention (opset 23 to 25): caches, grouped heads, masks, causality, sliding windows, soft caps."""

from __future__ import annotations

import torch
from onnx import NodeProto
from torch import Tensor, fx, nn
from torch.nn import functional

from robustcheck.models.twin.builder import Builder, attribute, call, computes, first_or_all, inputs_of


class Attention(nn.Module):
    """softmax(scale · QKᵀ + mask) V; a query that may look at nothing gives 0.

    Args:
        heads: of queries, and of keys and values, where inputs are (N, length, width), not (N, heads, length, width).
        scale: of QKᵀ; None: 1 / √width of a head.
        softcap: c · tanh(x / c) bounds the products before they are masked; 0: no bound.
        causal: no query looks at later keys.
        window: how many keys before and after its own place a query looks at; -1: all.
        mode: what the fourth output is: products, capped, masked, or their softmax.
    """

    def __init__(
        self,
        *,
        heads: tuple[int, int] | None,
        scale: float | None,
        softcap: float,
        causal: bool,
        window: tuple[int, int],
        mode: int,
    ) -> None:
        super().__init__()
        self.heads, self.scale, self.softcap = heads, scale, softcap
        self.causal, self.window, self.mode = causal, window, mode

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        past_key: Tensor | None = None,
        past_value: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The answer, the keys and values with those of the past, and the products that the mode asks for."""
        flat = query.ndim == 3
        if flat:
            assert self.heads is not None
            of_queries, of_keys = self.heads
            query, key, value = _split(query, of_queries), _split(key, of_keys), _split(value, of_keys)
        before = 0
        if past_key is not None and past_value is not None:
            before = past_key.shape[2]
            key, value = torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)
        bias = self._bias(query, key, mask, before, lengths)
        groups = query.shape[1] // key.shape[1]
        keys, values = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        root = (self.scale if self.scale is not None else query.shape[3] ** -0.5) ** 0.5
        products = (query * root) @ (keys * root).mT
        capped = self.softcap * torch.tanh(products / self.softcap) if self.softcap else products
        masked = capped if bias is None else torch.where(bias == -torch.inf, -torch.inf, capped + bias)
        weights = functional.softmax(masked, dim=-1).nan_to_num(0.0) if bias is not None else masked.softmax(dim=-1)
        # Where a weight is 0, its value is ignored: it may be anything.
        answer = weights @ (values if bias is None else values.nan_to_num(0.0, 0.0, 0.0))
        if flat:
            answer = answer.transpose(1, 2).flatten(2)
        return answer, key, value, (products, capped, masked, weights)[self.mode]

    def _bias(
        self, query: Tensor, key: Tensor, mask: Tensor | None, before: int, lengths: Tensor | None
    ) -> Tensor | None:
        """What is added to products (…, queries, keys), -∞ where a query may not look; None if it may everywhere."""
        queries, keys = query.shape[2], key.shape[2]
        allowed = torch.ones((queries, keys), dtype=torch.bool, device=query.device)
        offset = torch.tensor(before, device=query.device)
        if lengths is not None and before == 0:
            offset = (lengths - queries).view(-1, 1, 1, 1)
        place = torch.arange(queries, device=query.device)[:, None] + offset  # of each query among the keys
        there = torch.arange(keys, device=query.device)
        if self.causal:
            allowed = allowed & (there <= place)
        left, right = self.window
        if left >= 0:
            allowed = allowed & (place - there <= left)
        if right >= 0:
            allowed = allowed & (there - place <= right)
        if lengths is not None:
            allowed = allowed & (there < lengths.view(-1, 1, 1, 1))
        added = None
        if mask is not None:
            missing = keys - mask.shape[-1]
            if mask.dtype == torch.bool:
                allowed = allowed & functional.pad(mask, (0, missing), value=False)
            else:
                added = functional.pad(mask, (0, missing), value=-torch.inf)
        if added is None and allowed.all():
            return None
        barred = torch.zeros((), device=query.device, dtype=query.dtype).masked_fill(~allowed, -torch.inf)
        return barred if added is None else torch.where(allowed, added, -torch.inf)


def _split(flat: Tensor, heads: int) -> Tensor:
    """(N, length, heads · width) to (N, heads, length, width)."""
    return flat.reshape(*flat.shape[:2], heads, -1).transpose(1, 2)


@computes("Attention", since=23)
def _attention(builder: Builder, node: NodeProto) -> fx.Node:
    heads = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
    module = Attention(
        heads=None if None in heads else heads,
        scale=attribute(node, "scale"),
        softcap=attribute(node, "softcap", 0.0),
        causal=bool(attribute(node, "is_causal", 0)),
        window=(attribute(node, "left_window_size", -1), attribute(node, "right_window_size", -1)),
        mode=attribute(node, "qk_matmul_output_mode", 0),
    )
    answers = call(builder, node, module, *inputs_of(builder, node, 7))
    return first_or_all(builder, node, answers)
