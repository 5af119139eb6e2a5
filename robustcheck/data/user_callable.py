"""`module:callable`: the user's own function, called with the split, returns images and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcheck.data.arrays import array_listing
from robustcheck.data.findings import readings_of
from robustcheck.data.label_names import indexes_of
from robustcheck.data.reading import parsing
from robustcheck.data.samples import Listing
from robustcheck.errors import DataError
from robustcheck.importing import import_callable
from robustcheck.words import last_line


def callable_listing(
    reference: str, labels: Sequence[str], *, multilabel: bool, folder: Path, split: str | None, bits: int | None
) -> Listing:
    """What the function returns for this split; sample i is called `SPLIT/i`, or `i` without a split.

    Raises:
        ImportProblem: there is no such function.
        DataError: it raises, or what it returns is not (images, labels) of a shape and type that can be judged.
    """
    function = import_callable(reference, folder=folder)
    try:
        returned = function(split)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's function may raise anything
        raise DataError(f"{reference}({split!r}) raised {last_line(error)}") from None
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        raise DataError(f"{reference} returned {type(returned).__name__}; a pair (images, labels) is needed")
    with parsing(f"{reference}: its images"):
        images: NDArray[Any] = np.asarray(returned[0])
    read = readings_of if multilabel else indexes_of
    indexes = read(returned[1], labels, f"{reference}: its labels")
    if images.ndim == 0:
        raise DataError(f"{reference}: its images are {type(returned[0]).__name__}; an array (N, H, W) is needed")
    names = [f"{split}/{index}" if split else str(index) for index in range(len(indexes))]
    return array_listing(images, indexes, bits=bits, names=names, split=split, what=f"{reference}: its images")
