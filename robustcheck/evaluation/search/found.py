"""What a gate's searches saw, besides the counterexamples, which are in the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robustcheck.models import LabelOracle, ScoreOracle, TopKOracle


@dataclass(frozen=True, kw_only=True)
class Rise:
    """How far a search raised its loss, without a counterexample."""

    began: float  # on the clean image, or at its random start, if that is higher
    earlier: float  # the highest before the last quarter of the steps
    highest: float
    steps: int


@dataclass(kw_only=True)
class Trace:
    """What loops record of a gate's searches as they run."""

    scores: dict[int, float] = field(default_factory=dict)  # most adverse admissible probability of the positive label
    finding_probabilities: dict[int, np.ndarray] = field(default_factory=dict)  # the same, (K,) of several findings
    followable: set[int] = field(default_factory=set)  # samples that a search could follow, on half of its steps
    unstarted: set[int] = field(default_factory=set)  # samples for which no image to start from was found
    surrogates_turned: set[int] = field(default_factory=set)  # samples that a surrogate misreads where the search ended
    not_finite: set[int] = field(default_factory=set)  # samples that had a NaN or infinite gradient
    gradients_not_finite: int = 0  # how many gradients were so
    gradients: int = 0  # how many were computed
    gradients_zero: int = 0  # how many of them were zero
    rises: dict[int, dict[str, Rise]] = field(default_factory=dict)  # of samples whose searches ended: each's highest
    refuted: int = 0  # proposals that were misread in the search, but not by the artefact as stored images
    disagreed: int = 0  # of those, how many the twin of an ONNX graph misreads as they are stored
    lapsed: int = 0  # proposals that held on enough looks of a step, but on too few fresh ones
    cells: dict[int, np.ndarray] = field(default_factory=dict)  # looks of a grid on which a search's end holds


@dataclass(kw_only=True)
class Found:
    """A trace, plus which samples were searched or inherited, and the oracle that was queried."""

    trace: Trace = field(default_factory=Trace)
    searched: set[int] = field(default_factory=set)  # samples that a search of this gate was about
    settled: dict[int, bool] = field(default_factory=dict)  # by an earlier search; True if it could follow anything
    asked_last: dict[int, str] = field(default_factory=dict)  # samples that gradients left to a query attack: its name
    oracle: ScoreOracle | TopKOracle | LabelOracle | None = None  # that was asked

    @property
    def inherited(self) -> dict[int, bool]:
        """Samples that were not searched, because a search that stands for this one settled them."""
        return {sample: followable for sample, followable in self.settled.items() if sample not in self.searched}

    @property
    def queries(self) -> np.ndarray | None:
        """Queries (N,) that reached the oracle, per sample; None without an oracle."""
        return None if self.oracle is None else self.oracle.counts.numpy()
