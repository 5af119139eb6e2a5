"""Whose gradients searches follow, and how they are averaged over draws: expectation over transformation (EOT)."""

from __future__ import annotations

from typing import Protocol

import torch

from robustcheck.attacks import Objective
from robustcheck.attacks.draws import Draws
from robustcheck.evaluation.looks.look import Viewer


class Gradients(Protocol):
    """A model whose gradients are followed: the candidate, or another."""

    def gradient(
        self, images: torch.Tensor, labels: torch.Tensor, aims: torch.Tensor, objective: Objective
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, K), losses (N,) and gradients (N, C, H, W) at images (N, C, H, W)."""


class EOT(Protocol):
    """Expectation over transformation: losses and gradients as means over draws."""

    @property
    def at_once(self) -> int:
        """Images that go through the network together for each row."""

    @property
    def count(self) -> int:
        """Draws of a step."""

    @property
    def holds_on(self) -> float:
        """Share of the draws on which a counterexample has to hold."""

    def gradient(
        self,
        access: Gradients,
        images: torch.Tensor,
        labels: torch.Tensor,
        aims: torch.Tensor,
        objective: Objective,
        draws: Draws,
        at: torch.Tensor,
        /,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, L, K) on L draws, mean losses (N,) and gradients (N, C, H, W) at images (N, C, H, W).

        Args:
            access: the model whose they are.
            images: that are asked about.
            labels: true readings (N,).
            aims: of their rows (N,).
            objective: what is raised.
            draws: of their rows.
            at: (N,) which step of its row each is.
        """


def images_a_row(viewer: Viewer, eot: EOT | None) -> int:
    """How many images of a row go through the network together, in a search that follows means or for a proposal."""
    return viewer.at_once if eot is None else max(eot.at_once, viewer.at_once)
