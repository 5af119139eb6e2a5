"""robustcheck: a gate for medical image models in continuous integration.

    from pathlib import Path

    from robustcheck import load_policy, run, write_reports

    folder = Path("robustcheck-report")
    report = run(load_policy("policy.yaml"), folder=folder)
    write_reports(report, folder)

The names are imported when they are first used, so that `import robustcheck` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustcheck.errors import EvaluationError as EvaluationError
    from robustcheck.errors import PolicyError as PolicyError
    from robustcheck.evaluation.run import run as run
    from robustcheck.policy import Policy as Policy
    from robustcheck.policy import load_policy as load_policy
    from robustcheck.report import write_reports as write_reports
    from robustcheck.results import AuditReport as AuditReport
    from robustcheck.results import GateResult as GateResult

_HOME = {
    "AuditReport": "robustcheck.results",
    "EvaluationError": "robustcheck.errors",
    "GateResult": "robustcheck.results",
    "Policy": "robustcheck.policy",
    "PolicyError": "robustcheck.errors",
    "load_policy": "robustcheck.policy",
    "run": "robustcheck.evaluation.run",
    "write_reports": "robustcheck.report",
}

__all__ = [
    "AuditReport",
    "EvaluationError",
    "GateResult",
    "Policy",
    "PolicyError",
    "load_policy",
    "run",
    "write_reports",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'robustcheck' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
