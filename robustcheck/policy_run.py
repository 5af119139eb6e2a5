"""A policy whose gates run as pytest tests: their answers as they come, and the report made from them.

Heavy modules are imported inside the methods: each of xdist's workers loads this file, and so does `--collect-only`.
"""

from __future__ import annotations

import time
from collections.abc import Set
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from robustcheck.evaluation.evaluation import Evaluation
    from robustcheck.policy import Policy
    from robustcheck.report.output import Output
    from robustcheck.report.progress import Line
    from robustcheck.results import Answer, AuditReport, GateResult


@dataclass(kw_only=True)
class PolicyRun:
    """One policy in one process of a run: xdist's workers evaluate its gates, and its controller reports on them."""

    policy: Policy
    nodeid: str  # of its file; its gates' node ids begin with it
    started: datetime
    worker: bool  # one of xdist's, which shares answers with the others
    began: float = field(default_factory=time.monotonic)  # as `started`, by a clock that nobody can set
    line: Line | None = None  # where progress is shown
    output: Output | None = None  # where the reports go; None where none are written
    scratch: Path | None = None  # where counterexamples lie until they are published, and workers share answers
    selected: list[str] = field(default_factory=list)  # gates; others are not evaluated on the way to them
    answers: dict[str, Answer] = field(default_factory=dict)  # by gate, as test reports carried them
    own: dict[str, Answer] = field(default_factory=dict)  # by gate: those that this process evaluated
    crashed: dict[str, GateResult] = field(default_factory=dict)  # by gate: a test ended without an answer
    evaluation: Evaluation | None = None  # once a gate was asked for
    written: AuditReport | None = None  # the report, once it is

    def evaluate(self, gate: str) -> Answer:
        """The answer of a gate: evaluated here, or by another worker."""
        from robustcheck.evaluation.evaluation import Evaluation
        from robustcheck.evaluation.sharing import answer, shared_answer
        from robustcheck.models.process_settings import fitting_threads

        if self.evaluation is None:
            progress = self.line.update if self.line else None
            self.evaluation = Evaluation(self.policy, folder=self.scratch, progress=progress)
        try:
            with fitting_threads():
                if self.worker:
                    assert self.scratch is not None
                    folder = self.scratch / "answers"
                    return shared_answer(self.evaluation, gate, selected=self.selected, folder=folder)
                self.own[gate] = answer(self.evaluation, gate, selected=self.selected)
                return self.own[gate]
        finally:
            if self.line:
                self.line.clear()

    def note_answer(self, gate: str, answer: dict[str, Any]) -> None:
        """Keep the answer that a gate's test report carried: with many samples each form of it is large."""
        from robustcheck.results import Answer

        self.answers[gate] = self.own.get(gate) or Answer.from_builtins(answer)

    def note_crash(self, gate: str, report: pytest.TestReport) -> None:
        """Keep why a gate's test ended without an answer: its worker died, or something else stopped it."""
        from robustcheck.results import GateResult

        asked = next((one for one in self.policy.gates if one.id == gate), None)
        if asked is not None:
            self.crashed[gate] = GateResult(
                id=gate,
                attack=asked.attack_name,
                threat=None,
                verdict="error",
                error=f"the test ended without a result: {report.longreprtext.strip() or report.outcome}",
            )

    def report(self, *, interrupted: bool, left: Set[str]) -> AuditReport:
        """The report on what was answered.

        Args:
            interrupted: somebody stopped the run.
            left: node ids of the tests that should have run and did not.
        """
        from robustcheck.evaluation.assembly import assemble

        answers = list(self.answers.values())
        known = next((answer for answer in answers if answer.model), answers[0] if answers else None)
        # A test may be run again, or crash after its answer has come: the answer counts.
        results = self.crashed | {answer.gate.id: answer.gate for answer in answers}
        return assemble(
            self.policy,
            results,
            model=known.model if known else None,
            data=known.data if known else None,
            environment=known.environment if known else {},
            started=self.started,
            seconds=time.monotonic() - self.began,
            interrupted=interrupted or self._cut_short(results, left),
            interruption=self.evaluation.interruption if interrupted and self.evaluation else None,
        )

    def _cut_short(self, results: dict[str, GateResult], left: Set[str]) -> bool:
        """Whether all gates that ran passed, but not all that were asked for ran: with -x another failure ends the run.

        If a gate did not pass, this does not matter: its report is not a pass anyway.
        """
        waiting = any(test.partition("::")[0] == self.nodeid for test in left)
        return waiting and all(result.verdict in ("pass", "inconclusive") for result in results.values())
