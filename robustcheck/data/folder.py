"""A folder whose subfolders are classes: `folder/LABEL/image.png`, or `folder/SPLIT/LABEL/image.png`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustcheck.data.escapes import NO_ESCAPE, Home
from robustcheck.data.files import KINDS, is_image, take_files
from robustcheck.data.label_names import as_labelled
from robustcheck.data.reading import parsing
from robustcheck.data.samples import Listing, Wanted
from robustcheck.data.splits import folder_of_split, split_of
from robustcheck.errors import DataError
from robustcheck.words import did_you_mean, listed

# Images of other kinds, by their last ending: medical ones, compressed ones, and what cameras and browsers save.
_OTHER_IMAGES = frozenset(
    {".avif", ".bmp", ".gif", ".gz", ".heic", ".heif", ".hdr", ".j2k", ".jp2", ".jxl", ".mha", ".mhd", ".mnc", ".nii"}
    | {".npy", ".npz", ".nrrd", ".pgm", ".pnm", ".ppm", ".svs", ".webp", ".zip"}
)


def folder_listing(root: Path, wanted: Wanted) -> Listing:
    """Every image of every class, sorted by name; an image is called by its path in the folder.

    Args:
        root: the folder.
        wanted: its split is a subfolder, if there is one that is called so or similarly; see `splits`.

    Raises:
        DataError: subfolders that are not labels, or a file that lies elsewhere.
    """
    with parsing(root.name):
        return _listing(root, wanted)


def _listing(root: Path, wanted: Wanted) -> Listing:
    labels, split = wanted.labels, wanted.split
    notes, base = list[str](), root
    folders = [entry.name for entry in _visible(root) if entry.is_dir() and entry.name not in labels]
    own = None if split is None else folder_of_split(split, folders, f"{root}: the subfolders")
    if own is not None:
        base = root / own
        notes += [f"split {split} is the subfolder {own}"] if own != split else []
    classes = [entry for entry in _visible(base) if entry.is_dir()]
    called = {entry: as_labelled(entry.name, labels) for entry in classes}
    unknown = [name for name in called.values() if name not in labels]
    if split is not None and base == root:
        if any(map(split_of, unknown)):
            raise DataError(f"{root}: it has no subfolder {split!r}; there are {listed(e.name for e in classes)}")
        notes.append(f"{root.name} has no subfolder {split}: all its images are one split")
    if not classes:
        raise DataError(f"{base}: it has no subfolders; one per label is needed, named {listed(labels)}")
    if unknown:
        advice = "; name one in data.split" if any(map(split_of, unknown)) else did_you_mean(unknown[0], labels)
        raise DataError(
            f"{base}: its subfolders are {listed(entry.name for entry in classes)}, and the policy's labels are "
            f"{listed(labels)}: a subfolder must bear a label's name{advice}"
        )
    entries = [(entry, name, _is_image(entry)) for label, name in called.items() for entry in _visible(label)]
    images = [(entry, label) for entry, label, shows in entries if shows]
    others = [(entry, label) for entry, label, shows in entries if not shows]
    beside = [*(entry for entry, _ in others), *(entry for entry in _visible(base) if not entry.is_dir())]
    notes += _left_out(beside, root)
    absent = set(called.values()) - {label for _, label in images}
    files = [(entry.relative_to(root).as_posix(), entry) for entry, _ in images]
    _refuse_escapes(files, root)
    return Listing(
        names=[name for name, _ in files],
        labels=np.array([labels.index(label) for _, label in images], np.int64),
        take=lambda indexes: take_files(files, indexes, bits=wanted.bits, hounsfield=wanted.hounsfield),
        split=split if base != root else None,
        notes=tuple(notes),
        not_read=_left_out(
            [entry for entry in beside if entry.is_dir() or entry.suffix.lower() in _OTHER_IMAGES], root
        ),
        without={
            label: "; ".join(
                _left_out([entry for entry, own in others if own == label], root) or ["its folder is empty"]
            )
            for label in absent
        },
    )


def _left_out(entries: Sequence[Path], root: Path) -> list[str]:
    """The notes on entries that are no samples, and why."""
    folders = [entry.relative_to(root).as_posix() for entry in entries if entry.is_dir()]
    others = [entry.relative_to(root).as_posix() for entry in entries if not entry.is_dir()]
    told = (
        ("folder inside a class, which is not searched,", "folders inside classes, which are not searched,", folders),
        (f"entry that is not {KINDS}", f"entries that are not {KINDS}", others),
    )
    return [
        f"{len(names):,} {f'{many} were' if names[1:] else f'{one} was'} left out: {listed(names, limit=3)}"
        for one, many, names in told
        if names
    ]


def _visible(folder: Path) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _is_image(entry: Path) -> bool:
    # Neither a pipe nor a link to one: reading it would not end. A link to nothing is reported when it is read, and
    # links that lead out by `_refuse_escapes`.
    return (entry.is_file() or (entry.is_symlink() and not entry.exists())) and is_image(entry)


def _refuse_escapes(files: Sequence[tuple[str, Path]], root: Path) -> None:
    home = Home(root)
    for name, path in files:
        inside = home.folder(path.parent.relative_to(root).as_posix())
        if inside is None or (path.is_symlink() and not home.holds(path.resolve())):
            raise DataError(f"{name} is a link out of {root}: {NO_ESCAPE}; copy it there")
