"""The images that a verdict rests on, as files beside the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from robustcheck.digests import pixels_sha256
from robustcheck.errors import EvaluationError
from robustcheck.results.agreed import CLEAN, COUNTEREXAMPLES, PATCHES
from robustcheck.whole_files import replacing
from robustcheck.words import distinct

_COMPRESSED = 1  # of 9: X-rays take a third of the time, and 3 to 15 % more room


class ImageWriter:
    """Writes counterexamples to `counterexamples/GATE/SAMPLE.png`, a few clean images beside them, and patches.

    With no folder nothing is written; digests are the same.
    """

    def __init__(self, folder: Path | None, gates: Sequence[str]) -> None:
        self._folder = folder
        self._names = _folder_names(gates)

    def counterexample(self, gate: str, sample: int, stored: np.ndarray) -> tuple[str | None, str]:
        """Write a stored image (C, H, W); returns its file, relative to the report's folder, and its pixels' sha256."""
        return self._write(self._names[gate], sample, stored), pixels_sha256(stored)

    def clean(self, sample: int, stored: np.ndarray) -> None:
        """Write a clean image, so that the report can show it beside a counterexample."""
        self._write(CLEAN, sample, stored)

    def patch(self, gate: str, stored: np.ndarray, sample: int | None = None) -> tuple[str | None, str | None, str]:
        """Write a patch (C, S, S), of all images or of a sample.

        Returns:
            Its picture, if there can be one, and its array, relative to the report's folder; and its pixels' sha256.
        """
        name = self._names[gate] if sample is None else f"{self._names[gate]}/{sample:05d}"
        array, picture = self._save(f"{COUNTEREXAMPLES}/{PATCHES}/{name}", stored, None), None
        if (image := _picture(stored)) is not None:
            picture = self._save(f"{COUNTEREXAMPLES}/{PATCHES}/{name}", stored, image)
        return picture, array, pixels_sha256(stored)

    def _write(self, folder: str, sample: int, stored: np.ndarray) -> str | None:
        return self._save(f"{COUNTEREXAMPLES}/{folder}/{sample:05d}", stored, _picture(stored))

    def _save(self, name: str, stored: np.ndarray, image: Image.Image | None) -> str | None:
        """Write a picture, or without one the array, under a name without its ending.

        Raises:
            EvaluationError: the disk is full, or cannot be written to.
        """
        if self._folder is None:
            return None
        name = f"{name}.{'npy' if image is None else 'png'}"
        path = self._folder / name
        try:
            # Not the folder itself: if a run has ended and removed it, a straggler must not make it again.
            for parent in [*Path(name).parents][-2::-1]:
                (self._folder / parent).mkdir(exist_ok=True)
            with replacing(path) as part, part.open("wb") as file:  # workers may write the same clean image
                if image is None:
                    np.save(file, stored, allow_pickle=False)
                else:
                    image.save(file, format="PNG", compress_level=_COMPRESSED)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise EvaluationError(f"cannot write counterexamples to {self._folder / COUNTEREXAMPLES}: {why}") from None
        return name


def _picture(stored: np.ndarray) -> Image.Image | None:
    """A lossless picture of a stored image; None for colour deeper than 8 bits, which PNG by Pillow cannot hold."""
    if stored.shape[0] == 1:
        return Image.fromarray(stored[0])
    return Image.fromarray(np.moveaxis(stored, 0, -1)) if stored.dtype == np.uint8 else None


def _folder_names(gates: Sequence[str]) -> dict[str, str]:
    """A folder per gate: pgd[2/255] -> pgd-2-255; a number separates ids that would share one on some system."""
    plain = [re.sub(r"[^A-Za-z0-9_.]+", "-", gate).strip("-.") or "gate" for gate in gates]
    return dict(zip(gates, distinct(plain, taken=(CLEAN, PATCHES)), strict=True))
