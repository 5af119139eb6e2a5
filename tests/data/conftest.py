from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scans import save_scan

from robustcheck.data import Samples, load_samples


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Samples]:
    """`load_samples` for a policy in `tmp_path` with the labels normal and sick."""

    def call(source: str, **options: Any) -> Samples:
        return load_samples(source, **{"folder": tmp_path, "labels": ["normal", "sick"], **options})

    return call


@pytest.fixture
def scan(tmp_path: Path) -> Callable[..., Path]:
    """Save a DICOM file as `NAME` under `tmp_path`."""

    def build(stored: np.ndarray, *, name: str = "a.dcm", bits: int | None = None, **header: Any) -> Path:
        return save_scan(tmp_path / name, stored, bits=bits, **header)

    return build


@pytest.fixture
def save_picture(tmp_path: Path) -> Callable[..., Path]:
    """Save an array or a Pillow image under `tmp_path`, making its folders."""

    def save(name: str, picture: Any, **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
        image.save(path, **options)
        return path

    return save
