"""What a candidate leaves as it found it, what it counts, and that a GPU says what a CPU says."""

from __future__ import annotations

import os
import random
import re
import resource
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models as tiny
import torch

from robustcheck.attacks import objective
from robustcheck.errors import CandidateError
from robustcheck.models import devices, process
from robustcheck.models.memory import Chunks
from robustcheck.models.process import _CHOSEN, _glibc, freed_memory_kept, full_precision, left_as_found
from robustcheck.threats import Goal

IMAGES = tiny.pictures().shares()
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
LOSS = objective("cross_entropy", Goal(labels=2))
SAVERS = {
    "net.safetensors": tiny.save_safetensors,
    "net.ts": tiny.save_script,
    "net.pt2": tiny.save_exported,
    "net.onnx": tiny.save_onnx_old,
}


@pytest.fixture(params=SAVERS)
def artefact(request, tmp_path, net):
    SAVERS[request.param](net, tmp_path / request.param)
    return tmp_path / request.param


def _state():
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [value.tolist() if isinstance(value, np.ndarray) else value for value in np.random.get_state()],
        "random": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "warnings": list(warnings.filters),
    }


@pytest.mark.parametrize("gradients", [True, False])
def test_the_process_is_left_as_it_was(artefact, gradients):
    with torch.set_grad_enabled(gradients):
        before = _state()
        candidate, _ = tiny.load(artefact)
        assert _state() == before
        candidate.logits(IMAGES)
        if candidate.network.no_gradients is None:
            _, _, gradient = candidate.gradient(IMAGES, LABELS, LABELS, LOSS)
            assert gradient.abs().sum() > 0
        assert _state() == before


def _disturb():
    random.random()
    np.random.rand()
    torch.rand(1)
    torch.set_grad_enabled(False)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_default_dtype(torch.float64)


def _disturb_and_fail():
    _disturb()
    raise ZeroDivisionError


def rude_architecture():
    """What a user's module may do while it builds a network."""
    net = tiny.TinyNet()
    _disturb()
    return net


def test_code_that_changes_the_process_is_undone(tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    before = _state()
    tiny.load(tmp_path / "net.safetensors", architecture="test_candidate_process:rude_architecture")
    assert _state() == before


def test_after_an_error_too():
    before = _state()
    with pytest.raises(ZeroDivisionError), left_as_found():
        _disturb_and_fail()
    assert _state() == before


# --- precision -----------------------------------------------------------------------------------------------------


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
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
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


# --- counting and freezing -----------------------------------------------------------------------------------------


def test_the_meter_counts_samples(artefact):
    asked = []
    candidate, _ = tiny.load(artefact, batch_size=2)
    assert candidate.meter.forward >= 6
    assert candidate.meter.gradient == 0
    before = candidate.meter.forward

    def counting(form):
        return lambda inputs: asked.append(len(inputs)) or form(inputs)

    for name in ("forward", "twin"):  # the twin of an ONNX graph is asked for gradients
        if (form := getattr(candidate.network, name)) is not None:
            object.__setattr__(candidate.network, name, counting(form))
    candidate.logits(IMAGES[:5])
    assert (asked, candidate.meter.forward - before) == ([2, 2, 1], 5)
    if candidate.network.no_gradients is None:
        candidate.gradient(IMAGES[:3], LABELS[:3], LABELS[:3], LOSS)
        assert (asked, candidate.meter.forward - before) == ([2, 2, 1, 2, 1], 8)
        assert candidate.meter.gradient == 3


def test_loading_counts_what_it_asked(tmp_path, net, monkeypatch):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    asked = []
    whole = tiny.TinyNet.forward
    monkeypatch.setattr(tiny.TinyNet, "forward", lambda self, image: asked.append(len(image)) or whole(self, image))
    candidate, _ = tiny.load(tmp_path / "net.safetensors")
    assert candidate.meter.forward == sum(asked)
    assert asked[0] == 6


@pytest.mark.parametrize("name", ["net.safetensors", "net.ts"])
def test_weights_ask_for_no_gradient(name, tmp_path, net):
    SAVERS[name](net, tmp_path / name)
    candidate, _ = tiny.load(tmp_path / name)
    weights = list(candidate.network.forward.parameters())
    assert weights
    assert not any(weight.requires_grad for weight in weights)


def test_each_sample_has_a_gradient_of_its_own(artefact):
    """Neither its size nor its direction depends on who is beside it."""
    candidate, _ = tiny.load(artefact)
    if candidate.network.no_gradients:
        return
    _, _, together = candidate.gradient(IMAGES, LABELS, LABELS, LOSS)
    alone = [candidate.gradient(*(rows[i : i + 1] for rows in (IMAGES, LABELS, LABELS)), LOSS)[2] for i in range(6)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-7)


def test_progress_is_told(tmp_path, net):
    from robustcheck.models import load_candidate

    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    told = []
    load_candidate(
        tiny.spec("net.safetensors", batch_size=4),
        folder=tmp_path,
        samples=tiny.pictures(10),
        progress=lambda done, of: told.append((done, of)),
    )
    assert told == [(4, 10), (8, 10), (10, 10)]


# --- which GPU -----------------------------------------------------------------------------------------------------


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
    match = f"model.device is cuda:0, and this machine's PyTorch does not run on {gpu}; install a PyTorch that does, or"
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.safetensors", device="cuda:0")


@pytest.mark.parametrize(("name", "index"), [("auto", 1), ("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_it_is_said_which_gpu_is_meant(name, index, old_gpu):
    """Torch would ask the current one where none is named, and ONNX Runtime the first."""
    for old_gpu[0] in ("", "CUDA out of memory"):  # one that is full has code, and a candidate then says so
        assert devices.chosen(name) == (torch.device("cuda", index), ())


# --- GPU -----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", SAVERS)
def test_a_gpu_says_what_a_cpu_says(name, tmp_path, net):
    SAVERS[name](net, tmp_path / name)
    torch.set_float32_matmul_precision("medium")  # TF32 where nothing forbids it
    try:
        there, logits = tiny.load(tmp_path / name, device="cuda")
    finally:
        torch.set_float32_matmul_precision("highest")
    here, expected = tiny.load(tmp_path / name)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert logits.device == tiny.CPU
    images = IMAGES.to(there.device)
    torch.testing.assert_close(there.logits(images).cpu(), expected, rtol=1e-4, atol=1e-5)
    if there.device.type == "cuda":
        assert devices.NOTE in there.info.notes
    if there.network.no_gradients is None:
        assert there.device == torch.device("cuda", torch.cuda.current_device())
        labels = LABELS.to(there.device)
        _, _, gradient = there.gradient(images, labels, labels, LOSS)
        _, _, reference = here.gradient(IMAGES, LABELS, LABELS, LOSS)
        torch.testing.assert_close(gradient.cpu(), reference, rtol=1e-3, atol=1e-6)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_random_states_of_a_gpu_are_left_as_they_were():
    before = torch.cuda.get_rng_state()
    with left_as_found():
        torch.rand(4, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)


_KEEPS = _glibc() is not None and not any(name in os.environ for name in _CHOSEN)
keeps = pytest.mark.skipif(not _KEEPS, reason="needs glibc, with its memory thresholds not set in the environment")


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _use_and_free() -> None:
    """1,200 MiB, in blocks of 400."""
    assert sum(float(block[-1]) for block in [torch.ones(100 << 20) for _ in range(3)]) == 3


def _in_a_new_process(function):
    """A failed request for memory, which tests before may have made, moves a thread to memory that is never kept."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function).result()


def _kept_and_given_back():
    before = _resident()
    with freed_memory_kept():
        _use_and_free()
        kept = _resident() - before
    return kept, _resident() - before


@keeps
def test_what_is_freed_is_kept_for_the_next_step_and_given_back_at_the_end():
    kept, left = _in_a_new_process(_kept_and_given_back)
    assert kept > 1100 << 20
    assert left < 100 << 20


def _kept_when_a_batch_does_not_fit():
    before, limits, kept = _resident(), list[int](), list[int]()
    chunks = Chunks(4)

    def does_not_fit(rows: torch.Tensor) -> tuple[torch.Tensor]:
        limits.append(len(rows))
        kept.append(_resident() - before)
        if len(rows) == 4:
            _use_and_free()
            raise MemoryError
        return (rows,)

    with freed_memory_kept():
        chunks(does_not_fit, torch.zeros(4))
    return limits, kept


@keeps
def test_what_is_kept_is_given_back_when_a_batch_does_not_fit():
    limits, kept = _in_a_new_process(_kept_when_a_batch_does_not_fit)
    assert limits == [4, 2, 2]
    assert max(kept) < 100 << 20


def test_thresholds_that_the_user_chose_are_left_alone(monkeypatch):
    asked = list[int]()
    library = SimpleNamespace(mallopt=lambda parameter, _value: asked.append(parameter), malloc_trim=lambda _pad: None)
    monkeypatch.setattr(process, "_glibc", lambda: library)
    for name in _CHOSEN:
        monkeypatch.delenv(name, raising=False)
    with freed_memory_kept():
        assert asked
    asked.clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    with freed_memory_kept():
        pass
    assert asked == []
