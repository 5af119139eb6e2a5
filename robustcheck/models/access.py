"""Access is a type: what an attack is handed decides what it can know.

A white box gives scores and gradients. The oracles count each sample's queries, refuse those that would pass the
limit before anything is asked, and answer from the shipped artefact itself; there is no way from them to a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from robustcheck.errors import AccessError, QueryLimitError
from robustcheck.models.candidate import Candidate
from robustcheck.models.grey_levels import nearest_levels, shares_of
from robustcheck.models.head import Objective
from robustcheck.models.means import mean_of_gradients


class WhiteBox:
    """Scores and gradients, without a limit; `exact` ones are the artefact's own, not those of a faster form of it.

    For a graph they are its twin's, and for a network that ends in a softmax or sigmoid those of the input of that, if
    it could be left off.
    """

    def __init__(self, candidate: Candidate, *, exact: bool = False) -> None:
        self._candidate = candidate
        self._exact = exact

    def gradient(
        self, images: torch.Tensor, labels: torch.Tensor, aims: torch.Tensor, objective: Objective
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, K), losses (N,) and gradients (N, C, H, W) at images (N, C, H, W) in [0, 1]."""
        return self._candidate.gradient(images, labels, aims, objective, exact=self._exact)

    def scores(self, _samples: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) at images (N, C, H, W) in [0, 1]; nothing is counted."""
        return self._candidate.search_logits(images, exact=self._exact)

    @property
    def asks_artefact(self) -> bool:
        """Whether it shows the artefact's own answers, and not another form's."""
        return self._candidate.asks_artefact(exact=self._exact)

    @property
    def error(self) -> float:
        """How far margins that it shows are from the artefact's."""
        form = self._candidate.search_form
        return 0.0 if self._exact or form is None else form.error


class Surrogates:
    """Models of the adversary's own, which stand in for the candidate; nothing of the candidate is seen."""

    def __init__(self, surrogates: Sequence[Candidate]) -> None:
        self._surrogates = tuple(surrogates)

    @property
    def visible(self) -> tuple[float, float]:
        """What any of them sees, as shares of what can be stored."""
        low, high = zip(*(surrogate.preprocess.visible for surrogate in self._surrogates), strict=True)
        return min(low), max(high)

    def gradient(
        self, images: torch.Tensor, labels: torch.Tensor, aims: torch.Tensor, objective: Objective
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Means over the models: logits (N, K), losses (N,) and gradients (N, C, H, W) at images (N, C, H, W).

        Each gradient weighs the same, however large its model's logits are.
        """
        answers = [surrogate.gradient(images, labels, aims, objective) for surrogate in self._surrogates]
        logits, losses, gradients = zip(*answers, strict=True)
        mean_logits, mean_losses = (torch.stack(part, dim=1).mean(dim=1) for part in (logits, losses))
        return mean_logits, mean_losses, mean_of_gradients(gradients)

    def decide(self, images: torch.Tensor) -> torch.Tensor:
        """The readings (N,) of images (N, C, H, W) by the mean of the models' answers, each at its operating point."""
        return self.read([surrogate.search_logits(images) for surrogate in self._surrogates])

    def read(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """The same from the logits (N, K) of each model."""
        first, every = self._surrogates[0].head, list[torch.Tensor]()
        for surrogate, own in zip(self._surrogates, logits, strict=True):
            told = surrogate.head.oracle_scores(own)
            every.append(told + (surrogate.head.at_operating_point(told) - first.at_operating_point(told)))
        return first.decide(torch.stack(every).mean(dim=0))


Gradients: TypeAlias = WhiteBox | Surrogates
"""Whose gradients a search follows."""


class _Oracle:
    """What all oracles share.

    Args:
        candidate: is asked; its artefact answers, in full precision.
        samples: how many there are.
        limit: queries that each may cost.
        maximum: the largest value that can be stored, if images are rounded to what can be before they are asked
            about, as a system that takes files would see them; None: they are asked about as floats.
    """

    def __init__(self, candidate: Candidate, *, samples: int, limit: int, maximum: int | None = None) -> None:
        # A closure, not an attribute: an attack that holds the oracle does not hold the candidate.
        head = candidate.head
        self.__ask: Callable[[torch.Tensor], torch.Tensor] = lambda images: head.oracle_scores(
            candidate.oracle_logits(images)
        )
        self.__decide: Callable[[torch.Tensor], torch.Tensor] = head.decide
        self.__counts = torch.zeros(samples, dtype=torch.int64)
        self.__retired = torch.zeros(samples, dtype=torch.bool)
        self.__limit = limit
        self.__maximum = maximum

    @property
    def counts(self) -> torch.Tensor:
        """Queries so far, per sample (a copy)."""
        return self.__counts.clone()

    def retire(self, samples: torch.Tensor) -> None:
        """Refuse further queries about these samples (N,): they are done."""
        self.__retired[samples] = True

    def _answer(self, samples: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (N, K) of images (N, C, H, W); sample numbers (N,) say whom each query is counted for.

        Findings, which do not compete, have log-odds. The candidate sees values outside the range clipped to its ends.
        """
        samples = samples.cpu()
        if len(samples) != len(images):
            raise AccessError(f"{len(images)} images were asked about for {len(samples)} samples")
        if bool(((samples < 0) | (samples >= len(self.__counts))).any()):
            raise AccessError(f"samples are numbered from 0 to {len(self.__counts) - 1}; others were asked about")
        if bool(self.__retired[samples].any()):
            raise AccessError("a sample that is done was asked about again")
        after = self.__counts + torch.bincount(samples, minlength=len(self.__counts))
        if bool((after > self.__limit).any()):
            worst = int((after - self.__limit).argmax())
            raise QueryLimitError(
                f"sample {worst} would have been asked {int(after[worst])} times; the limit is {self.__limit}"
            )
        self.__counts = after
        images = images.detach().clamp(0, 1)
        if self.__maximum is not None:
            images = shares_of(nearest_levels(images, self.__maximum), self.__maximum)
        return self.__ask(images)

    def _decide(self, scores: torch.Tensor) -> torch.Tensor:
        return self.__decide(scores)


class ScoreOracle(_Oracle):
    """Every label's log-probability, or every finding's log-odds."""

    def scores(self, samples: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Log-probabilities, or log-odds, (N, K). Raises QueryLimitError before anything is asked."""
        return self._answer(samples, images)


class TopKOracle(_Oracle):
    """The k most probable labels and their log-probabilities, and the decided label."""

    def __init__(self, candidate: Candidate, *, samples: int, limit: int, maximum: int | None = None, k: int) -> None:
        if not 1 <= k <= len(candidate.head.labels):
            raise AccessError(f"top-{k} of a head with {len(candidate.head.labels)} labels")
        super().__init__(candidate, samples=samples, limit=limit, maximum=maximum)
        self._k = k

    def top(self, samples: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities and labels, both (N, k), most probable first, and decisions (N,) at the operating point."""
        scores = self._answer(samples, images)
        values, labels = scores.topk(self._k, dim=1)
        return values, labels, self._decide(scores)


class LabelOracle(_Oracle):
    """The decided label, at the operating point, and nothing else."""

    def labels(self, samples: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Labels (N,)."""
        return self._decide(self._answer(samples, images))
