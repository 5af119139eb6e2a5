"""Patches as files: those that a gate has trained, for others to print or use, and those that it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustcheck.data.files import open_files
from robustcheck.data.reading import check_memory, existing_file, parsing
from robustcheck.errors import DataError
from robustcheck.words import plural


def read_patch(name: str, folder: Path, *, bits: int, channels: int) -> tuple[np.ndarray, str]:
    """A patch's values (C, S, S), float32 shares of the full range; and what is peculiar to its file, or nothing.

    A picture of at most 8 bits, for deeper images, has a range of its own; all others are in the images' own grey
    levels. A grey patch is laid on colour images as it is, and one that is stored as colour, of three equal channels,
    is read as grey for grey images, as grey images are that are stored so.

    Args:
        name: of the file, .png or .npy (stored integers, (C, S, S) or (S, S)).
        folder: the policy's.
        bits: stored depth of the images.
        channels: of the images.

    Raises:
        DataError: it cannot be read, or is no patch for these images.
    """
    path = existing_file(folder / name, name)
    own = bits
    if path.suffix.lower() == ".npy":
        with parsing(name):
            check_memory(4 * path.stat().st_size, name)
            stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.ndarray):
            stored.close()
            raise DataError(f"{name} is an archive of arrays (.npz); a patch is one array, as np.save writes it")
        if not np.issubdtype(stored.dtype, np.unsignedinteger) or stored.ndim not in (2, 3):
            raise DataError(
                f"{name} holds {stored.dtype} of shape {stored.shape}; a patch is unsigned integers (channels, side, "
                "side), or (side, side)"
            )
        stored = stored[None] if stored.ndim == 2 else stored
    else:
        picture = open_files([(name, path)])
        stored = picture.image(0)
        own = min(picture.space.bits, bits) if picture.space.bits <= 8 else bits
    count, height, width = stored.shape
    if not stored.size:
        raise DataError(f"{name} holds no pixels: it is of shape {stored.shape}")
    if height != width:
        raise DataError(f"{name} is {height}×{width} pixels (height × width); a patch is square")
    coloured = count == 3 and channels == 1
    if coloured and (stored == stored[:1]).all():
        stored, count, note = stored[:1], 1, "stored as colour of three equal channels, and read as grey"
    else:
        note = ""
    if count not in (1, channels):
        hint = " (it is no grey patch: its channels differ)" if coloured else ""
        raise DataError(f"{name} has {plural(count, 'channel')}, and the images have {channels}{hint}")
    most = (1 << own) - 1
    if int(stored.max()) > most:
        raise DataError(f"{name} holds values up to {int(stored.max())}; with {own} bits, 0 to {most} are allowed")
    shares = stored.astype(np.float32) / most
    return np.repeat(shares, channels, axis=0) if count < channels else shares, note
