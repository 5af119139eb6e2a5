"""`robustcheck run`: what it prints, what it writes, and what its exit code tells."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path

import pytest
from building import ARCHITECTURE, brightness_policy, brightness_project
from click.testing import CliRunner

from robustcheck.cli import main
from robustcheck.errors import ReportError
from robustcheck.report.writing import write_json

CLEAN = "\n  - {id: clean, require: {accuracy: 1}}\n"
CONFIDENT = "decision: {rule: confident}"


def _doing(what):
    """The architecture, which does something else first when its gradient is asked for."""
    begins = "    def forward(self, image):\n"
    return ARCHITECTURE.replace(begins, f"{begins}        if torch.is_grad_enabled():\n            {what}\n")


@pytest.fixture
def project(tmp_path, monkeypatch):
    brightness_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _gate(require):
    return f"{CLEAN}  - {{id: pgd, attack: {{name: pgd, steps: 5}}, epsilon: 4/255, require: {require}}}\n"


def _run(folder, gates, extra="", *options):
    (folder / "policy.yaml").write_text(brightness_policy(gates, extra=extra))
    return CliRunner().invoke(main, ["run", "policy.yaml", *options], catch_exceptions=False)


def _report(folder):
    return json.loads((folder / "robustcheck-report" / "report.json").read_text())


@pytest.mark.parametrize(
    ("gates", "extra", "code", "word"),
    [
        (CLEAN, "", 0, "PASS"),
        (_gate("{accuracy: 0.5}"), "", 1, "FAIL"),
        (CLEAN.replace("1}", "0.7}"), CONFIDENT, 4, "INCONCLUSIVE"),
        (CLEAN.replace("1}", "0.7}"), CONFIDENT.replace("}", ", inconclusive: allow}"), 0, "INCONCLUSIVE"),
        (
            CLEAN.replace("1}", "0.7}") + CLEAN.replace("1}", "0.1}").replace("clean", "low"),
            CONFIDENT.replace("}", ", inconclusive: allow}"),
            0,
            "PASS",
        ),
    ],
)
def test_the_exit_code_tells_the_verdict(gates, extra, code, word, project):
    done = _run(project, gates, extra)
    assert done.exit_code == code
    assert done.stdout.splitlines()[-1].startswith(f"{word}: ")
    written = {file.name for file in (project / "robustcheck-report").iterdir()}
    assert {"junit.xml", "report.json", "report.html"} <= written


def test_what_could_not_be_evaluated_is_told_from_what_failed(project):
    (project / "brightness.safetensors").write_bytes(b"no weights")
    done = _run(project, _gate("{accuracy: 0.5}"))
    assert done.exit_code == 3
    assert done.stdout.splitlines()[-1].startswith("ERROR: ")
    assert [gate["verdict"] for gate in _report(project)["gates"]] == ["error", "error"]


def test_an_interrupt_keeps_what_was_finished(project):
    (project / "brightness.py").write_text(_doing("raise KeyboardInterrupt"))
    done = _run(project, _gate("{accuracy: 0.5}"))
    assert done.exit_code == 130
    report = _report(project)
    assert report["interrupted"]
    assert [(gate["id"], gate["verdict"]) for gate in report["gates"]] == [("clean", "pass")]
    assert (project / "robustcheck-report" / "junit.xml").is_file()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["robustcheck.evaluation.run.assemble", "robustcheck.report.output.write_json"])
def test_a_second_interrupt_costs_nothing_that_was_finished(number, where, project, monkeypatch):
    """Whoever presses Ctrl-C twice, or is followed by a SIGTERM, while the first has its reports written."""

    def impatient(*given, **more):
        os.kill(os.getpid(), number)
        return does(*given, **more)

    does = getattr(import_module(where.rpartition(".")[0]), where.rpartition(".")[2])
    monkeypatch.setattr(where, impatient)
    (project / "brightness.py").write_text(_doing("raise KeyboardInterrupt"))
    before = signal.getsignal(number)
    assert _run(project, _gate("{accuracy: 0.5}")).exit_code == 130
    assert [gate["id"] for gate in _report(project)["gates"]] == ["clean"]
    assert (project / "robustcheck-report" / "junit.xml").is_file()
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_a_finished_run_is_written_is_one(project, monkeypatch):
    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGINT)
        return write_json(*given)

    monkeypatch.setattr("robustcheck.report.output.write_json", interrupted)
    assert _run(project, CLEAN).exit_code == 130


def test_a_clock_that_is_set_back_makes_no_run_end_before_it_began(project, monkeypatch):
    class Clock(datetime):
        hours = 0

        @classmethod
        def now(cls, tz=None):
            cls.hours -= 1
            return datetime.now(tz) + timedelta(hours=cls.hours)

    for module in ("run", "assembly"):
        monkeypatch.setattr(f"robustcheck.evaluation.{module}.datetime", Clock)
    assert _run(project, CLEAN).exit_code == 0
    assert 0 <= _report(project)["seconds"] < 60


def test_sigterm_keeps_what_was_finished_and_is_handled_as_before_afterwards(project):
    """As `timeout` and CI servers end a job; a second one does not disturb what follows from the first."""
    term = "__import__('os').kill(__import__('os').getpid(), __import__('signal').SIGTERM)"
    (project / "brightness.py").write_text(_doing(f"{term}; {term}"))
    before = signal.getsignal(signal.SIGTERM)
    assert before is signal.SIG_DFL
    done = _run(project, _gate("{accuracy: 0.5}"))
    assert done.exit_code == 130
    assert [gate["id"] for gate in _report(project)["gates"]] == ["clean"]
    assert not list((project / "robustcheck-report").glob(".running-*"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_defect_of_ours_has_not_the_code_of_a_failed_gate(project, monkeypatch):
    monkeypatch.setattr("robustcheck.evaluation.run.assemble", lambda *_, **__: 1 / 0)
    done = _run(project, CLEAN)
    assert done.exit_code == 3
    assert "ZeroDivisionError: division by zero" in done.stderr


def _full(*_):
    raise ReportError("report.json: cannot be written: No space left on device")


def test_what_was_found_is_told_though_it_cannot_be_written(project, monkeypatch):
    monkeypatch.setattr("robustcheck.report.output.write_json", _full)
    done = _run(project, _gate("{accuracy: 0.5}"))
    assert done.exit_code == 3
    assert done.stdout.splitlines()[-1].startswith("FAIL: 1 gate passed, 1 failed")
    assert done.stderr.splitlines()[-1] == "report.json: cannot be written: No space left on device"


def test_code_that_changes_the_folder_does_not_move_the_reports(project):
    (project / "elsewhere").mkdir()
    (project / "brightness.py").write_text(f"import os\n\nos.chdir('elsewhere')\n{ARCHITECTURE}")
    done = _run(project, _gate("{accuracy: 0.5}"))
    assert done.exit_code == 1, done.output
    assert not list((project / "elsewhere").iterdir())
    written = project / "robustcheck-report"
    assert list((written / "counterexamples").rglob("*.png"))
    assert "  robustcheck-report/report.json" in done.stdout.splitlines()


def test_a_policy_with_mistakes_takes_an_earlier_green_report_away(project):
    assert _run(project, CLEAN).exit_code == 0
    done = _run(project, CLEAN.replace("accuracy", "acuracy"))
    assert done.exit_code == 2
    assert list((project / "robustcheck-report").iterdir()) == []


@pytest.mark.parametrize("name", ["polcy.yaml", "p" * 300])
def test_a_path_at_which_there_is_no_policy_costs_no_report(project, name):
    assert _run(project, CLEAN).exit_code == 0
    assert CliRunner().invoke(main, ["run", name], catch_exceptions=False).exit_code == 2
    assert _report(project)["verdict"] == "pass"


def test_who_no_longer_reads_makes_no_failed_gate_of_a_pass(project):
    """As a terminal that is closed: both streams end, and the exit code is the verdict's."""
    (project / "policy.yaml").write_text(brightness_policy(CLEAN))
    command = [sys.executable, "-c", "from robustcheck.cli import main; main(['run', 'policy.yaml'])"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()
        run.stderr.close()
        assert run.wait() == 0
    assert _report(project)["verdict"] == "pass"


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")


@needs_full
def test_messages_that_cannot_be_written_make_no_failed_gate_of_a_pass(project):
    (project / "policy.yaml").write_text(brightness_policy(CLEAN))
    command = [sys.executable, "-c", "from robustcheck.cli import main; main(['run', 'policy.yaml'])"]
    with FULL.open("w") as full:
        assert subprocess.run(command, stdout=subprocess.DEVNULL, stderr=full, check=False).returncode == 0


def _ends(arguments):
    """The exit code, where streams are as they were set."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


@contextmanager
def _nobody_reads():
    """Standard output is a pipe whose other end is closed."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as nobody, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", nobody)
        yield


REPLAY = ["replay", "robustcheck-report/report.json", "policy.yaml"]
OF_EACH = [(["run", "policy.yaml"], 1), (REPLAY, 0), (["plan", "policy.yaml"], 0)]


def test_who_no_longer_reads_gets_the_exit_code_that_is_known(project):
    """As of `| head -1`, and of `| tee log`, which ends with the Ctrl-C that interrupts the run."""
    assert _run(project, _gate("{accuracy: 0.9}")).exit_code == 1
    interrupted = ["run", "interrupted.yaml", "-o", "interrupted"]
    (project / "interrupting.py").write_text(_doing("raise KeyboardInterrupt"))
    text = (project / "policy.yaml").read_text().replace("brightness:", "interrupting:")
    (project / "interrupted.yaml").write_text(text)
    for arguments, code in (*OF_EACH[:2], (interrupted, 130), (["validate", "policy.yaml"], 0)):
        with _nobody_reads():
            assert _ends(arguments) == code, arguments


def test_who_no_longer_reads_is_told_that_reports_cannot_be_written(project, monkeypatch, capsys):
    (project / "policy.yaml").write_text(brightness_policy(CLEAN))
    monkeypatch.setattr("robustcheck.report.output.write_json", _full)
    with _nobody_reads():
        assert _ends(["run", "policy.yaml"]) == 3
    assert capsys.readouterr().err.splitlines()[-1] == "report.json: cannot be written: No space left on device"


@needs_full
def test_output_that_cannot_be_written_is_told_in_a_sentence(project, monkeypatch, capsys):
    assert _run(project, _gate("{accuracy: 0.9}")).exit_code == 1
    for arguments, _ in OF_EACH:
        with FULL.open("w") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert _ends(arguments) == 3
        *gates, told = capsys.readouterr().err.splitlines()
        assert told == "standard output cannot be written: No space left on device"
        assert len(gates) == (2 if arguments[0] == "run" else 0)


def test_streams_that_are_closed_change_no_exit_code(project, monkeypatch):
    """Python has none for them then."""
    assert _run(project, _gate("{accuracy: 0.9}")).exit_code == 1
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    for arguments, code in OF_EACH:
        assert _ends(arguments) == code
    (project / "policy.yaml").write_text("no policy")
    assert _ends(["run", "policy.yaml"]) == 2


@needs_full
def test_a_mistake_that_cannot_be_told_is_one(project, monkeypatch):
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert _ends(["run", "no_such.yaml"]) == 2
        monkeypatch.setattr("robustcheck.policy.load_policy", lambda _: 1 / 0)
        assert _ends(["run", "no_such.yaml"]) == 3


def test_render_replaces_nobody_else_s_files(project):
    assert _run(project, CLEAN).exit_code == 0
    (project / "junit.xml").write_text("<testsuites/>")
    report = str(project / "robustcheck-report" / "report.json")
    done = CliRunner().invoke(main, ["render", report, "-o", "."], catch_exceptions=False)
    assert done.exit_code == 2
    assert "junit.xml is there, but no report.json of robustcheck's" in done.stderr
    assert (project / "junit.xml").read_text() == "<testsuites/>"
    for _ in range(2):
        assert CliRunner().invoke(main, ["render", report, "-o", "again"]).exit_code == 0


def test_quiet_is_one_line(project):
    done = _run(project, CLEAN, "", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


class _Output(io.StringIO):
    def __init__(self, *, terminal):
        super().__init__()
        self._terminal = terminal

    def isatty(self):
        return self._terminal


@pytest.mark.parametrize(
    ("terminal", "asked", "coloured"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # no-color.org: it counts when it is not empty
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_and_who_asks_otherwise_is_heeded(terminal, asked, coloured, project, monkeypatch):
    for name, value in {"NO_COLOR": "", "FORCE_COLOR": "", "TERM": "xterm", **asked}.items():
        monkeypatch.setenv(name, value)
    (project / "policy.yaml").write_text(brightness_policy(CLEAN))
    monkeypatch.setattr(sys, "stdout", output := _Output(terminal=terminal))
    with pytest.raises(SystemExit):
        main(["run", "policy.yaml"])

    assert ("\x1b[" in output.getvalue()) == coloured
    assert output.getvalue().splitlines()[-1].startswith("PASS")


def test_a_narrow_terminal_loses_no_verdict(project, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    header = _run(project, CLEAN).stdout.splitlines()[2]
    assert header.split()[-1] == "verdict"


def test_what_another_attack_found_is_told_below_the_table(project):
    gates = "\n".join(
        f"  - {{id: {name}, attack: {name}, epsilon: 4/255, require: {{accuracy: 0}}}}" for name in ("fgsm", "pgd")
    )
    told = _run(project, f"\n{gates}\n").output
    assert "\npgd: 6 of its 6 broken samples were found by other gates: 6 by fgsm\n" in told
    assert "fgsm: 6 of" not in told
    assert "found by other gates" not in _run(project, f"\n{gates}\n", "", "--quiet").output


def test_why_nothing_could_be_evaluated_is_told_once(project):
    (project / "brightness.safetensors").write_bytes(b"not weights")
    asked = "  - {id: asked, attack: square, epsilon: 2/255, queries: 5, require: {accuracy: 0}}\n"
    result = _run(project, _gate("{accuracy: 0.5}") + asked)
    said = [line for line in result.stderr.splitlines() if "could not be evaluated" in line]
    assert len(said) == 1
    assert said[0].startswith("clean, pgd, asked: could not be evaluated: ")
    assert [said[0].endswith(gate["error"]) for gate in _report(project)["gates"]] == [True] * 3
