"""A report from the results of its gates. No torch: xdist's controller builds reports and evaluates nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from robustcheck.policy import Policy
from robustcheck.results import AuditReport, DataInfo, GateResult, Interruption, ModelInfo, PolicyInfo, overall


def assemble(
    policy: Policy,
    results: Mapping[str, GateResult],
    *,
    model: ModelInfo | None,
    data: DataInfo | None,
    environment: Mapping[str, str],
    started: datetime,
    seconds: float,
    interrupted: bool = False,
    interruption: Interruption | None = None,
) -> AuditReport:
    """The report on a policy from the results of its gates, in the policy's order.

    `seconds` since it was started come from a clock that nobody can set.
    """
    decision = policy.decision
    gates = tuple(results[gate.id] for gate in policy.gates if gate.id in results)
    return AuditReport(
        verdict=overall(
            [gate.verdict for gate in gates], interrupted=interrupted, allow=decision.inconclusive == "allow"
        ),
        policy=PolicyInfo(path=policy.shown_path, name=policy.name, sha256=policy.sha256, text=policy.text),
        model=model,
        data=data,
        environment=dict(environment),
        seed=policy.seed,
        decision=decision.rule,
        confidence=decision.confidence,
        interval=decision.interval,
        stop=decision.stop,
        inconclusive=decision.inconclusive,
        evidence=policy.evidence,
        health=policy.health,
        started=started.astimezone(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        interrupted=interrupted,
        interruption=interruption if interrupted else None,
        not_run=tuple(gate.id for gate in policy.gates if gate.id not in results),
        gates=gates,
    )
