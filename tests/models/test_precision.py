"""Candidates are asked in full precision, whatever the process has been set to."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
import tiny_models as tiny
import torch
from forking import new_processes
from torch.nn.functional import conv2d

from robustcheck.attacks import objective
from robustcheck.errors import EvaluationError
from robustcheck.models import process_settings
from robustcheck.models.process_settings import full_precision
from robustcheck.threats import Goal

IMAGES = tiny.pictures().shares()
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
LOSS = objective("cross_entropy", Goal(labels=2))


@pytest.fixture
def low_precision():
    """As a training script may have left the process."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def test_the_network_is_asked_in_full_precision(tmp_path, net, low_precision, monkeypatch):
    """Its scores and its gradients; whether a processor makes use of less depends on the processor."""
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    seen, whole = set(), tiny.TinyNet.forward

    def look(self, image):
        seen.add((torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision))
        return whole(self, image)

    monkeypatch.setattr(tiny.TinyNet, "forward", look)
    candidate, _ = tiny.load(tmp_path / "net.safetensors")
    candidate.logits(IMAGES)
    assert seen == {("ieee", "ieee")}
    seen.clear()
    candidate.gradient(IMAGES, LABELS, LABELS, LOSS)
    assert seen == {("ieee", "ieee")}
    assert torch.get_float32_matmul_precision() == "medium"


def test_full_precision_inside_and_what_was_before_outside(low_precision):
    mkldnn = torch.backends.mkldnn
    mkldnn.conv.fp32_precision = "bf16"
    backends = (torch.backends.cuda.matmul, mkldnn.matmul, mkldnn.conv, mkldnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    assert before[1:3] == ["bf16", "bf16"]
    left, right = torch.rand(64, 512), torch.rand(512, 64)
    try:
        with full_precision(tiny.CPU):
            assert [backend.fp32_precision for backend in backends] == ["ieee"] * 4
            exact = (left.double() @ right.double()).float()
            torch.testing.assert_close(left @ right, exact, rtol=1e-5, atol=1e-5)
        assert [backend.fp32_precision for backend in backends] == before
        with pytest.raises(ZeroDivisionError), full_precision(tiny.CPU):
            _ = 1 / 0
        assert [backend.fp32_precision for backend in backends] == before
    finally:
        mkldnn.conv.fp32_precision = "none"


ASKED_OF_ONEDNN = """
import torch
from torch.nn.functional import conv2d
from robustcheck.errors import EvaluationError
from robustcheck.models.process_settings import check_convolutions
images, kernels = torch.rand(4, 32, 16, 16), torch.rand(32, 32, 3, 3)
exact = conv2d(images.double(), kernels.double())
print((conv2d(images, kernels) - exact).abs().max().item() > 1e-4 * exact.max().item())
try:
    print(check_convolutions())
except EvaluationError as error:
    print(error)
"""


def test_convolutions_that_an_environment_sets_to_bfloat16_are_told():
    """In a process of its own, as oneDNN reads it once; it has no bfloat16 on processors without."""
    environment = os.environ | {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}
    run = subprocess.run(
        [sys.executable, "-c", ASKED_OF_ONEDNN], env=environment, capture_output=True, text=True, check=True
    )
    lower, told = run.stdout.splitlines()
    not_float32 = (
        "this machine's convolutions are not in float32 (ONEDNN_DEFAULT_FPMATH_MODE=BF16), so a verdict would not be "
        "either; unset it"
    )
    assert told == (not_float32 if lower == "True" else "None")


def test_a_candidate_on_such_a_machine_is_not_judged(tmp_path, net, monkeypatch):
    def in_bfloat16(images, kernels):
        lower = torch.bfloat16 if images.dtype == torch.float32 else images.dtype
        return conv2d(images.to(lower), kernels.to(lower)).to(images.dtype)

    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    monkeypatch.setattr(process_settings, "conv2d", in_bfloat16)
    process_settings.check_convolutions.cache_clear()
    with pytest.raises(EvaluationError, match=r"not in float32 \(they are off by 3\..e-03\)"):
        tiny.load(tmp_path / "net.safetensors")
    monkeypatch.undo()
    tiny.load(tmp_path / "net.safetensors")


def _precisions():
    """What a user may read of them; None where torch refuses to say, as its two interfaces contradict each other."""
    backends, cudnn, mkldnn = torch.backends, torch.backends.cudnn, torch.backends.mkldnn
    ways = {
        "all": lambda: backends.fp32_precision,
        "cudnn": lambda: cudnn.fp32_precision,
        "products": lambda: backends.cuda.matmul.fp32_precision,
        "convolutions": lambda: cudnn.conv.fp32_precision,
        "recurrent": lambda: cudnn.rnn.fp32_precision,
        "mkldnn": lambda: (mkldnn.matmul.fp32_precision, mkldnn.conv.fp32_precision, mkldnn.rnn.fp32_precision),
        "former products": lambda: backends.cuda.matmul.allow_tf32,
        "former convolutions": lambda: cudnn.allow_tf32,
        "former": torch.get_float32_matmul_precision,
        "flags": lambda: (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
    }
    return {name: _read(way) for name, way in ways.items()}


def _read(way):
    try:
        return way()
    except RuntimeError:
        return None


def _set_precision(named):
    """As users do; one of them sets each of what GPUs go by."""
    backends = torch.backends
    if named == "convolutions":
        backends.cudnn.conv.fp32_precision = "ieee"
    elif named == "all":
        backends.fp32_precision = "tf32"
    elif named == "former":
        torch.set_float32_matmul_precision("medium")
        backends.cudnn.allow_tf32 = True
        backends.cudnn.benchmark = True


def _in_full_precision_under(named):
    _set_precision(named)
    before = _precisions()
    with full_precision(torch.device("cuda")):
        inside = _precisions()
        with full_precision(torch.device("cuda")):
            nested = _precisions()
        after_nested = _precisions()
    after = _precisions()
    torch.backends.fp32_precision = "ieee"  # what was inherited still is
    return before, inside, nested, after_nested, after, _precisions()


@pytest.mark.parametrize("named", ["nothing", "convolutions", "all", "former"])
def test_a_gpus_full_precision_whatever_was_set(named):
    """In a process of its own: to put everything back that is set here is what is tested."""
    with ProcessPoolExecutor(1, mp_context=new_processes()) as pool:
        before, inside, nested, after_nested, after, later = pool.submit(_in_full_precision_under, named).result()
    assert [inside[name] for name in ("products", "convolutions", "recurrent")] == ["ieee"] * 3
    assert inside["mkldnn"] == ("ieee", "ieee", "ieee")
    assert inside["flags"] == (True, False, True)
    assert nested == after_nested == inside
    assert after == before
    if named in ("nothing", "former"):
        assert inside["former convolutions"] is False  # what reads it, as `cudnn.flags` does, goes on working
    if named == "all":
        assert later["products"] == later["recurrent"] == "ieee"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_full_precision_on_a_gpu():
    device = torch.device("cuda")
    left, right = torch.rand(256, 1024, device=device), torch.rand(1024, 256, device=device)
    images, kernels = torch.rand(8, 64, 32, 32, device=device), torch.rand(64, 64, 3, 3, device=device)
    torch.set_float32_matmul_precision("medium")
    before = _precisions()
    try:
        with full_precision(device):
            answer = torch.nn.functional.conv2d(images, kernels)
            torch.testing.assert_close(
                answer, torch.nn.functional.conv2d(images.double(), kernels.double()).float(), rtol=1e-5, atol=1e-4
            )
            exact = (left.double() @ right.double()).float()
            torch.testing.assert_close(left @ right, exact, rtol=1e-5, atol=1e-4)
            assert torch.backends.cudnn.deterministic
        assert _precisions() == before
    finally:
        torch.set_float32_matmul_precision("highest")
