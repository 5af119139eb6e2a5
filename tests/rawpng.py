"""PNG files byte by byte, of depths that Pillow does not write."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def raw_png(width: int, height: int, rows: bytes, *, bits: int = 8, colour: int = 0) -> bytes:
    """Of rows, each behind the number of its filter; colour is 0 (grey) or 2 (RGB)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def packed(levels: np.ndarray, bits: int) -> bytes:
    """A row of levels (W,) of 1, 2 or 4 bits, which fill whole bytes."""
    return np.packbits(np.unpackbits(levels.astype(np.uint8)[:, None], axis=1)[:, -bits:].ravel()).tobytes()


def grey_png(levels: np.ndarray, bits: int) -> bytes:
    """A grey picture (H, W) of 1, 2 or 4 bits."""
    height, width = levels.shape
    return raw_png(width, height, b"".join(b"\0" + packed(row, bits) for row in levels), bits=bits)
