"""The pixel space that image files share, by their headers and by what the policy says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from robustcheck.data import dicom
from robustcheck.data.kinds import Alike, kinds_of
from robustcheck.data.samples import PixelSpace, Shape
from robustcheck.errors import DataError

_ONE_SPACE = "a budget means one thing in one pixel space"


class ImageFile(Protocol):
    """A file whose header has been read."""

    @property
    def name(self) -> str:
        """What its source calls it."""

    @property
    def shape(self) -> Shape:
        """Its shape (C, H, W)."""

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


def shared_space(files: Sequence[ImageFile], bits: int | None, hounsfield: int | None) -> PixelSpace:
    """The pixel space that files share.

    Raises:
        DataError: they share none, or contradict `bits` or `hounsfield`.
    """
    for what, differ in _DIFFERENT.items():
        if len(found := kinds_of(files, differ)) > 1:
            (so, few), (_, most) = found.items()
            said = few.say(f" {'is' if so else 'is not'} {what}, unlike ")
            raise DataError(said + most.say(f": {_ONE_SPACE}; convert the files"))
    first = files[0]
    if first.hounsfield:
        return _of_ct(files, bits, hounsfield)
    scans = kinds_of(files, lambda file: isinstance(file, dicom.Scan))
    if hounsfield is not None and True in scans:
        raise DataError(
            scans[True].say(
                " is no CT in Hounsfield units, by its header (modality CT, a rescale slope of 1, MONOCHROME2); leave "
                "data.hounsfield out, or convert the files"
            )
        )
    depths = kinds_of(files, lambda file: file.depth)
    if bits is None and len(depths) > 1:
        raise DataError(f"{_side_by_side(depths, ' bits')}: {_ONE_SPACE}; {_to_one_depth(files)}")
    unfit = kinds_of((file for file in files if bits is not None and not file.holds(bits)), lambda file: file.depth)
    if unfit:
        refused = f"bits; data.bits is {bits}, which it cannot hold"
        raise DataError("\n".join(alike.say(f" stores {depth} {refused}") for depth, alike in unfit.items()))
    bits = bits or first.depth
    return PixelSpace(bits=bits, zero=-(1 << bits - 1) if first.lowest < 0 else 0, hounsfield=hounsfield)


def _side_by_side(stored: Mapping[Any, Alike], unit: str = "") -> str:
    """`a.png stores 8 bits and b.png 12`."""
    (first, few), *others = stored.items()
    return " and ".join([few.say(f" stores {first}{unit}"), *(alike.say(f" {other}") for other, alike in others)])


def _to_one_depth(files: Sequence[ImageFile]) -> str:
    """Advice on files of several depths: only pictures of few bits are scaled."""
    if all(file.depth <= 8 and file.holds(8) for file in files):
        return "convert the files, or say data.bits: 8, to which they are scaled"
    fewest = min(file.depth for file in files)
    ways = ["convert the files to one depth", "give each depth a policy of its own"]
    if fewest > 8:
        ways.append(f"say data.bits: {fewest} if none of them uses more")
    return f"each is judged as it is stored: {', '.join(ways[:-1])}, or {ways[-1]}"


def _of_ct(files: Sequence[ImageFile], bits: int | None, hounsfield: int | None) -> PixelSpace:
    """The pixel space of CT files, which each of them can store.

    Scanners store different ranges, and of 16 signed bits most is never used: a policy may say which part is meant.
    """
    ranges = kinds_of(files, _span)
    if bits is not None and hounsfield is not None:
        space = PixelSpace(bits=bits, zero=hounsfield, hounsfield=hounsfield)
    else:
        space = _span(files[0])
        say = "say data.bits and data.hounsfield both, such as 12 and -1024"
        if hounsfield not in (None, space.zero) or bits not in (None, space.bits):
            raise DataError(f"{files[0].name} stores {space}; to have a part of that judged, {say}")
        if len(ranges) > 1:
            raise DataError(f"{_side_by_side(ranges)}: {_ONE_SPACE}; to have the part that they share judged, {say}")
    unfit = [
        alike.say(f" stores {own}, and cannot hold {space}, which data.bits and data.hounsfield say")
        for own, alike in ranges.items()
        if space.zero < own.zero or space.zero + (1 << space.bits) > own.zero + (1 << own.bits)
    ]
    if unfit:
        raise DataError("\n".join(unfit))
    return space


def _span(file: ImageFile) -> PixelSpace:
    """The pixel space of all that a CT can store."""
    return PixelSpace(bits=file.depth, zero=file.lowest, hounsfield=file.lowest)
