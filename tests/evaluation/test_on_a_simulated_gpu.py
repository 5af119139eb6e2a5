"""Whole gates on a GPU that is not there: nothing in its memory meets what lies in the host's."""

from __future__ import annotations

import pytest
import torch
from simulated_gpu import GPU, simulated_gpu
from test_on_a_gpu import GATES, _gate, project

__all__ = ["project"]

ALL = {
    **GATES,
    "apgd": "attack: {name: apgd, steps: 20, loss: dlr}, epsilon: 20/255, goal: missed_finding",
    "ensemble": "attack: {name: ensemble, steps: 10, queries: 60}, epsilon: 16/255",
    "nes": "attack: nes, norm: l2, epsilon: 220/255, queries: 500, oracle: stored",
    "partial_information": "attack: {name: partial_information, k: 1}, epsilon: 40/255, queries: 600",
    "label_only": "attack: label_only, epsilon: 40/255, queries: 600",
    "rays": "attack: rays, epsilon: 26/255, queries: 200",
    "noise": "attack: noise, epsilon: 40/255, queries: 20",
}
FILES = [("net.safetensors", 16), ("net.onnx", 8)]  # for one gate after the other: access to the network is one


def test_what_lies_in_two_places_does_not_meet():
    here = torch.ones(3)
    with simulated_gpu() as memory:
        there = torch.zeros(3, device="cuda")
        assert there.device == GPU
        assert here.device.type == "cpu"
        for step in (lambda: there + here, lambda: torch.cat([here, there]), lambda: here[there.long()]):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                step()
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()
        assert (there + 1)[here.long()].device == GPU  # as PyTorch allows it
        assert (there.view(1, 3) + torch.tensor(2.0)).cpu().numpy().tolist() == [[2.0, 2.0, 2.0]]
        weights = here.to(GPU).requires_grad_()
        before = memory.copied_here
        (gradient,) = torch.autograd.grad(((weights * 2).cpu() * here).sum(), weights)
        assert gradient.device == GPU
        assert memory.copied_here == before + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("gate", "file", "bits"), [(gate, *FILES[number % 2]) for number, gate in enumerate(("pgd", *ALL))]
)
def test_a_gate_comes_out_as_on_the_cpu(gate, file, bits, project, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with simulated_gpu():
        there = _gate(project, "cuda", file, bits, ALL[gate])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    here = _gate(project, "cpu", file, bits, ALL[gate])
    assert there.verdict == here.verdict
    assert there.metrics["accuracy"].value == pytest.approx(here.metrics["accuracy"].value, abs=0.05)
