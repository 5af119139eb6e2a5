"""robustcheck as a contender: a policy, and `run`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.candidates import Candidate
from benchmarks.images import LABELS


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to run robustcheck: keys that a policy may set, beside what all ways share."""

    title: str
    model: dict[str, Any]
    gate: dict[str, Any]


WAYS = {
    "exact": Way(title="robustcheck", model={}, gate={}),
    "descending": Way(title="robustcheck, ladder: descending", model={}, gate={"ladder": "descending"}),
    "full": Way(title="robustcheck, precision: full", model={"precision": "full"}, gate={}),
}


def write_policy(
    path: Path,
    candidate: Candidate,
    way: Way,
    archive: Path,
    *,
    epsilons: list[str],
    steps: int,
    batch: int,
    seed: int,
    samples: int | None = None,
) -> Path:
    """Write a policy that asks for PGD at every ε, and copy the architecture beside it; returns its path."""
    if candidate.module:
        shutil.copy(candidate.module, path.parent)
    policy = {
        "robustcheck": 1,
        "model": {
            "path": str(candidate.weights),
            "architecture": candidate.architecture,
            "architecture_args": candidate.arguments,
            "task": "multiclass",
            "labels": list(LABELS),
            "positive": LABELS[1],
            "preprocess": candidate.preprocess.policy(),
            "device": "cpu",
            "batch_size": batch,
            **way.model,
        },
        "data": {"source": str(archive), **({"samples": samples} if samples else {})},
        "seed": seed,
        "gates": [
            {"id": "clean", "require": {"accuracy": 0}},
            {
                "id": "pgd",
                "attack": {"name": "pgd", "steps": steps},
                "epsilon": epsilons,
                **way.gate,
                "require": {"accuracy": 0},
            },
        ],
    }
    path.write_text(yaml.safe_dump(policy, sort_keys=False))
    return path
