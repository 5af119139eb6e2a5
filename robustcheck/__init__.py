"""robustcheck: a gate for medical image models in continuous integration.

    from robustcheck import load_policy, run
    report = run(load_policy("policy.yaml"))

The names are imported when they are first used, so that `import robustcheck` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustcheck.evaluation.run import run as run
    from robustcheck.policy import Policy as Policy
    from robustcheck.policy import load_policy as load_policy
    from robustcheck.results import AuditReport as AuditReport

_HOME = {
    "AuditReport": "robustcheck.results",
    "Policy": "robustcheck.policy",
    "load_policy": "robustcheck.policy",
    "run": "robustcheck.evaluation.run",
}

__all__ = ["AuditReport", "Policy", "load_policy", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'robustcheck' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
