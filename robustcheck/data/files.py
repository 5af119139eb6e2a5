"""Images that lie in files, of one pixel space, decoded one at a time: pictures, or DICOM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustcheck.data import dicom, pictures
from robustcheck.data.samples import PixelSpace, Shape, Stored
from robustcheck.errors import DataError

KINDS = "PNG, JPEG, TIFF or DICOM"
SUFFIXES = (*pictures.SUFFIXES, *dicom.SUFFIXES)
_ONE_SPACE = "a budget means one thing in one pixel space"


class ImageFile(Protocol):
    """A file whose header has been read."""

    @property
    def name(self) -> str:
        """What it is called in its source."""

    @property
    def shape(self) -> Shape:
        """(C, H, W)."""

    @property
    def depth(self) -> int:
        """Bits that it can store."""

    def holds(self, bits: int) -> bool:
        """Whether its pixels can be read in so many bits."""

    @property
    def lowest(self) -> int:
        """The lowest value that it can store: in Hounsfield units, or as stored."""

    @property
    def hounsfield(self) -> bool:
        """Whether its values are Hounsfield units."""

    @property
    def inverted(self) -> bool:
        """Whether its largest value is black."""

    @property
    def sha256(self) -> str:
        """The digest of its bytes."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is peculiar to it; completes "3 files, first a.png, …"."""

    def levels(self, zero: int, bits: int) -> NDArray[Any]:
        """Its pixels (C, H, W), counted from a value, dark to bright."""


_DIFFERENT: dict[str, Callable[[ImageFile], bool]] = {
    "a CT in Hounsfield units": lambda file: file.hounsfield,
    "of signed values": lambda file: not file.hounsfield and file.lowest < 0,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class FileImages:
    """Images in files, of one number of channels."""

    files: tuple[ImageFile, ...]
    space: PixelSpace

    @property
    def read_by_space(self) -> bool:
        """Whether the bytes of some leave open what their levels are, which the pixel space then decides."""
        return any(isinstance(file, dicom.Scan) or file.inverted or self._scales(file) for file in self.files)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is peculiar to files, and to how many."""
        named: dict[str, list[str]] = {}
        for file in self.files:
            for note in (
                *file.notes,
                *([f"store fewer bits, and are scaled to {self.space.bits}"] * self._scales(file)),
            ):
                named.setdefault(note, []).append(file.name)
        return tuple(f"{len(names)} files, first {names[0]}, {note}" for note, names in named.items())

    def _scales(self, file: ImageFile) -> bool:
        return file.depth < self.space.bits

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
        file, space = self.files[index], self.space
        levels = file.levels(space.zero, space.bits)
        if levels.shape != file.shape:
            raise DataError(f"{file.name}: its header says {file.shape}, and it decodes to {levels.shape}")
        low, high = int(levels.min()) + space.zero, int(levels.max()) + space.zero
        if low < space.zero or high >= space.zero + (1 << space.bits):
            keys = "data.bits and data.hounsfield" if file.hounsfield else "data.bits"
            advice = space.advice(low) if not file.hounsfield else ""
            raise DataError(
                f"{file.name} holds values from {low} to {high}{' when inverted' * file.inverted}; with {space.bits} "
                f"bits, {space if file.hounsfield else space.values} are allowed"
                f"{advice or f': check {keys}, or store the file anew'}"
            )
        return np.array(levels, dtype=np.uint8 if space.bits <= 8 else np.uint16, order="C")


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
        hounsfield: as the policy says, of CT; without it, as the files say.

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
        other = [what for what, differ in _DIFFERENT.items() if differ(file) != differ(first)]
        if other:
            raise DataError(
                f"{file.name} {'is' if _DIFFERENT[other[0]](file) else 'is not'} {other[0]}, unlike {first.name}: "
                f"{_ONE_SPACE}; convert the files"
            )
    if first.hounsfield:
        return FileImages(files=files, space=_of_ct(files, bits, hounsfield))
    for file in files:
        if hounsfield is not None and isinstance(file, dicom.Scan):
            raise DataError(
                f"{file.name} is no CT in Hounsfield units, by its header (modality CT, a rescale slope of 1, "
                "MONOCHROME2); leave data.hounsfield out, or convert the files"
            )
        if bits is None and file.depth != first.depth:
            advice = ", or say data.bits: 8, to which they are scaled" if file.holds(8) and first.holds(8) else ""
            raise DataError(
                f"{file.name} stores {file.depth} bits and {first.name} {first.depth}: {_ONE_SPACE}; convert the files"
                f"{advice}"
            )
        if bits is not None and not file.holds(bits):
            raise DataError(f"{file.name} stores {file.depth} bits; data.bits is {bits}, which it cannot hold")
    bits = bits or first.depth
    zero = -(1 << bits - 1) if first.lowest < 0 else 0
    return FileImages(files=files, space=PixelSpace(bits=bits, zero=zero, hounsfield=hounsfield))


def _of_ct(files: Sequence[ImageFile], bits: int | None, hounsfield: int | None) -> PixelSpace:
    """What CT have in common, which each file can store.

    Scanners store different ranges, and of 16 signed bits most is never used: a policy may say which part is meant.
    """
    first = files[0]
    if bits is not None and hounsfield is not None:
        space = PixelSpace(bits=bits, zero=hounsfield, hounsfield=hounsfield)
    else:
        space = _range(first)
        say = "say data.bits and data.hounsfield both, such as 12 and -1024"
        if hounsfield not in (None, space.zero) or bits not in (None, space.bits):
            raise DataError(f"{first.name} stores {space}; to have a part of that judged, {say}")
        for file in files:
            if _range(file) != space:
                raise DataError(
                    f"{file.name} stores {_range(file)} and {first.name} {space}: {_ONE_SPACE}; to have the part that "
                    f"they share judged, {say}"
                )
    for file in files:
        if space.zero < file.lowest or space.zero + (1 << space.bits) > file.lowest + (1 << file.depth):
            raise DataError(
                f"{file.name} stores {_range(file)}, and cannot hold {space}, which data.bits and data.hounsfield say"
            )
    return space


def _open(name: str, path: Path) -> ImageFile:
    if path.suffix.lower() not in pictures.SUFFIXES and dicom.is_dicom(path):
        return dicom.open_scan(name, path)
    return pictures.open_picture(name, path)


def _channels(file: ImageFile) -> str:
    return "1 channel" if file.shape[0] == 1 else f"{file.shape[0]} channels"


def _range(file: ImageFile) -> PixelSpace:
    """What a CT can store."""
    return PixelSpace(bits=file.depth, zero=file.lowest, hounsfield=file.lowest)
