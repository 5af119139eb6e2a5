"""How folders and manifests spell a split: `val` is also what they call valid, validation or dev."""

from __future__ import annotations

from collections.abc import Iterable

from robustcheck.errors import DataError
from robustcheck.policy import SPLITS
from robustcheck.words import listed

_SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}


def split_of(name: str) -> str | None:
    """The split that a folder's name, or a row's word for it, stands for; None if it stands for none."""
    return _SPLIT_OF.get(name.lower())


def values_of_split(split: str, names: Iterable[str], what: str) -> list[str]:
    """The word by which a table's rows say that they are of a split, in each case that occurs; none if no row is.

    Args:
        split: as the policy says.
        names: what the rows say.
        what: the table, and where in it they say so, as a message has it.

    Raises:
        DataError: they have several words that may be meant.
    """
    found = sorted({name for name in names if split_of(name) == split})
    if len({name.lower() for name in found}) > 1:
        raise DataError(
            f"{what} {listed(found)} may all mean the split {split}: call the rows that you mean {split}, and the "
            "others something else"
        )
    return found


def folder_of_split(split: str, names: Iterable[str], what: str) -> str | None:
    """The folder of a split: called as the policy says, or else by the only other name that is there; None if none is.

    Args:
        split: as the policy says.
        names: of the folders that there are.
        what: the source, and what the names are, as a message says it.

    Raises:
        DataError: several of the names may be meant.
    """
    found = sorted({name for name in names if split_of(name) == split})
    if split in found:
        return split
    if len(found) > 1:
        raise DataError(f"{what} {listed(found)} may all mean the split {split}: call the one that you mean {split}")
    return found[0] if found else None
