"""The candidate: network, preprocessing and head as one, asked in full precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from robustcheck.errors import AccessError, CandidateError, EvaluationError
from robustcheck.models.head import Head
from robustcheck.models.memory import Chunks
from robustcheck.models.network import Network, first_line, rows
from robustcheck.models.preprocess import Preprocess
from robustcheck.models.process import full_precision
from robustcheck.results import ModelInfo

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits (N, K) and true labels (N,) to a loss (N,) that the adversary raises."""


@dataclass(kw_only=True)
class Meter:
    """Samples through the network, not batches. A gradient is a forward pass too."""

    forward: int = 0
    gradient: int = 0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A loaded model whose scores can be read."""

    network: Network
    preprocess: Preprocess
    head: Head
    info: ModelInfo
    chunks: Chunks
    meter: Meter = field(default_factory=Meter)

    @property
    def device(self) -> torch.device:
        """Where images are wanted."""
        return self.network.device

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images (N, C, H, W), shares of the full range in [0, 1], without a gradient."""
        self.meter.forward += len(images)
        return self.head.logits(raw_scores(self.network, self.preprocess, self.chunks, images))

    def gradient(
        self, images: torch.Tensor, labels: torch.Tensor, objective: Objective
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, K), and the gradient (N, C, H, W) of each sample's own objective on its own image.

        Raises:
            AccessError: the candidate gives no gradients, or fails to.
        """
        if self.network.no_gradients:
            raise AccessError(self.network.no_gradients)
        self.meter.forward += len(images)
        self.meter.gradient += len(images)

        def step(chunk: torch.Tensor, chunk_labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            chunk = chunk.detach().requires_grad_()
            with torch.enable_grad():
                logits = self.head.logits(rows(self.network.forward(self.preprocess(chunk)), len(chunk)))
                # A sum, not a mean: a sample's gradient must not depend on how many are beside it.
                loss = objective(logits, chunk_labels).sum()
            if not loss.requires_grad:
                raise AccessError(
                    "the candidate's scores do not depend differentiably on its input: it has no gradient"
                )
            return logits.detach(), torch.autograd.grad(loss, chunk)[0]

        try:
            with full_precision(self.device):
                logits, gradient = self.chunks(step, images, labels)
        except EvaluationError:
            raise
        except Exception as error:  # as in `raw_scores`
            raise AccessError(f"the candidate's gradient cannot be computed: {first_line(error)}") from error
        return logits, gradient


def raw_scores(network: Network, preprocess: Preprocess, chunks: Chunks, images: torch.Tensor) -> torch.Tensor:
    """What the network itself answers, (N, K), before its head is read.

    Raises:
        CandidateError: it does not take these images, or its answer is not one row of scores for each.
    """

    def ask(chunk: torch.Tensor) -> tuple[torch.Tensor]:
        return (rows(network.forward(preprocess(chunk)), len(chunk)),)

    try:
        with torch.no_grad(), full_precision(network.device):
            return chunks(ask, images)[0]
    except EvaluationError:
        raise
    except Exception as error:  # a candidate's code may raise anything
        shape = preprocess.shape(tuple(images.shape[1:]))
        raise CandidateError(
            f"the candidate does not take inputs of {'×'.join(map(str, shape))} (channels × height × width); "
            f"{preprocess.advice(network.takes, shape)} ({first_line(error)})"
        ) from error
