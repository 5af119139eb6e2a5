"""What the adversary wants: which samples are worth attacking, and which readings of them are a success.

A reading is a number: the index of the decided label; for several findings at once, the sum of 2**k over the findings
k that are read as present; `NO_ANSWER` where the candidate gave no finite scores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from robustcheck.models.head import NO_ANSWER
from robustcheck.models.multilabel_head import present

GoalKind = Literal["untargeted", "targeted", "missed_finding", "false_alarm"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A goal against a head of so many labels, or of so many findings that may be present together."""

    kind: GoalKind = "untargeted"
    labels: int
    target: int | None = None  # the label that `targeted` wants
    positive: int | None = None  # the label that is disease
    multilabel: bool = False

    @property
    def toward(self) -> int | None:
        """The one label that the adversary wants to be read; None if any other than the true one will do."""
        if self.multilabel:
            return None
        return {"targeted": self.target, "false_alarm": self.positive}.get(self.kind)

    @property
    def directions(self) -> tuple[Goal, ...]:
        """Narrower goals, each met by one change of all images; none if the goal itself is.

        Raising a label turns the images of other labels and keeps its own. So if any wrong reading will do, one change
        for all images succeeds on those of some labels by giving up the others.
        """
        if self.kind != "untargeted":
            return ()
        if self.multilabel:
            fewer, more = replace(self, kind="missed_finding"), replace(self, kind="false_alarm")
            return replace(fewer, positive=None), replace(more, positive=None)
        return tuple(replace(self, kind="targeted", target=label) for label in range(self.labels))

    def applies(self, labels: torch.Tensor) -> torch.Tensor:
        """Which samples (N,) with these true readings (N,) it is about."""
        if self.kind == "untargeted":
            return torch.ones_like(labels, dtype=torch.bool)
        if self.multilabel:
            there = labels & self._findings
            return there != (0 if self.kind == "missed_finding" else self._findings)
        return labels.eq(self.positive or 0) if self.kind == "missed_finding" else labels.ne(self.toward or 0)

    def attackable(self, decisions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Which samples (N,) are worth attacking: it is about them, and they are right.

        Right is what specificity, or sensitivity, counts as right: an adversary who wants disease to be read also
        attacks a negative that is taken for another negative. Of several findings, only the goal's count.
        """
        if self.multilabel or (self.toward is not None and self.toward == self.positive):
            right = ~self.met(decisions, labels) & decisions.ne(NO_ANSWER)
        else:
            right = decisions.eq(labels)
        return self.applies(labels) & right

    def met(self, decisions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Where (N,) these decisions (N,) are what the adversary wants. No answer never counts as right."""
        if self.toward is not None:
            return decisions.eq(self.toward)
        if self.multilabel and self.kind != "untargeted":
            answered = decisions != NO_ANSWER
            turned = (decisions ^ labels) & self._findings
            if self.kind == "false_alarm":
                return answered & ((turned & decisions) != 0)
            return ~answered | ((turned & labels) != 0)
        return decisions.ne(labels)

    def alike(self, decisions: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Where (N,) two models' decisions (N,) are the same; with several findings, in those that it is about."""
        same = decisions.eq(others)
        if not self.multilabel or self.kind == "untargeted":
            return same
        answered = decisions.ne(NO_ANSWER) & others.ne(NO_ANSWER)
        return same | (answered & ((decisions ^ others) & self._findings).eq(0))

    def present(self, labels: torch.Tensor) -> torch.Tensor:
        """Which of several findings (N, K) are there in readings (N,)."""
        return present(labels, self.labels)

    def attackable_findings(self, labels: torch.Tensor) -> torch.Tensor:
        """Which of several findings (N, K) the adversary may turn on samples with true readings (N,)."""
        there = self.present(labels)
        if self.kind == "untargeted":
            return torch.ones_like(there)
        wanted = there if self.kind == "missed_finding" else ~there
        if self.positive is None:
            return wanted
        return wanted & (torch.arange(self.labels, device=labels.device) == self.positive)

    @property
    def finding(self) -> int | None:
        """The one of several findings that it is about; None if any of them will do, or if images have one label."""
        return self.positive if self.multilabel and self.kind != "untargeted" else None

    @property
    def _findings(self) -> int:
        """The findings that it is about, as a reading."""
        return (1 << self.labels) - 1 if self.positive is None else 1 << self.positive
