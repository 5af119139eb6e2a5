"""How the head of a network that decides for one label is read: raw scores become logits (N, K), one per label.

Softmax and sigmoid heads are read through the logarithm: the gradient of a loss on probabilities vanishes where the
network is sure of itself, but that of the log-odds between labels does not. `multilabel_head` has the other kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import ClassVar, Literal

import torch

NO_ANSWER_NAME = "(no answer)"
NO_ANSWER = -1  # the decision on a sample whose scores are not finite


Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits (N, K), true readings (N,) and aims (N,) to a loss (N,) that the adversary raises. An aim is a label that its
row is to be turned to, or a finding that is to be turned; objectives that have one of their own, or need none, do not
look at it."""


@dataclass(frozen=True)
class AgainstAll:
    """A loss that sets a label against all others together, as log-odds do, not against the best of them."""

    loss: Objective

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
        """Losses (N,)."""
        return self.loss(logits, labels, aims)


def asked_odds(threshold: float, *, of_probabilities: bool) -> float:
    """The log-odds from which a label is read, at a threshold on its probability.

    If a network gives probabilities, a score equal to the threshold is read. Float32's logarithms round its odds, so
    those of a probability a few float32 steps lower are required.
    """
    if of_probabilities:
        float32 = torch.finfo(torch.float32)
        threshold = max(torch.tensor(threshold, dtype=torch.float32).item(), float32.tiny)
        threshold *= 1 - float32.eps * max(1.0, -log(threshold))
    return log(threshold) - log(1 - threshold)


def all_finite(logits: torch.Tensor) -> torch.Tensor:
    """Which rows (N,) of logits (N, K) are finite throughout."""
    return logits.abs().amax(dim=1) < torch.inf


def of_labels(raw: torch.Tensor, places: tuple[int, ...] | None) -> torch.Tensor:
    """The labels' scores (N, K) among a network's (N, …), by their places; all scores if no places are given."""
    return raw if places is None else raw[:, _index(places, raw.device)]


@lru_cache(maxsize=8)
def _index(places: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Places (K,) on a device, which is copied there once."""
    return torch.tensor(places, device=device)


@dataclass(frozen=True, kw_only=True)
class Head:
    """What the network's numbers mean. A reading is the index of a label."""

    multilabel: ClassVar[bool] = False
    labels: tuple[str, ...]
    binary: bool  # one score, for the second label
    outputs_probabilities: bool
    positive: int | None  # index of the label that is disease
    operating_point: float | None  # threshold on its probability; None: the highest score
    found: str  # "logits" or "probabilities", and how that is known
    scores: tuple[int, ...] | None = None  # places of the labels' among the raw ones; None: those are all

    def logits(self, raw: torch.Tensor) -> torch.Tensor:
        """Raw scores (N, K), or (N, 1) for a binary head, to float32 logits (N, K), K = len(labels)."""
        raw = of_labels(raw, self.scores).float()
        if self.outputs_probabilities:
            tiny = torch.finfo(torch.float32).tiny
            if self.binary:
                return torch.cat([(1 - raw).clamp_min(tiny).log(), raw.clamp_min(tiny).log()], dim=1)
            return raw.clamp_min(tiny).log()
        return torch.cat([torch.zeros_like(raw), raw], dim=1) if self.binary else raw

    @property
    def ending(self) -> Literal["softmax", "sigmoid"]:
        """What makes its probabilities."""
        return "sigmoid" if self.binary else "softmax"

    def decide(self, logits: torch.Tensor) -> torch.Tensor:
        """Label indexes (N,) at the operating point; `NO_ANSWER` where a logit is not finite."""
        if self.operating_point is None:
            decision = logits.argmax(dim=1)
        else:
            assert self.positive is not None
            others = logits.to(torch.float64, copy=True)
            odds = others[:, self.positive].clone()
            others[:, self.positive] = -torch.inf
            odds -= others.logsumexp(dim=1)
            decision = torch.where(odds >= self._asked, self.positive, others.argmax(dim=1))
        return torch.where(all_finite(logits), decision, NO_ANSWER)

    @property
    def _asked(self) -> float:
        """The log-odds that the operating point asks of the positive label."""
        assert self.operating_point is not None
        return asked_odds(self.operating_point, of_probabilities=self.outputs_probabilities)

    def name(self, reading: int) -> str:
        """What a reading is called."""
        return NO_ANSWER_NAME if reading == NO_ANSWER else self.labels[reading]

    def named(self, name: str) -> int | None:
        """The reading of this name; None if there is none."""
        if name == NO_ANSWER_NAME:
            return NO_ANSWER
        return self.labels.index(name) if name in self.labels else None

    def is_positive(self, reading: int) -> bool:
        """Whether a reading has the positive label."""
        return reading == self.positive

    def at_operating_point(self, logits: torch.Tensor, objective: Objective | None = None) -> torch.Tensor:
        """Logits (N, K) whose largest is the decision: the positive one less what the operating point asks.

        With more than two labels its odds are against all others together. So the amount by which those exceed the best
        of them is subtracted too: the decision turns where the margin between two logits is 0. An `objective` that is
        `AgainstAll` sums them itself, and is given the logits without that.
        """
        if self.operating_point is None:
            return logits
        assert self.positive is not None
        positive = torch.arange(logits.shape[1], device=logits.device) == self.positive
        asked: torch.Tensor | float = self._asked
        if logits.shape[1] > 2 and not isinstance(objective, AgainstAll):
            others = logits.masked_fill(positive, -torch.inf)
            asked = asked + (others.logsumexp(dim=1) - others.amax(dim=1)).nan_to_num(0)[:, None]
        return logits - positive * asked

    def positive_probability(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Probability (N,) of the positive label; None if the policy names none."""
        return None if self.positive is None else self.probabilities(logits)[:, self.positive]

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probability (N, K) of each label, in float64, which also orders samples that a network is sure of."""
        return logits.double().softmax(dim=1)

    def oracle_scores(self, logits: torch.Tensor) -> torch.Tensor:
        """What an oracle answers for logits: log-probabilities (N, K), which are logits too."""
        return logits.log_softmax(dim=1)

    def margins(self, logits: torch.Tensor) -> torch.Tensor:
        """How far (N, K) each label is ahead of the best other one."""
        best = logits.topk(2, dim=1)
        first, second = best.values[:, :1], best.values[:, 1:]
        is_best = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, best.indices[:, :1], value=True)
        return logits - torch.where(is_best, second, first)
