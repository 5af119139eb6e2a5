"""`pytest --robustcheck policy.yaml`, as a user runs it.

pytest runs inside pytest, mostly in this process, where torch is loaded already. What a process does not survive, or
what depends on how it begins, has one of its own.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from time import monotonic
from types import SimpleNamespace

import pytest
import torch
from building import brightness_policy, brightness_report

from robustcheck import load_policy
from robustcheck.evaluation import evaluation
from robustcheck.gate_hooks import GatePlugin
from robustcheck.models.process_settings import left_as_found
from robustcheck.policy_run import PolicyRun
from robustcheck.results import Answer, GateResult, ModelInfo

# pytest 8 has the name alone there: it takes reasons from exceptions, and not from what a test says itself.
WHY = " - accuracy 0.400 is below*" if pytest.version_tuple >= (9,) else ""
NAMES = ["clean", "fgsm", "pgd[1/255]", "pgd[4/255]"]


def _cases(path):
    return {case.get("name"): case for case in ET.parse(path).getroot().iter("testcase")}


def test_a_gate_that_fails_turns_the_build_red_and_everything_says_so(pytester, project, mode):
    result = pytester.runpytest("--robustcheck", "policy.yaml", "--junitxml", "own.xml", "-v", *mode)
    assert result.ret == 1
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*accuracy 0.400 is below the required >= 0.9 (4 of 10;*",
            "*robustcheck: Brightness*",
            "*FAIL: 3 gates passed, 1 failed, on 10 samples*",
            f"*FAILED policy.yaml::pgd[[]4/255[]]{WHY}",
        ]
    )
    report = brightness_report(project)
    assert report["verdict"] == "fail"
    assert [gate["id"] for gate in report["gates"]] == NAMES
    assert [gate["verdict"] for gate in report["gates"]] == ["pass", "pass", "pass", "fail"]
    ours = _cases(project / "robustcheck-report" / "junit.xml")
    assert [name for name, case in ours.items() if case.find("failure") is not None] == ["pgd[4/255]"]
    assert "accuracy >= 0.9" in ours["pgd[4/255]"].find("failure").text
    html = (project / "robustcheck-report" / "report.html").read_text()
    assert "pgd[4/255]" in html
    assert html.count("data:image/png") >= 3
    own = ET.parse(project / "own.xml").getroot()
    assert [case.get("name") for case in own.iter("testcase") if case.find("failure") is not None] == ["pgd[4/255]"]
    suite = {item.get("name"): item.get("value") for item in own.find("testsuite/properties")}
    assert suite["verdict"] == "fail"
    assert suite["model.sha256"] == report["model"]["sha256"]
    case = next(case for case in own.iter("testcase") if case.get("name") == "pgd[4/255]")
    facts = {item.get("name"): item.get("value") for item in case.find("properties")}
    assert any("0.9" in value for value in facts.values())
    assert not list((project / "robustcheck-report").glob(".running*"))


def test_a_policy_that_holds_is_green(pytester, project, mode):
    result = pytester.runpytest("--robustcheck", "passing.yaml", *mode)
    assert result.ret == 0
    result.assert_outcomes(passed=4)
    assert brightness_report(project)["verdict"] == "pass"
    assert (project / "robustcheck-report" / "counterexamples").is_dir()


@pytest.mark.parametrize(
    ("policy", "workers", "code", "verdict"), [("passing.yaml", [], 0, "pass"), ("policy.yaml", ["-n2"], 1, "fail")]
)
def test_it_runs_where_nothing_has_been_loaded(pytester, project, policy, workers, code, verdict):
    result = pytester.run(sys.executable, "-m", "pytest", "--robustcheck", policy, *workers)
    assert result.ret == code
    assert brightness_report(project)["verdict"] == verdict
    assert (project / "robustcheck-report" / "report.html").exists()


def test_workers_give_the_answers_of_one_process(pytester, project):
    def answers(*mode):
        pytester.runpytest("--robustcheck", "policy.yaml", *mode)
        report = brightness_report(project)
        for gate in report["gates"]:
            gate["cost"]["seconds"] = 0
        return report["gates"], report["model"], report["data"]

    assert answers("-n2", "--dist", "load") == answers("-n0")


def test_there_are_no_more_threads_than_can_run_at_once(pytester, project, monkeypatch):
    """Of the environment's number these tests are run with nothing is known here."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("robustcheck.resources.processors", lambda: 2)
    with left_as_found():
        torch.set_num_threads(3)
        pytester.runpytest("--robustcheck", "policy.yaml")
    assert brightness_report(project)["environment"]["threads"] == "2"


def test_a_candidate_that_cannot_be_loaded_is_an_error_and_not_a_failure(pytester, project, plain_or_worker):
    (project / "brightness.safetensors").write_bytes(b"lost")
    result = pytester.runpytest("--robustcheck", "policy.yaml", *plain_or_worker)
    assert result.ret == 1
    assert brightness_report(project)["verdict"] == "error"
    for case in _cases(project / "robustcheck-report" / "junit.xml").values():
        assert case.find("error") is not None
        assert case.find("failure") is None
    result.stdout.fnmatch_lines(["could not be evaluated: brightness.safetensors is not a complete safetensors file*"])


def test_a_policy_with_mistakes_is_a_usage_error_that_shows_them_all(pytester, project, mode):
    (project / "policy.yaml").write_text(brightness_policy(GATES_WITH_MISTAKES))
    result = pytester.runpytest("--robustcheck", "policy.yaml", *mode)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*policy.yaml:16: gates[[]0].attack: unknown attack 'pdg'*did you mean 'pgd'?",
            "*policy.yaml:17: gates[[]0].epsilon: found 8, more than the full range*",
        ]
    )
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


GATES_WITH_MISTAKES = """
  - id: pgd
    attack: pdg
    epsilon: 8
    require: {accuracy: 0.5}
"""


def test_k_selects_and_the_rest_is_said_not_to_have_run(pytester, project, plain_or_two):
    result = pytester.runpytest("--robustcheck", "policy.yaml", "-k", "pgd or clean", *plain_or_two)
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=1, deselected=0 if plain_or_two == ["-n2"] else 1)
    assert brightness_report(project)["not_run"] == ["fgsm"]
    case = _cases(project / "robustcheck-report" / "junit.xml")["fgsm"]
    assert case.find("skipped") is not None


def test_a_gate_that_was_not_selected_is_not_evaluated_on_the_way(pytester, project, plain_or_worker):
    """Of the ladder's first gate this one would have inherited what that one turned."""
    pytester.runpytest("--robustcheck", "policy.yaml", "policy.yaml::pgd[4/255]", *plain_or_worker)
    (gate,) = brightness_report(project)["gates"]
    assert {sample["evidence"] for sample in gate["samples"]} == {"searched"}


def test_an_earlier_green_report_does_not_outlive_a_run_that_wrote_none(pytester, project):
    pytester.runpytest("--robustcheck", "passing.yaml")
    result = pytester.runpytest("--robustcheck", "passing.yaml", "-k", "nothing_of_that_name")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not (project / "robustcheck-report" / "report.json").exists()


def test_several_policies_write_to_a_folder_each(pytester, project, plain_or_two):
    result = pytester.runpytest(
        "--robustcheck",
        "policy.yaml",
        "--robustcheck",
        "passing.yaml",
        "--robustcheck-output",
        "out/here",
        *plain_or_two,
    )
    assert result.ret == 1
    result.assert_outcomes(passed=7, failed=1)
    verdicts = {
        name: json.loads((project / "out" / "here" / name / "report.json").read_text())["verdict"]
        for name in ("policy", "passing")
    }
    assert verdicts == {"policy": "fail", "passing": "pass"}


def test_a_policy_of_which_no_gate_was_selected_is_told_and_leaves_no_earlier_report(pytester, project, plain_or_two):
    (project / "other.yaml").write_text(brightness_policy(ONE_GATE))
    both = ("--robustcheck", "passing.yaml", "--robustcheck", "other.yaml")
    earlier = project / "robustcheck-report" / "other"
    pytester.runpytest(*both).assert_outcomes(passed=5)
    assert (earlier / "report.json").exists()

    result = pytester.runpytest(*both, "-k", "clean", *plain_or_two)
    assert result.ret == 0
    assert (earlier.with_name("passing") / "report.json").exists()
    assert list(earlier.iterdir()) == []
    result.stdout.fnmatch_lines(["NOT RUN: other.yaml: its gate was not selected, so there is no report on it"])

    (project / "test_own.py").write_text("def test_own():\n    assert False\n")  # nor does it matter how the run ends
    result = pytester.runpytest(*both, ".", "-k", "lonely or own", *plain_or_two)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["NOT RUN: passing.yaml: none of its 4 gates was selected, so there is no report on it"]
    )


def test_of_a_run_that_selected_nothing_for_its_own_mistake_nothing_is_told(pytester, project, plain_or_two):
    result = pytester.runpytest("--robustcheck", "passing.yaml", "no_such_test.py", *plain_or_two)
    xdist_s = pytest.ExitCode.NO_TESTS_COLLECTED  # whatever its workers ended with
    assert result.ret == (xdist_s if plain_or_two == ["-n2"] else pytest.ExitCode.USAGE_ERROR)
    result.stdout.no_fnmatch_line("NOT RUN*")


def test_of_a_run_whose_worker_dies_while_it_collects_nothing_is_told(pytester, project):
    (project / "test_own.py").write_text("import os\nos._exit(3)\n")
    result = pytester.runpytest("--robustcheck", "passing.yaml", "test_own.py", "-n1")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.no_fnmatch_line("NOT RUN*")


ONE_GATE = """
  - {id: lonely, attack: fgsm, epsilon: 2/255, require: {accuracy: 0.6}}
"""
GATES_THAT_FAIL_FIRST = """
  - {id: first, attack: fgsm, epsilon: 8/255, require: {accuracy: 1}}
  - {id: second, attack: fgsm, epsilon: 1/255, require: {accuracy: 0}}
"""


def test_a_folder_of_someone_else_s_counterexamples_is_not_deleted(pytester, project):
    theirs = project / "mine" / "counterexamples" / "precious.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("keep")
    result = pytester.runpytest("--robustcheck", "passing.yaml", "--robustcheck-output", "mine")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*choose another output folder*"])
    assert theirs.read_text() == "keep"


def test_who_stops_a_run_before_its_first_gate_has_a_report_that_says_so(pytester, project):
    (project / "test_own.py").write_text("import pytest\n\ndef test_own():\n    pytest.exit('enough')\n")
    result = pytester.runpytest("--robustcheck", "passing.yaml", "test_own.py", "passing.yaml")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    report = brightness_report(project)
    assert (report["verdict"], report["interrupted"], report["not_run"]) == ("error", True, NAMES)


def test_ctrl_c_reports_what_was_finished(pytester, project):
    (project / "conftest.py").write_text(
        "import pytest\n"
        "@pytest.hookimpl(wrapper=True)\n"
        "def pytest_runtest_call(item):\n"
        "    if item.name == 'pgd[1/255]':\n"
        "        raise KeyboardInterrupt\n"
        "    return (yield)\n"
    )
    result = pytester.runpytest_inprocess("--robustcheck", "policy.yaml", no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    report = brightness_report(project)
    assert report["interrupted"] is True
    assert report["verdict"] == "error"
    assert [gate["id"] for gate in report["gates"]] == ["clean", "fgsm"]
    assert report["not_run"] == ["pgd[1/255]", "pgd[4/255]"]
    assert report["interruption"] is None  # it was no gate that was stopped


def test_what_another_attack_found_is_told_below_the_table(pytester, project):
    gates = "\n".join(
        f"  - {{id: {name}, attack: {name}, epsilon: 8/255, require: {{accuracy: 0}}}}" for name in ("fgsm", "pgd")
    )
    (project / "two.yaml").write_text(brightness_policy(f"\n{gates}\n"))
    result = pytester.runpytest("--robustcheck", "two.yaml")
    result.stdout.fnmatch_lines(["pgd: * broken samples were found by other gates: * by fgsm"])


def test_a_gate_that_ctrl_c_stops_is_named(pytester, project):
    source = (project / "brightness.py").read_text()
    begins = "    def forward(self, image):\n"
    stops = f"{begins}        if torch.is_grad_enabled():\n            raise KeyboardInterrupt\n"
    (project / "brightness.py").write_text(source.replace(begins, stops))
    result = pytester.runpytest_subprocess("--robustcheck", "policy.yaml")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    stopped = brightness_report(project)["interruption"]
    assert stopped["gate"] in brightness_report(project)["not_run"]
    result.stdout.fnmatch_lines([f"ERROR ({stopped['gate'].split('[')[0]}* was interrupted after * s): *"])


def test_a_worker_that_dies_leaves_an_error_and_not_a_gap(pytester, project):
    (project / "brightness.py").write_text("import os\nos._exit(7)\n")
    result = pytester.runpytest("--robustcheck", "policy.yaml", "-n2", "--max-worker-restart=0")
    assert result.ret != 0
    report = brightness_report(project)
    assert report["verdict"] == "error"
    assert any("without a result" in (gate["error"] or "") for gate in report["gates"])


def test_exitfirst_is_no_interruption(pytester, project, mode):
    (project / "policy.yaml").write_text(brightness_policy(GATES_THAT_FAIL_FIRST))
    result = pytester.runpytest("--robustcheck", "policy.yaml", "-x", *mode)
    assert result.ret != 0
    report = brightness_report(project)
    assert (report["verdict"], report["interrupted"]) == ("fail", False)
    assert _cases(project / "robustcheck-report" / "junit.xml")["first"].find("failure") is not None


def test_gates_that_another_test_s_failure_kept_from_running_leave_no_pass(pytester, project, plain_or_worker):
    (project / "test_own.py").write_text("def test_own():\n    assert False\n")
    order = "def pytest_collection_modifyitems(items):\n    items.sort(key=lambda item: item.name != 'clean')\n"
    (project / "conftest.py").write_text(order)  # a gate, the project's test, and the other gates
    result = pytester.runpytest("--robustcheck", "passing.yaml", "test_own.py", "-x", *plain_or_worker)
    assert result.ret != 0
    report = brightness_report(project)
    assert report["not_run"]
    assert {gate["verdict"] for gate in report["gates"]} <= {"pass"}
    assert (report["verdict"], report["interrupted"]) == ("error", True)


@pytest.mark.parametrize(
    ("verdicts", "left", "verdict", "interrupted"),
    [
        (["pass", "inconclusive"], [], "pass", False),
        (["pass", "inconclusive"], ["policy.yaml::pgd[1/255]"], "error", True),
        (["pass"], ["other.yaml::clean", "test_own.py::test_own"], "pass", False),
        (["pass"], ["policy.yaml.d/test_own.py::test_own"], "pass", False),
        (["pass", "fail"], ["policy.yaml::pgd[1/255]"], "fail", False),  # what ended the run is told already
        (["pass", "error"], ["policy.yaml::pgd[1/255]"], "error", False),
    ],
)
def test_a_pass_needs_all_of_a_policy_s_own_gates_that_were_to_run(project, verdicts, left, verdict, interrupted):
    text = (project / "policy.yaml").read_text() + "decision: {rule: confident, inconclusive: allow}\n"
    (project / "policy.yaml").write_text(text)
    policy = load_policy(project / "policy.yaml")
    began = monotonic() - 5
    run = PolicyRun(policy=policy, nodeid="policy.yaml", started=datetime.now(UTC), worker=False, began=began)
    for gate, found in zip(NAMES, verdicts, strict=False):
        result = GateResult(id=gate, attack=None, threat=None, verdict=found)
        run.note_answer(gate, Answer(gate=result, model=None, data=None, environment={}).to_builtins())
    report = run.report(interrupted=False, left=set(left))
    assert (report.verdict, report.interrupted) == (verdict, interrupted)
    assert 5 <= report.seconds < 60


def test_what_was_judged_is_known_from_whichever_answer_tells(project):
    """A gate that a worker could not evaluate may be answered first, by one that has loaded nothing."""
    run = PolicyRun(
        policy=load_policy(project / "policy.yaml"), nodeid="policy.yaml", started=datetime.now(UTC), worker=False
    )
    model = ModelInfo(
        path="net.onnx", format="onnx", sha256="", task="binary", labels=("dark", "bright"), positive="bright",
        operating_point=None,
    )  # fmt: skip
    for gate, loaded in (("fgsm", None), ("clean", model)):
        result = GateResult(id=gate, attack=None, threat=None, verdict="pass")
        run.note_answer(gate, Answer(gate=result, model=loaded, data=None, environment={}).to_builtins())
    assert run.report(interrupted=False, left=set()).model == model


def test_a_gate_of_which_only_the_setup_is_known_was_kept_from_running(project):
    """As where another worker's failure ends a run under -x."""
    plugin = GatePlugin(SimpleNamespace(rootpath=project), {}, project)
    for phase, ended in (("setup", set()), ("call", {"policy.yaml::clean"}), ("teardown", {"policy.yaml::clean"})):
        plugin.pytest_runtest_logreport(SimpleNamespace(when=phase, nodeid="policy.yaml::clean", failed=False))
        assert plugin._ended == ended


def test_what_this_process_evaluated_is_not_made_again_of_what_its_report_carried(project):
    policy = load_policy(project / "policy.yaml")
    run = PolicyRun(policy=policy, nodeid="policy.yaml", started=datetime.now(UTC), worker=False)
    answer = run.evaluate("clean")
    run.note_answer("clean", answer.to_builtins())
    (gate,) = run.report(interrupted=False, left=set()).gates
    assert gate is answer.gate


KEEPING = """
carried = []

def pytest_runtest_logreport(report):
    carried.extend([report.nodeid] if hasattr(report, "robustcheck") else [])

def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        return
    known = session.config.pluginmanager.get_plugin("terminalreporter").stats.values()
    assert not [report for reports in known for report in reports if hasattr(report, "robustcheck")]
    assert not [item for item in getattr(session, "items", ()) if getattr(item, "answer", None)]
    print("carried:", len(carried))
"""


@pytest.mark.parametrize("options", [[], ["-n1"]])
def test_answers_are_not_kept_on_what_pytest_keeps(pytester, project, options):
    """Each is as large as its samples are many. Others see them pass by."""
    (project / "conftest.py").write_text(KEEPING)
    result = pytester.runpytest("--robustcheck", "passing.yaml", "-s", *options)
    assert result.ret == 0
    gates = len(load_policy(project / "passing.yaml").gates)
    result.stdout.fnmatch_lines([f"*carried: {gates}"])


STOPPED = """
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_PHASE(item):
    yield
    if item.name == "fgsm":
        raise RuntimeError("no room on the disk")
"""


@pytest.mark.parametrize(("phase", "verdict"), [("setup", "error"), ("teardown", "pass")])
def test_a_gate_that_never_began_is_an_error_and_what_comes_after_its_answer_is_none(pytester, project, phase, verdict):
    (project / "conftest.py").write_text(STOPPED.replace("PHASE", phase))
    result = pytester.runpytest("--robustcheck", "passing.yaml")
    assert result.ret == 1
    report = brightness_report(project)
    assert (report["verdict"], report["not_run"]) == (verdict, [])
    (gate,) = [gate for gate in report["gates"] if gate["id"] == "fgsm"]
    assert gate["verdict"] == verdict
    assert ("no room on the disk" in (gate["error"] or "")) == (verdict == "error")


def test_a_worker_that_another_test_kills_keeps_no_gate_from_running(pytester, project):
    (project / "test_own.py").write_text("import os\n\ndef test_own():\n    os._exit(1)\n")
    order = "def pytest_collection_modifyitems(items):\n    items.sort(key=lambda item: item.name != 'clean')\n"
    (project / "conftest.py").write_text(order)
    result = pytester.runpytest("--robustcheck", "passing.yaml", "test_own.py", "-n1")
    assert result.ret != 0
    report = brightness_report(project)
    assert report["not_run"] == []
    assert (report["verdict"], report["interrupted"]) == ("pass", False)


def test_gates_that_were_deselected_or_skipped_were_not_kept_from_running(pytester, project, plain_or_two):
    skip = "import pytest\ndef pytest_runtest_setup(item):\n    if item.name == 'fgsm':\n        pytest.skip('later')\n"
    (project / "conftest.py").write_text(skip)
    result = pytester.runpytest("--robustcheck", "passing.yaml", "-k", "clean or fgsm", *plain_or_two)
    assert result.ret == 0
    report = brightness_report(project)
    assert [gate["id"] for gate in report["gates"]] == ["clean"]
    assert (report["verdict"], report["interrupted"]) == ("pass", False)


@pytest.mark.parametrize(
    "option", ["--help", "--markers", "--fixtures", "--fixtures-per-test", "--setup-only", "--setup-plan"]
)
def test_asking_pytest_about_itself_touches_no_report(pytester, project, option):
    pytester.makeini("[pytest]\nrobustcheck = passing.yaml\n")
    pytester.runpytest()
    before = sorted(path.name for path in (project / "robustcheck-report").iterdir())
    assert "report.json" in before
    assert pytester.runpytest(option).ret == 0
    assert sorted(path.name for path in (project / "robustcheck-report").iterdir()) == before


def test_reports_that_cannot_be_written_turn_the_run_red_and_are_told(pytester, project, plain_or_worker):
    (project / "conftest.py").write_text(
        "import pathlib\n"
        "def pytest_runtest_teardown(item):\n"
        "    folder = pathlib.Path('robustcheck-report')\n"
        "    (folder / 'report.html').mkdir(exist_ok=True)\n"
    )
    result = pytester.runpytest("--robustcheck", "passing.yaml", "--junitxml", "own.xml", *plain_or_worker)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["*clean*accuracy*pass*", "PASS: 4 gates passed*", "*ERROR: *report.html*"])
    case = _cases(project / "own.xml")["writing the reports"]
    assert "report.html: cannot be written" in case.find("error").get("message")
    result.assert_outcomes(passed=4, errors=1)
    assert not list((project / "robustcheck-report").glob(".running*"))


def test_files_that_someone_else_leaves_in_the_folder_are_moved_aside(pytester, project):
    (project / "conftest.py").write_text(
        "import pathlib\n"
        "def pytest_runtest_teardown(item):\n"
        "    folder = pathlib.Path('robustcheck-report/counterexamples')\n"
        "    folder.mkdir(exist_ok=True)\n"
        "    (folder / 'theirs.txt').write_text('keep')\n"
    )
    result = pytester.runpytest("--robustcheck", "passing.yaml")
    assert result.ret == 0
    (theirs,) = (project / "robustcheck-report").glob("counterexamples-of-others-*/theirs.txt")
    assert theirs.read_text() == "keep"
    assert (project / "robustcheck-report" / "counterexamples" / "clean").is_dir()


def test_a_gate_that_runs_into_a_time_limit_does_not_strike_its_relatives(pytester, project, monkeypatch):
    original = evaluation.run_gate

    def run_gate(gate, setting, **others):
        if gate.id == "fgsm":
            pytest.fail("time limit")
        return original(gate, setting, **others)

    monkeypatch.setattr(evaluation, "run_gate", run_gate)
    result = pytester.runpytest_inprocess("--robustcheck", "passing.yaml")
    assert result.ret == 1
    verdicts = {gate["id"]: gate["verdict"] for gate in brightness_report(project)["gates"]}
    assert verdicts == {"clean": "pass", "fgsm": "error", "pgd[1/255]": "pass", "pgd[4/255]": "pass"}


WARNING = 'import warnings\n        warnings.warn("this layer goes away", DeprecationWarning)\n        return'


def test_a_library_s_warning_ends_no_gate_where_a_project_s_own_tests_fail_on_them(pytester, project, plain_or_worker):
    network = project / "brightness.py"
    network.write_text(network.read_text().replace("return", WARNING))
    pytester.makepyfile(test_own="import warnings\ndef test_own():\n    warnings.warn('own')\n")
    result = pytester.runpytest("-W", "error", "--robustcheck", "passing.yaml", ".", *plain_or_worker)
    result.assert_outcomes(passed=4, failed=1)
    assert "this layer goes away" in result.stdout.str()


def test_warnings_that_a_project_does_not_want_to_see_are_not_seen(pytester, project):
    network = project / "brightness.py"
    network.write_text(network.read_text().replace("return", WARNING))
    result = pytester.runpytest("-W", "error", "-W", "ignore", "--robustcheck", "passing.yaml")
    result.assert_outcomes(passed=4)
    assert "this layer goes away" not in result.stdout.str()


DOUBTFUL = """
  - id: clean
    require: {accuracy: 0.6}
  - id: pgd
    attack: {name: pgd, steps: 4}
    epsilon: 4/255
    require: {accuracy: 0.4}
"""


@pytest.mark.parametrize(
    ("decision", "code", "outcomes", "verdict"),
    [
        ("{rule: confident}", 1, {"passed": 1, "failed": 1}, "inconclusive"),
        ("{rule: confident, inconclusive: allow}", 0, {"passed": 1, "skipped": 1}, "pass"),
    ],
)
def test_an_inconclusive_gate_fails_or_is_skipped_as_the_policy_says(
    pytester, project, plain_or_worker, decision, code, outcomes, verdict
):
    (project / "policy.yaml").write_text(brightness_policy(DOUBTFUL, extra=f"decision: {decision}"))
    result = pytester.runpytest("--robustcheck", "policy.yaml", "-rs", "-v", *plain_or_worker)
    assert result.ret == code
    result.assert_outcomes(**outcomes)
    assert "accuracy 0.400: its 95 % interval, 0.122 to 0.738, contains the required 0.4 (4 of 10); more" in str(
        result.stdout
    )
    report = brightness_report(project)
    assert report["verdict"] == verdict
    assert [gate["verdict"] for gate in report["gates"]] == ["pass", "inconclusive"]
    case = _cases(project / "robustcheck-report" / "junit.xml")["pgd"]
    assert (case.find("skipped") is not None, case.find("failure") is not None) == (code == 0, code == 1)
    assert (
        "95 % intervals (clopper-pearson for rates) decide"
        in (project / "robustcheck-report" / "report.html").read_text()
    )


def test_where_every_gate_is_open_and_allowed_to_be_the_run_goes_on_and_is_no_pass(pytester, project, plain_or_worker):
    (_, doubtful) = DOUBTFUL.split("  - id: pgd")
    extra = "decision: {rule: confident, inconclusive: allow}"
    (project / "policy.yaml").write_text(brightness_policy(f"\n  - id: pgd{doubtful}", extra=extra))
    result = pytester.runpytest("--robustcheck", "policy.yaml", *plain_or_worker)
    assert result.ret == 0
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["INCONCLUSIVE: 0 gates passed, 0 failed, 1 inconclusive (allowed), on 10 samples"])
    assert brightness_report(project)["verdict"] == "inconclusive"
    suite = ET.parse(project / "robustcheck-report" / "junit.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "0")


def test_a_policy_that_allows_inconclusive_gates_lets_no_failed_one_through(pytester, project):
    gates = DOUBTFUL.replace("accuracy: 0.4", "accuracy: 0.95")
    extra = "decision: {rule: confident, inconclusive: allow}"
    (project / "policy.yaml").write_text(brightness_policy(gates, extra=extra))
    result = pytester.runpytest("--robustcheck", "policy.yaml", "--junitxml", "own.xml")
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=1)
    for file in (project / "own.xml", project / "robustcheck-report" / "junit.xml"):
        assert _cases(file)["pgd"].find("failure") is not None
