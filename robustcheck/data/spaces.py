"""The pixel space that image files share, by their headers and by what the policy says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from robustcheck.data import dicom
from robustcheck.data.grouped_faults import Alike, kinds_of
from robustcheck.data.pictures import Picture
from robustcheck.data.samples import PixelSpace
from robustcheck.data.used_range import USUAL_CT
from robustcheck.errors import DataError

_ONE_SPACE = "a budget means the same only within one pixel space"


ImageFile: TypeAlias = Picture | dicom.Scan
"""A file whose header has been read."""

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
                " is not CT in Hounsfield units, by its header (modality CT, a rescale slope of 1, MONOCHROME2); leave "
                "data.hounsfield out, or convert the files"
            )
        )
    rescaled = kinds_of((file for file in files if isinstance(file, dicom.Scan)), lambda file: file.rescaling)
    if len(rescaled) > 1:
        raise DataError(
            f"{_side_by_side(rescaled, verb='maps stored values by')}: {_ONE_SPACE}, and rescaling is not applied; "
            "convert the files to values of one scale"
        )
    depths = kinds_of(files, lambda file: file.depth)
    if bits is None and len(depths) > 1:
        raise DataError(f"{_side_by_side(depths, ' bits')}: {_ONE_SPACE}; {_to_one_depth(files)}")
    unfit = kinds_of((file for file in files if bits is not None and not file.holds(bits)), lambda file: file.depth)
    if unfit:
        refused = f"bits and cannot hold the {bits} that data.bits asks for"
        raise DataError("\n".join(alike.say(f" stores {depth} {refused}") for depth, alike in unfit.items()))
    bits = bits or first.depth
    return PixelSpace(bits=bits, zero=-(1 << bits - 1) if first.lowest < 0 else 0, hounsfield=hounsfield)


def _side_by_side(stored: Mapping[Any, Alike], unit: str = "", *, verb: str = "stores") -> str:
    """`a.png stores 8 bits and b.png 12`."""
    (first, few), *others = stored.items()
    return " and ".join([few.say(f" {verb} {first}{unit}"), *(alike.say(f" {other}") for other, alike in others)])


def _to_one_depth(files: Sequence[ImageFile]) -> str:
    """Advice on files of several depths: only pictures of few bits are scaled."""
    if all(file.depth <= 8 and file.holds(8) for file in files):
        return "convert the files, or set data.bits: 8, to which they are scaled"
    fewest = min(file.depth for file in files)
    ways = ["convert the files to one depth", "give each depth a policy of its own"]
    if fewest > 8:
        ways.append(f"set data.bits: {fewest} if none of them uses more")
    return f"each is judged as it is stored: {', '.join(ways[:-1])}, or {ways[-1]}"


def _of_ct(files: Sequence[ImageFile], bits: int | None, hounsfield: int | None) -> PixelSpace:
    """The pixel space of CT files.

    Scanners store different ranges, and most of 16 signed bits is never used: a policy may say which part is meant. It
    may be one that some of the files cannot hold: whether their pixels lie in it is seen where they are decoded.
    """
    ranges = kinds_of(files, _span)
    whole = _whole(list(ranges))
    if bits is None or hounsfield is None:
        space = _span(files[0])
        part = _usual_part(list(ranges)) or replace(whole, bits=min(whole.bits, 16))
        say = f"set both data.bits and data.hounsfield, such as {part.bits} and {part.zero}"
        if hounsfield not in (None, space.zero) or bits not in (None, space.bits):
            raise DataError(f"{files[0].name} stores {space}; to have a part of that judged, {say}")
        if len(ranges) > 1:
            raise DataError(f"{_side_by_side(ranges)}: {_ONE_SPACE}; to have one range of all of them judged, {say}")
        return space
    space = PixelSpace(bits=bits, zero=hounsfield, hounsfield=hounsfield)
    if not _holds(whole, space):
        refused = f"but cannot hold {space}, which data.bits and data.hounsfield ask for"
        raise DataError("\n".join(alike.say(f" stores {own}, {refused}") for own, alike in ranges.items()))
    return space


def _span(file: ImageFile) -> PixelSpace:
    """The pixel space of all that a CT can store."""
    return PixelSpace(bits=file.depth, zero=file.lowest, hounsfield=file.lowest)


def _whole(spans: Sequence[PixelSpace]) -> PixelSpace:
    """The smallest pixel space that holds all of them, from their lowest value on; it may need more than 16 bits."""
    zero = min(span.zero for span in spans)
    count = max(span.zero + (1 << span.bits) for span in spans) - zero
    return PixelSpace(bits=(count - 1).bit_length(), zero=zero, hounsfield=zero)


def _usual_part(spans: Sequence[PixelSpace]) -> PixelSpace | None:
    """What CT is usually stored in, if all of them hold it."""
    zero, bits = USUAL_CT
    usual = PixelSpace(bits=bits, zero=zero, hounsfield=zero)
    return usual if all(_holds(span, usual) for span in spans) else None


def _holds(whole: PixelSpace, part: PixelSpace) -> bool:
    return whole.zero <= part.zero and part.zero + (1 << part.bits) <= whole.zero + (1 << whole.bits)
