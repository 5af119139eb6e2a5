"""The candidate: network, preprocessing and head as one.

Verdicts ask the artefact in full precision, and so do oracles; these may lay images out to suit the machine, and fuse
some of its layers (`fast.layout`): only last bits of scores differ. Searches that follow gradients may use another
form of it (`fast.fast_form`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import torch

from robustcheck.errors import AccessError, CandidateError, EvaluationError
from robustcheck.models.fast.fused import FusedLayers
from robustcheck.models.fast.layout import channels_last
from robustcheck.models.head import Objective
from robustcheck.models.memory import Chunks
from robustcheck.models.multilabel_head import AnyHead
from robustcheck.models.network import NO_GRADIENT, ONLY_ASKS, Forward, Network, first_line, rows
from robustcheck.models.preprocess import Preprocess
from robustcheck.models.process_settings import full_precision
from robustcheck.results import ModelInfo

_NOT_COMPUTED = "the candidate's gradient cannot be computed: "
_REENTRANT = "When use_reentrant=True, torch.utils.checkpoint is incompatible"  # how torch refuses
_CHECKPOINTS = (
    "its gradient checkpointing gives none of one input alone; set use_reentrant=False (torch.utils.checkpoint), or "
    "switch gradient checkpointing off"
)


@dataclass(kw_only=True)
class Meter:
    """Samples through the network, not batches. A gradient is a forward pass too."""

    forward: int = 0
    gradient: int = 0


@dataclass(frozen=True, kw_only=True)
class SearchForm:
    """The form of the network that searches use, and how it is read."""

    forward: Forward
    head: AnyHead
    error: float  # how far margins that it shows are from the artefact's
    steepness: Mapping[str, float] = field(default_factory=dict)  # by a ball's norm: of margins, per unit of its radius

    def resolves(self, norm: str, radius: float) -> bool:
        """Whether margins change within a ball (its radius is a share of the full range) by more than their error."""
        return radius * self.steepness.get(norm, inf) > self.error


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A loaded model whose scores can be read."""

    network: Network
    preprocess: Preprocess
    head: AnyHead
    info: ModelInfo
    chunks: Chunks
    search_form: SearchForm | None = None  # None: the exact one (`_form`)
    bare: SearchForm | None = None  # the same without a last softmax or sigmoid, in float32; None: nothing was left off
    asked_channels_last: bool = False  # oracles give the artefact its inputs like this
    fused: FusedLayers = field(default_factory=FusedLayers)  # stand in for its layers while oracles ask
    randomness: float | None = None  # largest difference of scores between two identical calls; None: there is none
    meter: Meter = field(default_factory=Meter)

    @property
    def device(self) -> torch.device:
        """Where images are wanted."""
        return self.network.device

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images (N, C, H, W), shares of the full range in [0, 1]: the artefact's, full precision."""
        return self._logits(self.network.forward, images, self.head)

    def oracle_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) as oracles see them: those of `logits`, but for their last bits (`fast.layout`)."""
        if not self.asked_channels_last:
            return self.logits(images)
        with self.fused:
            return self._logits(lambda inputs: self.network.forward(channels_last(inputs)), images, self.head)

    def search_logits(self, images: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        """Logits (N, K) as searches see them, or exact ones: no verdict rests on them."""
        form = self._form(exact=exact)
        return self._logits(form.forward, images, form.head)

    def _logits(self, forward: Forward, images: torch.Tensor, head: AnyHead) -> torch.Tensor:
        self.meter.forward += len(images)
        return head.logits(raw_scores(forward, self.network, self.preprocess, self.chunks, images))

    def gradient(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        aims: torch.Tensor,
        objective: Objective,
        *,
        exact: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What searches see at images (N, C, H, W), shares of the full range, of true readings (N,).

        Args:
            images, labels: the images and their readings.
            aims: (N,) labels that rows are to be turned to.
            objective: the loss to raise.
            exact: ask the artefact or its twin, not a faster form; without a last softmax or sigmoid, if it was left
                off.

        Returns:
            Logits (N, K), losses (N,), and the gradient (N, C, H, W) of each sample's own loss on its own image.

        Raises:
            AccessError: the candidate gives no gradients, or fails to.
        """
        if self.network.no_gradients:
            raise AccessError(self.network.no_gradients)
        self.meter.forward += len(images)
        self.meter.gradient += len(images)
        form = self._form(exact=exact)

        def step(chunk: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            chunk = chunk.detach().requires_grad_()
            with torch.enable_grad():
                logits = form.head.logits(rows(form.forward(self.preprocess(chunk)), len(chunk)))
                # A sum, not a mean: a sample's gradient must not depend on how many are beside it.
                loss = objective(self.head.at_operating_point(logits, objective), *others)
                total = loss.sum()
            gradient = torch.autograd.grad(total, chunk, allow_unused=True)[0] if total.requires_grad else None
            if gradient is None:
                raise AccessError(NO_GRADIENT)
            return logits.detach(), loss.detach(), gradient

        try:
            with full_precision(self.device):
                logits, loss, gradient = self.chunks(step, images, labels, aims)
        except EvaluationError:
            raise
        except Exception as error:  # as in `raw_scores`
            raise AccessError(f"{_NOT_COMPUTED}{_why(error)}") from error
        return logits, loss, gradient

    def asks_artefact(self, *, exact: bool = False) -> bool:
        """Whether searches, or exact ones, see its own logits to the last bit."""
        return self._form(exact=exact).forward is self.network.forward

    def _form(self, *, exact: bool) -> SearchForm:
        """What searches follow; if exact, no faster form: the artefact, or a graph's twin, or either one `bare`."""
        if self.search_form is not None and not exact:
            return self.search_form
        return self.bare or SearchForm(forward=self.network.twin or self.network.forward, head=self.head, error=0.0)


def _why(error: Exception) -> str:
    """Why a network's code gives no gradient, and what to do: not what torch advises, which gives none either."""
    reason = first_line(error)
    if _REENTRANT in str(error):
        return _CHECKPOINTS
    if "numpy()" not in reason:
        return reason
    reason = reason.partition(". Use ")[0]
    return f"{reason} (detach() would leave no gradient either); {ONLY_ASKS}, or write that step in torch"


def raw_scores(
    forward: Forward, network: Network, preprocess: Preprocess, chunks: Chunks, images: torch.Tensor
) -> torch.Tensor:
    """What a network itself answers, (N, K), before its head is read.

    Raises:
        CandidateError: it does not take these images, or its answer is not one row of scores for each.
    """

    def ask(chunk: torch.Tensor) -> tuple[torch.Tensor]:
        return (rows(forward(preprocess(chunk)), len(chunk)),)

    try:
        with torch.no_grad(), full_precision(network.device):
            return chunks(ask, images)[0]
    except EvaluationError:
        raise
    except Exception as error:  # a candidate's code may raise anything
        sentence = preprocess.refused("the candidate", network.takes, tuple(images.shape[1:]), error)
        raise CandidateError(sentence) from error
