"""JUnit: readable by others, one case a gate, never green for a red report."""

from dataclasses import replace
from pathlib import Path

import pytest
import xmlschema
from junitparser import Error, Failure, JUnitXml, Skipped
from report_builder import (
    DATA,
    HOSTILE,
    asking,
    clean_gate,
    erring,
    failing,
    gate,
    hostile,
    inconclusive,
    metric,
    mixed,
    queried,
    report,
    synthetic,
    threat,
)

from robustcheck.report.gate import gate_text, metrics_line
from robustcheck.report.junit import RUN, gate_properties, junit_xml
from robustcheck.report.threat import threat_text
from robustcheck.results import Cost, Finding, Metric, PolicyInfo

REPORTS = {
    "pass": report(clean_gate(), gate()),
    "fail": report(gate(), failing(), verdict="fail"),
    "inconclusive": report(inconclusive(), verdict="inconclusive"),
    "allowed": report(inconclusive(), verdict="inconclusive", inconclusive="allow"),
    "error": report(erring(), verdict="error"),
    "interrupted": report(gate(), verdict="error", interrupted=True, not_run=("late",)),
    "nothing run": report(verdict="error", not_run=("a", "b")),
    "not loaded": report(erring(), verdict="error", model=None, data=None),
    "deselected": report(gate(), not_run=("late",)),
    "synthetic": synthetic(),
    "mixed": mixed(),
    "asking": asking(),
    "hostile": hostile(),
    "no time": report(gate(cost=Cost(seconds=float("nan")))),
}


@pytest.fixture(scope="module")
def xsd():
    return xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))


def parsed(one):
    (suite,) = JUnitXml.fromstring(junit_xml(one).encode())
    return suite, {case.name: case for case in suite}


@pytest.mark.parametrize("name", REPORTS)
def test_it_has_the_structure_that_readers_know(name, xsd):
    xsd.validate(junit_xml(REPORTS[name]))


@pytest.mark.parametrize("name", REPORTS)
def test_the_same_report_gives_the_same_bytes(name):
    assert junit_xml(REPORTS[name]) == junit_xml(REPORTS[name])


@pytest.mark.parametrize("name", REPORTS)
def test_it_is_red_exactly_when_the_report_is(name):
    suite, _ = parsed(REPORTS[name])

    green = REPORTS[name].verdict == "pass" or name == "allowed"
    assert (suite.failures + suite.errors > 0) == (not green) == (not REPORTS[name].green)


def test_each_verdict_has_its_element():
    suite, cases = parsed(mixed())

    kinds = {name: [(type(result), result.type) for result in case.result] for name, case in cases.items()}
    assert kinds == {
        "clean": [],
        "pgd[2/255]": [],
        "pgd[4/255]": [(Failure, "fail")],
        "fgsm": [(Failure, "inconclusive")],
        "nes": [(Error, "error")],
        "late": [(Skipped, "skipped")],
    }
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (6, 2, 1, 1)
    assert {case.classname for case in cases.values()} == {"policies.pneumonia_mnist"}
    assert {case._elem.get("file") for case in cases.values()} == {"policies/pneumonia_mnist.yaml"}
    assert suite.name == "Chest X-ray gate"


def test_a_failure_says_required_and_measured_without_properties():
    _, cases = parsed(report(failing(), verdict="fail"))
    (failure,) = cases["pgd[4/255]"].result

    assert failure.message == ("accuracy 0.610 is below the required >= 0.7 (305 of 500; 95 % interval 0.570 to 0.650)")
    assert failure.text == gate_text(failing())
    assert failure.text.splitlines()[0] == failure.message
    assert "counterexamples/pgd-2-255/00000.png" in failure.text


def test_an_error_says_where_it_came_from():
    _, cases = parsed(report(erring(), verdict="error"))
    (error,) = cases["nes"].result

    assert error.message == "could not be evaluated: the candidate gave NaN on 3 samples"
    assert error.text == gate_text(erring())
    assert "Traceback (most recent call last):" in error.text


def test_a_passing_case_says_what_was_measured_and_against_whom():
    _, cases = parsed(REPORTS["pass"])

    assert cases["clean"].system_out == metrics_line(clean_gate())
    assert cases["pgd[2/255]"].system_out.splitlines() == [
        metrics_line(gate()),
        f"threat model: {threat_text(threat())}",
    ]
    assert "accuracy 0.810 (405 of 500; 95 % interval 0.770 to 0.850)" in cases["pgd[2/255]"].system_out
    assert cases["pgd[2/255]"].time == 12.34


def test_a_passing_case_says_what_is_said_against_it():
    finding = Finding(code="poor-surrogate", severity="warning", message="the surrogate is another model")
    _, cases = parsed(report(gate(findings=(finding,))))
    assert cases["pgd[2/255]"].system_out.splitlines() == [
        metrics_line(gate()),
        f"threat model: {threat_text(threat())}",
        "pgd[2/255]: warning: the surrogate is another model [poor-surrogate]",
    ]


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (REPORTS["interrupted"], "not run: the run was interrupted"),
        (REPORTS["deselected"], "not run: deselected or not reached"),
    ],
)
def test_a_gate_that_was_not_run_is_skipped_and_says_why(one, message):
    _, cases = parsed(one)
    (skipped,) = cases["late"].result

    assert isinstance(skipped, Skipped)
    assert skipped.message == message


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (REPORTS["interrupted"], "interrupted: 1 of 2 gates were evaluated"),
        (REPORTS["nothing run"], "no gate was evaluated"),
        (report(gate(), verdict="fail"), "the verdict of the run is fail"),
    ],
)
def test_a_red_run_whose_gates_are_green_has_a_case_of_its_own(one, message):
    _, cases = parsed(one)
    (error,) = cases[RUN].result

    assert isinstance(error, Error)
    assert error.message == message


def test_that_a_run_was_interrupted_is_an_error_beside_a_gate_that_failed():
    suite, cases = parsed(report(failing(), verdict="error", interrupted=True, not_run=("late",)))
    (error,) = cases[RUN].result

    assert (suite.failures, suite.errors) == (1, 1)
    assert error.message == "interrupted: 1 of 2 gates were evaluated"
    (line,) = error.text.splitlines()[1:]
    assert line == "ERROR (interrupted): 0 gates passed, 1 failed, 1 not run, on 500 of 624 samples"


def test_a_run_whose_gates_say_it_all_has_no_case_of_its_own():
    assert RUN not in parsed(mixed())[1]


def test_an_inconclusive_gate_that_the_policy_allows_is_not_red():
    suite, cases = parsed(report(gate(), inconclusive(), verdict="pass", inconclusive="allow"))
    (skipped,) = cases["fgsm"].result

    assert suite.failures == suite.errors == 0
    assert skipped.message.startswith("inconclusive, which the policy allows: accuracy 0.690: its 95 % interval")


def test_a_policy_that_allows_inconclusive_gates_allows_no_others():
    suite, cases = parsed(report(gate(), failing(), inconclusive(), erring(), verdict="error", inconclusive="allow"))

    assert {name: [type(result) for result in case.result] for name, case in cases.items()} == {
        "pgd[2/255]": [],
        "pgd[4/255]": [Failure],
        "fgsm": [Skipped],
        "nes": [Error],
    }
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (4, 1, 1, 1)


def test_the_suite_carries_digests_versions_and_no_hostname():
    suite, _ = parsed(synthetic())
    properties = {item.name: item.value for item in suite.properties()}

    assert suite.timestamp == "2025-11-23T07:10:00+00:00"
    assert suite.hostname is None
    assert properties == {
        "policy.name": "Chest X-ray gate",
        "verdict": "pass",
        "policy.sha256": "e5" * 32,
        "model.path": "candidate.onnx",
        "model.sha256": "a1" * 32,
        "data.source": "phantom:nodule",
        "data.sha256": "d4" * 32,
        "data.samples": "500",
        "data.synthetic": "yes",
        "seed": "7",
        "decision": "estimate",
        "stop": "never",
        "evidence": "shared",
        "environment.robustcheck": "0.1.0",
        "environment.python": "3.11.7",
        "environment.torch": "2.13.0",
    }


def test_the_suite_says_by_what_it_was_measured_and_decided():
    data = replace(DATA, group="patient", groups=210, prevalence=(0.02, 0.1))
    suite, _ = parsed(report(gate(), data=data, stop="early", health="warn"))
    properties = {item.name: item.value for item in suite.properties()}

    assert (properties["stop"], properties["health"]) == ("early", "warn")
    assert (properties["data.group"], properties["data.groups"]) == ("patient", "210")
    assert properties["data.prevalence"] == "0.02, 0.1"


def test_real_data_are_not_called_synthetic():
    suite, _ = parsed(report(gate(), data=DATA))

    assert {item.name: item.value for item in suite.properties()}["data.synthetic"] == "no"


def test_a_suite_has_a_name_though_the_policy_has_none():
    suite, _ = parsed(report(gate(), policy=PolicyInfo(path="./gates/a.yaml", name="", sha256="s")))

    assert suite.name == "gates/a.yaml"


@pytest.mark.parametrize(
    ("path", "name"),
    [(".", "policy"), ("/", "policy"), ("../a.yaml", "a"), ("v1.2.yml", "v1_2"), ("/gates/a.yaml", "gates.a")],
)
def test_a_class_name_has_no_dots_but_those_between_folders(path, name):
    _, cases = parsed(report(gate(), policy=PolicyInfo(path=path, name="n", sha256="s")))

    assert cases["pgd[2/255]"].classname == name


@pytest.mark.parametrize("path", ["./policies/a.yaml", "policies\\a.yaml", "policies/a.yaml"])
def test_the_class_name_is_the_same_on_every_system(path):
    policy = PolicyInfo(path=path, name="n", sha256="s")
    _, cases = parsed(report(gate(), policy=policy))

    assert cases["pgd[2/255]"].classname == "policies.a"
    assert cases["pgd[2/255]"]._elem.get("file") == "policies/a.yaml"


def test_what_xml_cannot_hold_is_shown_as_an_escape():
    text = junit_xml(hostile())
    _, cases = parsed(hostile())

    assert "<script>" not in text
    (name,) = [name for name in cases if name.endswith("[/]")]
    assert name.startswith("<script>alert(1)</script>\"'&]]>\\x00\\x1b[31m\\u202e\\udcff {{ 7*7 }}")


def test_names_that_differ_only_in_what_cannot_be_shown_stay_different():
    one = report(gate(id="a\x00"), gate(id="a\x01"))

    assert len(parsed(one)[1]) == 2


def test_a_start_that_is_no_time_is_left_out():
    assert parsed(hostile())[0].timestamp is None
    assert HOSTILE not in junit_xml(hostile())


def test_gate_properties_are_builtins_and_unrounded():
    exact = replace(metric(2, 3), low=None, high=None)
    properties = dict(gate_properties(failing(metrics={"accuracy": exact})))

    assert properties["measured.accuracy"] == repr(2 / 3)
    assert properties["required.accuracy"] == ">= 0.7"
    assert (properties["threat.epsilon"], properties["threat.norm"]) == ("2/255", "linf")
    assert (properties["cost.forward"], properties["cost.gradient"]) == ("20480", "18211")
    assert {type(value) for item in properties.items() for value in item} == {str}


def test_a_metric_that_is_undefined_is_said_to_be():
    unknown = {"balanced_accuracy": Metric(value=None, samples=500)}
    assert dict(gate_properties(gate(metrics=unknown)))["measured.balanced_accuracy"] == "undefined"


def test_gate_properties_hold_the_limit_and_what_was_asked_of_an_oracle():
    properties = dict(gate_properties(queried()))

    assert (properties["threat.queries"], properties["cost.queries"]) == ("5000", "8000")
    assert "threat.queries" not in dict(gate_properties(failing()))
