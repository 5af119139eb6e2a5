"""Images whose distance from the other label is known to the grey level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIDE = 16
MARGINS = (1, 2, 3, 5, 6, 7, 10, 12, 14, 20, 24, 28)
"""Grey levels: an image of margin m is turned by a change of every pixel by more than m + 1/2, and by none less."""

REPEATS = 6  # images of each margin and label
LABELS = ("below", "above")


def template() -> NDArray[np.int64]:
    """Signs (16, 16): what is measured is how much brighter an image is where they are +1 than where they are -1."""
    signs = np.where(np.arange(SIDE * SIDE) % 2, 1, -1)
    return np.random.default_rng(7).permutation(signs).reshape(SIDE, SIDE)


def images(_split: str | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 16, 16) of all margins, and labels (N,); what a policy's `source: module:callable` calls."""
    return _with_margins(MARGINS)


def far_images(_split: str | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """As `images`, but only those that no change of nineteen grey levels turns."""
    return _with_margins([margin for margin in MARGINS if margin >= 20])


def robust_share(levels: int) -> float:
    """Share of the images that no change of so many grey levels a pixel turns."""
    return sum(margin >= levels for margin in MARGINS) / len(MARGINS)


def _with_margins(known: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise, shifted along the template until each image has its margin exactly."""
    random, signs = np.random.default_rng(11), template()
    margins = np.tile(np.repeat(known, REPEATS), 2)
    labels = np.repeat([0, 1], len(margins) // 2)
    noise = random.integers(90, 166, size=(len(margins), SIDE, SIDE))
    wanted = np.where(labels, 1, -1) * (2 * margins + 1) * signs.size // 2
    missing = wanted - (noise * signs).sum(axis=(1, 2))
    whole, rest = np.abs(missing) // signs.size, np.abs(missing) % signs.size
    shift = whole[:, None] + (np.arange(signs.size) < rest[:, None])
    shifted = noise + (np.sign(missing)[:, None] * shift * signs.ravel()).reshape(noise.shape)
    return shifted.astype(np.uint8), labels
