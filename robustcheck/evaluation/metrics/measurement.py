"""All that is measured of a gate's samples: on all of them, on each part, and what a policy requires of the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.readings import Measure, Readings, of_all, of_controls
from robustcheck.evaluation.metrics.slices import (
    Findings,
    Subgroups,
    columns_of,
    findings,
    left_out,
    required,
    slices,
    subgroups,
)
from robustcheck.evaluation.setting import Setting
from robustcheck.policy import Bound
from robustcheck.results import Control, Finding, Metric, Slice
from robustcheck.words import listed


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Of some samples as they were read."""

    plain: Mapping[str, Measure]  # of all of them
    by_subgroup: Subgroups
    by_finding: Findings
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
        controls: Sequence[Control] = (),
        among: np.ndarray | None = None,
    ) -> Measurement:
        """Of the samples with these numbers (M,).

        Args:
            setting: that says which subgroups they are of.
            readings: of all samples.
            judged: those that are measured.
            attacked: which of all samples (N,) the adversary was after; None without an attack.
            intervals: that metrics have.
            controls: beside the attack.
            among: numbers of all samples that these are the first of, if more may follow.
        """
        among = judged if among is None else among
        read, worth = readings.at(judged), None if attacked is None else attacked[judged]
        plain = of_all(read, worth, readings.at(among))
        return cls(
            plain=plain | of_controls(plain["attack_success"], controls) if controls else plain,
            by_subgroup=subgroups(readings, columns_of(setting.samples), attacked, judged, among),
            by_finding=findings(readings, setting.candidate.head.labels, judged, among),
            intervals=intervals,
        )

    def metrics(self, bounds: Sequence[Bound]) -> dict[str, Metric]:
        """On all samples, and what bounds ask of parts of them."""
        return {name: one(self.intervals) for name, one in self.plain.items()} | self.required(bounds)

    def required(self, bounds: Sequence[Bound]) -> dict[str, Metric]:
        """What bounds ask for, where it is defined, and nothing else."""
        found = dict[str, Metric]()
        for bound in bounds:
            if bound.of[0]:
                found[bound.metric] = required(bound, self.by_subgroup, self.by_finding, self.intervals)
            elif bound.metric in self.plain:
                found[bound.metric] = self.plain[bound.metric](self.intervals)
        return found

    def slices(self) -> tuple[Slice, ...]:
        """On each part."""
        return slices(self.by_subgroup, self.by_finding, self.intervals)

    def findings(self, bounds: Sequence[Bound]) -> tuple[Finding, ...]:
        """What the worst that bounds ask for is not about."""
        found = list[Finding]()
        for bound in bounds:
            if names := left_out(bound, self.by_subgroup, self.by_finding, self.intervals):
                message = f"{bound.metric} is not about {listed(names)}: {bound.of[1]} is undefined on their samples"
                found.append(Finding(code="part-not-measured", severity="warning", message=message))
        return tuple(found)
