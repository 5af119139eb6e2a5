"""Which GPU a candidate works on, and that one of which PyTorch has no code is not taken."""

from __future__ import annotations

import re

import pytest
import tiny_models as tiny
import torch

from robustcheck.errors import CandidateError
from robustcheck.models import devices


@pytest.fixture
def old_gpu(monkeypatch):
    """A second GPU is the current one, and PyTorch finds it, but has no code for it; returns what it then says."""
    said, zeros = ["CUDA error: no kernel image is available for execution on the device"], torch.zeros

    def made(*sizes, device=None, **options):
        if torch.device(device or "cpu").type == "cuda" and said[0]:
            raise RuntimeError(f"{said[0]}\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.")
        return zeros(*sizes, **options)

    monkeypatch.setattr(torch, "zeros", made)
    for name, answer in {
        "is_available": True,
        "device_count": 2,
        "current_device": 1,
        "get_device_name": "GeForce GTX 750",
        "get_device_capability": (5, 0),
        "get_rng_state_all": [],
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_arguments, answer=answer: answer)
    return said


def test_a_gpu_that_pytorch_has_no_code_for(old_gpu, tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    candidate, _ = tiny.load(tmp_path / "net.safetensors", device="auto")
    gpu = r"its GeForce GTX 750 of compute capability 5\.0 \(CUDA error: no kernel image .* on the device\)"
    assert candidate.device == tiny.CPU
    (note,) = candidate.info.notes
    assert re.fullmatch(f"it runs on the CPU: this machine's PyTorch does not run on {gpu}", note)
    match = f"model.device is cuda:0, but this machine's PyTorch does not run on {gpu}; install a PyTorch that does, or"
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.safetensors", device="cuda:0")


@pytest.mark.parametrize(("name", "index"), [("auto", 1), ("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_it_is_said_which_gpu_is_meant(name, index, old_gpu):
    """Torch would ask the current one where none is named, and ONNX Runtime the first."""
    for old_gpu[0] in ("", "CUDA out of memory"):  # one that is full has code, and a candidate then says so
        assert devices.chosen(name) == (torch.device("cuda", index), ())
