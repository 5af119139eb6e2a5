from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scans import save_scan

from robustcheck.data import Samples, load_samples
from robustcheck.policy import DataSpec, ModelSpec


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Samples]:
    """`load_samples` for a policy in `tmp_path` with the labels normal and sick; other options are its `data`."""

    def call(
        source: str,
        *,
        labels: Sequence[str] = ("normal", "sick"),
        task: str = "multiclass",
        folder: Path = tmp_path,
        seed: int = 0,
        **options: Any,
    ) -> Samples:
        data = DataSpec.model_construct(source=source, **options)  # as it comes: a policy's numbers are checked there
        model = ModelSpec.model_construct(labels=tuple(labels), task=task)
        return load_samples(data, model, folder=folder, seed=seed)

    return call


@pytest.fixture
def scan(tmp_path: Path) -> Callable[..., Path]:
    """Save a DICOM file as `NAME` under `tmp_path`."""

    def build(stored: np.ndarray, *, name: str = "a.dcm", bits: int | None = None, **header: Any) -> Path:
        return save_scan(tmp_path / name, stored, bits=bits, **header)

    return build


@pytest.fixture
def save_picture(tmp_path: Path) -> Callable[..., Path]:
    """Save an array, a Pillow image or a file's bytes under `tmp_path`, making its folders."""

    def save(name: str, picture: Any, **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(picture, bytes):
            path.write_bytes(picture)
        else:
            image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
            image.save(path, **options)
        return path

    return save
