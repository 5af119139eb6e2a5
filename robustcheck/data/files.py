"""Images that lie in files, of one pixel space, decoded one at a time: pictures, or DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustcheck.data import dicom, pictures
from robustcheck.data.samples import Shape, Stored
from robustcheck.errors import DataError

KINDS = "PNG, JPEG, TIFF or DICOM"
SUFFIXES = (*pictures.SUFFIXES, *dicom.SUFFIXES)


class ImageFile(Protocol):
    """A file whose header has been read."""

    @property
    def name(self) -> str:
        """As it is called in its source."""

    @property
    def shape(self) -> Shape:
        """(C, H, W)."""

    @property
    def depth(self) -> int:
        """Bits that it can store."""

    @property
    def lowest(self) -> int:
        """The lowest value that it can store: in Hounsfield units, or as stored."""

    @property
    def hounsfield(self) -> bool:
        """Whether its values are Hounsfield units."""

    @property
    def sha256(self) -> str:
        """Of its bytes."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is peculiar to it; completes "3 files, first a.png, …"."""

    def levels(self, zero: int) -> NDArray[Any]:
        """Its pixels (C, H, W), counted from a value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FileImages:
    """Images in files, of one number of channels."""

    files: tuple[ImageFile, ...]
    bits: int
    zero: int  # the value in the files that level 0 stands for
    hounsfield: int | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is peculiar to files, and to how many."""
        named: dict[str, list[str]] = {}
        for file in self.files:
            for note in file.notes:
                named.setdefault(note, []).append(file.name)
        return tuple(f"{len(names)} files, first {names[0]}, {note}" for note, names in named.items())

    def __len__(self) -> int:
        return len(self.files)

    def shape_of(self, index: int) -> Shape:
        """(C, H, W), as its header said at load."""
        return self.files[index].shape

    def content_sha256(self, index: int) -> str:
        """Digest of the file's bytes."""
        return self.files[index].sha256

    def image(self, index: int) -> Stored:
        """Decode a file: (C, H, W), uint8 or uint16.

        Raises:
            DataError: it cannot be decoded, changed since it was loaded, or holds values that `bits` rules out.
        """
        file = self.files[index]
        levels = file.levels(self.zero)
        if levels.shape != file.shape:
            raise DataError(f"{file.name}: its header says {file.shape}, and it decodes to {levels.shape}")
        low, high, most = int(levels.min()), int(levels.max()), (1 << self.bits) - 1
        if low < 0 or high > most:
            allowed, unit = f"{self.zero} to {self.zero + most}", " HU" if file.hounsfield else ""
            keys = "data.bits and data.hounsfield" if file.hounsfield else "data.bits"
            raise DataError(
                f"{file.name} holds values from {low + self.zero} to {high + self.zero}{unit}; with {self.bits} bits, "
                f"{allowed} are allowed: check {keys}, or store the file anew"
            )
        return np.array(levels, dtype=np.uint8 if self.bits <= 8 else np.uint16, order="C")


def is_image(path: Path) -> bool:
    """Whether a file is one that is read, by its name, or as DICOM by how it begins."""
    return path.suffix.lower() in SUFFIXES or dicom.is_dicom(path)


def open_files(
    named: Sequence[tuple[str, Path]], *, bits: int | None = None, hounsfield: int | None = None
) -> FileImages:
    """Read the headers of these files, (name, path) each.

    Args:
        named: at least one.
        bits: as the policy says; without it, as the files say.
        hounsfield: as the policy says; without it, of CT as the files say.

    Raises:
        DataError: a file that is no such image, or files that differ in channels or pixel space, or contradict `bits`
            or `hounsfield`.
    """
    files = tuple(_open(name, path) for name, path in named)
    first = files[0]
    for file in files:
        if file.shape[0] != first.shape[0]:
            raise DataError(
                f"{file.name} has {_channels(file)} and {first.name} has {_channels(first)}: "
                "one candidate takes one kind; convert the files"
            )
        if file.hounsfield != first.hounsfield:
            words = {True: "is a CT in Hounsfield units", False: "is not"}
            raise DataError(
                f"{file.name} {words[file.hounsfield]} and {first.name} {words[first.hounsfield]}: a budget means one "
                "thing in one pixel space; convert the files"
            )
    if first.hounsfield:
        return _in_hounsfield_units(files, bits, hounsfield)
    for file in files:
        if bits is None and (file.depth, file.lowest < 0) != (first.depth, first.lowest < 0):
            raise DataError(
                f"{file.name} stores {_depth(file)} and {first.name} {_depth(first)}: "
                "a budget means one thing in one pixel space; convert the files"
            )
        if bits is not None and bits > file.depth:
            raise DataError(f"{file.name} stores {file.depth} bits; data.bits is {bits}, which it cannot hold")
    bits = bits or first.depth
    return FileImages(files=files, bits=bits, zero=-(1 << bits - 1) if first.lowest else 0, hounsfield=hounsfield)


def _in_hounsfield_units(files: Sequence[ImageFile], bits: int | None, hounsfield: int | None) -> FileImages:
    """CT of one pixel space, which each file can store.

    Scanners store different ranges, and of 16 signed bits most is never used: a policy may say which part is meant.
    """
    first = files[0]
    for file in files:
        if hounsfield is None and (file.lowest, file.depth) != (first.lowest, first.depth):
            raise DataError(
                f"{file.name} stores {_range(file)} and {first.name} {_range(first)}: a budget means one thing in one "
                "pixel space; say which part they share, such as data.bits: 12 and data.hounsfield: -1024"
            )
    if hounsfield is None and bits not in (None, first.depth):
        raise DataError(
            f"data.bits is {bits}, and {first.name} stores {_range(first)}; say in data.hounsfield where these bits "
            "begin, such as -1024"
        )
    zero = first.lowest if hounsfield is None else hounsfield
    room = min(file.lowest + (1 << file.depth) for file in files) - zero
    bits = bits or max(1, room.bit_length() - 1 if room > 1 else 1)
    most = zero + (1 << bits) - 1
    for file in files:
        if zero < file.lowest or most >= file.lowest + (1 << file.depth):
            raise DataError(
                f"{file.name} stores {_range(file)}, and cannot hold {zero} to {most} HU, which data.bits and "
                "data.hounsfield ask for"
            )
    return FileImages(files=tuple(files), bits=bits, zero=zero, hounsfield=zero)


def _open(name: str, path: Path) -> ImageFile:
    if path.suffix.lower() not in pictures.SUFFIXES and dicom.is_dicom(path):
        return dicom.open_scan(name, path)
    return pictures.open_picture(name, path)


def _channels(file: ImageFile) -> str:
    return "1 channel" if file.shape[0] == 1 else f"{file.shape[0]} channels"


def _depth(file: ImageFile) -> str:
    return f"{file.depth} {'signed ' if file.lowest else ''}bits"


def _range(file: ImageFile) -> str:
    return f"{file.lowest} to {file.lowest + (1 << file.depth) - 1} HU"
