"""An example candidate gets the same verdicts however its samples are batched and ordered; memory is bounded."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
assert report.data.samples == 20_000, report
assert gate.verdict == "pass", gate.error
assert sum(outcome.evidence == "searched" for outcome in gate.samples) > 0.75 * report.data.samples
print(*peaks, peak_mib())
"""


def test_memory_is_bounded_by_the_batch_and_not_by_the_number_of_samples(tmp_path):
    text = (POLICIES / "quickstart.yaml").read_text().replace("samples: 200", "samples: 20000")
    text = text.replace("candidates/", f"{POLICIES}/candidates/")
    (tmp_path / "networks.py").write_text((POLICIES / "networks.py").read_text())
    gate = "gates:\n  - {id: pgd, attack: {name: pgd, steps: 2}, epsilon: 1/255, require: {accuracy: 0}}\n"
    (tmp_path / "policy.yaml").write_text(text[: text.index("gates:")] + gate)
    command = [sys.executable, "-c", RUN, str(tmp_path / "policy.yaml")]
    done = subprocess.run(command, cwd=POLICIES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # A quarter of the samples have met the largest batch of everything; fewer would not.
    imported, loaded, quarter, peak = map(float, done.stdout.split())
    assert peak < 2048
    # Libraries that are loaded late, and images in bytes; in floats these would be 240 MiB more.
    assert loaded - imported < 500
    # A counterexample and an outcome come to 10 KB.
    assert peak - quarter < 250
