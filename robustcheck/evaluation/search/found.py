"""What a gate's searches saw, besides the counterexamples, which are in the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robustcheck.evaluation.search.loop import Trace
from robustcheck.models import LabelOracle, ScoreOracle, TopKOracle


@dataclass(kw_only=True)
class Found:
    """What the searches of a gate saw: it is added to as samples are searched."""

    trace: Trace = field(default_factory=Trace)
    searched: set[int] = field(default_factory=set)  # samples that a search of this gate was about
    through: dict[int, bool] = field(default_factory=dict)  # left to an earlier search; could it follow anything
    oracle: ScoreOracle | TopKOracle | LabelOracle | None = None  # that was asked

    @property
    def inherited(self) -> dict[int, bool]:
        """Samples that were not searched, since a search that stands for this one was through."""
        return {sample: moved for sample, moved in self.through.items() if sample not in self.searched}

    @property
    def queries(self) -> np.ndarray | None:
        """Queries (N,) that reached the oracle, a sample; None without an oracle."""
        return None if self.oracle is None else self.oracle.counts.numpy()
