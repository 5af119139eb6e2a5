"""A folder in which the example policies can be loaded, and the smallest policy there is."""

from __future__ import annotations

import pytest

SMALLEST = """robustcheck: 1
model: {path: candidate.onnx, task: multiclass, labels: [normal, pneumonia], positive: pneumonia}
data: {source: phantom:nodule}
gates:
  - {id: clean, require: {accuracy: 0.8}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with what policies of the tests name; only whether it is there is looked at."""
    for name in ("candidate.onnx", "candidate.safetensors", "samples.csv", "samples.npz", "images.zip"):
        (tmp_path / name).touch()
    for name in ("images", "images.onnx"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder):
    """Write a policy file (the smallest one by default) and return its path, relative as users type it."""

    def save(content=SMALLEST, name="policy.yaml"):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return save
