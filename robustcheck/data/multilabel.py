"""Several labels per image: which of the policy's are present, as one reading, the sum of 2**k over their indexes k.

An array has a column of 0 and 1 for each label; a manifest has their names in one cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcheck.data.label_names import as_labelled
from robustcheck.data.reading import parsing
from robustcheck.data.samples import Indexes
from robustcheck.errors import DataError
from robustcheck.words import did_you_mean, listed

NONE = ("", "-")  # how a manifest says that there is no finding
_NO_FINDING = "no finding"  # and how some published ones do


def readings_of(values: object, labels: Sequence[str], what: str) -> Indexes:
    """Zeros and ones (N, K), in any sequence or array, as readings (N,).

    Raises:
        DataError: something else, or not a column for each of the policy's labels.
    """
    with parsing(what):
        array: NDArray[Any] = np.asarray(values)
    count = len(labels)
    if array.ndim != 2 or array.shape[1] != count or array.dtype.kind not in "iub":
        hint = "; did you mean task: multiclass?" if array.ndim == 1 or array.shape[1:] == (1,) else ""
        raise DataError(
            f"{what} holds {array.dtype} of the shape {array.shape}; a multilabel task with {count} labels "
            f"({listed(labels)}) needs integers (N, {count}), 1 where a label is present and 0 where it is not{hint}"
        )
    wrong = np.argwhere((array != 0) & (array != 1))
    if len(wrong):
        row, column = wrong[0]
        uncertain = "; -1 often stands for uncertain, which cannot be judged: decide, or leave such samples out"
        raise DataError(
            f"{what} holds {array[row, column]} (first at index {row}, column {column}, {labels[column]!r}); "
            f"1 (present) and 0 (absent) are allowed{uncertain if array[row, column] == -1 else ''}"
        )
    return np.asarray((array.astype(np.int64) << np.arange(count)).sum(axis=1), np.int64)


def reading_of(cell: str, labels: Sequence[str]) -> int:
    """The reading of names separated by `|`; none, a dash, or `No Finding` where no label is called so, is no finding.

    Raises:
        ValueError: a name that the policy does not have, or one that appears twice; the message is for the user.
    """
    names = [cell] if cell in labels else [] if says_none(cell, labels) else [name.strip() for name in cell.split("|")]
    names = [as_labelled(name, labels) for name in names]
    for name in names:
        if name not in labels:
            raise ValueError(
                f"the policy has no label {name!r:.60}{did_you_mean(name, labels)}; it has {listed(labels)}, "
                "several of which are separated by |, and none is written as nothing or -; take out findings that the "
                "model does not report"
            )
        if names.count(name) > 1:
            raise ValueError(f"the label {name!r} appears twice")
    return sum(1 << labels.index(name) for name in names)


def says_none(cell: str, labels: Sequence[str]) -> bool:
    """Whether a cell that is no label says that there is no finding."""
    said = cell.lower() == _NO_FINDING and all(label.lower() != _NO_FINDING for label in labels)
    return cell in NONE or said


def has_finding(readings: Indexes, label: int) -> NDArray[np.bool_]:
    """Which of the readings (N,) have a label."""
    return np.asarray(readings >> label & 1, bool)


def present(readings: Indexes, count: int) -> NDArray[np.bool_]:
    """Which of so many labels (N, K) are in readings (N,)."""
    return np.asarray(readings[:, None] >> np.arange(count) & 1, bool)


def names_in(reading: int, labels: Sequence[str]) -> list[str]:
    """The labels that are present, in the policy's order."""
    return [label for bit, label in enumerate(labels) if reading >> bit & 1]
