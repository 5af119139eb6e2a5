"""The hooks of a pytest run that asked for robustcheck.

Heavy modules are imported inside the hooks: each of xdist's workers loads this file, and so does `--collect-only`.
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robustcheck.gate_items import GateItem, PolicyCollector, warnings_stay_warnings
from robustcheck.interrupts import interrupts_ignored, sigterm_interrupts
from robustcheck.policy_run import PolicyRun
from robustcheck.words import as_output

if TYPE_CHECKING:
    from robustcheck.policy import Policy
    from robustcheck.report.output import Output
    from robustcheck.report.progress import Line
    from robustcheck.results import AuditReport

SCRATCH = "robustcheck_scratch"  # how workers learn where results are shared
_RUNS_NOTHING = (
    "collectonly",
    "showfixtures",
    "show_fixtures_per_test",
    "setuponly",
    "setupplan",  # of which pytest makes the one above, once conftest files are loaded and policies were read
    "cacheshow",
    "markers",
)
# Ends of runs that know which tests were selected: those that a wrong argument ended came to none.
_COLLECTED_EXITS = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


class GatePlugin:
    """The hooks of a run that asked for robustcheck."""

    def __init__(self, config: pytest.Config, policies: dict[Path, Policy], folder: Path) -> None:
        """For a run of these policies, whose reports go to `folder`."""
        self._config = config
        self._folder = folder
        self._selected: set[str] = set()  # node ids of all tests that will run, the project's own too
        self._ended: set[str] = set()  # of those that have run, or were skipped
        self._node_ends: set[int | None] = set()  # exit codes of xdist's workers; None for those that died
        self._reports: list[tuple[AuditReport, list[Path]]] = []
        self._unselected: list[PolicyRun] = []  # policies none of whose gates was asked for
        self._failures: list[str] = []  # what went wrong apart from gates, such as reports that could not be written
        self._interrupted = False
        self._until_the_end = ExitStack()
        worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self._worker = worker is not None
        line: Line | None = None
        if worker is None:
            from robustcheck.report.progress import Line

            line = Line.on_terminal()
        started = datetime.now(UTC)
        self._runs = {
            path: PolicyRun(
                policy=policy,
                nodeid=self._nodeid(path),
                started=started,
                worker=worker is not None,
                line=line,
            )
            for path, policy in policies.items()
        }
        if worker is not None:
            for path, scratch in worker[SCRATCH].items():
                self._runs[Path(path)].scratch = Path(scratch)

    def _nodeid(self, path: Path) -> str:
        """A policy's part of its gates' node ids: as pytest's own below the root folder, and not empty elsewhere."""
        root = self._config.rootpath
        nodeid = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
        if "::" in nodeid:
            raise pytest.UsageError(f"{nodeid}: pytest reads :: in a path as names of tests; use `robustcheck run`")
        return nodeid

    @pytest.hookimpl(tryfirst=True)
    @warnings_stay_warnings()
    def pytest_sessionstart(self) -> None:
        """Remove earlier reports and make room for new ones, in runs that will write some."""
        if not writes_reports(self._config, self._config.option):
            return
        # Until the reports are written; workers are stopped by their controller.
        self._config.add_cleanup(self._until_the_end.close)
        self._until_the_end.enter_context(sigterm_interrupts())
        from robustcheck.errors import ReportError
        from robustcheck.report.output import outputs

        try:
            places = outputs(self._folder, list(self._runs))
        except ReportError as error:
            raise pytest.UsageError(str(error)) from None
        for run, output in zip(self._runs.values(), places, strict=True):
            run.output, run.scratch = output, output.scratch

    # --- collecting ---------------------------------------------------------------------------------------------

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect the policies that were named, and no other YAML file."""
        run = self._runs.get(file_path.resolve())
        return None if run is None else _collector(file_path, run, parent)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Collect each gate that was asked for exactly once, before other plugins select among them.

        pytest may have skipped a policy in a folder that was named (one that is hidden or ignored, or that pytest 8
        left out for another argument), or have met it twice, through a link.
        """
        met = {item.path.resolve() for item in items if isinstance(item, GateItem)}
        for path, run in self._runs.items():
            if path not in met:
                items.extend(session.genitems(_collector(path, run, session)))
        once: dict[tuple[Path, str] | pytest.Item, pytest.Item] = {}
        for item in items:
            once.setdefault((item.path.resolve(), item.name) if isinstance(item, GateItem) else item, item)
        items[:] = once.values()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which gates were selected: deselected ones are not evaluated on the way to others."""
        for item in session.items:
            if isinstance(item, GateItem):
                item.policy_run.selected.append(item.name)
                self._selected.add(item.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """The same for xdist's controller, which has no items."""
        self._selected.update(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Note how an xdist worker ended: the controller's exit code does not tell that none could collect."""
        self._node_ends.add(getattr(node, "workeroutput", {}).get("exitstatus"))

    # --- running ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker where results are shared."""
        node.workerinput[SCRATCH] = {
            str(path): str(run.scratch) for path, run in self._runs.items() if run.scratch is not None
        }

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Put the answer on the test's report, which xdist carries to the controller."""
        report = yield
        if isinstance(item, GateItem) and call.when == "call" and item.answer is not None:
            report.robustcheck = {"policy": str(item.path.resolve()), "gate": item.name, "answer": item.answer}
            item.answer = None  # pytest keeps its items
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect answers; on xdist's controller too, which never sees the items.

        They are removed from the reports, which pytest keeps, once other plugins have seen them.
        """
        if self._worker:
            return
        if report.when != "setup":  # which a teardown follows, however it ended
            self._ended.add(report.nodeid)
        if (carried := getattr(report, "robustcheck", None)) is not None:
            self._runs[Path(carried["policy"])].note_answer(carried["gate"], carried["answer"])
            del report.robustcheck
        elif report.failed:
            policy, _, gate = report.nodeid.partition("::")
            for run in self._runs.values():
                if run.nodeid == policy:
                    run.note_crash(gate, report)

    # --- reporting ----------------------------------------------------------------------------------------------

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Distinguish Ctrl-C from its subclasses that pytest and xdist raise to stop at the first failure."""
        self._interrupted = type(excinfo.value) is KeyboardInterrupt or isinstance(excinfo.value, pytest.exit.Exception)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports, and make sure that pytest's exit code is not greener than they are."""
        green = session.exitstatus == pytest.ExitCode.OK
        for run in self._runs.values():
            if run.output is None:
                continue
            with interrupts_ignored(self._interrupted):
                why = self._publish(run, run.output)
            if why is not None:
                self._fail(run, "writing the reports", why)
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            elif green and (why := self._why_not_green(run)) is not None:
                self._fail(run, "judging the gates", why)
                if session.exitstatus == pytest.ExitCode.OK:
                    session.exitstatus = pytest.ExitCode.TESTS_FAILED
            elif self._knows_selected(session.exitstatus) and run.written is None and not self._selected_of(run):
                self._unselected.append(run)

    def _knows_selected(self, exitstatus: int) -> bool:
        """Whether a run with this exit status knows which tests were selected; with xdist, whether a worker knew."""
        return exitstatus in _COLLECTED_EXITS and (
            not self._node_ends or not self._node_ends.isdisjoint(_COLLECTED_EXITS)
        )

    @warnings_stay_warnings()
    def _publish(self, run: PolicyRun, output: Output) -> str | None:
        """Write the reports on a policy; returns why that cannot be done, so that other policies' are written still."""
        from robustcheck.errors import ReportError
        from robustcheck.report.junit import suite_properties

        try:
            if run.answers or run.crashed or self._interrupted:
                report = run.report(interrupted=self._interrupted, left=self._selected - self._ended)
                self._note_in_junit(output.folder.name, suite_properties(report))
                files = list[Path]()
                self._reports.append((report, files))  # results are shown even if they cannot be written
                files += output.publish(report)
                run.written = report
        except ReportError as error:
            return str(error)
        except Exception:  # noqa: BLE001 - whatever it is, pytest's own reports have still to be written
            return traceback.format_exc()
        finally:
            output.discard()
        return None

    def _note_in_junit(self, policy: str, properties: list[tuple[str, str]]) -> None:
        """Give pytest's own JUnit file the facts about a run; with several policies, under the policy's name."""
        from _pytest.junitxml import xml_key

        xml = self._config.stash.get(xml_key, None)
        if xml is not None:
            for name, value in properties:
                xml.add_global_property(f"{policy}.{name}" if len(self._runs) > 1 else name, value)

    def _why_not_green(self, run: PolicyRun) -> str | None:
        """Why a run that pytest would end with 0 does not pass a policy; None if it does.

        A project's own hooks may skip tests, or expect them to fail; with gates, that green would mean nothing. Gates
        that were deselected or skipped are in the report as not run.
        """
        if run.written is None:
            selected = self._selected_of(run)
            return (
                f"none of {selected} selected gates was run: all were skipped; deselect them instead"
                if selected
                else None
            )
        if run.written.green:
            return None
        return f"the verdict is {run.written.verdict}, but pytest would have exited with 0"

    def _selected_of(self, run: PolicyRun) -> int:
        """How many gates of a policy were selected to run."""
        return sum(test.partition("::")[0] == run.nodeid for test in self._selected)

    def _fail(self, run: PolicyRun, name: str, why: str) -> None:
        """Make a failed test case of what is wrong with a policy's run: a red exit must not leave a green JUnit file.

        Its name cannot be a gate's, whose ids have no spaces.
        """
        self._failures.append(why)
        self._config.hook.pytest_runtest_logreport(
            report=pytest.TestReport(
                nodeid=f"{run.nodeid}::{name}",
                location=(run.nodeid, None, name),
                keywords={},
                outcome="failed",
                longrepr=why,
                when="teardown",
            )
        )

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print a table of gates for each policy, and where its reports are."""
        from robustcheck.report.found_elsewhere import found_elsewhere_text
        from robustcheck.report.summary import render, summary_line, summary_table, warnings_text

        writer = terminalreporter._tw  # pytest has no public way to the width
        for report, files in self._reports:
            terminalreporter.section(as_output(f"robustcheck: {report.policy.name}"))
            table = render(summary_table(report), width=writer.fullwidth, color=writer.hasmarkup)
            terminalreporter.write_line(as_output(table.rstrip("\n")))
            terminalreporter.write(as_output(found_elsewhere_text(report.gates) + warnings_text(report)))
            terminalreporter.write_line(as_output(summary_line(report)))
            for file in files:
                terminalreporter.write_line(f"  {relative_to_start(file, self._config.invocation_params.dir)}")
        for run in self._unselected:
            terminalreporter.section(as_output(f"robustcheck: {run.policy.name}"))
            gates = len(run.policy.gates)
            none = "its gate was not selected" if gates == 1 else f"none of its {gates} gates was selected"
            terminalreporter.write_line(as_output(f"NOT RUN: {run.nodeid}: {none}, so there is no report on it"))
        for failure in self._failures:
            terminalreporter.write_line(as_output(f"ERROR: {failure}"), red=True, bold=True)


def _collector(path: Path, run: PolicyRun, parent: pytest.Collector) -> PolicyCollector:
    collector: PolicyCollector = PolicyCollector.from_parent(parent, path=path, nodeid=run.nodeid)
    collector.policy_run = run
    return collector


def relative_to_start(path: Path, start: Path) -> str:
    """A path relative to where pytest was started."""
    return str(path.relative_to(start)) if path.is_relative_to(start) else str(path)


def writes_reports(config: pytest.Config, options: argparse.Namespace) -> bool:
    """Whether a pytest process writes reports: not one of xdist's workers, nor one that only lists tests."""
    return not hasattr(config, "workerinput") and not any(getattr(options, name, False) for name in _RUNS_NOTHING)
