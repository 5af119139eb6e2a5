"""Images that lie in files, of one pixel space, decoded one at a time: pictures, or DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcheck.data import dicom, pictures
from robustcheck.data.grouped_faults import Faults, kinds_of
from robustcheck.data.samples import Indexes, PixelSpace, Shape, Stored
from robustcheck.data.spaces import ImageFile, shared_space
from robustcheck.data.used_range import Used, unused
from robustcheck.errors import DataError
from robustcheck.lfs_pointers import if_pointer
from robustcheck.words import plural

KINDS = "PNG, JPEG, TIFF or DICOM"
SUFFIXES = (*pictures.SUFFIXES, *dicom.SUFFIXES)


@dataclass(frozen=True, kw_only=True, eq=False)
class FileImages:
    """Images in files that have the same number of channels."""

    files: tuple[ImageFile, ...]
    space: PixelSpace
    stated: bool  # the policy says how many bits
    grey: frozenset[int] = frozenset()  # which have three channels that are equal, and are read as one
    used: Used = field(default_factory=Used)  # by the images that were decoded

    @property
    def read_by_space(self) -> bool:
        """Whether the bytes of some files leave open what their levels are, so that the pixel space decides."""
        return any(isinstance(file, dicom.Scan) or file.inverted or self._scales(file) for file in self.files)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is peculiar to some of the files, and to how many."""
        named: dict[str, list[str]] = {}
        for index, file in enumerate(self.files):
            for note in (
                *file.notes,
                *([f"store fewer bits, and are scaled to {self.space.bits}"] * self._scales(file)),
                *(["are stored as colour of three equal channels, and read as grey"] * (index in self.grey)),
            ):
                named.setdefault(note, []).append(file.name)
        return tuple(f"{len(names)} files, first {names[0]}, {note}" for note, names in named.items())

    @property
    def late_notes(self) -> tuple[str, ...]:
        """What is known once they are decoded: that they use little of the range, unless the policy says `bits`."""
        note = None if self.stated else unused(self.space, self.used, inverted=any(one.inverted for one in self.files))
        return () if note is None else (note,)

    def _scales(self, file: ImageFile) -> bool:
        return file.depth < self.space.bits and not isinstance(file, dicom.Scan)

    def __len__(self) -> int:
        return len(self.files)

    def shape_of(self, index: int) -> Shape:
        """The shape (C, H, W) that the file's header said at load."""
        channels, height, width = self.files[index].shape
        return 1 if index in self.grey else channels, height, width

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
        if not self.stated and self.space.bits > 8:  # of others there is no note
            self._see(file, levels)
        if index in self.grey:
            levels = levels[:1]
        return np.array(levels, dtype=np.uint8 if space.bits <= 8 else np.uint16, order="C")

    def _see(self, file: ImageFile, levels: NDArray[Any]) -> None:
        """Keep in mind which values of the range it uses, as it stores them."""
        space = self.space
        measured = file.measured(levels, space.zero) if isinstance(file, dicom.Scan) else levels
        low, high = int(measured.min()), int(measured.max())
        if file.inverted:
            low, high = (1 << space.bits) - 1 - high, (1 << space.bits) - 1 - low
        self.used.see(low + space.zero, high + space.zero)


def is_image(path: Path) -> bool:
    """Whether a file is read: by its name or, as DICOM, by how it begins, which is not seen before it is fetched."""
    unnamed = not path.suffix.strip(".0123456789")  # as DICOM often are
    return path.suffix.lower() in SUFFIXES or dicom.is_dicom(path) or (unnamed and if_pointer(path) is not None)


def take_files(
    source: Sequence[tuple[str, Path]], indexes: Indexes, *, bits: int | None, hounsfield: int | None
) -> FileImages:
    """Some of a source's files, (name, path) each, with as many channels as all would have; see `open_files`."""
    chosen = set(indexes.tolist())
    beside = [path for index, path in enumerate(source) if index not in chosen]
    return open_files([source[index] for index in indexes], beside=beside, bits=bits, hounsfield=hounsfield)


def open_files(
    named: Sequence[tuple[str, Path]],
    *,
    beside: Sequence[tuple[str, Path]] = (),
    bits: int | None = None,
    hounsfield: int | None = None,
) -> FileImages:
    """Read the headers of these files, (name, path) each.

    Args:
        named: at least one.
        beside: the source's others, which are not judged.
        bits: as the policy says; without it, as the files say.
        hounsfield: as the policy says, of CT; without it, as the files say.

    Raises:
        DataError: files that are not such images, with every kind of fault; or files that differ in channels or pixel
            space, or contradict `bits` or `hounsfield`.
    """
    files, faults = list[ImageFile](), Faults()
    for name, path in named:
        try:
            files.append(_open(name, path))
        except DataError as error:
            faults.add(name, error)
    sentences, images = faults.sentences(), None
    try:
        if files:
            grey = _stored_as_colour(files, beside)
            space = shared_space(files, bits, hounsfield)
            images = FileImages(files=tuple(files), space=space, stated=bits is not None, grey=grey)
    except DataError as error:
        sentences.append(str(error))
    if images is None or sentences:
        raise DataError("\n".join(sentences))
    return images


def _stored_as_colour(files: Sequence[ImageFile], beside: Sequence[tuple[str, Path]]) -> frozenset[int]:
    """Which files are grey by their pixels but stored as colour, in a source that stores others as grey.

    Whether a subset is judged in one channel does not depend on which files it draws: those beside it count too.

    Raises:
        DataError: files differ in channels, or one that was decoded to find out cannot be.
    """
    coloured = [index for index, file in enumerate(files) if file.shape[0] == 3]
    if not coloured:
        return frozenset()
    if len(coloured) == len(files):
        alike = beside and all(map(_is_grey, files)) and any(map(_is_stored_as_grey, beside))
        return frozenset(coloured if alike else ())
    hint = ""
    if len({file.depth for file in files}) == 1:
        first = next((files[index].name for index in coloured if not _is_grey(files[index])), None)
        if first is None:
            return frozenset(coloured)
        hint = f" ({first} is no grey image: its channels differ)"
    counts = kinds_of(files, lambda file: file.shape[0])
    said = (alike.say(f" has {plural(count, 'channel')}") for count, alike in counts.items())
    raise DataError(f"{' and '.join(said)}: one candidate takes one kind; convert the files{hint}")


def _is_grey(file: ImageFile) -> bool:
    levels = file.levels(file.lowest, file.depth)
    return bool((levels == levels[:1]).all())


def _is_stored_as_grey(named: tuple[str, Path]) -> bool:
    try:
        name, path = named
        return (_open(*named).shape[0] if _is_scan(path) else pictures.channels_of(name, path)) == 1
    except DataError:  # which is said where it is judged
        return False


def _open(name: str, path: Path) -> ImageFile:
    try:
        return dicom.open_scan(name, path) if _is_scan(path) else pictures.open_picture(name, path)
    except DataError:
        if pointer := if_pointer(path):
            raise DataError(f"{name} {pointer}") from None
        raise


def _is_scan(path: Path) -> bool:
    return path.suffix.lower() not in pictures.SUFFIXES and dicom.is_dicom(path)
