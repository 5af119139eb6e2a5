"""What a source says about each sample besides its image and its label: columns that the policy names.

The column that `data.group` names says which samples belong together; each that `data.subgroups` names divides them
into subgroups. A value is a short text; integers are compared as they are written.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from robustcheck.data.reading import parsing, storable
from robustcheck.data.samples import Indexes
from robustcheck.errors import DataError
from robustcheck.words import listed

LONGEST = 200  # characters of a value
MOST_VALUES = 50  # of a column of subgroups
FEW_SAMPLES = 10  # what is measured on fewer says little
NAMED = "which data.group or data.subgroups names"
_NOTED = 5  # small subgroups that a note lists


def texts_of(values: object, count: int, what: str) -> list[str]:
    """Texts or integers (N,), in any sequence or array, as texts.

    Args:
        values: a value for each sample.
        count: N.
        what: the column, as a message names it.

    Raises:
        DataError: something else, not N of them, a mixture of both, or a text that a report cannot hold.
    """
    if isinstance(values, np.ma.MaskedArray):
        masked = np.flatnonzero(np.ma.getmaskarray(values))
        where = f": index {masked[0]} has no value" if len(masked) else ""
        raise DataError(f"{what} is a masked array{where}; one text or integer for each image is needed")
    with parsing(what):
        array: NDArray[Any] = np.asarray(values)
    if array.shape != (count,):  # before it becomes a list: an array of no bytes may claim any length
        raise DataError(f"{what} has the shape {array.shape}; ({count},) is needed: one text or integer for each image")
    if hasattr(values, "__array__"):
        if array.dtype.kind not in "OTUiu":
            raise DataError(f"{what} holds {array.dtype}; one text or integer for each image is needed")
        values = array
    with parsing(what):  # not of the array, which has one type for all: a nan beside texts became a text
        found = list[Any](cast("Iterable[Any]", values))
    for index, value in enumerate(found):
        if not isinstance(value, (str, int, np.integer)) or isinstance(value, bool):
            raise DataError(
                f"{what} has {reprlib.repr(value)} at index {index}; one text or integer for each image is needed"
            )
        if isinstance(value, str) != isinstance(found[0], str):
            raise DataError(
                f"{what} has {reprlib.repr(found[0])} at index 0 and {reprlib.repr(value)} at index {index}; give "
                "only texts, or only integers"
            )
    with parsing(what):  # Python does not write very long integers; of an enumeration values are told, not names
        texts = [str.__str__(value) if isinstance(value, str) else str(int(value)) for value in found]
    for index, text in enumerate(texts):
        if fault := fault_of(text):
            raise DataError(f"{what}: the value at index {index} {fault}")
    return texts


def fault_of(text: str) -> str | None:
    """What is wrong with a value, as the end of a sentence; None if nothing is."""
    if not text.strip():
        return "is empty; every sample needs one"
    if len(text) > LONGEST:
        return f"has {len(text)} characters; at most {LONGEST} are allowed"
    if not storable(text):
        return f"is {text!a}, which cannot be written in a report"
    return None


def numbered(values: Sequence[str]) -> Indexes:
    """Equal values by number (N,), from 0 in order of first appearance; read-only."""
    first: dict[str, int] = {}
    numbers = np.array([first.setdefault(value, len(first)) for value in values], np.int64)
    numbers.setflags(write=False)
    return numbers


def check_subgroups(column: str, values: Sequence[str], source: str) -> None:
    """Raise a `DataError` if a source's column has more values than there can be subgroups."""
    found = list(dict.fromkeys(values))
    if len(found) > MOST_VALUES:
        raise DataError(
            f"{source}: data.subgroups names {column!r}, which has {len(found)} values ({listed(found, limit=3)}); at "
            f"most {MOST_VALUES} are allowed: put numbers into ranges, and if it says whose image each is, name it in "
            "data.group"
        )


def counts_of(values: Sequence[str]) -> dict[str, int]:
    """How many samples have each value, sorted by value."""
    return dict(sorted(Counter(values).items()))


def small_subgroups(counts: Mapping[str, Mapping[str, int]], known: Mapping[str, Sequence[str]]) -> list[str]:
    """The note on subgroups that have too few samples; no note if none has.

    Args:
        counts: column, value, and how many of the samples have it.
        known: the values of each column in the whole source; one that no sample has makes a subgroup of 0 samples.
    """
    small = [
        f"{column} {value!r} ({counts[column].get(value, 0)})"
        for column, values in known.items()
        for value in sorted(set(values))
        if counts[column].get(value, 0) < FEW_SAMPLES
    ]
    return [f"subgroups with fewer than {FEW_SAMPLES} samples: {listed(small, limit=_NOTED)}"] if small else []
