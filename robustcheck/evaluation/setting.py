"""What all gates of a policy share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from robustcheck.data import Samples
from robustcheck.evaluation.image_files import ImageWriter
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.measurement import Measurement
from robustcheck.evaluation.metrics.readings import Readings
from robustcheck.evaluation.metrics.slices import members_of
from robustcheck.evaluation.metrics.verdicts import Rule
from robustcheck.evaluation.progress import Tell
from robustcheck.evaluation.search.ledger import Ledger
from robustcheck.evaluation.search.warm_starts import WarmStarts
from robustcheck.evaluation.surrogates.loading import LoadedSurrogate
from robustcheck.models import Candidate
from robustcheck.policy import SurrogatesEntry
from robustcheck.results import Control, HealthCheck, Outcome, Verdict


class VerdictIf(Protocol):
    """How a gate would be judged if samples had become what they became elsewhere."""

    def __call__(self, outcomes: Mapping[str, Outcome], *, by_estimate: bool, instead: bool = False) -> Verdict:
        """Its verdict.

        Args:
            outcomes: what samples, by name, became elsewhere.
            by_estimate: by the estimate where its interval has just decided it, and not by its own rule.
            instead: in place of what the gate itself turned, and not beside it.
        """


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What gates leave to those after them: the part of a setting that changes as they run."""

    ledger: Ledger = field(default_factory=Ledger)
    warm_starts: WarmStarts = field(default_factory=WarmStarts)
    predicted: dict[Hashable, dict[int, float | None]] = field(default_factory=dict)  # see `predicting`
    gradients: dict[Hashable, torch.Tensor] = field(default_factory=dict)  # see `predicting`; of a few samples
    explained: dict[Hashable, dict[int, tuple[float, float]]] = field(default_factory=dict)  # see `explaining`
    examined: dict[Hashable, tuple[HealthCheck, ...]] = field(default_factory=dict)  # health of searches, by their key
    verdict_if: dict[str, VerdictIf] = field(default_factory=dict)  # of gates that were examined


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Candidate and samples, what the candidate makes of them unattacked, and what gates share of their searches."""

    candidate: Candidate
    samples: Samples
    labels: torch.Tensor  # (N,) true readings
    logits: torch.Tensor  # (N, K) of the candidate on the clean images
    decisions: torch.Tensor  # (N,) of the candidate on the clean images
    positive_probabilities: torch.Tensor | None  # (N,) clean ones of the positive label
    prevalence: tuple[float, ...] | None  # of the positive label, or of each of several, where it will be used
    range_notes: tuple[str, ...]  # what is to be said of a range of which the samples use little
    seed: int
    rule: Rule  # how metrics are judged
    strict: bool  # an attack that is shown to be broken passes nothing
    intervals: Intervals
    anytime_intervals: Intervals  # of gates that may stop before the last sample
    stop: Literal["never", "early", "determined"]
    order: np.ndarray  # (N,) in which samples are taken
    memory: Memory
    images: ImageWriter
    progress: Tell  # in samples
    load_surrogates: Callable[[SurrogatesEntry], Sequence[LoadedSurrogate]]  # of an attack, loaded or trained once
    train_split: Callable[[], Samples]  # of the data, loaded once
    folder: Path  # the policy's, from which its paths start

    @cached_property
    def members(self) -> dict[tuple[str, str], np.ndarray]:
        """Which samples (N,) are of each subgroup, by column and value."""
        return members_of(self.samples)

    def about(self, finding: str | None) -> Setting:
        """The same where this finding, of several, is the positive one; None: the one that the policy names, if any."""
        head = self.candidate.head
        if finding is None or head.labels.index(finding) == head.positive:
            return self
        head = replace(head, positive=head.labels.index(finding))
        positive_probabilities = head.positive_probability(self.logits)
        candidate = replace(self.candidate, head=head)
        return replace(self, candidate=candidate, positive_probabilities=positive_probabilities)

    def measurement(
        self,
        readings: Readings,
        judged: np.ndarray,
        intervals: Intervals,
        *,
        attackable: np.ndarray | None = None,
        controls: Sequence[Control] = (),
        among: np.ndarray | None = None,
    ) -> Measurement:
        """What is measured of samples (M,) as all of them (N,) were read; the arguments are `Measurement`'s."""
        return Measurement(
            readings=readings,
            labels=self.candidate.head.labels,
            members=self.members,
            judged=judged,
            attackable=attackable,
            intervals=intervals,
            controls=controls,
            among=among,
            contents=self.samples.contents,
            absent=self.samples.absent,
            range_notes=self.range_notes,
        )

    def groups_of(self, samples: Sequence[int]) -> np.ndarray | None:
        """Which of these samples (M,) belong together; None if the policy says nothing about it."""
        groups = self.samples.groups
        return None if groups is None else groups[np.asarray(samples, dtype=np.int64)]
