"""`.csv` manifest with a header: in each row `path` and `label`, perhaps `split`, and what else the policy names."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from stat import S_ISREG

import numpy as np

from robustcheck.data.columns import NAMED, fault_of
from robustcheck.data.escapes import NO_ESCAPE, Home
from robustcheck.data.files import SUFFIXES, is_image, take_files
from robustcheck.data.label_names import as_labelled
from robustcheck.data.mistakes import Mistakes
from robustcheck.data.multilabel import reading_of, says_none
from robustcheck.data.reading import check_memory, delimiter_of, folded, normalised, parsing
from robustcheck.data.samples import Listing, Wanted
from robustcheck.data.splits import split_of, values_of_split
from robustcheck.errors import DataError
from robustcheck.words import did_you_mean, listed

_NO_IMAGE = f"only {', '.join(SUFFIXES)} are read, and DICOM of any name"

_MOST_COLUMNS = 10_000
_A_ROW = 512  # bytes that a row takes besides what is written in it
_SEPARATOR = re.compile(r"\Asep=[,;\t](?=\r?\n)", re.IGNORECASE)  # a first line that is for Excel alone


@dataclass(frozen=True, kw_only=True, slots=True)  # there may be millions
class Row:
    """A line of the manifest, as it was typed."""

    line: int
    path: str
    label: str
    split: str | None
    values: tuple[str, ...]  # in the columns that are asked for


def manifest_listing(path: Path, wanted: Wanted, *, root: Path) -> Listing:
    """The rows of one split, in the manifest's order; an image is called by the path that its row says.

    Args:
        path: the manifest.
        wanted: its split are the rows whose `split` says so or similarly (see `splits`), where there is that column,
            or all; every row has a value in each of its columns.
        root: the folder that the rows' paths start from and may not leave.

    Raises:
        DataError: every mistake of the manifest at once, with its line.
    """
    split, text = wanted.split, _text(path)
    rows, mistakes, notes = list[Row](), Mistakes(path.name), list[str]()
    for found in _rows(text, path.name, wanted.columns):
        if isinstance(found, Row):
            rows.append(found)
        else:
            mistakes.add(*found)
    has_split = any(row.split is not None for row in rows)
    like = None if has_split or not rows else _like_a_split(text, wanted)
    if split is not None and has_split:
        rows, told = _of_split(rows, split, path.name)
        notes += told
    elif split is not None and like is not None:
        name, found_in = like
        raise DataError(
            f"{path.name}: data.split is {split}, but no column is called split; {name!r} holds {listed(found_in)}: "
            "call it split, or leave data.split out if all rows are meant"
        )
    elif split is not None:
        notes.append(f"{path.name} has no column split: all its rows are one split")
    elif has_split or like is not None:
        name = "split" if like is None else repr(like[0])
        notes.append(f"all rows of {path.name} are used, whatever its column {name} says: data.split names none")
    numbers = (_findings if wanted.multilabel else _label_numbers)(rows, wanted.labels, mistakes)
    notes += _of_empty_labels(rows, wanted, path.name)
    files = _files(rows, root, mistakes)
    values = _values(rows, wanted.columns, mistakes)
    mistakes.refuse()
    return Listing(
        names=[name for name, _ in files],
        labels=np.array(numbers, np.int64),
        take=lambda indexes: take_files(files, indexes, bits=wanted.bits, hounsfield=wanted.hounsfield),
        split=split if has_split else None,
        notes=tuple(notes),
        by_number=not wanted.multilabel and _by_number(rows, wanted.labels),
        columns=values,
    )


def _text(path: Path) -> str:
    with parsing(path.name):
        check_memory(8 * path.stat().st_size, path.name)
        data = path.read_bytes()
        check_memory(8 * len(data) + _A_ROW * data.count(b"\n"), path.name)
        try:
            return _SEPARATOR.sub("", data.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise DataError(f"{path.name}:{line}: it is not UTF-8; save it as CSV UTF-8") from None


def _rows(text: str, shown: str, asked: Sequence[str]) -> Iterator[Row | tuple[int, str]]:
    """Each row, or a mistake: its line and what is wrong."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), strict=True)
    columns: dict[str, int] = {}  # where in a row each stands
    width, line = 0, 1
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield line, f"it cannot be read as CSV from here on: {error}"
            return
        if not any(cell.strip() for cell in cells):
            continue
        if not columns:
            columns, width = _columns(cells, f"{shown}:{line}", asked), len(cells)
        elif len(cells) != width:
            yield line, f"{len(cells)} cells, but the header has {width}"
        else:
            split = cells[columns["split"]].strip() if "split" in columns else None
            path, label = cells[columns["path"]].strip(), cells[columns["label"]].strip()
            values = tuple(cells[columns[name]].strip() for name in asked)
            yield Row(line=line, path=path, label=label, split=split, values=values)
    if not columns:
        raise DataError(f"{shown}: it is empty; a header with the columns path and label is needed")


def _columns(header: Sequence[str], where: str, asked: Sequence[str]) -> dict[str, int]:
    """Where in a row each column stands."""
    if len(header) > _MOST_COLUMNS:
        raise DataError(f"{where}: the header has {len(header):,} columns; at most {_MOST_COLUMNS:,} are read")
    names = [cell.strip() for cell in header]
    for needed in ("path", "label"):
        if needed not in names:
            raise DataError(
                f"{where}: no column {needed!r}{did_you_mean(needed, names)}; the header is {listed(names)}, and "
                "path and label are needed, separated by comma, semicolon or tab"
            )
    for name in asked:
        if name not in names:
            raise DataError(
                f"{where}: no column {name!r}, {NAMED}{did_you_mean(name, names)}; the header is {listed(names)}"
            )
    read = {"path", "label", "split", *asked}
    twice = sorted({name for name in names if name in read and names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: the column {twice[0]!r} appears twice")
    return {name: index for index, name in enumerate(names)}


def _of_split(rows: Sequence[Row], split: str, shown: str) -> tuple[list[Row], list[str]]:
    """The rows of a split, and the notes on how it is spelt and on rows that are of none."""
    splits = sorted({str(row.split) for row in rows})
    own = values_of_split(split, splits, f"{shown}: in its column split")
    if not own:
        raise DataError(f"{shown}: no row's split is {split!r}; the column holds {listed(splits)}")
    notes = []
    if own != [split]:
        notes.append(f"split {split} are the rows of {shown} whose split is {' or '.join(map(repr, own))}")
    lost = [row for row in rows if split_of(str(row.split)) is None]
    if lost:
        said = listed(dict.fromkeys(repr(row.split) if row.split else "empty" for row in lost), limit=3)
        notes.append(
            f"rows of {shown} whose split is not a split's name are left out: {len(lost):,}, first line {lost[0].line} "
            f"(found {said})"
        )
    return [row for row in rows if row.split in own], notes


def _like_a_split(text: str, wanted: Wanted) -> tuple[str, list[str]] | None:
    """A column of another name that seems to hold each row's split, and what it holds; None if there is none.

    Most of its cells are names of splits, or some are and it is called split in another case; and they are not all of
    the one split that may be meant.
    """
    with suppress(csv.Error):  # which is said where the rows are read
        table = _cells(text)
        header = next(table)
        counts = [Counter[str | None]() for _ in header]  # of each column's cells, by the split that they say
        for cells in table:
            for count, cell in zip(counts, cells, strict=True):
                count[split_of(cell) if cell else ""] += 1
        for index, (name, count) in enumerate(zip(header, counts, strict=True)):
            splits = count.keys() - {""}
            all_of_one = len(splits) == 1 and (wanted.split is None or wanted.split in splits)
            named = name.lower() == "split"
            if name in ("path", "label") or (name in wanted.columns and not named):
                continue
            telling = count.total() - count[None] - count[""]
            if not all_of_one and telling > (0 if named else count.total() / 2):
                next(again := _cells(text))
                return name, sorted({cells[index] for cells in again if cells[index]})
    return None


def _cells(text: str) -> Iterator[list[str]]:
    """The header, and each row that is as long."""
    width = 0
    for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), strict=True):
        told = [cell.strip() for cell in cells]
        if any(told) and len(told) == (width := width or len(told)):
            yield told


def _label_numbers(rows: Sequence[Row], labels: Sequence[str], mistakes: Mistakes) -> list[int]:
    """The label of each row, by name; or by number, if every one of them is a number and no name."""
    by_number = _by_number(rows, labels)
    numbers = []
    for row in rows:
        name = as_labelled(row.label, labels)
        if by_number and len(row.label) < 10 and int(row.label) < len(labels):
            numbers.append(int(row.label))
        elif name in labels:
            numbers.append(labels.index(name))
        elif by_number:
            mistakes.add(row.line, f"label {row.label:.40} is out of range: 0 to {len(labels) - 1} are allowed")
        else:
            hint = did_you_mean(row.label, labels)
            mistakes.add(row.line, f"the policy has no label {row.label!r:.60}{hint}; it has {listed(labels)}")
    return numbers


def _by_number(rows: Sequence[Row], labels: Sequence[str]) -> bool:
    return all(row.label not in labels and row.label.isdecimal() for row in rows)


def _findings(rows: Sequence[Row], labels: Sequence[str], mistakes: Mistakes) -> list[int]:
    """The reading of each row, from the names in it."""
    readings = []
    for row in rows:
        try:
            readings.append(reading_of(row.label, labels))
        except ValueError as error:
            mistakes.add(row.line, str(error))
    return readings


def _of_empty_labels(rows: Sequence[Row], wanted: Wanted, shown: str) -> list[str]:
    """The note on cells that are read as no finding but may be missing values, which look the same."""
    labels = wanted.labels
    empty = [row for row in rows if not row.label]
    if not wanted.multilabel or not empty or "" in labels:
        return []
    others = sorted({row.label for row in rows if row.label not in ("", *labels) and says_none(row.label, labels)})
    beside = f", as {listed(others)} is in others" if others else ""
    found = f"{len(empty):,}, first line {empty[0].line}"
    return [f"rows of {shown} whose label is empty are read as no finding{beside}: {found}"]


def _values(rows: Sequence[Row], columns: Sequence[str], mistakes: Mistakes) -> dict[str, tuple[str, ...]]:
    """Each column's values (N,)."""
    for row in rows:
        faults = [(name, fault_of(value)) for name, value in zip(columns, row.values, strict=True)]
        for name, fault in faults:
            if fault:
                mistakes.add(row.line, f"{name} {fault}")
    return {name: tuple(row.values[index] for row in rows) for index, name in enumerate(columns)}


def _files(rows: Sequence[Row], root: Path, mistakes: Mistakes) -> list[tuple[str, Path]]:
    """Name and path of each row's image, which must lie in `root` after every link was followed."""
    files, first_line, beside = [], dict[Path, int](), dict[Path, dict[str, str]]()
    with parsing(str(root)):
        home = Home(root)
    for row in rows:
        try:
            plain = _plain_file(row.path, home)
            resolved = plain or (home.path / row.path).resolve()
            mistake = _path_mistake(row.path, resolved, home, beside, looked_at=plain is not None)
        except (OSError, ValueError, RuntimeError):  # a NUL, a name too long, links in a circle
            mistake = "this path cannot be followed"
        if mistake is None and resolved in first_line:
            mistake = f"the same file as in line {first_line[resolved]}"
        if mistake is not None:
            mistakes.add(row.line, f"{row.path!r:.200}: {mistake}")
            continue
        first_line[resolved] = row.line
        files.append((normalised(row.path), resolved))
    return files


def _plain_file(typed: str, home: Home) -> Path | None:
    """The file that a row's path leads to, if it is one and in `home`; None: look closer.

    On a file server each look-up costs: folders are followed once, and a file is looked at once.
    """
    above, _, name = typed.rpartition("/")
    if os.name == "nt" or "\\" in typed or ":" in typed or typed.startswith("/"):
        return None
    if (known := home.folder(above)) is None:
        return None
    path = known / name
    try:
        return path if S_ISREG(path.lstat().st_mode) else None
    except OSError:
        return None


def _path_mistake(
    typed: str, resolved: Path, home: Home, beside: dict[Path, dict[str, str]], *, looked_at: bool
) -> str | None:
    """What is wrong with a row's path; None if nothing is. `beside` is kept from row to row."""
    if looked_at:
        return None if is_image(resolved) else _NO_IMAGE
    if not typed:
        return "the path is empty"
    absolute = PurePosixPath(typed).is_absolute() or PureWindowsPath(typed).drive
    if absolute or not home.holds(resolved):
        advice = "write it relative to data.root, with /" if absolute else "data.root names another folder"
        return f"it leaves {home.path}: {NO_ESCAPE}; {advice}"
    if not resolved.is_file():
        return f"there is no such file in {home.path}{_meant(typed, resolved, beside)}"
    return None if is_image(resolved) else _NO_IMAGE


def _meant(typed: str, missing: Path, beside: dict[Path, dict[str, str]]) -> str:
    """How the path of a file that is there may be written, as the end of a sentence."""
    if "\\" in typed:
        return "; paths are written with /"
    if missing.is_dir():
        return "; it is a folder"
    folder = missing.parent
    if folder not in beside:
        entries = folder.iterdir() if folder.is_dir() else ()
        beside[folder] = {folded(entry.name): entry.name for entry in entries if entry.is_file()}
    name = beside[folder].get(folded(missing.name))
    return f"; did you mean {str(PurePosixPath(typed).with_name(name))!r}?" if name else ""
