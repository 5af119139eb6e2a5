"""`module:callable`: the user's own function, called with the split, returns images and labels, and perhaps columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcheck.data.arrays import array_listing
from robustcheck.data.columns import NAMED, texts_of
from robustcheck.data.label_names import are_places, indexes_of
from robustcheck.data.multilabel import readings_of
from robustcheck.data.reading import parsing
from robustcheck.data.samples import Listing, Wanted
from robustcheck.errors import DataError
from robustcheck.importing import import_callable, module_in_place
from robustcheck.user_code_files import own_sources, written_in
from robustcheck.words import did_you_mean, last_line, listed


def callable_listing(reference: str, wanted: Wanted, *, folder: Path) -> Listing:
    """What the function returns for this split; sample i is called `SPLIT/i`, or `i` without a split.

    Args:
        reference: `module:callable`.
        wanted: its split is handed to the function, whatever it is; its columns have to be in the third thing
            that it returns, a mapping from names to a value for each image.
        folder: the policy's, where the module may lie.

    Raises:
        UserCodeError: there is no such function, or the user's own code has imported it, and it was edited since.
        DataError: it raises, or what it returns is not (images, labels) of a shape and type that can be judged, or not
            (images, labels, columns) where columns are asked for.
    """
    function = import_callable(reference, folder=folder)
    own_sources(written_in(reference, function), folder=folder)  # old code is not asked
    with module_in_place(reference, folder):  # what it returns may compute the images when they are asked for
        return _listing(reference, function, wanted)


def _listing(reference: str, function: Callable[..., Any], wanted: Wanted) -> Listing:
    split = wanted.split
    try:
        returned = function(split)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's function may raise anything
        raise DataError(f"{reference}({split!r}) raised {last_line(error)}") from None
    if not isinstance(returned, (tuple, list)) or len(returned) not in (2, 3):
        raise DataError(
            f"{reference} returned {type(returned).__name__}; a pair (images, labels) is needed, or "
            "(images, labels, columns)"
        )
    with parsing(f"{reference}: its images"):
        images: NDArray[Any] = np.asarray(returned[0])
    read = readings_of if wanted.multilabel else indexes_of
    indexes = read(returned[1], wanted.labels, f"{reference}: its labels")
    if images.ndim == 0:
        raise DataError(f"{reference}: its images are {type(returned[0]).__name__}; an array (N, H, W) is needed")
    names = [f"{split}/{index}" if split else str(index) for index in range(len(indexes))]
    listing = array_listing(images, indexes, wanted, names=names, split=split, what=f"{reference}: its images")
    columns = _columns(returned[2:], wanted.columns, len(names), reference)
    return replace(listing, columns=columns, by_number=not wanted.multilabel and are_places(returned[1]))


def _columns(beside: Sequence[Any], asked: Sequence[str], count: int, reference: str) -> dict[str, list[str]]:
    """The columns that are asked for, from what was returned beside images and labels: one mapping, or nothing."""
    if not beside:
        if asked:
            raise DataError(
                f"{reference} returned a pair (images, labels), but no column {asked[0]!r}, {NAMED}; return "
                "(images, labels, columns), the last a mapping from each column's name to a value for each image"
            )
        return {}
    if not isinstance(beside[0], Mapping):
        raise DataError(
            f"{reference}: its columns are {type(beside[0]).__name__}; a mapping from each column's name to a value "
            "for each image is needed, such as a dict"
        )
    with parsing(f"{reference}: its columns"):
        held = dict(beside[0])
    for name in asked:
        if name not in held:
            known = [str(key) for key in held]
            raise DataError(
                f"{reference} returned no column {name!r}, {NAMED}{did_you_mean(name, known)}; its columns are "
                f"{listed(known)}"
            )
    return {name: texts_of(held[name], count, f"{reference}: its column {name!r}") for name in asked}
