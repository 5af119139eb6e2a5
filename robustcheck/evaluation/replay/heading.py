"""Compares what a report says about the run as a whole with the policy, candidate and data that are here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from robustcheck.evaluation.assembly import assemble
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.results import AuditReport
from robustcheck.words import shown

_AS_STATED = ("environment", "policy.path", "model.notes", "started", "seconds", "interrupted")
"""Keys about the machine and about the place and time of the run. Notes on a candidate mention faster forms there."""

_COMPARED_OTHERWISE = ("schema", "verdict", "policy", "not_run", "gates")
_PART_OF_ANOTHER = ("interruption",)  # of `interrupted`


def as_stated(evaluation: Evaluation, report: AuditReport) -> tuple[str, ...]:
    """Keys that are compared with nothing; for the candidate's notes, also which of them it has only here."""
    stated, here = (one.notes if one else () for one in (report.model, evaluation.model))
    more = "; ".join(note for note in here if note not in stated)
    return tuple(f"{key} (here also: {more})" if more and key == "model.notes" else key for key in _AS_STATED)


def faults_of_report(evaluation: Evaluation, report: AuditReport) -> Iterator[str]:
    """What is amiss with the report as a whole; all its gates are among the policy's."""
    policy = evaluation.policy
    if report.policy.text not in (None, policy.text):  # whose digest was compared
        yield "its policy's text is not the one whose digest it states"
    told = [*(gate.id for gate in report.gates), *report.not_run]
    if sorted(told) != sorted(gate.id for gate in policy.gates):
        yield "its gates, and those that were not run, are not the policy's, each once"
    here = assemble(
        policy,
        {gate.id: gate for gate in report.gates},
        model=evaluation.model,
        data=evaluation.data,
        environment={},
        started=datetime.now(UTC),
        seconds=report.seconds,
        interrupted=report.interrupted,
    )
    if here.verdict != report.verdict:
        yield f"its verdict is {report.verdict}, but that of its gates is {here.verdict}"
    stated, known = _told(report), _told(here)
    for name, value in known.items():
        if stated[name] != value:
            yield f"{name} is stated as {_short(stated[name])}, but is {_short(value)}"


def _told(report: AuditReport) -> dict[str, Any]:
    """What is compared, by the key that it has in the report."""
    whole = json.loads(json.dumps({**asdict(report), "gates": []}, default=str))  # as JSON has it
    parts = {f"{part}.{key}": value for part in ("model", "data") for key, value in (whole.pop(part) or {}).items()}
    told = {"policy.name": whole["policy"]["name"], **whole, **parts}
    return {
        name: value
        for name, value in told.items()
        if name not in (*_AS_STATED, *_COMPARED_OTHERWISE, *_PART_OF_ANOTHER)
    }


def _short(value: Any) -> str:
    return shown(json.dumps(value)) if isinstance(value, (dict, list)) else shown(value)
