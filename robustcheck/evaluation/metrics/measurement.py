"""All that is measured on a gate's samples: on all of them, on each part, and on the worst part, if required."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from robustcheck.evaluation.metrics.chance import no_better_than_chance
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.metrics.readings import Measure, Readings, of_all, of_controls
from robustcheck.evaluation.metrics.slices import (
    LabelParts,
    Subgroups,
    left_out,
    parts_by_label,
    parts_by_subgroup,
    required,
    slices,
)
from robustcheck.policy import Bound
from robustcheck.results import Control, Finding, Metric, Slice
from robustcheck.results.agreed import WORST_SUBGROUP
from robustcheck.words import listed

REPEATED = 0.05  # of the samples: up to so many repeats have little effect on intervals


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Measures samples as they were read, and parts of them if these are asked for."""

    readings: Readings  # of all samples
    labels: Sequence[str]  # the policy's, which readings are indexes into
    members: Mapping[tuple[str, str], np.ndarray]  # which of all samples (N,) are of each subgroup, by column and value
    contents: np.ndarray  # (N,) which of all samples store the same
    judged: np.ndarray  # (M,) numbers of those that are measured
    attackable: np.ndarray | None = None  # which of all samples (N,) the adversary was after; None without an attack
    intervals: Intervals  # that metrics have
    controls: Sequence[Control] = ()  # beside the attack
    among: np.ndarray | None = None  # numbers of the samples of which these are the first; None: no more may follow
    absent: Collection[str] = ()  # labels that no sample of the whole source has
    not_read: Sequence[str] = ()  # what the source holds that may be samples
    range_notes: Sequence[str] = ()  # what is to be said of a range of which the samples use little

    @cached_property
    def plain(self) -> Mapping[str, Measure]:
        """Metrics of all of them."""
        attackable = None if self.attackable is None else self.attackable[self.judged]
        plain = of_all(self._read, attackable, self._every)
        if self.unseen_labels and self.readings.finding_count is None:
            plain["balanced_accuracy"] = lambda intervals: intervals.mean((), samples=len(self.judged))
        return plain | of_controls(plain["attack_success"], self.controls) if self.controls else plain

    @cached_property
    def unseen_labels(self) -> list[str]:
        """The policy's labels that no sample has."""
        every = self._every or self._read
        return [label for number, label in enumerate(self.labels) if not every.has_label(every.labels, number).any()]

    @cached_property
    def _read(self) -> Readings:
        return self.readings.at(self.judged)

    @cached_property
    def _every(self) -> Readings | None:
        return None if self.among is None else self.readings.at(self.among)

    @cached_property
    def by_subgroup(self) -> Subgroups:
        """Metrics of each subgroup."""
        return parts_by_subgroup(self.readings, self.members, self.attackable, self.judged, self.among)

    @cached_property
    def by_label(self) -> LabelParts:
        """Metrics of each of several findings."""
        return parts_by_label(self.readings, self.labels, self.judged, self.among)

    def metrics(self, bounds: Sequence[Bound]) -> dict[str, Metric]:
        """Metrics of all samples, and what bounds ask of parts of them."""
        return {name: one(self.intervals) for name, one in self.plain.items()} | self.required(bounds)

    def required(self, bounds: Sequence[Bound]) -> dict[str, Metric]:
        """What bounds ask for, where it is defined, and nothing else."""
        found = dict[str, Metric]()
        for bound in bounds:
            if bound.of[0]:
                found[bound.metric] = required(bound, *self._parts(bound), self.intervals)
            elif bound.metric in self.plain:
                found[bound.metric] = self.plain[bound.metric](self.intervals)
        return found

    def slices(self) -> tuple[Slice, ...]:
        """Metrics of each part, for the report."""
        return slices(self.by_subgroup, self.by_label, self.intervals)

    def findings(self, bounds: Sequence[Bound]) -> tuple[Finding, ...]:
        """Findings about the samples and their figures, and about parts that a requirement on the worst leaves out."""
        found = list[Finding]()
        if message := no_better_than_chance(self.readings, self.labels):
            found.append(Finding(code="no-better-than-chance", severity="warning", message=message))
        found.extend(
            Finding(code="label-without-samples", severity="warning", message=one) for one in self._of_unseen_labels()
        )
        if (repeated := self._repeated) > REPEATED * len(self.judged):
            message = (
                f"{repeated:,} of {len(self.judged):,} samples repeat another's image: intervals treat them as "
                "independent, and are too narrow; leave them out, or give data.group a column that groups them"
            )
            found.append(Finding(code="repeated-images", severity="warning", message=message))
        found.extend(Finding(code="range-unused", severity="warning", message=one) for one in self.range_notes)
        for one in self.not_read:
            message = (
                f"{one}; if they are images, store them as files that are read, one a sample, or list all in a .csv"
            )
            found.append(Finding(code="images-left-out", severity="warning", message=message))
        for bound in bounds:
            if names := left_out(bound, *self._parts(bound), self.intervals):
                message = f"{bound.metric} is not about {listed(names)}: {bound.of[1]} is undefined on their samples"
                found.append(Finding(code="part-not-measured", severity="warning", message=message))
        return tuple(found)

    @property
    def _repeated(self) -> int:
        """How many samples store what an earlier one of another group does: one group counts together anyway."""
        _, first, which = np.unique(self.contents[self.judged], return_index=True, return_inverse=True)
        origin, groups = first[which], self._read.groups
        apart = origin != np.arange(len(origin)) if groups is None else groups[origin] != groups
        return int(apart.sum())

    def _of_unseen_labels(self) -> Iterator[str]:
        """What follows from labels that no sample has, and what to do: draw more samples if the source has some."""
        several = self.readings.finding_count is not None
        unmeasured = "how the candidate reads it is not measured, and balanced_accuracy is undefined"
        without = "take it out of model.labels if the candidate does not know it"
        if several:
            unmeasured = "where the candidate sees it, that is a false alarm, and nothing else is measured of it"
            without = "take it out of model.labels and name the scores of the others in model.scores"
        if names := [label for label in self.unseen_labels if label in self.absent]:
            yield f"no sample has the label {listed(names)}: {unmeasured}; add such samples, or {without}"
        if names := [label for label in self.unseen_labels if label not in self.absent]:
            yield (
                f"no sample that was drawn has the label {listed(names)}: {unmeasured}; the data have such samples: "
                "raise data.samples"
            )

    def _parts(self, bound: Bound) -> tuple[Subgroups, LabelParts]:
        """Parts that a bound may be about; others are not measured for it."""
        about = bound.of[0]
        return (
            self.by_subgroup if about == WORST_SUBGROUP else {},
            self.by_label if about not in ("", WORST_SUBGROUP) else {},
        )
