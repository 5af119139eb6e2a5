"""Beside torchattacks: the same attack, step and candidate, on real X-rays; ours may leave no more accuracy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from robustcheck import load_policy, run
from robustcheck.evaluation.evaluation import Evaluation

torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed (pip install '.[test]')")

POLICIES = Path(__file__).parents[2] / "policies"
LADDER = (1, 2, 4, 8)


def _policy(tmp_path: Path, xrays: Path, which: str, gates: str, samples: str = "") -> Path:
    text = (POLICIES / "pneumonia_mnist.yaml").read_text()
    text = text.replace("candidates/pneumonia_hardened", f"{POLICIES}/candidates/pneumonia_{which}")
    text = re.sub(r"root: .*", f"root: {xrays.parent}\n{samples}", text)
    (tmp_path / "networks.py").write_text((POLICIES / "networks.py").read_text())
    path = tmp_path / "policy.yaml"
    path.write_text(text[: text.index("gates:")] + gates)
    return path


class _AsPeersTakeIt(torch.nn.Module):
    """Preprocessing and network as one module of shares of the full range."""

    def __init__(self, candidate) -> None:
        super().__init__()
        self.network = candidate.network.forward
        self.preprocess = candidate.preprocess

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(self.preprocess(images))


def _theirs(policy: Path, levels: int, steps: int) -> float:
    evaluation = Evaluation(load_policy(policy))
    evaluation.gate(evaluation.policy.gates[0].id)
    setting = evaluation.setting
    model = _AsPeersTakeIt(setting.candidate).eval()
    attack = torchattacks.PGD(model, eps=levels / 255, alpha=2.5 * levels / 255 / steps, steps=steps, random_start=True)
    torch.manual_seed(0)
    right = 0
    for start in range(0, len(setting.samples), 128):
        numbers = range(start, min(start + 128, len(setting.samples)))
        images = torch.stack([torch.from_numpy(setting.samples.image(i)) for i in numbers]).float() / 255
        labels = setting.labels[start : start + 128]
        adversarial = attack(images, labels)
        with torch.no_grad():
            right += int((model(adversarial).argmax(dim=1) == labels).sum())
    return right / len(setting.samples)


@pytest.mark.xrays
@pytest.mark.parametrize("which", ["standard", "hardened"])
def test_a_few_xrays(tmp_path, xrays, which):
    gates = "gates:\n  - {id: pgd, attack: {name: pgd, steps: 10}, epsilon: 4/255, require: {accuracy: 0}}"
    policy = _policy(tmp_path, xrays, which, gates, "  samples: 96")
    ours = run(load_policy(policy)).gates[0].metrics["accuracy"].value
    assert ours <= _theirs(policy, 4, 10) + 1 / 96


@pytest.mark.slow
@pytest.mark.xrays
@pytest.mark.parametrize("which", ["standard", "hardened"])
def test_all_xrays_at_every_budget(tmp_path, xrays, which, record_testsuite_property):
    budgets = ", ".join(f"{levels}/255" for levels in LADDER)
    gates = f"gates:\n  - {{id: pgd, attack: {{name: pgd, steps: 40}}, epsilon: [{budgets}], require: {{accuracy: 0}}}}"
    policy = _policy(tmp_path, xrays, which, gates)
    ours = [gate.metrics["accuracy"].value for gate in run(load_policy(policy)).gates]
    theirs = [_theirs(policy, levels, 40) for levels in LADDER]
    record_testsuite_property(f"{which}: robustcheck, torchattacks", f"{ours}, {theirs}")
    for levels, mine, peer in zip(LADDER, ours, theirs, strict=True):
        assert mine <= peer + 0.003, f"at {levels}/255: {mine:.4f} against torchattacks' {peer:.4f}"
