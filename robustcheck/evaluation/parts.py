"""Which samples a requirement is about before anything is attacked, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np

from robustcheck.evaluation.clusters import fewest, members
from robustcheck.evaluation.expectation import Kinds
from robustcheck.evaluation.metrics import Readings, of_each_label
from robustcheck.evaluation.setting import Setting
from robustcheck.policy import Bound
from robustcheck.policy.bounds import NEEDS_ATTACK, NEEDS_PREVALENCE, WORST_FINDING, WORST_SUBGROUP


@dataclass(frozen=True, kw_only=True)
class Part:
    """The samples of a requirement; of several parts, those that are fewest."""

    kinds: Kinds
    worth: int  # independent samples that they are worth at least; as many as they are without groups
    among: int = 1  # parts, whose intervals have to hold together
    notes: tuple[str, ...] = ()


def part_of(bound: Bound, setting: Setting, readings: Readings, judged: np.ndarray, attacked: Sequence[int]) -> Part:
    """What a bound is about.

    Args:
        bound: of a metric of all samples, or of a part of them.
        setting: that says which samples are of which subgroup.
        readings: of all samples (N,).
        judged: numbers (M,) of those that the gate judges.
        attacked: numbers of those that the adversary is after.
    """
    about, plain = bound.of
    labels = setting.candidate.head.labels
    if about == WORST_SUBGROUP:
        parts = {
            f"{column}={value}": (judged[np.array(values)[judged] == value], readings.positive)
            for column, values in setting.samples.subgroups.items()
            for value in sorted(set(np.array(values)[judged].tolist()))
        }
    elif about == WORST_FINDING:
        parts = {label: (judged, number) for number, label in enumerate(labels)}
    elif about:
        parts = {about: (judged, labels.index(about))}
    else:
        return _part(plain, readings, judged, attacked, readings.positive, of_finding=False)
    found = {
        name: _part(plain, readings, numbers, attacked, label, of_finding=about != WORST_SUBGROUP)
        for name, (numbers, label) in parts.items()
    }
    name = min(found, key=lambda one: found[one].worth)
    least, several = found[name], len(found) if about in (WORST_SUBGROUP, WORST_FINDING) else 1
    smallest = (f"of {name}, the smallest of {several}",) if several > 1 else ()
    return Part(kinds=least.kinds, worth=least.worth, among=several, notes=(*smallest, *least.notes))


def _part(
    plain: str, readings: Readings, numbers: np.ndarray, attacked: Sequence[int], label: int | None, *, of_finding: bool
) -> Part:
    part = readings.at(numbers)
    has = np.zeros(len(numbers), bool) if label is None else part.has(part.labels, label)
    which = {"sensitivity": has, "specificity": ~has}.get(plain, np.ones(len(numbers), bool))
    if plain in NEEDS_ATTACK:
        which = np.isin(numbers, attacked)
    samples, positives = int(which.sum()), int(has.sum())
    groups = (positives, len(numbers) - positives) if of_finding else tuple(map(len, of_each_label(part)[0]))
    kinds = Kinds(
        samples=samples,
        positives=positives,
        groups=groups,
        prevalence=readings.prevalence_of(label) if plain in NEEDS_PREVALENCE and label is not None else None,
    )
    if part.groups is None or not samples:
        return Part(kinds=kinds, worth=samples)
    # How much the images of a group agree under attack is not known yet: at the worst always.
    sizes = members(part.groups[which])[1]
    worth = max(1, floor(fewest(sizes)))
    note = f"{samples:,} images of {len(sizes):,} groups, worth {worth:,} at least, if those of a group always agree"
    return Part(kinds=kinds, worth=worth, notes=(note,))
