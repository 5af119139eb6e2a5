"""`medmnist:NAME`: an archive of the MedMNIST collection, from a folder that holds it or through its package."""

from __future__ import annotations

import ast
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from robustcheck.data.archive import archive_listing
from robustcheck.data.reading import parsing
from robustcheck.data.samples import Listing, Wanted
from robustcheck.errors import DataError, MissingExtraError
from robustcheck.words import did_you_mean, last_line, listed


def medmnist_listing(name: str, wanted: Wanted, *, folder: Path | None) -> Listing:
    """The samples of one split, `test` if none is named.

    Args:
        name: the package's flag, such as `pneumoniamnist` (28 x 28) or `pneumoniamnist_64`.
        wanted: its split is train, val or test.
        folder: where the archive may lie already; the package is not imported if it does.

    Raises:
        DataError: no such data set, no such split, the download fails, the archive does not fit the policy, or the
            policy has the labels' names in another order.
        MissingExtraError: the package is needed and not installed.
    """
    source = f"medmnist:{name}"
    split = wanted.split or "test"
    if not name.isidentifier():
        raise DataError(
            f"{source}: {name!r} is not the name of a MedMNIST data set, such as pneumoniamnist or bloodmnist_64"
        )
    _check_order(wanted.labels, _names_of(name.partition("_")[0]), source)
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


def _names_of(flag: str) -> list[str]:
    """What the package calls a data set's labels, by number; none where it is not installed.

    It is read and not imported, which would take long and make a folder.
    """
    try:
        spec = find_spec("medmnist")
        if spec is None or spec.origin is None:
            return []
        code = ast.parse(Path(spec.origin).with_name("info.py").read_text("utf-8"))
        lines = [line for line in code.body if isinstance(line, ast.Assign)]
        said = next(line.value for line in lines if ast.unparse(line.targets[0]) == "INFO")
        names: dict[str, str] = ast.literal_eval(said)[flag]["label"]
        return [names[str(number)] for number in range(len(names))]
    except Exception:  # noqa: BLE001 - another version of it may say so elsewhere, or otherwise
        return []


def _check_order(labels: Sequence[str], names: Sequence[str], source: str) -> None:
    """Refuse labels that are the data set's own names in another order: numbers would be taken for other labels."""
    ours, theirs = [name.casefold() for name in labels], [name.casefold() for name in names]
    if ours != theirs and sorted(ours) == sorted(theirs):
        place = next(place for place, name in enumerate(ours) if name != theirs[place])
        order = sorted(labels, key=lambda name: theirs.index(name.casefold()))
        raise DataError(
            f"{source}: label {place} is {names[place]} there, but model.labels has {labels[place]} at place {place}, "
            f"from 0; write them in the order {listed(order, limit=30)}, and if the network's "
            "scores are in another order, give that in model.scores"
        )


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
