"""From what a policy says about its data to samples: find the source, take the subset, describe both."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from robustcheck.data import phantom
from robustcheck.data.archive import archive_listing
from robustcheck.data.arrays import array_listing
from robustcheck.data.columns import check_subgroups, counts_of, numbered, small_subgroups
from robustcheck.data.files import FileImages
from robustcheck.data.folder import folder_listing
from robustcheck.data.manifest import manifest_listing
from robustcheck.data.medmnist_archive import medmnist_listing
from robustcheck.data.multilabel import has_finding, names_in
from robustcheck.data.reading import check_memory, existing_file, parsing, storable
from robustcheck.data.samples import Images, Indexes, Listing, Samples, Wanted
from robustcheck.data.subset import spread, stratified
from robustcheck.data.user_callable import callable_listing
from robustcheck.errors import DataError
from robustcheck.policy import DataSpec, ModelSpec
from robustcheck.results import DataInfo
from robustcheck.words import COLUMNS_FROM, FINDINGS_FROM, did_you_mean, listed, plural

_KINDS = ".npz, .csv, a folder of classes, medmnist:NAME, phantom:nodule or module:callable"


def load_samples(data: DataSpec, model: ModelSpec, *, folder: Path, seed: int = 0) -> Samples:
    """The samples that a policy names, checked, in source order.

    Args:
        data: which samples; where it names no split, `.npz`, medmnist and phantom take test, and where it names no
            number, the phantom makes 256.
        model: whose labels they bear; if it is multilabel, several at once or none.
        folder: the policy file's; relative paths start from it.
        seed: what the subset, and the phantom, are drawn by.

    Raises:
        DataError: the data cannot be read, or does not fit the policy.
        UserCodeError: `module:callable` cannot be imported.
        MissingExtraError: `medmnist:NAME` needs its package.
    """
    source, multilabel = data.source, model.task == "multilabel"
    listing = _listing(data, model, folder, seed)
    chosen = _chosen(listing, data, seed, multilabel=multilabel)
    names = _storable([listing.names[index] for index in chosen.tolist()])
    labels = listing.labels[chosen]
    labels.setflags(write=False)
    for column in data.subgroups:
        check_subgroups(column, listing.columns[column], source)
    images = listing.take(chosen)
    columns = {name: tuple(values[index] for index in chosen.tolist()) for name, values in listing.columns.items()}
    groups = None if data.group is None else numbered(columns[data.group])
    subgroups = {column: columns[column] for column in data.subgroups}
    counts = {column: counts_of(values) for column, values in subgroups.items()}
    small = small_subgroups(counts, {column: listing.columns[column] for column in data.subgroups})
    called: list[str | list[str]] = [
        names_in(label, model.labels) if multilabel else model.labels[label] for label in labels.tolist()
    ]
    contents = [images.content_sha256(index) for index in range(len(images))]
    shapes = {images.shape_of(index) for index in range(len(images))}
    bears = has_finding if multilabel else np.equal
    absent = [label for index, label in enumerate(model.labels) if not bears(listing.labels, index).any()]
    info = DataInfo(
        source=source,
        split=listing.split,
        sha256=digest(names, called, images, contents, columns),
        samples=len(names),
        available=len(listing.names),
        by_label={label: int(bears(labels, index).sum()) for index, label in enumerate(model.labels)},
        bits=images.space.bits,
        zero=images.space.zero,
        hounsfield=images.space.hounsfield,
        shape=shapes.pop() if len(shapes) == 1 else None,
        synthetic=listing.synthetic,
        group=data.group,
        groups=None if groups is None else int(groups.max()) + 1,
        subgroups=counts,
        notes=(
            *listing.notes,
            *images.notes,
            *_copies(names, called, contents),
            *_by_number(listing, labels, model.labels),
            *_untold(listing, absent, model.labels[0]),
            *small,
        ),
    )
    return Samples(
        names=names,
        labels=labels,
        contents=numbered(contents),
        images=images,
        info=info,
        groups=groups,
        group_names=None if data.group is None else columns[data.group],
        subgroups=subgroups,
        absent=tuple(absent),
        not_read=tuple(listing.not_read),
    )


def _chosen(listing: Listing, data: DataSpec, seed: int, *, multilabel: bool) -> Indexes:
    """Which samples of a listing are judged (N,), in source order.

    Raises:
        DataError: it has none, or fewer than the policy asks for.
    """
    available, samples = len(listing.names), data.samples
    if available == 0:
        where = f" in split {listing.split}" if listing.split else ""
        raise DataError("; ".join([f"{data.source}: it holds no samples{where}", *listing.notes]))
    if samples is not None and not 0 < samples <= available:
        raise DataError(f"{data.source}: data.samples asks for {samples}; 1 to {available} are available")
    if samples is None or samples == available:
        return np.arange(available, dtype=np.int64)
    return (spread if multilabel else stratified)(listing.names, listing.labels, samples=samples, seed=seed)


def _by_number(listing: Listing, chosen: Indexes, labels: Sequence[str]) -> list[str]:
    """The note on what a source's numbers are taken for, because nothing else shows whether that is meant.

    Labels that are these numbers themselves need no note.
    """
    if not listing.by_number or list(labels) == [str(place) for place in range(len(labels))]:
        return []
    counts = np.bincount(chosen, minlength=len(labels)).tolist()
    told = listed(
        f"{place} is {label} ({plural(count, 'sample')})"
        for place, (label, count) in enumerate(zip(labels, counts, strict=True))
    )
    return [f"labels are numbers, places in model.labels from 0: {told}"]


def _untold(listing: Listing, absent: Sequence[str], first: str) -> list[str]:
    """A note on each label that no sample of the source has, and why if that shows."""
    why = {first: "labels are numbers, which count from 0, but none is 0"} if listing.by_number else listing.without
    return [f"no sample is labelled {label!r}{f': {why[label]}' if label in why else ''}" for label in absent]


def _copies(names: Sequence[str], labels: Sequence[str | list[str]], contents: Sequence[str]) -> list[str]:
    """The notes on samples that store the same as an earlier one: a candidate reads all of them alike."""
    first: dict[str, int] = {}
    copies = [(index, first.setdefault(content, index)) for index, content in enumerate(contents)]
    copies = [(index, origin) for index, origin in copies if index != origin]
    told = {
        "that store the same as an earlier one, and still count": copies,
        "that store the same as one with another label, so that no candidate reads both right": [
            (index, origin) for index, origin in copies if labels[index] != labels[origin]
        ],
    }
    return [
        f"samples {what}: {len(found):,} of {len(names):,}, first {names[found[0][0]]}, as {names[found[0][1]]}"
        for what, found in told.items()
        if found
    ]


def digest(
    names: Sequence[str],
    labels: Sequence[str | list[str]],
    images: Images,
    contents: Sequence[str],
    columns: Mapping[str, Sequence[str]],
) -> str:
    """sha256 over one JSON line for each sample, in source order: [name, label, [C, H, W], content's sha256].

    Where several labels may be present, their list stands for the label. Where the policy names columns, each line ends
    in a mapping, sorted by name, from column to value; without any, it has no such entry.
    A file's content is its bytes; an array's is its pixels, (C, H, W) in C order, little-endian. For files whose
    bytes leave open what their levels are (DICOM, of which a part may be meant, TIFF that are inverted, and pictures
    that are scaled) a line [bits, value of level 0] comes first. So two runs share a digest when they judged the same
    pixels under the same names and labels, whatever else the source holds.
    """
    whole = hashlib.sha256()
    if isinstance(images, FileImages) and images.read_by_space:
        whole.update(f"{json.dumps([images.space.bits, images.space.zero])}\n".encode())
    for index, (name, label) in enumerate(zip(names, labels, strict=True)):
        beside = [{column: columns[column][index] for column in sorted(columns)}] if columns else []
        line = json.dumps([name, label, images.shape_of(index), contents[index], *beside])
        whole.update(f"{line}\n".encode())
    return whole.hexdigest()


def _listing(data: DataSpec, model: ModelSpec, folder: Path, seed: int) -> Listing:
    """Every sample of the source; the one place that knows how a source is told from another."""
    source = data.source
    wanted = Wanted(
        labels=model.labels,
        multilabel=model.task == "multilabel",
        split=data.split,
        bits=data.bits,
        hounsfield=data.hounsfield,
        columns=tuple(dict.fromkeys([*data.subgroups, *([] if data.group is None else [data.group])])),
    )
    kind, colon, name = source.partition(":")
    path, suffix = folder / source, (folder / source).suffix.lower()
    root = folder / data.root if data.root is not None else None
    if colon and kind == "medmnist":
        _no_columns(source, wanted.columns)
        return medmnist_listing(name, wanted, folder=root)
    if suffix == ".csv":
        existing_file(path, source)
        if root is not None and not _is_folder(root, source):
            raise DataError(f"{source}: data.root is {data.root}, but there is no such folder beside the policy")
        return manifest_listing(path, wanted, root=root or path.parent)
    if (colon and kind == "phantom") or (suffix != ".npz" and _is_folder(path, source)):
        if wanted.multilabel:
            raise DataError(f"{source}: it has one label per image; a multilabel task takes {FINDINGS_FROM}")
        _no_columns(source, wanted.columns)
    if colon and kind == "phantom":
        listing = _phantom(name, wanted, samples=data.samples, seed=seed)
    elif suffix == ".npz":
        listing = archive_listing(existing_file(path, source), wanted)
    elif _is_folder(path, source):
        listing = folder_listing(path, wanted)
    elif colon and not re.match(r"[A-Za-z]:[\\/]", source):
        listing = callable_listing(source, wanted, folder=folder)
    else:
        raise DataError(f"{source}: there is no such folder, and it is none of {_KINDS}{_beside(folder, source)}")
    unused = () if data.root is None else ("data.root is not used: it is about medmnist and .csv sources",)
    return replace(listing, notes=(*listing.notes, *unused))


def _no_columns(source: str, asked: Sequence[str]) -> None:
    if asked:
        raise DataError(
            f"{source}: it has no columns, but data.group or data.subgroups names {asked[0]!r}; {COLUMNS_FROM} can "
            "have them"
        )


def _phantom(name: str, wanted: Wanted, *, samples: int | None, seed: int) -> Listing:
    labels = wanted.labels
    if name != "nodule":
        raise DataError(f"phantom:{name}: there is no such phantom{did_you_mean(name, ['nodule'])}; it has nodule")
    if len(labels) != 2:
        raise DataError(f"phantom:nodule has 2 labels, {listed(phantom.LABELS)}; the policy names {len(labels)}")
    split, count = wanted.split or "test", phantom.DEFAULT_COUNT if samples is None else samples
    check_memory(count * phantom.SIDE**2, "phantom:nodule")
    meant = phantom.meant_by(labels)
    images, numbers = phantom.generate(count, split=split, seed=seed)
    listing = array_listing(
        images,
        np.array([meant.index(label) for label in phantom.LABELS], np.int64)[numbers],
        wanted,
        names=[f"{split}/{index}" for index in range(count)],
        split=split,
        what="phantom:nodule",
    )
    notes = ["the images are synthetic phantoms: results on them say nothing about patients"]
    if meant != tuple(labels):
        notes.append(f"{listed(labels)} stand for the phantom's {listed(meant)}, in this order")
    return replace(listing, synthetic=True, notes=tuple(notes))


def _is_folder(path: Path, source: str) -> bool:
    with parsing(source):
        return path.is_dir()


def _storable(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if a report can hold them."""
    for name in names:
        if not storable(name):
            raise DataError(f"the file name {name!a} cannot be written in a report: rename the file")
    return tuple(names)


def _beside(folder: Path, source: str) -> str:
    return did_you_mean(source, [entry.name for entry in folder.iterdir()] if folder.is_dir() else [])
