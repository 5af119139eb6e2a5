"""pytest's exit code and what it leaves behind are never greener than the gates."""

from __future__ import annotations

import os
import signal
import sys
import xml.etree.ElementTree as ET

import pytest
from building import brightness_report

from robustcheck.report import output

PASSING = ("--robustcheck", "passing.yaml")
TERMINATED_AGAIN = """
import os, signal
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish():  # comes before ours, which is registered earlier
    os.kill(os.getpid(), signal.SIGTERM)
"""
BOTH = "addopts = --robustcheck passing.yaml --robustcheck-output out"


def _skipping(what: str) -> str:
    return f"import pytest\n\ndef pytest_collection_modifyitems(items):\n    for item in items:\n        {what}\n"


def test_gates_that_are_all_skipped_are_no_green(pytester, project):
    pytester.makeconftest(_skipping("item.add_marker(pytest.mark.skip)"))
    result = pytester.runpytest(*PASSING, "--junitxml", "own.xml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["ERROR: none of 4 selected gates was run: all were skipped; deselect them instead"])
    assert [case.get("name") for case in ET.parse(project / "own.xml").iter("testcase") if len(case) and (
        case.find("failure") is not None or case.find("error") is not None
    )] == ["judging the gates"]  # fmt: skip


def test_gates_that_are_expected_to_fail_are_no_green(pytester, project):
    pytester.makeconftest(_skipping("item.add_marker(pytest.mark.xfail)"))
    result = pytester.runpytest("--robustcheck", "policy.yaml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["ERROR: the verdict is fail, but pytest would have exited with 0"])
    assert brightness_report(project)["verdict"] == "fail"


def test_who_ends_pytest_with_0_after_a_gate_failed_does_not(pytester, project):
    pytester.makepyfile(test_own="import pytest\n\ndef test_own():\n    pytest.exit('enough', returncode=0)\n")
    assert pytester.runpytest("--robustcheck", "policy.yaml", "policy.yaml", "test_own.py").ret == 1


def test_who_ends_pytest_interrupts_it(pytester, project):
    pytester.makepyfile(test_own="import pytest\n\ndef test_own():\n    pytest.exit('enough')\n")
    assert pytester.runpytest(*PASSING, "passing.yaml", "test_own.py").ret == 2
    report = brightness_report(project)
    assert (len(report["gates"]), report["interrupted"], report["verdict"]) == (4, True, "error")


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_costs_nothing_that_was_finished(pytester, project, monkeypatch):
    write = output.write_json

    def impatient(*given):
        os.kill(os.getpid(), signal.SIGINT)
        return write(*given)

    monkeypatch.setattr(output, "write_json", impatient)
    pytester.makepyfile(test_own="import pytest\n\ndef test_own():\n    pytest.exit('enough')\n")
    assert pytester.runpytest(*PASSING, "passing.yaml", "test_own.py").ret == 2
    assert (len(brightness_report(project)["gates"]), brightness_report(project)["interrupted"]) == (4, True)


def test_sigterm_reports_what_was_finished(pytester, project):
    pytester.makepyfile(test_own="import os, signal\n\ndef test_own():\n    os.kill(os.getpid(), signal.SIGTERM)\n")
    pytester.makeconftest(TERMINATED_AGAIN)
    result = pytester.runpytest_subprocess(*PASSING, "passing.yaml", "test_own.py")
    assert result.ret == 2
    report = brightness_report(project)
    assert report["interrupted"]
    assert len(report["gates"]) == 4
    assert report["verdict"] == "error"


def test_gates_have_a_marker_by_which_they_can_be_left_out(pytester, project):
    result = pytester.runpytest(*PASSING, ".", "-m", "not robustcheck", "--strict-markers")
    assert result.ret == 0
    result.assert_outcomes(passed=1, deselected=4)
    pytester.runpytest(*PASSING, ".", "-m", "robustcheck").assert_outcomes(passed=4, deselected=1)


def test_a_policy_with_mistakes_takes_an_earlier_green_report_away(pytester, project):
    assert pytester.runpytest(*PASSING).ret == 0
    text = (project / "passing.yaml").read_text()
    (project / "passing.yaml").write_text(text.replace("accuracy", "acuracy"))
    assert pytester.runpytest(*PASSING, "--collect-only").ret == 4
    assert sorted(path.name for path in (project / "robustcheck-report").iterdir()) != []
    assert pytester.runpytest(*PASSING).ret == 4
    assert list((project / "robustcheck-report").iterdir()) == []


def test_a_conftest_that_ends_the_run_takes_an_earlier_green_report_away(pytester, project):
    reports = project / "robustcheck-report"
    assert pytester.runpytest(*PASSING).ret == 0
    pytester.makeconftest("import no_such_module")
    for others in (["--collect-only"], ["--setup-plan"], ["--version"], ["--robustcheck", "no_such.yaml"]):
        pytester.runpytest(*PASSING, *others)
        assert (reports / "report.json").exists(), others
    result = pytester.runpytest(*PASSING)
    assert result.ret == 4
    assert result.errlines[-1] == "E   ModuleNotFoundError: No module named 'no_such_module'"  # pytest's own message
    assert list(reports.iterdir()) == []


@pytest.mark.parametrize("ini", ["robustcheck = passing.yaml\nrobustcheck_output = out", BOTH])
def test_a_conftest_that_ends_the_run_does_so_for_policies_of_an_ini_file(pytester, project, monkeypatch, ini):
    pytester.makeini(f"[pytest]\n{ini}\n")
    assert pytester.runpytest().ret == 0
    pytester.makeconftest("import no_such_module")
    monkeypatch.chdir(pytester.mkdir("below"))
    assert pytester.runpytest().ret == 4
    assert list((project / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["policy.yaml", "policy.yml"])
@pytest.mark.parametrize("arguments", [[], PASSING])
def test_a_policy_among_pytest_s_files_is_told_how_to_be_run(pytester, project, arguments, name):
    (project / "policy.yaml").rename(project / name)
    result = pytester.runpytest(*arguments, name)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*{name} is a policy: put --robustcheck before it, and before each other one"])
    assert not (project / "robustcheck-report").exists()


def test_yaml_files_that_are_no_policies_are_other_plugins_business(pytester, project):
    (project / "other.yaml").write_text("stages: []\n")
    pytester.makeconftest(
        "import pytest\n\n"
        "class Item(pytest.Item):\n"
        "    def runtest(self):\n"
        "        pass\n\n"
        "class File(pytest.File):\n"
        "    def collect(self):\n"
        "        yield Item.from_parent(self, name='one')\n\n"
        "def pytest_collect_file(file_path, parent):\n"
        "    if file_path.name == 'other.yaml':\n"
        "        return File.from_parent(parent, path=file_path)\n"
    )
    pytester.runpytest("other.yaml").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("ini", "arguments", "folder"),
    [
        (BOTH, [], "out"),
        (
            BOTH,
            ["--robustcheck-output", "here"],
            "below/here",
        ),
        ("robustcheck = passing.yaml", [], "robustcheck-report"),
        ("", ["--robustcheck", "../passing.yaml"], "below/robustcheck-report"),
    ],
)
def test_reports_lie_where_the_policy_was_named(pytester, project, monkeypatch, ini, arguments, folder):
    pytester.makeini(f"[pytest]\n{ini}\n")
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    pytester.runpytest(*arguments)
    assert [path.parent for path in project.rglob("report.json")] == [project / folder]


def test_facts_of_several_policies_do_not_contradict_one_another(pytester, project):
    result = pytester.runpytest("--robustcheck", "policy.yaml", *PASSING, "--junitxml", "own.xml")
    assert result.ret == 1
    properties = ET.parse(project / "own.xml").getroot().find("testsuite/properties")
    facts = [(item.get("name"), item.get("value")) for item in properties]
    assert len({name for name, _ in facts}) == len(facts)
    assert dict(facts)["policy.verdict"] == "fail"
    assert dict(facts)["passing.verdict"] == "pass"


def test_a_report_that_a_defect_keeps_from_being_written_leaves_pytest_s_own(pytester, project, monkeypatch):
    monkeypatch.setattr("robustcheck.report.writing.html", lambda *_, **__: 1 / 0)
    result = pytester.runpytest(*PASSING, "--junitxml", "own.xml")
    assert result.ret == 3
    result.stdout.fnmatch_lines(["*ZeroDivisionError: division by zero"])
    assert "writing the reports" in [case.get("name") for case in ET.parse(project / "own.xml").iter("testcase")]


def test_what_is_amiss_with_one_policy_hides_nothing_of_another(pytester, project, monkeypatch):
    """The worse exit code stays, and each is told."""
    pytester.makeconftest(_skipping("if item.path.name == 'other.yaml': item.add_marker(pytest.mark.skip)"))
    (project / "other.yaml").write_text((project / "passing.yaml").read_text())
    monkeypatch.setattr("robustcheck.report.writing.html", lambda *_, **__: 1 / 0)
    result = pytester.runpytest(*PASSING, "--robustcheck", "other.yaml")
    assert result.ret == 3
    result.stdout.fnmatch_lines(
        ["*ZeroDivisionError: division by zero", "ERROR: none of 4 selected gates was run: all were skipped*"]
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_our_letters_gets_lines_all_the_same(pytester, project, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    monkeypatch.setenv("COLUMNS", "80")
    result = pytester.run(sys.executable, "-m", "pytest", "--robustcheck", "policy.yaml", "-p", "no:cacheprovider")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*(eps = 4/255, Linf)*", "gate *attack *threat*", "-----*", "pgd*4/255 Linf*fail *"])
    rows = [line for line in result.outlines if "Linf accuracy" in line]
    heading = next(line for line in result.outlines if line.startswith("gate "))
    assert rows
    assert {line.index("accuracy") for line in rows} == {heading.index("required")}
    assert max(map(len, (heading, *rows))) <= 80
    assert not [line for line in result.outlines if r"\n" in line or r"\u" in line]


def test_a_narrow_terminal_loses_no_verdict(pytester, project, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    result = pytester.runpytest(*PASSING)
    heading = next(line.split() for line in result.outlines if line.startswith("gate "))
    assert heading[-1] == "verdict"
    result.stdout.fnmatch_lines(["clean * pass*"])
