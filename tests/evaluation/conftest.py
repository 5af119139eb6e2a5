"""What tests of gates share: gates with a patch, and an attack that asks in vain."""

from __future__ import annotations

from pathlib import Path

import pytest
from building import brightness_project
from patching import patch_archive

from robustcheck.attacks.base import one_a_row
from robustcheck.attacks.square import Square


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """Even images of 16×16: a white patch of 8 pixels' side adds 255/4 to three quarters of what was there."""
    brightness_project(tmp_path)
    patch_archive(tmp_path, train=(40, 70, 100, 160, 190, 220))
    return tmp_path


@pytest.fixture
def feeble(monkeypatch):
    """Square asks about next to nothing but the sample, and submits it."""
    monkeypatch.setattr(Square, "ask", lambda _self, state, *_: one_a_row(state["images"]))
    monkeypatch.setattr(Square, "start", lambda _self, _images, clean, *_: {"images": clean})
    monkeypatch.setattr(Square, "learn", lambda _self, state, *_: {"images": state["images"] + 1e-6})
    monkeypatch.setattr(Square, "best", lambda _self, state: state["images"])
