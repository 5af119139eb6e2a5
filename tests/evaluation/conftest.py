"""What the tests of gates with a patch share."""

from __future__ import annotations

from pathlib import Path

import pytest
from building import brightness_project
from patching import patch_archive


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """Even images of 16×16: a white patch of 8 pixels' side adds 255/4 to three quarters of what was there."""
    brightness_project(tmp_path)
    patch_archive(tmp_path, train=(40, 70, 100, 160, 190, 220))
    return tmp_path
