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
    """How a gate would be judged if samples had the outcomes that they had elsewhere."""

    def __call__(self, outcomes: Mapping[str, Outcome], *, by_estimate: bool, instead: bool = False) -> Verdict:
        """Its verdict.

        Args:
            outcomes: of samples elsewhere, by name.
            by_estimate: judge by the estimate if its interval has only just decided it, and not by its own rule.
            instead: in place of what the gate itself turned, not in addition to it.
        """


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What gates leave for later ones: the part of a setting that changes as they run."""

    ledger: Ledger = field(default_factory=Ledger)
    warm_starts: WarmStarts = field(default_factory=WarmStarts)
    predicted: dict[Hashable, dict[int, float | None]] = field(default_factory=dict)  # see `predicting`
    gradients: dict[Hashable, torch.Tensor] = field(default_factory=dict)  # see `predicting`; of a few samples
    explained: dict[Hashable, dict[int, tuple[float, float]]] = field(default_factory=dict)  # see `explaining`
    examined: dict[Hashable, tuple[HealthCheck, ...]] = field(default_factory=dict)  # health of searches, by their key
    verdict_if: dict[str, VerdictIf] = field(default_factory=dict)  # of gates that were examined


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Candidate and samples, how the candidate reads them unattacked, and what gates share of their searches."""

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
        """The same with this finding, of several, as the positive one; None: the one that the policy names, if any."""
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
        """What is measured on samples (M,), given how all of them (N,) were read; arguments as for `Measurement`."""
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
            not_read=self.samples.not_read,
            range_notes=self.range_notes,
        )

    def groups_of(self, samples: Sequence[int]) -> np.ndarray | None:
        """Which of these samples (M,) belong together; None if the policy says nothing about it."""
        groups = self.samples.groups
        return None if groups is None else groups[np.asarray(samples, dtype=np.int64)]
