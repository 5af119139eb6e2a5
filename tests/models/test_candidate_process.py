"""What a candidate leaves as it found it, what it counts, and that a GPU says what a CPU says."""

from __future__ import annotations

import random
import sys
import warnings

import numpy as np
import pytest
import tiny_models as tiny
import torch

from robustcheck.attacks import objective
from robustcheck.models import devices
from robustcheck.models.process_settings import fitting_threads, left_as_found
from robustcheck.threats import Goal

IMAGES = tiny.pictures().shares()
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
LOSS = objective("cross_entropy", Goal(labels=2))


@pytest.fixture(params=tiny.SAVERS)
def artefact(request, tmp_path, net):
    tiny.SAVERS[request.param](net, tmp_path / request.param)
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


FINDING_ITSELF = """
import pickle

import tiny_models


class Net(tiny_models.TinyNet):
    pass


def build():
    import siblings_of_ours

    return pickle.loads(pickle.dumps(siblings_of_ours.same(Net())))
"""


def test_code_beside_the_policy_is_found_by_its_name_while_it_builds_a_network(tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    (tmp_path / "nets_of_ours.py").write_text(FINDING_ITSELF)
    (tmp_path / "siblings_of_ours.py").write_text("def same(net):\n    return net\n")
    candidate, _ = tiny.load(tmp_path / "net.safetensors", architecture="nets_of_ours:build")
    files = [file.path for file in candidate.info.files]
    assert files == ["net.safetensors", "nets_of_ours.py", "siblings_of_ours.py"]
    assert not {"nets_of_ours", "siblings_of_ours"} & set(sys.modules)


def test_after_an_error_too():
    before = _state()
    with pytest.raises(ZeroDivisionError), left_as_found():
        _disturb_and_fail()
    assert _state() == before


@pytest.mark.parametrize(
    ("processors", "environment", "threads"),
    [
        (8, {}, 4),
        (3, {}, 3),  # of a container
        (8, {"PYTEST_XDIST_WORKER_COUNT": "4"}, 4),  # the same, and so the same answer, whoever computes it
        (1, {"OMP_NUM_THREADS": "4"}, 4),
        (1, {"MKL_NUM_THREADS": "4"}, 4),
    ],
)
def test_threads_fit_what_the_process_may_have(monkeypatch, processors, environment, threads):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("robustcheck.resources.processors", lambda: processors)
    with left_as_found():
        torch.set_num_threads(4)
        with fitting_threads(), fitting_threads():
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 4
        with pytest.raises(ZeroDivisionError), fitting_threads():
            _ = 1 / 0
        assert torch.get_num_threads() == 4


def test_an_autocast_of_a_network_that_is_trained_casts_the_weights_that_it_has_now():
    weight, one = torch.ones(1, 1, requires_grad=True), torch.ones(1, 1)

    def ask():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.mm(one, weight).item()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        with left_as_found():
            assert ask() == 1
            weight.data.fill_(2)
            assert ask() == 2
        assert torch.mm(one, one).dtype == torch.bfloat16


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
    tiny.SAVERS[name](net, tmp_path / name)
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


# --- GPU -----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", tiny.SAVERS)
def test_a_gpu_says_what_a_cpu_says(name, tmp_path, net):
    tiny.SAVERS[name](net, tmp_path / name)
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
def test_random_states_of_a_gpu_are_left_as_they_were():
    before = torch.cuda.get_rng_state()
    with left_as_found():
        torch.rand(4, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
