"""Gates as pytest's items, and the hooks of a run that asked for robustcheck.

What is heavy is imported inside the hooks: each of xdist's workers loads this, and so does `--collect-only`.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from robustcheck.evaluation.evaluation import Evaluation
    from robustcheck.policy import Policy
    from robustcheck.report.output import Output
    from robustcheck.report.progress import Line
    from robustcheck.results import AuditReport, GateResult

SCRATCH = "robustcheck_scratch"  # how workers learn where results are shared
_RUNS_NOTHING = ("collectonly", "showfixtures", "show_fixtures_per_test", "setuponly", "setupplan", "cacheshow")


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

    gates: tuple[str, ...]

    def collect(self) -> Iterator[pytest.Item]:
        """One item a gate, in the policy's order."""
        for gate in self.gates:
            # As text: pytest 9.2 compares ids in parts, and --last-failed has those of its cache, where the brackets of
            # `pgd[4/255]` are parameters. The id that an item would be given has them in its name.
            yield GateItem.from_parent(self, name=gate, nodeid=f"{self.nodeid}::{gate}")


class GateItem(pytest.Item):
    """One gate."""

    answer: dict[str, Any] | None = None  # builtins: it crosses processes on the test's report

    @warnings_stay_warnings()
    def runtest(self) -> None:
        """Evaluate the gate; anything but a pass fails the test, or skips it where the policy allows that."""
        from robustcheck.report.junit import gate_properties
        from robustcheck.report.summary import gate_text, verdict_sentence
        from robustcheck.results import Answer

        plugin = self.config.pluginmanager.getplugin("robustcheck-gates")
        assert isinstance(plugin, GatePlugin)
        answer: Answer = plugin.evaluate(self)
        self.answer = answer.to_builtins()
        self.user_properties += gate_properties(answer.gate)
        if answer.gate.verdict == "inconclusive" and plugin.allows_inconclusive(self):
            pytest.skip(f"inconclusive, which the policy allows: {verdict_sentence(answer.gate)}")
        if answer.gate.verdict != "pass":
            raise GateNotPassedError(gate_text(answer.gate))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The verdict as text: its first line becomes the short summary and JUnit's message."""
        if isinstance(excinfo.value, GateNotPassedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where the test stands: in the policy."""
        return self.path, None, f"gate {self.name}"


class GatePlugin:
    """The hooks of a run that asked for robustcheck."""

    def __init__(self, config: pytest.Config, policies: dict[Path, Policy]) -> None:
        self._config = config
        self._policies = policies
        self._started = datetime.now(UTC)
        self._evaluations: dict[Path, Evaluation] = {}
        self._selected: dict[Path, list[str]] = {}
        self._selected_ids: set[str] = set()  # of all tests that will run, the project's own too
        self._ended: set[str] = set()  # of those that have run, or were skipped
        self._answers: dict[Path, dict[str, dict[str, Any]]] = {path: {} for path in policies}
        self._crashed: dict[Path, dict[str, GateResult]] = {path: {} for path in policies}
        self._reports: list[tuple[AuditReport, list[Path]]] = []
        self._failures: list[str] = []  # reports that could not be written
        self._outputs: dict[Path, Output] = {}
        self._scratch: dict[Path, Path] = {}
        self._interrupted = False
        worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self._worker = worker is not None
        if worker is not None:
            self._scratch = {Path(path): Path(folder) for path, folder in worker[SCRATCH].items()}
        self._line: Line | None = None
        if not self._worker:
            from robustcheck.report.progress import Line

            self._line = Line.on_terminal()

    @pytest.hookimpl(tryfirst=True)
    @warnings_stay_warnings()
    def pytest_sessionstart(self) -> None:
        """Take away earlier reports and make room for new ones, in runs that will write some."""
        if self._worker or any(self._config.getoption(name, False) for name in _RUNS_NOTHING):
            return
        from robustcheck.errors import ReportError
        from robustcheck.report.output import outputs

        try:
            folder = _output_folder(self._config)
            self._outputs = dict(zip(self._policies, outputs(folder, list(self._policies)), strict=True))
        except ReportError as error:
            raise pytest.UsageError(str(error)) from None
        self._scratch = {path: output.scratch for path, output in self._outputs.items()}

    # --- collecting ---------------------------------------------------------------------------------------------

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect the policies that were named, and no other YAML file."""
        policy = self._policies.get(file_path.resolve())
        if policy is None:
            return None
        return self._collector(file_path, policy, parent)

    def _collector(self, path: Path, policy: Policy, parent: pytest.Collector) -> PolicyCollector:
        collector: PolicyCollector = PolicyCollector.from_parent(parent, path=path, nodeid=self._nodeid(path.resolve()))
        collector.gates = tuple(gate.id for gate in policy.gates)
        return collector

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Have each gate that was asked for once, before others select among them.

        pytest may have passed by a policy in a folder that was named (one that is hidden or ignored, or that pytest 8
        left out for another argument), or have met it twice, through a link.
        """
        met = {item.path.resolve() for item in items if isinstance(item, GateItem)}
        for path, policy in self._policies.items():
            if path not in met:
                items.extend(session.genitems(self._collector(path, policy, session)))
        once: dict[tuple[Path, str] | pytest.Item, pytest.Item] = {}
        for item in items:
            once.setdefault((item.path.resolve(), item.name) if isinstance(item, GateItem) else item, item)
        items[:] = once.values()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which gates were selected: deselected ones are not evaluated on the way to others."""
        for item in session.items:
            if isinstance(item, GateItem):
                self._selected.setdefault(item.path.resolve(), []).append(item.name)
                self._selected_ids.add(item.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """The same for xdist's controller, which has no items."""
        self._selected_ids.update(ids)

    # --- running ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker where results are shared."""
        node.workerinput[SCRATCH] = {str(path): str(folder) for path, folder in self._scratch.items()}

    def evaluate(self, item: GateItem) -> Any:
        """The answer of a gate: evaluated here, or by another worker."""
        from robustcheck.evaluation.evaluation import Evaluation
        from robustcheck.evaluation.sharing import answer, shared_answer

        path = item.path.resolve()
        if path not in self._evaluations:
            self._evaluations[path] = Evaluation(
                self._policies[path], folder=self._scratch[path], progress=self._line.update if self._line else None
            )
        selected = self._selected[path]
        try:
            if self._worker:
                folder = self._scratch[path] / "answers"
                return shared_answer(self._evaluations[path], item.name, selected=selected, folder=folder)
            return answer(self._evaluations[path], item.name, selected=selected)
        finally:
            if self._line:
                self._line.clear()

    def allows_inconclusive(self, item: GateItem) -> bool:
        """Whether its policy lets inconclusive gates through."""
        decision = self._policies[item.path.resolve()].decision
        return bool(decision.inconclusive == "allow")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Put the answer on the test's report, which xdist carries to the controller."""
        report = yield
        if isinstance(item, GateItem) and call.when == "call" and item.answer is not None:
            report.robustcheck = {"policy": str(item.path.resolve()), "gate": item.name, "answer": item.answer}
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect answers; on xdist's controller too, which never sees the items."""
        if self._worker:
            return
        if report.when != "setup" or not report.passed:
            self._ended.add(report.nodeid)
        if (carried := getattr(report, "robustcheck", None)) is not None:
            path, gate = Path(carried["policy"]), carried["gate"]
            self._answers[path][gate] = carried["answer"]
            self._crashed[path].pop(gate, None)
        elif report.failed:
            self._note_crash(report)

    def _note_crash(self, report: pytest.TestReport) -> None:
        """A gate's test that failed without an answer: its worker died, or something else stopped it."""
        where, _, gate = report.nodeid.partition("::")
        for path, policy in self._policies.items():
            known = any(entry.id == gate for entry in policy.gates)
            if where == self._nodeid(path) and known and gate not in self._answers[path]:
                self._crashed[path][gate] = self._without_answer(path, gate, report)

    def _nodeid(self, path: Path) -> str:
        """A policy's part of its gates' node ids: as pytest's own below the root folder, and not empty elsewhere."""
        root = self._config.rootpath
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()

    def _without_answer(self, path: Path, gate: str, report: pytest.TestReport) -> GateResult:
        from robustcheck.results import GateResult

        attack = next((entry.attack for entry in self._policies[path].gates if entry.id == gate), None)
        return GateResult(
            id=gate,
            attack=attack.name if attack else None,
            threat=None,
            verdict="error",
            error=f"the test ended without a result: {report.longreprtext.strip() or report.outcome}",
        )

    # --- reporting ----------------------------------------------------------------------------------------------

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Tell Ctrl-C from the subclasses of it that pytest and xdist raise to stop at the first failure."""
        self._interrupted = type(excinfo.value) is KeyboardInterrupt or isinstance(excinfo.value, pytest.exit.Exception)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports, and give pytest's own JUnit file the facts that belong to the suite."""
        for path in self._outputs:
            if not self._publish(path):
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    @warnings_stay_warnings()
    def _publish(self, path: Path) -> bool:
        """Write the reports on a policy; False if that cannot be done. Those on other policies go on."""
        from robustcheck.errors import ReportError
        from robustcheck.report.junit import suite_properties

        output = self._outputs[path]
        try:
            if self._answers[path] or self._crashed[path] or self._interrupted:
                report = self._assemble(path)
                _add_junit_properties(self._config, suite_properties(report))
                self._reports.append((report, output.publish(report)))
        except ReportError as error:
            self._failures.append(str(error))
            self._tell_unwritten(path, str(error))
            return False
        finally:
            output.discard()
        return True

    def _tell_unwritten(self, path: Path, why: str) -> None:
        """Make a test case of reports that could not be written: a JUnit file beside a red exit must not be green.

        No gate's id has spaces.
        """
        where = self._nodeid(path)
        self._config.hook.pytest_runtest_logreport(
            report=pytest.TestReport(
                nodeid=f"{where}::writing the reports",
                location=(where, None, "writing the reports"),
                keywords={},
                outcome="failed",
                longrepr=why,
                when="teardown",
            )
        )

    def _assemble(self, path: Path) -> AuditReport:
        from robustcheck.evaluation.assembly import assemble
        from robustcheck.results import Answer

        answers = [Answer.from_builtins(value) for value in self._answers[path].values()]
        known = next((answer for answer in answers if answer.model), answers[0] if answers else None)
        results = self._crashed[path] | {answer.gate.id: answer.gate for answer in answers}
        return assemble(
            self._policies[path],
            results,
            model=known.model if known else None,
            data=known.data if known else None,
            environment=known.environment if known else {},
            started=self._started,
            interrupted=self._interrupted or self._cut_short(path, results),
        )

    def _cut_short(self, path: Path, results: dict[str, GateResult]) -> bool:
        """Whether what passed is not all that was asked for: with -x another test's failure ends the run.

        A gate that did not pass needs no such word: the report is no pass for it.
        """
        left = self._selected_ids - self._ended
        waiting = any(where.partition("::")[0] == self._nodeid(path) for where in left)
        return waiting and all(result.verdict in ("pass", "inconclusive") for result in results.values())

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print a table of gates for each policy, and where its reports are."""
        from robustcheck.report.summary import render, summary_line, summary_table, warnings_text

        writer = terminalreporter._tw  # pytest's plugins have no public way to the width
        for report, files in self._reports:
            terminalreporter.section(f"robustcheck: {report.policy.name}")
            table = render(summary_table(report), width=writer.fullwidth, color=writer.hasmarkup)
            terminalreporter.write_line(table.rstrip("\n"))
            terminalreporter.write(warnings_text(report))
            terminalreporter.write_line(summary_line(report))
            for file in files:
                terminalreporter.write_line(f"  {shown(file, self._config.invocation_params.dir)}")
        for failure in self._failures:
            terminalreporter.write_line(f"ERROR: {failure}", red=True, bold=True)


def shown(path: Path, start: Path) -> str:
    """A path as it is seen from where pytest was started."""
    return str(path.relative_to(start)) if path.is_relative_to(start) else str(path)


def _output_folder(config: pytest.Config) -> Path:
    """Where reports go: the command line's is seen from where pytest was started, an ini file's from that file."""
    start = Path(config.invocation_params.dir)
    if asked := config.getoption("robustcheck_output"):
        return start / str(asked)
    for key in ("robustcheck_output", "robustcheck-output"):
        if standing := config.getini(key):
            return (config.inipath.parent if config.inipath else start) / str(standing)
    return start / "robustcheck-report"


def _add_junit_properties(config: pytest.Config, properties: list[tuple[str, str]]) -> None:
    from _pytest.junitxml import xml_key

    xml = config.stash.get(xml_key, None)
    if xml is not None:
        for name, value in properties:
            xml.add_global_property(name, value)
