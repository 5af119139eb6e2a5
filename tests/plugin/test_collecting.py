"""Which gates a call of pytest runs, and which of the project's own tests beside them."""

from __future__ import annotations

import json
import os
import re
import shlex

import pytest
from building import brightness_report

NAMES = ["clean", "fgsm", "pgd[1/255]", "pgd[4/255]"]
LONG = "p" * 300  # longer than the name of any file


def test_a_gate_can_be_named(pytester, project, plain_or_worker):
    result = pytester.runpytest("--robustcheck", "policy.yaml", "policy.yaml::pgd[1/255]", *plain_or_worker)
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    report = brightness_report(project)
    assert [gate["id"] for gate in report["gates"]] == ["pgd[1/255]"]
    assert report["not_run"] == ["clean", "fgsm", "pgd[4/255]"]


def test_a_gate_that_is_given_to_the_option_is_told_how_to_be_named(pytester, project):
    result = pytester.runpytest("--robustcheck", "policy.yaml::pgd[1/255]")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    asked, told = line.split("; to run this gate alone: ")
    assert asked == "ERROR: --robustcheck policy.yaml::pgd[1/255]: names a gate, but takes a policy"
    pytester.runpytest(*shlex.split(told)).assert_outcomes(passed=1)


def test_those_that_failed_are_run_again_alone(pytester, project, plain_or_worker):
    pytester.runpytest("--robustcheck", "policy.yaml", *plain_or_worker).assert_outcomes(passed=3, failed=1)
    result = pytester.runpytest("--robustcheck", "policy.yaml", "--last-failed", *plain_or_worker)
    result.assert_outcomes(failed=1)
    assert [gate["id"] for gate in brightness_report(project)["gates"]] == ["pgd[4/255]"]


def test_the_project_s_own_tests_run_beside_if_paths_are_named(pytester, project, plain_or_worker):
    pytester.runpytest("--robustcheck", "passing.yaml", ".", *plain_or_worker).assert_outcomes(passed=5)


def test_collect_only_lists_gates_and_touches_no_report(pytester, project):
    pytester.runpytest("--robustcheck", "policy.yaml")
    before = (project / "robustcheck-report" / "report.json").read_text()
    result = pytester.runpytest("--robustcheck", "policy.yaml", "--collect-only", "-q")
    assert result.ret == 0
    assert [line for line in result.outlines if "::" in line] == [f"policy.yaml::{name}" for name in NAMES]
    assert (project / "robustcheck-report" / "report.json").read_text() == before


def test_ini_keys_run_the_gates_beside_every_test(pytester, project, plain_or_worker):
    pytester.makeini("[pytest]\nrobustcheck = passing.yaml\nrobustcheck-output = from-ini\n")
    result = pytester.runpytest(*plain_or_worker)
    assert result.ret == 0
    result.assert_outcomes(passed=5)
    assert (project / "from-ini" / "report.json").exists()


@pytest.mark.parametrize("where", ["ini", "environment"])
def test_policies_of_addopts_run_beside_every_test_as_those_of_the_ini_key(
    pytester, project, plain_or_worker, monkeypatch, where
):
    """Nobody who types `pytest` has asked for gates alone: the project's own tests would silently stop running."""
    addopts = "--robustcheck passing.yaml"
    pytester.makeini("[pytest]\n" + (f"addopts = {addopts}\n" if where == "ini" else ""))
    if where == "environment":
        monkeypatch.setenv("PYTEST_ADDOPTS", addopts)
    result = pytester.runpytest(*plain_or_worker)
    assert result.ret == 0
    result.assert_outcomes(passed=5)


def test_policies_of_addopts_are_seen_from_the_ini_file(pytester, project, monkeypatch):
    pytester.makeini("[pytest]\naddopts = --robustcheck=passing.yaml\n")
    (project / "below").mkdir()
    (project / "below" / "test_below.py").write_text("def test_below():\n    pass\n")
    monkeypatch.chdir(project / "below")
    pytester.runpytest().assert_outcomes(passed=5)


def test_a_policy_that_is_typed_runs_alone_beside_those_of_addopts(pytester, project, plain_or_worker):
    pytester.makeini("[pytest]\naddopts = --robustcheck passing.yaml\n")
    result = pytester.runpytest("--robustcheck=policy.yaml", *plain_or_worker)
    result.assert_outcomes(passed=7, failed=1)


def test_an_ini_files_folder_for_reports_is_seen_from_that_file(pytester, project, monkeypatch):
    pytester.makeini("[pytest]\nrobustcheck = passing.yaml\nrobustcheck-output = from-ini\n")
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    assert pytester.runpytest().ret == 0
    assert (project / "from-ini" / "report.json").exists()
    assert not (project / "below" / "from-ini").exists()


def test_a_look_at_pytests_cache_leaves_the_reports(pytester, project):
    pytester.makeini("[pytest]\nrobustcheck = passing.yaml\n")
    report = project / "robustcheck-report" / "report.json"
    report.parent.mkdir()
    report.write_text("{}")
    assert pytester.runpytest("--cache-show").ret == 0
    assert report.read_text() == "{}"


def _copied(project, folder):
    folder.mkdir(parents=True)
    for name in ("passing.yaml", "brightness.py", "brightness.safetensors", "flat.npz"):
        (folder / name).write_bytes((project / name).read_bytes())


@pytest.mark.parametrize(("folder", "workers"), [(".gates", "-n1"), ("build/of/gates", "-n0")])
def test_a_policy_in_a_folder_that_pytest_passes_by_runs_and_nothing_else_there(pytester, project, folder, workers):
    _copied(project, project / folder)
    for place in {folder, folder.partition("/")[0]}:
        (project / place / "test_other.py").write_text("def test_other():\n    assert False\n")
    (project / folder / "conftest.py").write_text("raise RuntimeError\n")
    result = pytester.runpytest("--robustcheck", f"{folder}/passing.yaml", ".", workers)
    result.assert_outcomes(passed=5)
    assert brightness_report(project)["verdict"] == "pass"


NOTHING = """
import pytest

class Nothing(pytest.Dir):
    def collect(self):
        return []

def pytest_collect_directory(path, parent):
    return Nothing.from_parent(parent, path=path) if path.name == "gates" else None
"""


def test_a_policy_runs_whatever_a_project_s_own_collecting_does(pytester, project):
    _copied(project, project / "gates")
    pytester.makeconftest(NOTHING)
    pytester.runpytest("--robustcheck", "gates/passing.yaml", ".").assert_outcomes(passed=5)


@pytest.mark.parametrize("arguments", [(".", "more/test_more.py"), (".", "passing.yaml::clean"), ("more", ".")])
def test_gates_are_not_lost_among_arguments_that_overlap(pytester, project, arguments):
    """pytest 8 leaves out a folder for a file or folder in it that is named too; what it runs is its own matter."""
    (project / "more").mkdir()
    (project / "more" / "test_more.py").write_text("def test_more():\n    pass\n")
    result = pytester.runpytest("--robustcheck", "passing.yaml", *arguments)
    gates = {gate["id"] for gate in brightness_report(project)["gates"]}
    assert gates == ({"clean"} if pytest.version_tuple < (9,) and "passing.yaml::clean" in arguments else set(NAMES))
    assert result.ret == 0
    if pytest.version_tuple >= (9,):
        result.assert_outcomes(passed=6)


def test_a_policy_that_is_met_through_a_link_too_runs_once(pytester, project):
    (project / "linked.yaml").symlink_to(project / "passing.yaml")
    pytester.runpytest("--robustcheck", "passing.yaml", ".").assert_outcomes(passed=5)


def test_tests_beside_a_policy_that_is_named_through_a_link_run(pytester, project):
    _copied(project, project / ".kept")
    (project / ".kept" / "test_linked.py").write_text("def test_linked():\n    pass\n")
    (project / "tests").symlink_to(project / ".kept")
    pytester.runpytest("--robustcheck", "tests/passing.yaml", ".").assert_outcomes(passed=6)


def test_a_mistyped_folder_is_pytest_s_own_mistake(pytester, project):
    result = pytester.runpytest("--robustcheck", "passing.yaml", "tets")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: file or directory not found: tets"])


@pytest.mark.parametrize("arguments", [("--robustcheck", LONG), ("--robustcheck", f"{LONG}::clean"), (f"{LONG}.yaml",)])
def test_a_name_that_is_longer_than_any_is_a_usage_error(pytester, project, arguments):
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert LONG in result.stderr.str()
    assert not (project / "robustcheck-report").exists()


def test_a_policy_outside_the_root_folder_reports_as_any_other(pytester, project, plain_or_two):
    elsewhere = pytester.mkdir("elsewhere")
    result = pytester.runpytest(
        "--rootdir", str(elsewhere), "--robustcheck", str(project / "policy.yaml"),
        "--robustcheck-output", str(elsewhere / "out"), *plain_or_two,
    )  # fmt: skip
    assert result.ret == 1
    report = json.loads((elsewhere / "out" / "report.json").read_text())
    assert [gate["verdict"] for gate in report["gates"]] == ["pass", "pass", "pass", "fail"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", ["old[2]", "a::b"])
def test_a_project_in_a_folder_whose_name_looks_like_tests_runs(pytester, project, monkeypatch, plain_or_worker, name):
    _copied(project, project / name / "here")
    (project / name / "there").mkdir()
    for start, policy in (("here", "passing.yaml"), ("there", "../here/passing.yaml")):
        (project / name / start / "pytest.ini").write_text("[pytest]\n")
        monkeypatch.chdir(project / name / start)
        result = pytester.runpytest("--rootdir", str(project / name), "--robustcheck", policy, *plain_or_worker)
        result.assert_outcomes(passed=4)
        assert brightness_report(project / name / start)["verdict"] == "pass"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize(
    ("name", "start", "told"),
    [
        (
            "old[2]",
            ".",
            r"old\[2\]/passing.yaml: pytest reads \[ and :: in a path as names of tests; start it in the folder of",
        ),
        ("a::b", ".", "a::b/passing.yaml: pytest reads :: in a path as names of tests; use `robustcheck run`"),
        ("a::b", "a::b", "a::b/passing.yaml: pytest reads :: in a path as names of tests; use `robustcheck run`"),
    ],
)
def test_a_policy_whose_path_looks_like_tests_is_told_how_to_be_run(pytester, project, monkeypatch, name, start, told):
    _copied(project, project / name)
    pytester.makeini("[pytest]\n")
    monkeypatch.chdir(project / start)
    result = pytester.runpytest("--robustcheck", str(project / name / "passing.yaml"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    assert re.search(told, line)
    assert not list(project.rglob("report.json"))
