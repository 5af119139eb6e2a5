"""Several findings that are linear in the image: a finding turns at its margin / ‖w‖, in the dual norm (Hölder)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robustcheck import load_policy, run
from robustcheck.results import GateResult

COUNT, SIDE = 60, 8
ARCHITECTURE = """
import torch

class Linear(torch.nn.Module):
    def __init__(self, findings):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(findings, 64))
        self.bias = torch.nn.Parameter(torch.zeros(findings))

    def forward(self, image):
        return (image.flatten(1) - 0.5) @ self.weight.T + self.bias
"""


def _gate(
    folder: Path,
    attack: str,
    *,
    findings: int,
    spread: float,
    batch: int = 64,
    norm: str = "linf",
    faint: bool = False,
    absent: bool = False,
    size: str = "",
) -> tuple[GateResult, np.ndarray, float]:
    """A gate on logits of a standard deviation, each sample's smallest distance, and ε in grey levels.

    Args:
        folder: to work in.
        attack: of the gate.
        findings: how many.
        spread: of the logits.
        batch: images that go through the network together.
        norm: of the ball.
        size: of its patch, in place of a ball.
        faint: the first finding has logits a quarter as large, as has its margin: it is no nearer.
        absent: all findings are, in all samples, and about equally clearly.
    """
    rng = np.random.default_rng(findings)
    images = rng.integers(60 * 257, 196 * 257, (COUNT, SIDE, SIDE)).astype(np.uint16)
    weight = rng.standard_normal((findings, SIDE * SIDE))
    if faint:
        weight[0] /= 4
    raw = (images.reshape(COUNT, -1) / 65535 - 0.5) @ weight.T
    scale = spread / raw.std()
    weight, bias = (weight * scale).astype(np.float32), (-raw.mean(axis=0) * scale).astype(np.float32)
    if absent:
        bias -= 4 * np.float32(spread)
    logits = (images.reshape(COUNT, -1) / 65535 - 0.5) @ weight.T.astype(float) + bias
    length = np.abs(weight).sum(axis=1) if norm == "linf" else np.linalg.norm(weight, axis=1)
    smallest = 65535 * (np.abs(logits) / length).min(axis=1)
    levels = int(np.quantile(smallest, 0.7))
    threat = f"size: {size}" if size else f"norm: {norm}, epsilon: {levels} levels"
    (folder / "linear.py").write_text(ARCHITECTURE)
    save_file({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}, folder / "linear.safetensors")
    np.savez(folder / "linear.npz", test_images=images, test_labels=(logits >= 0).astype(np.uint8))
    (folder / "policy.yaml").write_text(f"""
robustcheck: 1
model:
  path: linear.safetensors
  architecture: linear:Linear
  architecture_args: {{findings: {findings}}}
  task: multilabel
  output: logits
  labels: [{", ".join(f"finding {index}" for index in range(findings))}]
  batch_size: {batch}
data: {{source: linear.npz, bits: 16}}
gates:
  - {{id: gate, attack: {attack}, {threat}, require: {{accuracy: 0}}}}
""")
    (gate,) = run(load_policy(folder / "policy.yaml"), folder=folder / "out").gates
    return gate, smallest, levels


def _broken(gate: GateResult) -> np.ndarray:
    return np.array([outcome.status == "broken" for outcome in gate.samples])


@pytest.mark.parametrize("spread", [0.05, 1, 10])
@pytest.mark.parametrize(("findings", "batch"), [(2, 64), (8, 7), (14, 64)])
@pytest.mark.parametrize("attack", ["{name: pgd, steps: 20}", "{name: apgd, steps: 30}"])
def test_the_default_loss_turns_what_is_within_a_quarter_of_the_optimum(tmp_path, attack, findings, spread, batch):
    gate, smallest, levels = _gate(tmp_path, attack, findings=findings, spread=spread, batch=batch)
    broken = _broken(gate)
    assert broken[smallest * 1.25 <= levels].all()
    assert not broken[smallest > levels].any()
    assert 20 < broken.sum() < COUNT


@pytest.mark.parametrize("spread", [0.05, 10])
@pytest.mark.parametrize("attack", ["{name: pgd, steps: 20}", "{name: apgd, steps: 30}"])
def test_where_all_findings_are_clearly_absent_it_turns_nearly_as_many(tmp_path, attack, spread):
    """They are about equally far away, and pull alike at first."""
    gate, smallest, levels = _gate(tmp_path, attack, findings=14, spread=spread, absent=True)
    broken = _broken(gate)
    assert broken[smallest * 1.25 <= levels].all()
    assert broken.sum() >= 0.8 * (smallest <= levels).sum()


@pytest.mark.parametrize("spread", [0.05, 10])
def test_so_it_does_in_l2(tmp_path, spread):
    gate, smallest, levels = _gate(tmp_path, "{name: apgd, steps: 30}", findings=8, spread=spread, norm="l2")
    broken = _broken(gate)
    assert broken[smallest * 1.25 <= levels].all()
    assert not broken[smallest > levels].any()


@pytest.mark.parametrize("spread", [0.05, 10])
@pytest.mark.parametrize("findings", [2, 8, 14])
def test_a_single_step_turns_the_nearest(tmp_path, findings, spread):
    gate, smallest, levels = _gate(tmp_path, "fgsm", findings=findings, spread=spread)
    broken = _broken(gate)
    assert broken[smallest * 1.25 <= levels].all()
    assert not broken[smallest > levels].any()


@pytest.mark.parametrize("spread", [0.05, 10])
def test_a_finding_that_hardly_moves_hides_few_others(tmp_path, spread):
    """The margin of the nearest finding leaves more."""
    attack = "{{name: pgd, steps: 20, loss: {}}}".format
    gate, smallest, levels = _gate(tmp_path, attack("cross_entropy"), findings=8, spread=spread, faint=True)
    within = smallest * 1.25 <= levels
    left = (~_broken(gate))[within].sum()
    nearest, *_ = _gate(tmp_path, attack("margin"), findings=8, spread=spread, faint=True)
    assert left <= 0.05 * within.sum()
    assert (~_broken(nearest))[within].sum() > 3 * left


def test_a_patch_of_one_image_turns_the_nearest_as_well(tmp_path):
    """With a log-sum-exp of the margins it turned 47, and pulled at all findings to the end."""
    patch = "{name: patch, universal: false, steps: 40, draws: 8}"
    gate, *_ = _gate(tmp_path, patch, findings=8, spread=0.05, size="6%")
    assert _broken(gate).sum() >= 51
