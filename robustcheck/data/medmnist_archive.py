"""`medmnist:NAME`: an archive of the MedMNIST collection, from a folder that holds it or through its package."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from robustcheck.data.archive import archive_listing
from robustcheck.data.reading import parsing
from robustcheck.data.samples import Listing, Wanted
from robustcheck.errors import DataError, MissingExtraError
from robustcheck.words import did_you_mean, last_line, listed

SPLITS = ("train", "val", "test")


def medmnist_listing(name: str, wanted: Wanted, *, folder: Path | None) -> Listing:
    """The samples of one split, `test` if none is named.

    Args:
        name: the package's flag, such as `pneumoniamnist` (28 x 28) or `pneumoniamnist_64`.
        wanted: its split is train, val or test.
        folder: where the archive may lie already; the package is not imported if it does.

    Raises:
        DataError: no such data set, no such split, the download fails, or the archive does not fit the policy.
        MissingExtraError: the package is needed and not installed.
    """
    source = f"medmnist:{name}"
    split = wanted.split or "test"
    if split not in SPLITS:
        raise DataError(f"{source}: split {split!r} does not exist; it has {', '.join(SPLITS)}")
    if not name.isidentifier():
        raise DataError(
            f"{source}: {name!r} is no name of a MedMNIST data set, such as pneumoniamnist or bloodmnist_64"
        )
    notes = []
    if folder is not None:
        path = folder / f"{name}.npz"
        with parsing(source):
            there = path.is_file()
        if there:
            return archive_listing(path, wanted)
        notes.append(f"root {folder} holds no {path.name}, so the medmnist package's own folder was used")
    path = _downloaded(name, source, split, folder)
    listing = archive_listing(path, wanted)
    return replace(listing, notes=tuple(notes))


def _downloaded(name: str, source: str, split: str, folder: Path | None) -> Path:
    """The archive in the package's own folder, downloaded if it is not there yet."""
    try:
        import medmnist
    except Exception as error:  # noqa: BLE001 - it imports much, and any of that may fail
        if not isinstance(error, ModuleNotFoundError) or error.name != "medmnist":
            raise DataError(f"{source}: the medmnist package cannot be imported: {last_line(error)}") from None
        without = f" (root {folder} holds no {name}.npz)" if folder is not None else ""
        raise MissingExtraError(f"{source}{without}", "medmnist") from None
    flag, _, size = name.partition("_")
    if flag not in medmnist.INFO:
        raise DataError(
            f"{source}: medmnist has no data set {flag!r}{did_you_mean(flag, medmnist.INFO)}; "
            f"it has {listed(medmnist.INFO, limit=30)}"
        )
    kind = getattr(medmnist, medmnist.INFO[flag]["python_class"])
    if size and not (size.isdecimal() and int(size) in kind.available_sizes):
        raise DataError(f"{source}: {flag} has no size {size!r}; it has {listed(kind.available_sizes)}")
    try:
        with redirect_stdout(io.StringIO()):
            data_set = kind(split=split, download=True, size=int(size or 28))
    except Exception as error:  # noqa: BLE001 - the package raises what its downloader raises, and more
        raise DataError(
            f"{source}: the archive could not be downloaded ({type(error).__name__}): get {name}.npz from "
            f"{medmnist.HOMEPAGE} and name its folder as data.root"
        ) from None
    return Path(data_set.root) / f"{flag}{data_set.size_flag}.npz"
