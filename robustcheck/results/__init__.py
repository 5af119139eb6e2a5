"""What is answered: plain frozen data with a JSON round trip.

Reports are functions of an `AuditReport` and nothing else, so an old `report.json` renders again on a machine without
torch. Only builtin types cross this wall. Fields that programs may rely on are listed in `docs/report.md`. `measured`
has metrics, `gate` what one gate found, `report` the whole; `plan`, `replay` and `qualification` are the answers of
commands; `agreed` has what else writers and readers of results have to agree on.
"""

from robustcheck.results.gate import (
    Budget,
    Cell,
    Control,
    Cost,
    CurvePoint,
    Evidence,
    Finding,
    GateResult,
    HealthCheck,
    HealthOutcome,
    Outcome,
    Patch,
    Queries,
    QueryPoint,
    Status,
    Stopped,
    Surrogate,
    Threat,
    Verdict,
)
from robustcheck.results.measured import METRICS, Metric, Requirement, Slice
from robustcheck.results.report import (
    Answer,
    AuditReport,
    DataInfo,
    FileInfo,
    Interruption,
    ModelInfo,
    PolicyInfo,
    json_schema,
    overall,
)

__all__ = [
    "METRICS",
    "Answer",
    "AuditReport",
    "Budget",
    "Cell",
    "Control",
    "Cost",
    "CurvePoint",
    "DataInfo",
    "Evidence",
    "FileInfo",
    "Finding",
    "GateResult",
    "HealthCheck",
    "HealthOutcome",
    "Interruption",
    "Metric",
    "ModelInfo",
    "Outcome",
    "Patch",
    "PolicyInfo",
    "Queries",
    "QueryPoint",
    "Requirement",
    "Slice",
    "Status",
    "Stopped",
    "Surrogate",
    "Threat",
    "Verdict",
    "json_schema",
    "overall",
]
