"""An example candidate gets the same verdicts however its samples are batched and ordered; memory is bounded."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robustcheck import load_policy
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.search.searching import Search
from robustcheck.threats import Goal, LinfBall

POLICIES = Path(__file__).parents[2] / "policies"
GATE = "gates:\n  - {id: pgd, attack: {name: pgd, steps: 10}, epsilon: 4/255, require: {accuracy: 0}}\n"
SAMPLES = 200


def _policy(folder: Path, archive: Path, batch: int) -> Path:
    text = (POLICIES / "pneumonia_mnist.yaml").read_text()
    text = text.replace("candidates/pneumonia_hardened", f"{POLICIES}/candidates/pneumonia_hardened")
    text = re.sub(r"root: .*", f"root: {archive.parent}\n  samples: {SAMPLES}", text)
    text = text.replace("  task:", f"  batch_size: {batch}\n  task:")
    (folder / "networks.py").write_text((POLICIES / "networks.py").read_text())
    path = folder / "policy.yaml"
    path.write_text(text[: text.index("gates:")] + GATE)
    return path


def _broken(folder: Path, archive: Path, batch: int, *, shuffled: bool = False) -> set[int]:
    policy = load_policy(_policy(folder, archive, batch))
    setting = Evaluation(policy).setting
    (gate,) = policy.gates
    assert setting.candidate.chunks.limit == batch
    order = (setting.decisions == setting.labels).nonzero().flatten().numpy()
    if shuffled:
        order = np.random.default_rng(0).permutation(order)
    ball, goal = LinfBall(levels=4, maximum=255), Goal(labels=2, positive=1)
    search = Search(gate=gate, setting=setting, ball=ball, goal=goal, family="all")
    search.run(order.tolist(), search.begin())
    return set(setting.memory.ledger.within("all", 4))


@pytest.mark.xrays
def test_batches_of_1_16_and_256_and_shuffled_samples_get_the_same_verdicts(tmp_path, xrays, record_testsuite_property):
    reference = _broken(tmp_path, xrays, 256)
    assert SAMPLES / 15 < len(reference) < SAMPLES / 2
    differing = {
        name: len(reference ^ _broken(tmp_path, xrays, batch, shuffled=shuffled))
        for name, batch, shuffled in (("1", 1, False), ("16", 16, False), ("256 shuffled", 256, True))
    }
    record_testsuite_property(f"verdicts of {SAMPLES} that differ from those at batch 256", str(differing))
    assert max(differing.values()) <= 1, differing  # float reassociation


COARSE = """
import torch

class Coarse(torch.nn.Module):  # as `Brightness`, by a convolution that takes little time
    def __init__(self):
        super().__init__()
        self.means = torch.nn.Conv2d(1, 4, 8, stride=8)

    def forward(self, image):
        excess = 20 * (torch.relu(self.means(image)).flatten(1).mean(dim=1) - 0.5)
        return torch.stack([-excess, excess], dim=1)
"""
MANY = """
robustcheck: 1
model:
  path: coarse.safetensors
  architecture: coarse:Coarse
  task: multiclass
  labels: [dark, bright]
  positive: bright
  device: cpu
data: {source: many.npz}
gates:
  - {id: pgd, attack: {name: pgd, steps: 2}, epsilon: 1/255, require: {accuracy: 0}}
"""
RUN = """
import sys
from benchmarks.memory import peak_mib
from robustcheck import load_policy, run
peaks = [peak_mib()]
def progress(gate, done, of):
    if gate == "pgd" and (len(peaks) == 1 or done >= 5000 and len(peaks) == 2):
        peaks.append(peak_mib())
report = run(load_policy(sys.argv[1]), progress=progress)
(gate,) = report.gates
assert gate.verdict == "pass", gate.error
assert report.data.samples == 20_000, report
assert sum(outcome.evidence == "searched" for outcome in gate.samples) > 0.75 * report.data.samples
print(*peaks, peak_mib())
"""


def _many_images(folder: Path) -> Path:
    """Write 20,000 images of 56x56, a network that reads them, and a policy, of which this is the path."""
    rng = np.random.default_rng(0)
    images = np.repeat(rng.integers(60, 196, (20_000, 1, 1), dtype=np.uint8), 56, axis=1).repeat(56, axis=2)
    images += rng.integers(0, 40, images.shape, dtype=np.uint8)
    labels = (images.mean(axis=(1, 2)) > 127.5).astype(np.uint8)
    np.savez(folder / "many.npz", test_images=images, test_labels=labels[:, None])
    (folder / "coarse.py").write_text(COARSE)
    weights = {"means.weight": torch.full((4, 1, 8, 8), 1 / 64), "means.bias": torch.zeros(4)}
    save_file(weights, folder / "coarse.safetensors")
    path = folder / "policy.yaml"
    path.write_text(MANY)
    return path


def test_memory_is_bounded_by_the_batch_and_not_by_the_number_of_samples(tmp_path):
    command = [sys.executable, "-c", RUN, str(_many_images(tmp_path))]
    done = subprocess.run(command, cwd=POLICIES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # A quarter of the samples have met the largest batch of everything; fewer would not.
    imported, loaded, quarter, peak = map(float, done.stdout.split())
    assert peak < 2048
    # Libraries that are loaded late, and 60 MiB of images in bytes; in floats these would be 180 MiB more.
    assert loaded - imported < 250
    # An outcome comes to 3 KB; a copy of each image in floats would be 180 MiB more.
    assert peak - quarter < 150
