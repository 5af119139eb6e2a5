"""Gates as pytest items: a policy is a file, and each of its gates a test in it.

Heavy modules are imported inside the methods: each of xdist's workers loads this file, and so does `--collect-only`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from robustcheck.policy_run import PolicyRun
from robustcheck.words import as_output


@contextmanager
def warnings_stay_warnings() -> Iterator[None]:
    """`filterwarnings = error` is a project's rule for its own code, and a verdict is about the candidate.

    A library's notice that something is deprecated would otherwise end every gate, on import or later. Other filters
    stay as they are.
    """
    with warnings.catch_warnings():
        softer: list[Any] = [("default" if action == "error" else action, *rest) for action, *rest in warnings.filters]
        warnings.resetwarnings()
        cast("list[Any]", warnings.filters).extend(softer)
        yield


class GateNotPassedError(Exception):
    """A gate's verdict is not `pass`; carries the text for the test's failure."""


class PolicyCollector(pytest.File):
    """A policy file; its items are its gates."""

    policy_run: PolicyRun

    def collect(self) -> Iterator[pytest.Item]:
        """One item for each gate, in the policy's order."""
        for gate in self.policy_run.policy.gates:
            # As text: pytest 9.2 compares ids in parts, and --last-failed has those of its cache, where the brackets of
            # `pgd[4/255]` are parameters. The id that an item would be given has them in its name.
            item: GateItem = GateItem.from_parent(self, name=gate.id, nodeid=f"{self.nodeid}::{gate.id}")
            item.policy_run = self.policy_run
            item.add_marker("robustcheck")
            yield item


class GateItem(pytest.Item):
    """One gate."""

    policy_run: PolicyRun
    answer: dict[str, Any] | None = None  # builtins: it crosses processes on the test's report

    @warnings_stay_warnings()
    def runtest(self) -> None:
        """Evaluate the gate; anything but a pass fails the test, or skips it where the policy allows that."""
        from robustcheck.report.gate import gate_text, verdict_sentence
        from robustcheck.report.junit import gate_properties

        answer = self.policy_run.evaluate(self.name)
        self.answer = answer.to_builtins()
        self.user_properties += gate_properties(answer.gate)
        allowed = self.policy_run.policy.decision.inconclusive == "allow"
        if answer.gate.verdict == "inconclusive" and allowed:
            pytest.skip(f"inconclusive, which the policy allows: {verdict_sentence(answer.gate)}")
        if answer.gate.verdict != "pass":
            raise GateNotPassedError(gate_text(answer.gate))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The verdict as text; its first line becomes the short summary and JUnit's message."""
        if isinstance(excinfo.value, GateNotPassedError):
            return as_output(str(excinfo.value))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the test is: at the policy's first line; pytest needs a line for tests that it skips."""
        return self.path, 0, f"gate {self.name}"
