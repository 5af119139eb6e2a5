"""`.npz` in the MedMNIST layout: `{split}_images` and `{split}_labels`, and perhaps columns `{split}_{name}`.

Only the members that are needed are read, and only after their headers, because an archive of a kilobyte can
claim a terabyte. Pickled members are never read.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from robustcheck.data.arrays import array_listing
from robustcheck.data.columns import NAMED, texts_of
from robustcheck.data.label_names import are_places, indexes_of
from robustcheck.data.multilabel import readings_of
from robustcheck.data.reading import check_memory, parsing
from robustcheck.data.samples import Listing, Wanted
from robustcheck.errors import DataError
from robustcheck.words import did_you_mean, listed

_WIDENED = 16  # bytes of a label once it is read: an index, and what is compared with it
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others are unpacked without a limit on what comes out
_LONGEST_HEADER = 10_000  # bytes: numpy's own limit, which it looks at after it has read them
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def archive_listing(path: Path, wanted: Wanted) -> Listing:
    """The samples of one split, `test` if none is named; sample i is called `SPLIT/i`.

    Args:
        path: the archive.
        wanted: its split is train, val or test, or whatever the members' names begin with; a column is a member whose
            name goes on with the column's, a text or an integer for each image (N,).

    Raises:
        DataError: no such archive, its members are missing or do not fit each other or the policy.
    """
    split = wanted.split or "test"
    shown = path.name
    with parsing(shown):
        archive = zipfile.ZipFile(path)
    with archive:
        images = _member(archive, f"{split}_images", shown)
        numbers = _member(archive, f"{split}_labels", shown, widened=_WIDENED)
        values = {column: _column(archive, f"{split}_{column}", shown) for column in wanted.columns}
    read = readings_of if wanted.multilabel else indexes_of
    indexes = read(numbers, wanted.labels, f"{shown}: {split}_labels")
    names = [f"{split}/{index}" for index in range(len(indexes))]
    listing = array_listing(images, indexes, wanted, names=names, split=split, what=f"{shown}: {split}_images")
    texts = {column: texts_of(found, len(names), f"{shown}: {split}_{column}") for column, found in values.items()}
    return replace(listing, columns=texts, by_number=not wanted.multilabel and are_places(numbers))


def _column(archive: zipfile.ZipFile, key: str, shown: str) -> NDArray[Any]:
    """Read a member that the policy names, if there is one."""
    held = [name.removesuffix(".npy") for name in archive.namelist()]
    if key not in held:
        meant = did_you_mean(key, [name for name in held if not name.endswith(("_images", "_labels"))])
        raise DataError(f"{shown} has no {key!r}, {NAMED}{meant}; it holds {listed(held)}")
    return _member(archive, key, shown)


def _member(archive: zipfile.ZipFile, key: str, shown: str, *, widened: int = 0) -> NDArray[Any]:
    """Read one array, after its header was checked against the member's size and the memory limit.

    Args:
        archive: that holds it.
        key: its name, without its ending.
        shown: the archive's name.
        widened: bytes that each value takes once it is read, if they are more than are stored.
    """
    what = f"{shown}: {key}"
    found = [name.removesuffix(".npy") for name in archive.namelist()]
    if key not in found:
        raise DataError(f"{shown} has no {key!r}; it holds {listed(found)}")
    with parsing(what):
        info = archive.getinfo(f"{key}.npy")
        if info.compress_type not in _PLAIN:
            raise DataError(
                f"{what} is neither stored nor deflated, as numpy writes it: save the archive with savez_compressed"
            )
        with archive.open(info) as member:
            _check_header(member, info.file_size, what, widened)
        with archive.open(info) as member:
            array: NDArray[Any] = npy.read_array(member, allow_pickle=False)
            return array


def _check_header(member: Any, size: int, what: str, widened: int) -> None:
    """Raise a `DataError` unless a member of this many bytes holds the plain array that its header claims."""
    version = npy.read_magic(member)
    if version not in _HEADERS:
        raise DataError(f"{what}: it is of npy version {version}; 1.0 and 2.0 are allowed")
    length = int.from_bytes(member.peek(4)[: 2 if version == (1, 0) else 4], "little")
    if length > _LONGEST_HEADER:
        raise DataError(f"{what}: its header has {length} bytes, more than an array needs: it is damaged or forged")
    shape, _, dtype = _HEADERS[version](member)
    if dtype.hasobject or dtype.names is not None:
        raise DataError(f"{what} holds {dtype}: only plain arrays are read, pickled objects never; store integers")
    if not dtype.itemsize:  # any shape would fit its bytes
        raise DataError(f"{what} holds {dtype}, whose values take no bytes: the archive is damaged or forged")
    if not shape or min(shape) < 0:
        raise DataError(f"{what} has the shape {shape}; one entry per sample is needed")
    needed, held = math.prod(shape) * dtype.itemsize, size - member.tell()
    if needed != held:
        raise DataError(
            f"{what}: its header claims {needed} bytes (shape {shape}, {dtype}), but {held} are stored: the archive is "
            "damaged or forged"
        )
    check_memory(max(needed, math.prod(shape) * widened), what)
