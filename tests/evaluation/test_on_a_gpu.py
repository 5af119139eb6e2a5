"""Whole gates on a GPU come out as on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from halves import NETS, halves
from safetensors.torch import save_file
from torch import nn

from robustcheck import load_policy, run
from robustcheck.results import GateResult

GATES = {
    "pgd": "attack: {name: pgd, steps: 10}, epsilon: 20/255",
    "fmn": "attack: {name: fmn, steps: 40}, norm: l2, epsilon: 160/255",
    "square": "attack: {name: square}, epsilon: 26/255, queries: 200",
    "hopskipjump": "attack: {name: hopskipjump}, norm: l2, epsilon: 220/255, queries: 300",
    "patch": "attack: {name: patch, steps: 20, train_on: 0.5}, size: 6 px, goal: missed_finding",
    "conditions": "attack: {name: pgd, steps: 10}, epsilon: 24/255, conditions: {rotation: 5, brightness: 0.05}",
    "transfer": 'attack: {name: transfer, train: {architecture: "nets:small", epochs: 8, learning_rate: 0.02}}, '
    "epsilon: 24/255",
}
DEEP = 257  # 8-bit levels to 16-bit ones


class Small(nn.Module):
    """Tells left from right; flattens as many networks do, which exporters write as Shape, Gather, Concat, Reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.AvgPool2d(4)
        self.head = nn.Linear(24, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.pool(self.norm(self.conv(image)).relu())
        return self.head(features.view(features.shape[0], -1))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network as a state dict and as ONNX, and images of 8 and of 16 bits."""
    folder = tmp_path_factory.mktemp("project")
    (train, known), (test, labels) = halves(160, 0), halves(40, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, images = Small(), torch.from_numpy(train / 255).float()[:, None]
        optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(40):
            loss = nn.functional.cross_entropy(net(images), torch.from_numpy(known[:, 0]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    save_file(net.eval().state_dict(), folder / "net.safetensors")
    torch.onnx.export(
        net, (images[:2],), str(folder / "net.onnx"), dynamo=False, input_names=["image"], output_names=["scores"],
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
    )  # fmt: skip
    assert "Shape" in {node.op_type for node in onnx.load(folder / "net.onnx").graph.node}
    (folder / "nets.py").write_text(NETS)
    for name, kind, factor in (("8", np.uint8, 1), ("16", np.uint16, DEEP)):
        parts = {"train_images": train.astype(kind) * kind(factor), "test_images": test.astype(kind) * kind(factor)}
        np.savez(folder / f"halves{name}.npz", train_labels=known, test_labels=labels, **parts)
    return folder


def _gate(project: Path, device: str, file: str, bits: int, gate: str) -> GateResult:
    architecture = "" if file.endswith(".onnx") else 'architecture: "test_on_a_gpu:Small"'
    (project / "policy.yaml").write_text(f"""
robustcheck: 1
name: Halves
model:
  path: {file}
  task: multiclass
  labels: [left, right]
  positive: right
  device: {device}
  {architecture}
data: {{source: halves{bits}.npz, bits: {bits}}}
gates:
  - {{id: gate, {gate}, require: {{accuracy: 0.9}}}}
""")
    report = run(load_policy(project / "policy.yaml"), folder=project / "out")
    (result,) = report.gates
    assert result.error is None, result.error  # a candidate that could not be loaded ran nowhere
    assert report.environment["device"].startswith(device)
    if file.endswith(".onnx"):
        assert report.model is not None
        assert f"ONNX Runtime on {device.upper()}ExecutionProvider" in report.model.notes
    return result


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("gate", GATES)
def test_a_gate_has_something_to_show(gate, project, tmp_path, monkeypatch):
    """It turns samples where it is compared with."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert _gate(project, "cpu", "net.onnx", 16, GATES[gate]).verdict == "fail"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("file", ["net.safetensors", "net.onnx"])
@pytest.mark.parametrize("gate", GATES)
def test_a_gate_comes_out_as_on_the_cpu(gate, file, bits, project, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # each trains a surrogate of its own
    here = _gate(project, "cpu", file, bits, GATES[gate])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    there = _gate(project, "cuda", file, bits, GATES[gate])
    assert there.verdict == here.verdict == "fail"
    assert there.metrics["accuracy"].value == pytest.approx(here.metrics["accuracy"].value, abs=0.05)
