"""How much work a compressed image makes for its decoder besides its pixels, checked before anything unpacks it.

Each scan of a JPEG (ITU-T T.81) may change every pixel. A JPEG 2000 codestream (T.800) is cut into parts, precincts and
code-blocks, for each of which a decoder takes memory, and looks at each of them once per layer.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from robustcheck.data.codestream import codestream_start
from robustcheck.errors import DataError

_MOST_SCANS = 100  # libtiff's limit too; progressive files have about 10
_MOST_PARTS = 1 << 20  # the largest image of three channels, in code-blocks of 16 x 16, has 800,000
_MOST_LOOKS = 1 << 25  # at a part, in a layer
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # nothing that a scan's data holds
_END_OF_IMAGE, _SCAN = 0xD9, 0xDA
_STYLE, _OF_ONE_CHANNEL, _TILE_PART, _DATA = 0x52, 0x53, 0x90, 0x93  # COD, COC, SOT, SOD
_HEADS = frozenset({*range(0x50, 0x68), *range(0x72, 0x79), _TILE_PART})  # markers that segments follow on
_PRECINCTS_SAID = 1  # a bit of a style: otherwise they are as large as can be


def check_work(content: bytes, name: str) -> None:
    """Raise a `DataError` if an image asks for more work than any that an encoder makes."""
    if content.startswith(b"\xff\xd8"):
        if (scans := _scans(content)) > _MOST_SCANS:
            raise DataError(f"{name} is a JPEG of {scans} scans, each of which takes work; {_MOST_SCANS} is the limit")
    elif (start := codestream_start(content)) is not None:
        _check_parts(content[start:], name)


def _scans(content: bytes) -> int:
    """The scans of a JPEG up to its end, where decoders stop."""
    count, at = 0, 2
    while (found := _MARKER.search(content, at)) and content[found.start() + 1] != _END_OF_IMAGE:
        at = found.start()
        count += content[at + 1] == _SCAN
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return count


def _check_parts(codestream: bytes, name: str) -> None:
    """Raise a `DataError` if all tiles, in the finest style that a tile or a channel has, have too many parts."""
    right, lower, left, upper, width, height = struct.unpack_from(">6I", codestream, 8)
    (channels,) = struct.unpack_from(">H", codestream, 40)
    size = (right - left, lower - upper)
    tile = tuple(min(max(side, 1), whole) for side, whole in zip((width, height), size, strict=True))
    tiles = -(-size[0] // max(tile[0], 1)) * -(-size[1] // max(tile[1], 1))
    layers = parts = 1
    for marker, segment in _heads(codestream, name):
        if marker == _STYLE:
            layers = max(layers, int.from_bytes(segment[2:4]))
            parts = max(parts, channels * tiles * _parts(segment[5:], tile, said=segment[0] & _PRECINCTS_SAID))
        elif marker == _OF_ONE_CHANNEL:
            style = segment[1 if channels < 257 else 2 :]
            parts = max(parts, channels * tiles * _parts(style[1:], tile, said=style[0] & _PRECINCTS_SAID))
    if parts > _MOST_PARTS or parts * layers > _MOST_LOOKS:
        raise DataError(
            f"{name} is a JPEG 2000 image of {layers} layers in up to {parts} precincts and code-blocks, which is more "
            "work than any image needs: store it uncompressed"
        )


def _heads(codestream: bytes, name: str) -> Iterator[tuple[int, bytes]]:
    """Markers and segments of the main header and of each tile-part's.

    Raises:
        DataError: another marker stands there. Decoders look for the next that they know, each in its own way.
    """
    at, part_end = 2, 0
    while at + 4 <= len(codestream) and codestream[at] == 0xFF and (marker := codestream[at + 1]) != _END_OF_IMAGE:
        if marker == _DATA:
            at = max(part_end, at + 2)
            continue
        if marker not in _HEADS:
            raise DataError(f"{name} is a JPEG 2000 image with an unknown marker (FF{marker:02X}): it is damaged")
        if marker == _TILE_PART:
            part = int.from_bytes(codestream[at + 6 : at + 10])
            part_end = at + part if part else len(codestream)
        length = int.from_bytes(codestream[at + 2 : at + 4])
        yield marker, codestream[at + 4 : at + 2 + length]
        at += 2 + length


def _parts(style: bytes, tile: tuple[int, ...], *, said: int) -> int:
    """Precincts and code-blocks of one channel of one tile.

    Args:
        style: from the number of decomposition levels on, one byte each: levels, both sides of code-blocks, two that do
            not matter, and precincts for each resolution, if they are said.
        tile: its width and height.
        said: whether precincts are stated.
    """
    levels, *blocks = style[0], style[1] + 2, style[2] + 2
    count = 0
    for level in range(levels + 1):
        sides = [-(-side >> levels - level) for side in tile]
        byte = style[5 + level] if said else 0xFF
        precincts = [byte & 15, byte >> 4]
        halved = level > 0  # bands of detail, three of them, are half as wide and high
        most = [min(block, max(precinct - halved, 0)) for block, precinct in zip(blocks, precincts, strict=True)]
        across, down = (_cut(side, precinct) for side, precinct in zip(sides, precincts, strict=True))
        wide, high = (_cut(-(-side >> halved), block) for side, block in zip(sides, most, strict=True))
        count += across * down + (3 if halved else 1) * wide * high
    return count


def _cut(side: int, exponent: int) -> int:
    """Into how many a side is cut by every 2^exponent."""
    return -(-side >> exponent)
