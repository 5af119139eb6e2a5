"""Parts of images that a policy names: boxes for all of them, boxes in a table, a mask, or a folder of masks."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, isfinite
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from robustcheck.data.files import open_files
from robustcheck.data.reading import check_memory, delimiter_of, existing_file, folded, normalised, parsing
from robustcheck.errors import DataError

Mask = NDArray[np.bool_]
Corners = tuple[float, float, float, float]  # left, top, right, bottom

_LOSSLESS = (".png", ".tif", ".tiff")
_COLUMNS = ("path", "left", "top", "right", "bottom")


def load_area(source: str | Sequence[Corners], folder: Path) -> Area:
    """The area that a policy in `folder` names.

    Raises:
        DataError: its file cannot be read.
    """
    if not isinstance(source, str):
        return Boxes(boxes=tuple(source))
    path = folder / source
    if path.suffix.lower() == ".csv":
        return _table(existing_file(path, source), source)
    if path.is_dir():
        return MaskFolder(folder=path, shown=source)
    return OneMask.read(existing_file(path, source), source)


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes that are the same on every image, in shares of its width and height."""

    boxes: tuple[Corners, ...]

    def mask(self, _name: str, height: int, width: int) -> Mask:
        """Every pixel that one of them touches."""
        sides = (width, height, width, height)
        # Exactly: 0.55 of 100 pixels is 55, but in floats a little more, which would touch another pixel.
        written = [[Fraction(str(share)) * side for share, side in zip(box, sides, strict=True)] for box in self.boxes]
        return _touched(written, height, width)


@dataclass(frozen=True, kw_only=True)
class BoxTable:
    """The boxes of each sample, in pixels; a sample without any has no such part."""

    boxes: dict[str, list[Corners]]
    shown: str

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse paths that differ from samples' names only in spelling; other paths may be of another split.

        Raises:
            DataError: there is one.
        """
        meant = {folded(name): name for name in names}
        for path in sorted(self.boxes.keys() - set(names)):
            if (name := meant.get(folded(path))) is not None:
                raise DataError(
                    f"{self.shown}: no sample is called {path!r}, so its boxes would be left out; did you mean "
                    f"{name!r}?"
                )

    def mask(self, name: str, height: int, width: int) -> Mask:
        """Every pixel that one of a sample's boxes touches."""
        for left, top, right, bottom in self.boxes.get(name, []):
            if right <= 0 or bottom <= 0 or left >= width or top >= height:
                raise DataError(
                    f"the box [{left:g}, {top:g}, {right:g}, {bottom:g}] of {name} lies outside of its image of "
                    f"{height}×{width} pixels (height × width)"
                )
        return _touched(self.boxes.get(name, []), height, width)


@dataclass(frozen=True, kw_only=True)
class MaskFolder:
    """A mask for each sample, `NAME.png` or a TIFF, whose pixels above 0 count; samples without one have none.

    JPEG is not read: its compression leaves pixels above 0 around edges.
    """

    folder: Path
    shown: str

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse masks whose names differ only in spelling from those that samples' masks have; see `BoxTable`.

        Raises:
            DataError: there is one.
        """
        called = {str(file): name for name in names for file in _masks_of(name)}
        meant = {folded(file): file for file in called}
        for folder, _, files in os.walk(self.folder):
            for path in sorted((Path(folder) / file).relative_to(self.folder).as_posix() for file in files):
                if path not in called and (file := meant.get(folded(path))) is not None:
                    raise DataError(
                        f"{self.shown}: no sample has a mask called {path!r}, so it would be left out; the mask of "
                        f"{called[file]} is called {file!r}"
                    )

    def mask(self, name: str, height: int, width: int) -> Mask:
        """The pixels of its own mask."""
        for file in _masks_of(name):
            if (self.folder / file).is_file():
                mask = open_files([(str(file), self.folder / file)]).image(0).any(axis=0)
                if mask.shape != (height, width):
                    raise DataError(
                        f"{self.shown}/{file} is a mask of {mask.shape[0]}×{mask.shape[1]} pixels (height × width), "
                        f"but its image has {height}×{width}: store it at the image's own size"
                    )
                return np.asarray(mask)
        return np.zeros((height, width), bool)


@dataclass(frozen=True, kw_only=True)
class OneMask:
    """One mask for every image, enlarged or shrunk to it."""

    pixels: Mask

    @classmethod
    def read(cls, path: Path, shown: str) -> OneMask:
        """The brighter pixels of a picture of two levels; where it has more, nothing says which are meant.

        Raises:
            DataError: it has more, or cannot be read.
        """
        levels = open_files([(shown, path)]).image(0).max(axis=0)
        found = np.unique(levels)
        if len(found) > 2:
            raise DataError(
                f"{shown} has {len(found)} grey levels, {found[0]} to {found[-1]}; a mask has two: black, and white "
                "for what it covers"
            )
        return cls(pixels=np.asarray(levels > (found[0] if len(found) == 2 else 0)))

    def mask(self, _name: str, height: int, width: int) -> Mask:
        """Each pixel as the mask has it at the same place."""
        rows, columns = (
            (np.arange(to) * 2 + 1) * have // (2 * to)
            for to, have in zip((height, width), self.pixels.shape, strict=True)
        )
        return np.ascontiguousarray(self.pixels[rows][:, columns])


Area: TypeAlias = Boxes | BoxTable | MaskFolder | OneMask
"""A part of each image: `mask` is its pixels (H, W) on a sample of that name and size, or a `DataError` where what
describes it cannot be read, or does not fit the image."""


def _masks_of(name: str) -> list[PurePosixPath]:
    """The files, in a folder of masks, that a sample's mask may lie in; none outside of it."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        return []
    plain = parts if parts.suffix[1:].isdigit() else parts.with_suffix("")  # scanners name files 1.2.840.5
    files = (parts.with_name(f"{parts.name}.png"), plain.with_name(f"{plain.name}.png"), parts)
    return [file for file in files if file.suffix.lower() in _LOSSLESS]


def _touched(boxes: Sequence[Sequence[float | Fraction]], height: int, width: int) -> Mask:
    mask = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        mask[max(0, floor(top)) : max(0, ceil(bottom)), max(0, floor(left)) : max(0, ceil(right))] = True
    return mask


def _table(path: Path, shown: str) -> BoxTable:
    """A .csv with the columns path, left, top, right and bottom: a box in each row, in pixels."""
    with parsing(shown):
        check_memory(8 * path.stat().st_size, shown)
        text = path.read_text("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), strict=True)
        header, rows = [name.strip() for name in reader.fieldnames or ()], [(reader.line_num, row) for row in reader]
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise DataError(f"{shown}: it has no column {missing[0]}; a table of boxes has {', '.join(_COLUMNS)}")
    boxes: dict[str, list[Corners]] = {}
    for line, row in rows:
        cells = {str(name).strip(): value for name, value in row.items()}
        left, top, right, bottom = (_number(cells[name], f"{shown}:{line}: {name}") for name in _COLUMNS[1:])
        if left >= right or top >= bottom:
            raise DataError(f"{shown}:{line}: the box [{left:g}, {top:g}, {right:g}, {bottom:g}] has no area")
        boxes.setdefault(normalised(str(cells["path"]).strip()), []).append((left, top, right, bottom))
    if boxes and max(max(box) for own in boxes.values() for box in own) <= 1:
        raise DataError(f"{shown}: no number is above 1; a table's boxes are in pixels, not in shares of the image")
    return BoxTable(boxes=boxes, shown=shown)


def _number(cell: str | None, where: str) -> float:
    try:
        number = float(cell or "")
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        hint = ", and decimals with a point" if "," in (cell or "") else ""
        raise DataError(f"{where}: found {(cell or 'nothing')!r}; boxes are given in pixels{hint}")
    return number
