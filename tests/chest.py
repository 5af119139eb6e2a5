"""Gates on the shipped candidates and real chest X-rays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from robustcheck import load_policy, run
from robustcheck.results import GateResult

POLICIES = Path(__file__).parents[1] / "policies"


def gates_on_xrays(
    folder: Path,
    xrays: Path,
    kind: str,
    gates: Sequence[dict[str, Any]],
    *,
    samples: int = 100,
    suffix: str = ".safetensors",
) -> dict[str, GateResult]:
    """The results of gates that share nothing, by id; counterexamples are in `folder / "out"`."""
    model = {
        "path": str(POLICIES / "candidates" / f"pneumonia_{kind}{suffix}"),
        "task": "multiclass",
        "labels": ["normal", "pneumonia"],
        "positive": "pneumonia",
        "preprocess": {"mean": 0.5, "std": 0.25},
        "device": "cpu",
    }
    if suffix != ".onnx":
        model["architecture"] = "networks:chest_cnn"
    policy = {
        "robustcheck": 1,
        "model": model,
        "data": {"source": str(xrays), "samples": samples},
        "evidence": "isolated",
        "gates": [{"require": {"accuracy": 0}, **gate} for gate in gates],
    }
    (folder / "networks.py").write_bytes((POLICIES / "networks.py").read_bytes())
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    (folder / "out").mkdir(exist_ok=True)
    return {gate.id: gate for gate in run(load_policy(folder / "policy.yaml"), folder=folder / "out").gates}
