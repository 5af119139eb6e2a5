"""How large a compressed image says it is, read before a decoder trusts that and unpacks it.

JPEG (ITU-T T.81, and T.87 for JPEG-LS) says so in its frame header, JPEG 2000 (T.800) in SIZ, and runs of RLE Lossless
(DICOM PS3.5, annex G) by themselves. What colours a JPEG is in is read here too: JFIF and Adobe's marker say so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

_NO_LENGTH = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})  # markers that stand alone
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # SOF; the three are tables
_SCAN = 0xDA  # SOS: what follows is compressed
_SIZ = b"\xff\x4f\xff\x51"
_RLE_HEADER = 64


def size_of(content: bytes) -> tuple[int, int, int] | None:
    """Height, width and channels of a JPEG, JPEG-LS or JPEG 2000 image; None if it is not one, or does not say."""
    if content.startswith(b"\xff\xd8"):
        return _of_jpeg(content)
    start = codestream_start(content)
    if start is None:
        return None
    right, lower, left, upper = struct.unpack_from(">4I", content, start + 8)
    (channels,) = struct.unpack_from(">H", content, start + 40)
    return lower - upper, right - left, channels


def codestream_start(content: bytes) -> int | None:
    """Where a JPEG 2000 codestream begins, alone or as the first of a JP2 file; None if there is none."""
    start = 0 if content.startswith(_SIZ) else _boxed(content)
    return start if start is not None and content.startswith(_SIZ, start) and len(content) >= start + 42 else None


def _boxed(content: bytes) -> int | None:
    at = 0
    while at + 16 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        header = 16 if length == 1 else 8
        if kind == b"jp2c":
            return at + header
        if length == 1:
            (length,) = struct.unpack_from(">Q", content, at + 8)
        if length < header:  # to the end of the file, or broken
            return None
        at += length
    return None


def _of_jpeg(content: bytes) -> tuple[int, int, int] | None:
    for marker, at in _segments(content):
        if marker in _FRAMES:
            height, width, channels = struct.unpack_from(">2HB", content, at + 5)
            return height, width, channels
    return None


def turned_to_rgb(content: bytes) -> bool:
    """Whether a JPEG of three channels bears Adobe's marker, and libjpeg makes RGB of it.

    Only where there is no such marker does Pillow ask libjpeg for the channels as they are stored.
    """
    jfif, transform = False, None
    for marker, at in _segments(content):
        segment = content[at + 4 : at + 2 + int.from_bytes(content[at + 2 : at + 4])]
        if marker == _SCAN:
            break
        if marker == 0xE0 and segment.startswith(b"JFIF\0"):
            jfif = True
        if marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            transform = segment[11]
    return transform is not None and (jfif or transform != 0)


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG that segments follow, and where each is, up to where something else stands."""
    at = 2
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        elif marker < 0xC0:  # no segment: decoders would look for the next marker somewhere
            return
        else:
            yield marker, at
            at += 2 + int.from_bytes(content[at + 2 : at + 4])


def unpacked_length(content: bytes, most: int) -> int:
    """How many bytes the runs of an RLE Lossless frame stand for; counting stops beyond `most`.

    Raises:
        ValueError: its header is not that of such a frame.
    """
    count, *offsets = struct.unpack_from("<16I", content.ljust(_RLE_HEADER, b"\0"))
    if not 1 <= count <= 15:
        raise ValueError(f"its RLE frame says that it has {count} segments")
    length = 0
    for start, end in pairwise([*offsets[:count], len(content)]):
        at = max(start, _RLE_HEADER)
        while at < min(end, len(content)) and length <= most:
            run = content[at]
            if run < 128:
                length, at = length + run + 1, at + run + 2
            else:
                length, at = length + (257 - run if run > 128 else 0), at + (2 if run > 128 else 1)
    return length
