"""`robustcheck run`: what it prints, what it writes, and what its exit code tells."""

from __future__ import annotations

import json

import pytest
from building import ARCHITECTURE, brightness_policy, brightness_project
from click.testing import CliRunner

from robustcheck.cli import main

CLEAN = "\n  - {id: clean, require: {accuracy: 1}}\n"
CONFIDENT = "decision: {rule: confident}"
INTERRUPTED = ARCHITECTURE.replace(
    "    def forward(self, image):\n",
    "    def forward(self, image):\n        if torch.is_grad_enabled():\n            raise KeyboardInterrupt\n",
)


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
        (CLEAN.replace("1}", "0.7}"), CONFIDENT.replace("}", ", inconclusive: allow}"), 0, "PASS"),
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
    (project / "brightness.py").write_text(INTERRUPTED)
    done = _run(project, _gate("{accuracy: 0.5}"))
    assert done.exit_code == 130
    report = _report(project)
    assert report["interrupted"]
    assert [(gate["id"], gate["verdict"]) for gate in report["gates"]] == [("clean", "pass")]
    assert (project / "robustcheck-report" / "junit.xml").is_file()


def test_quiet_is_one_line(project):
    done = _run(project, CLEAN, "", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
