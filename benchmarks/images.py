"""The X-rays that all contenders attack: a stratified part of the test split, as an archive that everyone reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

LABELS = ("normal", "pneumonia")
ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "pneumoniamnist.npz"
"""Where PneumoniaMNIST's archive lies unless the command line says otherwise: beside the project, never in it."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images (N, 1, H, W) as shares of the full range, and labels (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def read(cls, archive: Path, split: str) -> Split:
        """A split of an archive in the MedMNIST layout: `train`, `val` or `test`."""
        with np.load(archive) as held:
            images, labels = held[f"{split}_images"], held[f"{split}_labels"]
        return cls(
            images=torch.from_numpy(images).unsqueeze(1).float() / 255,
            labels=torch.from_numpy(labels.astype(np.int64)).flatten(),
        )

    def __len__(self) -> int:
        return len(self.labels)


def write_part(archive: Path, count: int | None, target: Path) -> int:
    """Write `count` images of the test split (None: all) to an archive of their own; returns how many.

    They lie at equal distances in the split sorted by label, so that each label keeps its share.
    """
    with np.load(archive) as held:
        labels = held["test_labels"].flatten()
    kept = min(count or len(labels), len(labels))
    by_label = np.argsort(labels, kind="stable")
    write_some(archive, np.sort(by_label[np.arange(kept) * len(labels) // kept]), target)
    return kept


def write_some(archive: Path, numbers: Sequence[int] | np.ndarray, target: Path) -> Path:
    """Write the images of the test split that have some numbers to an archive of their own; returns its path."""
    with np.load(archive) as held:
        np.savez(target, test_images=held["test_images"][numbers], test_labels=held["test_labels"][numbers])
    return target
