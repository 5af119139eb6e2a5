"""Candidates that draw: two identical calls differ, by design and not because a layer was left in training mode."""

from __future__ import annotations

from dataclasses import replace

import torch

from robustcheck.models.multilabel_head import AnyHead
from robustcheck.models.network import Network

CALLS = 20  # on each clean image
_NOTE = f"its answers depend on chance: clean images are read as most of {CALLS} calls read them"
_PERHAPS_NOT_MEANT = (
    "; if that is not meant, look for torch.nn.functional.dropout without training=self.training, which draws in "
    "evaluation mode, too"
)


def note(network: Network) -> str:
    """What the reader of a report should know; no layer shows whether dropout that is called as a function is meant."""
    return _NOTE if network.has_mode else _NOTE + _PERHAPS_NOT_MEANT


def usual(head: AnyHead, calls: torch.Tensor) -> torch.Tensor:
    """Logits (N, K) from those of some calls (calls, N, K): per sample, the mean of those that read it as most do.

    Counterexamples are what most calls misread, so this is what they are counterexamples to. If all decide alike, so
    does their mean: the logits that a head reads alike are a convex set.
    """
    readings = torch.stack([head.decide(one) for one in calls])
    alike = (readings == readings.mode(dim=0).values)[:, :, None]
    total: torch.Tensor = torch.where(alike, calls, 0.0).sum(dim=0)
    return total / alike.sum(dim=0)


def asked_only(network: Network) -> Network:
    """The network without its twin: a graph that draws cannot be compared with one."""
    if network.settle_on is None:
        return network
    message = (
        "the graph draws random numbers, and a twin that draws others cannot be compared with it; export it for "
        "PyTorch, where it can be followed, or use an attack that only asks (square, nes, label_only)"
    )
    return replace(network, settle_on=None, twin=None, no_gradients=network.no_gradients or message)
