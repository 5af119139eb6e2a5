"""All that is measured of a gate's samples: on all of them, on each part, and what a policy requires of the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robustcheck.evaluation.intervals import Intervals
from robustcheck.evaluation.metrics import Readings, measure
from robustcheck.evaluation.setting import Setting
from robustcheck.evaluation.slices import Measured, findings, required, slices, subgroups
from robustcheck.policy import Bound
from robustcheck.results import Metric, Slice


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Of some samples as they were read."""

    readings: Readings
    attacked: np.ndarray | None  # which of them (M,); None without an attack
    by_subgroup: Mapping[tuple[str, str], Measured]
    by_finding: Mapping[str, Measured]
    intervals: Intervals

    @classmethod
    def of(
        cls,
        setting: Setting,
        readings: Readings,
        judged: np.ndarray,
        *,
        attacked: np.ndarray | None,
        intervals: Intervals,
    ) -> Measurement:
        """Of the samples with these numbers (M,).

        Args:
            setting: that says which subgroups they are of.
            readings: of all samples.
            judged: those that are measured.
            attacked: which of all samples (N,) the adversary was after; None without an attack.
            intervals: that metrics have.
        """
        read, worth = readings.at(judged), None if attacked is None else attacked[judged]
        columns = {name: np.array(values)[judged] for name, values in setting.samples.subgroups.items()}
        return cls(
            readings=read,
            attacked=worth,
            by_subgroup=subgroups(read, columns, worth),
            by_finding=findings(read, setting.candidate.head.labels),
            intervals=intervals,
        )

    def metrics(self, bounds: Sequence[Bound]) -> dict[str, Metric]:
        """On all samples, and what bounds ask of parts of them."""
        plain = measure(self.readings, attacked=self.attacked, intervals=self.intervals)
        return plain | required(bounds, self.by_subgroup, self.by_finding, self.intervals)

    def slices(self) -> tuple[Slice, ...]:
        """On each part."""
        return slices(self.by_subgroup, self.by_finding, self.intervals)
