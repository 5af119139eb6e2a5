"""robustcheck on one of the benchmark's candidates: a policy of some gates, and what `run` answers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.candidates import Candidate
from benchmarks.images import LABELS
from robustcheck import load_policy, run
from robustcheck.results import GateResult


def described(candidate: Candidate) -> dict[str, Any]:
    """A candidate's weights and architecture, as a policy's `model` or a `surrogate` says them."""
    return {
        "path": str(candidate.weights),
        "architecture": candidate.architecture,
        "architecture_args": candidate.arguments,
        "preprocess": candidate.preprocess.policy(),
    }


def gated(
    candidate: Candidate,
    gates: Sequence[dict[str, Any]],
    archive: Path,
    *,
    samples: int | None,
    seed: int = 0,
    beside: Sequence[Path] = (),
    kept: Path | None = None,
) -> dict[str, GateResult]:
    """The results of gates, which share nothing, by their ids.

    Args:
        candidate: who is gated.
        gates: as a policy says them; those without a requirement get one that is always met.
        archive: PneumoniaMNIST's.
        samples: how many of its test split; None: all.
        seed: of every draw.
        beside: modules that the policy's other architectures are written in.
        kept: where counterexamples are written.
    """
    with tempfile.TemporaryDirectory() as folder:
        for module in (candidate.module, *beside):
            if module is not None:
                shutil.copy(module, folder)
        model = {"task": "multiclass", "labels": list(LABELS), "positive": LABELS[1], "device": "cpu"}
        policy = {
            "robustcheck": 1,
            "model": {**described(candidate), **model},
            "data": {"source": str(archive), **({"samples": samples} if samples else {})},
            "seed": seed,
            "evidence": "isolated",
            "gates": [{"require": {"accuracy": 0}, **gate} for gate in gates],
        }
        path = Path(folder) / "policy.yaml"
        path.write_text(yaml.safe_dump(policy, sort_keys=False))
        return {gate.id: gate for gate in run(load_policy(path), folder=kept).gates}
