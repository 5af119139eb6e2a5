"""robustcheck on one of the benchmark's candidates: a policy of some gates, and what `run` answers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.candidates import Candidate
from benchmarks.images import LABELS
from robustcheck import load_policy, run
from robustcheck.results import GateResult


class UnansweredError(RuntimeError):
    """There is nothing to measure, or gates could not be evaluated; the message says why."""


def described(candidate: Candidate) -> dict[str, Any]:
    """A candidate's weights and architecture, as a policy's `model` or a `surrogate` says them."""
    return {
        "path": str(candidate.weights),
        "architecture": candidate.architecture,
        "architecture_args": candidate.arguments,
        "preprocess": candidate.preprocess.policy(),
    }


def write_policy(
    path: Path,
    candidate: Candidate,
    gates: Sequence[dict[str, Any]],
    archive: Path,
    *,
    model: dict[str, Any] | None = None,
    samples: int | None = None,
    seed: int = 0,
    evidence: Literal["shared", "isolated"] = "shared",
    health: Literal["strict", "warn"] = "strict",
    beside: Sequence[Path] = (),
) -> Path:
    """Write a policy of some gates, and copy the architectures beside it; returns its path.

    Args:
        path: where.
        candidate: who is gated.
        gates: as a policy says them; those without a requirement get one that is always met.
        archive: PneumoniaMNIST's.
        model: keys of the policy's `model` beside those that all candidates have.
        samples: how many of the archive's test split; None: all.
        seed: of every draw.
        evidence: whether gates use each other's counterexamples.
        health: whether a gate whose attack is shown to be broken is an error, or has its figures with a finding.
        beside: modules that the policy's other architectures are written in.
    """
    for module in (candidate.module, *beside):
        if module is not None:
            shutil.copy(module, path.parent)
    usual = {"task": "multiclass", "labels": list(LABELS), "positive": LABELS[1], "device": "cpu"}
    policy = {
        "robustcheck": 1,
        "model": {**described(candidate), **usual, **(model or {})},
        "data": {"source": str(archive), **({"samples": samples} if samples else {})},
        "seed": seed,
        "evidence": evidence,
        "health": health,
        "gates": [{"require": {"accuracy": 0}, **gate} for gate in gates],
    }
    path.write_text(yaml.safe_dump(policy, sort_keys=False), encoding="utf-8")
    return path


def answered(policy: Path, *, kept: Path | None = None) -> Sequence[GateResult]:
    """The results of a policy's gates, all of them.

    Args:
        policy: its file.
        kept: where counterexamples are written.

    Raises:
        UnansweredError: gates ended in errors.
        KeyboardInterrupt: so did the run, which keeps that to its report.
    """
    report = run(load_policy(policy), folder=kept)
    if report.interrupted:
        raise KeyboardInterrupt
    if errors := [f"{gate.id}: {gate.error}" for gate in report.gates if gate.verdict == "error"]:
        also = f" (and {len(errors) - 1} more gates ended in errors)" if errors[1:] else ""
        raise UnansweredError(errors[0] + also)
    return report.gates


def accuracy(gate: GateResult) -> float:
    """What the attack left, or what there was without one."""
    value = gate.metrics["accuracy"].value
    assert value is not None, "a gate of nobody is an error"
    return value


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
    """The results of gates, which share nothing, by their ids; `write_policy` and `answered` say the rest."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        # What an attack leaves is measured, however well it worked.
        own: dict[str, Any] = {"evidence": "isolated", "health": "warn"}
        write_policy(path, candidate, gates, archive, samples=samples, seed=seed, beside=beside, **own)
        return {gate.id: gate for gate in answered(path, kept=kept)}
