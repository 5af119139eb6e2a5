"""Digests of images, by which reports and data name what was judged."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def pixels_sha256(stored: NDArray[np.integer]) -> str:
    """Digest of the stored integers of an image (C, H, W), little-endian, C order."""
    little = stored.astype(stored.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()
