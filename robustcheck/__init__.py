"""robustcheck: a gate for medical image models in continuous integration.

    from robustcheck import load_policy, run, write_reports

    report = run(load_policy("policy.yaml"), folder="robustcheck-report")
    write_reports(report, "robustcheck-report")

The names are imported when they are first used, so that `import robustcheck` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustcheck.errors import EvaluationError as EvaluationError
    from robustcheck.errors import PolicyError as PolicyError
    from robustcheck.errors import ReportError as ReportError
    from robustcheck.errors import RobustcheckError as RobustcheckError
    from robustcheck.evaluation.run import run as run
    from robustcheck.policy import Policy as Policy
    from robustcheck.policy import load_policy as load_policy
    from robustcheck.report import read_report as read_report
    from robustcheck.report import write_reports as write_reports
    from robustcheck.results import AuditReport as AuditReport
    from robustcheck.results import GateResult as GateResult

    __version__: str

_HOME = {
    "AuditReport": "robustcheck.results",
    "EvaluationError": "robustcheck.errors",
    "GateResult": "robustcheck.results",
    "Policy": "robustcheck.policy",
    "PolicyError": "robustcheck.errors",
    "ReportError": "robustcheck.errors",
    "RobustcheckError": "robustcheck.errors",
    "load_policy": "robustcheck.policy",
    "read_report": "robustcheck.report",
    "run": "robustcheck.evaluation.run",
    "write_reports": "robustcheck.report",
}

__all__ = [
    "AuditReport",
    "EvaluationError",
    "GateResult",
    "Policy",
    "PolicyError",
    "ReportError",
    "RobustcheckError",
    "__version__",
    "load_policy",
    "read_report",
    "run",
    "write_reports",
]


if not TYPE_CHECKING:  # to a type checker it would say that there is any name

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("pytest-robustcheck")
        if name not in _HOME:
            raise AttributeError(f"module 'robustcheck' has no attribute {name!r}")
        import random

        before = random.getstate()  # Rich draws while it is imported
        try:
            return getattr(import_module(_HOME[name]), name)
        finally:
            random.setstate(before)

    def __dir__() -> list[str]:
        return sorted(__all__)
