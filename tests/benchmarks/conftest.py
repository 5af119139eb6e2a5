from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.images import write_part


@pytest.fixture
def process() -> Iterator[None]:
    """Settings of this process as they were: benchmarks have one to themselves, and set some."""
    threads, drawn, also = torch.get_num_threads(), random.getstate(), np.random.get_state()
    yield
    torch.set_num_threads(threads)
    random.setstate(drawn)
    np.random.set_state(also)
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def part(tmp_path_factory: pytest.TempPathFactory, xrays: Path) -> Path:
    """Eight X-rays, as an archive that contenders are given."""
    path = tmp_path_factory.mktemp("part") / "images.npz"
    assert write_part(xrays, 8, path) == 8
    return path
