"""Counts the samples that an attack library puts through the network: what any machine would have to compute."""

from __future__ import annotations

from torch import Tensor, nn


class Counting(nn.Module):
    """A network that counts. Libraries see no difference, and the cost is two additions a batch.

    Attributes:
        forward_samples: samples that were asked about.
        gradient_samples: samples whose scores a backward pass went through.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.forward_samples = 0
        self.gradient_samples = 0

    def forward(self, images: Tensor) -> Tensor:
        """What the network says, counted."""
        self.forward_samples += len(images)
        scores: Tensor = self.network(images)
        if scores.requires_grad:
            scores.register_hook(self._count_gradient)
        return scores

    def _count_gradient(self, gradient: Tensor) -> None:
        self.gradient_samples += len(gradient)
