"""From a source's labels, numbers or names, to indexes into the policy's labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from robustcheck.data.reading import parsing
from robustcheck.data.samples import Indexes
from robustcheck.errors import DataError
from robustcheck.words import did_you_mean, listed


def checked_indexes(values: NDArray[np.integer[Any]], labels: Sequence[str], what: str) -> Indexes:
    """Integers (N,) or (N, 1) as indexes (N,).

    Raises:
        DataError: several labels per sample, or a number that the policy has no label for.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        hint = "; several are for task: multilabel" if values.ndim == 2 else ""
        raise DataError(f"{what} has the shape {values.shape}; (N,) or (N, 1) is allowed: one label per image{hint}")
    wrong = np.flatnonzero((values < 0) | (values >= len(labels)))
    if len(wrong):
        found = listed(np.unique(values[wrong]))
        raise DataError(
            f"{what} holds {found} (first at index {wrong[0]}), but the policy names {len(labels)} labels "
            f"({listed(labels)}), so 0 to {len(labels) - 1} are allowed"
        )
    return values.astype(np.int64)


def indexes_of(values: object, labels: Sequence[str], what: str) -> Indexes:
    """Integers or names, in any sequence or array, as indexes (N,).

    Raises:
        DataError: neither integers nor names of the policy's labels.
    """
    with parsing(what):
        array: NDArray[Any] = np.asarray(values)
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 8:
        if list(labels) != [str(place) for place in range(len(labels))] and all(map(str.isdecimal, labels)):
            raise DataError(
                f"{what} holds integers, which are places in model.labels from 0, but the names there, "
                f"{listed(labels)}, are numbers themselves: store the names as text, or use words in model.labels"
            )
        return checked_indexes(array, labels, what)
    if array.dtype.kind not in "UO" or array.ndim != 1 or not all(isinstance(value, str) for value in array):
        columns = f", {array.shape[1]} columns (one-hot?)" if array.ndim == 2 and array.shape[1] > 1 else ""
        raise DataError(
            f"{what} holds {array.dtype} of the shape {array.shape}{columns}; store one integer or name for each image"
        )
    return np.array([index_of(str(value), labels, what) for value in array], np.int64)


def as_labelled(name: str, labels: Sequence[str]) -> str:
    """A name as the policy writes it; a source may store letters and their accents apart, as macOS does."""
    if name in labels or name.isascii():
        return name
    return next((label for label in labels if normalize("NFC", label) == normalize("NFC", name)), name)


def are_places(values: object) -> bool:
    """Whether labels that `indexes_of` takes are places among the policy's, and not names."""
    return np.asarray(values).dtype.kind in "iu"


def index_of(name: str, labels: Sequence[str], what: str) -> int:
    """The index of a label's name.

    Raises:
        DataError: the policy has no label of that name.
    """
    name = as_labelled(name, labels)
    if name not in labels:
        raise DataError(
            f"{what}: the policy has no label {name!r}{did_you_mean(name, labels)}; its labels are {listed(labels)}"
        )
    return labels.index(name)
