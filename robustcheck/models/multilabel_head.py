"""How the head of a network that says of each label whether it is present is read: several findings, or none.

A logit is the log-odds of one finding. Nothing competes: each finding has a threshold of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch

from robustcheck.data.multilabel import names_in
from robustcheck.models.head import NO_ANSWER, NO_ANSWER_NAME, Head, Objective, all_finite, asked_odds, of_labels
from robustcheck.policy.model_spec import AND, NO_FINDING_NAME


@dataclass(frozen=True, kw_only=True)
class FindingsHead:
    """What the network's numbers mean. A reading is the sum of 2**k over the findings k that are present."""

    multilabel: ClassVar[bool] = True
    ending: ClassVar[Literal["sigmoid"]] = "sigmoid"
    labels: tuple[str, ...]
    outputs_probabilities: bool
    positive: int | None  # index of the finding that sensitivity, specificity and AUROC are about
    operating_point: tuple[float, ...]  # threshold on the probability of each finding
    found: str  # "logits" or "probabilities", and how that is known
    scores: tuple[int, ...] | None = None  # places of the findings' among the raw ones; None: those are all

    def logits(self, raw: torch.Tensor) -> torch.Tensor:
        """Raw scores (N, K) to float32 log-odds (N, K)."""
        raw = of_labels(raw, self.scores).float()
        if not self.outputs_probabilities:
            return raw
        tiny = torch.finfo(torch.float32).tiny
        return raw.clamp_min(tiny).log() - (1 - raw).clamp_min(tiny).log()

    def decide(self, logits: torch.Tensor) -> torch.Tensor:
        """Readings (N,) at the operating point; `NO_ANSWER` where a logit is not finite."""
        present = self.at_operating_point(logits.double()) >= 0
        readings = (present.long() << torch.arange(len(self.labels), device=logits.device)).sum(dim=1)
        return torch.where(all_finite(logits), readings, NO_ANSWER)

    def name(self, reading: int) -> str:
        """What a reading is called."""
        if reading == NO_ANSWER:
            return NO_ANSWER_NAME
        return AND.join(names_in(reading, self.labels)) or NO_FINDING_NAME

    def named(self, name: str) -> int | None:
        """The reading of this name; None if there is none."""
        if name == NO_ANSWER_NAME:
            return NO_ANSWER
        findings = [] if name == NO_FINDING_NAME else name.split(AND)
        known = {label: 1 << bit for bit, label in enumerate(self.labels)}
        return sum(known[one] for one in findings) if all(one in known for one in findings) else None

    def is_positive(self, reading: int) -> bool:
        """Whether a reading has the positive finding, among others or alone."""
        return self.positive is not None and reading != NO_ANSWER and bool(reading >> self.positive & 1)

    def at_operating_point(self, logits: torch.Tensor, _objective: Objective | None = None) -> torch.Tensor:
        """Logits (N, K) less each finding's threshold: a finding is present from 0 on."""
        asked = [asked_odds(point, of_probabilities=self.outputs_probabilities) for point in self.operating_point]
        return logits - torch.tensor(asked, dtype=logits.dtype, device=logits.device)

    def positive_probability(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Probability (N,) of the positive finding; None if the policy names none."""
        return None if self.positive is None else self.probabilities(logits)[:, self.positive]

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probability (N, K) of each finding, in float64, which also orders samples that a network is sure of."""
        return logits.double().sigmoid()

    def oracle_scores(self, logits: torch.Tensor) -> torch.Tensor:
        """What an oracle answers for logits: the same log-odds (N, K), to which probabilities convert without loss."""
        return logits

    def margins(self, logits: torch.Tensor) -> torch.Tensor:
        """How far (N, K) each finding is from turning, at a threshold of one half."""
        return logits


def present(readings: torch.Tensor, count: int) -> torch.Tensor:
    """Which of so many findings (N, K) are in readings (N,)."""
    return (readings[:, None] >> torch.arange(count, device=readings.device) & 1).bool()


AnyHead: TypeAlias = Head | FindingsHead
