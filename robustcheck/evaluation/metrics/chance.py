"""Whether a candidate tells samples apart at all before any attack: one that is fed wrongly often does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustcheck.evaluation.metrics.readings import Readings
from robustcheck.models.head import NO_ANSWER

LEAST_SAMPLES = 20  # fewer may be read alike by chance
LEAST_SKILL = 0.1  # Youden's index: what guesses, or always says the same, has 0; what is never wrong has 1

_LOOK = "look at model.preprocess (range, mean, std, layout, channels) and at the order of model.labels"


def read_alike(read: Readings) -> str | None:
    """Why nothing that holds shows robustness, where all samples are read alike and should not be; else None."""
    before = np.unique(read.before)
    if not _enough(read) or len(before) > 1 or before[0] == NO_ANSWER:
        return None
    return (
        f"the candidate reads all {len(read.labels)} samples alike before any attack, whatever is in them: that it "
        f"goes on to do so shows nothing; {_LOOK}"
    )


def hardly_better_than_chance(read: Readings, labels: Sequence[str]) -> str | None:
    """What to tell of a candidate whose clean readings have next to no skill; else None.

    Args:
        read: all samples, as they are read without an attack.
        labels: the policy's.
    """
    if not _enough(read) or (skill := _skill(read, labels)) is None or skill >= LEAST_SKILL:
        return None
    right = int((read.before == read.labels).sum())
    return (
        f"before any attack the candidate reads {right} of {len(read.labels)} samples rightly, which is "
        f"{'worse' if skill < 0 else 'hardly better'} than chance (Youden's index {skill:.2f}): {_LOOK}"
    )


def _enough(read: Readings) -> bool:
    return len(read.labels) >= LEAST_SAMPLES and len(np.unique(read.labels)) > 1


def _skill(read: Readings, labels: Sequence[str]) -> float | None:
    """Sensitivity + specificity - 1, mean over the labels that samples both have and lack (Youden 1950)."""
    indexes = list[float]()
    for number in range(len(labels)):
        truly, said = read.has(read.labels, number), read.has(read.before, number)
        if truly.any() and not truly.all():
            indexes.append(float(said[truly].mean() - said[~truly].mean()))
    return float(np.mean(indexes)) if indexes else None
