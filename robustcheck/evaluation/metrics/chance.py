"""Whether a candidate tells samples apart at all before any attack: one with the wrong input often does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustcheck.evaluation.metrics.readings import Readings

LEAST_SAMPLES = 20
LEAST_OTHERWISE = 10  # samples with another label than the reading of all: a sound candidate may miss fewer,
SHARE_OTHERWISE = 0.25  # unless they are a quarter of all
LEAST_SKILL = 0.1  # Youden's index: guessing, or always saying the same, has 0; never being wrong has 1

_LOOK = (
    "check model.operating_point, model.preprocess (range, mean, std, layout, order, window), the order of "
    "model.labels, and which weights and scores are the model's"
)


def read_alike(read: Readings, turned: int) -> str | None:
    """Why samples that hold show no robustness, if all are read alike and should not be; else None.

    Args:
        read: all samples, as they are read without an attack.
        turned: how many of them the attack turned.
    """
    common = read.before[:1]
    if not len(common) or (read.before != common).any():
        return None
    otherwise, every = int((read.labels != common).sum()), len(read.labels)
    if every < LEAST_SAMPLES or otherwise < min(LEAST_OTHERWISE, SHARE_OTHERWISE * every):
        return None
    still = f"that it goes on to read all but the {turned:,} turned ones so" if turned else "that it still does so"
    return (
        f"the candidate reads all {every} samples alike before any attack, though {otherwise} of them are "
        f"labelled otherwise: {still} under attack shows nothing; {_LOOK}"
    )


def no_better_than_chance(read: Readings, labels: Sequence[str]) -> str | None:
    """What to say about a candidate whose clean readings have next to no skill; else None.

    Args:
        read: all samples, as they are read without an attack.
        labels: the policy's.
    """
    if len(read.labels) < LEAST_SAMPLES or (skill := _skill(read, labels)) is None or skill >= LEAST_SKILL:
        return None
    right = int((read.before == read.labels).sum())
    return (
        f"before any attack the candidate reads {right} of {len(read.labels)} samples correctly, which is "
        f"{'worse' if skill <= -LEAST_SKILL else 'no better'} than chance (Youden's index {skill:.2f}): {_LOOK}"
    )


def _skill(read: Readings, labels: Sequence[str]) -> float | None:
    """Sensitivity + specificity - 1, the mean over labels that some samples have and others lack (Youden 1950)."""
    indexes = list[float]()
    for number in range(len(labels)):
        truly, said = read.has_label(read.labels, number), read.has_label(read.before, number)
        if truly.any() and not truly.all():
            indexes.append(float(said[truly].mean() - said[~truly].mean()))
    return float(np.mean(indexes)) if indexes else None
