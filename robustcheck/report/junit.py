"""JUnit XML: one test case a gate.

Readers of JUnit (GitHub reporters, GitLab, Jenkins) show the message and the text of a failure and ignore
properties, so thresholds and results are in the text; properties repeat what a program may want to look up.
"""

from __future__ import annotations

import math
import re

from junit_xml import TestCase, TestSuite, to_xml_report_string

from robustcheck.report.gate import gate_text, metrics_line, verdict_sentence, warning_lines
from robustcheck.report.summary import summary_line
from robustcheck.report.text import moment, one_line
from robustcheck.report.threat import threat_text
from robustcheck.results import AuditReport, GateResult

RUN = "[run]"
"""The case of a run that is red for a reason that no gate has. No policy can name a gate so."""


def junit_xml(report: AuditReport) -> str:
    """The report as JUnit XML; a report that is not green never gives a file without a failure or an error."""
    cases = [_gate_case(gate, allowed=report.inconclusive == "allow") for gate in report.gates]
    cases += [_not_run_case(gate_id, interrupted=report.interrupted) for gate_id in report.not_run]
    if _needs_run_case(report, cases):
        cases.append(_run_case(report))
    path = _policy_path(report)
    for case in cases:
        case.classname, case.file = _class_name(path), path
    started = moment(report.started)
    suite = TestSuite(
        one_line(report.policy.name) or path,
        cases,
        timestamp=started.isoformat(timespec="seconds") if started else None,
        properties=dict(suite_properties(report)),
    )
    return str(to_xml_report_string([suite]))


def _policy_path(report: AuditReport) -> str:
    """The policy's path with forward slashes, the same on every system."""
    return one_line(report.policy.path.replace("\\", "/")).removeprefix("./") or "policy"


def _class_name(path: str) -> str:
    """A policy's path as a class: to readers what is before the last dot is a package, so `a.yaml` would be `yaml`."""
    folder, _, name = path.rpartition("/")
    stem = re.sub(r"\.ya?ml$", "", name).strip(".").replace(".", "_")
    return ".".join(part for part in (*folder.split("/"), stem) if part.strip(".")) or "policy"


def _gate_case(gate: GateResult, *, allowed: bool) -> TestCase:
    case = _case(gate.id, gate.cost.seconds)
    sentence, text = verdict_sentence(gate), gate_text(gate)
    if gate.verdict == "pass":
        asked = [f"threat model: {threat_text(gate.threat)}"] if gate.threat else []
        case.stdout = "\n".join([metrics_line(gate), *asked, *warning_lines(gate)])
    elif gate.verdict == "error":
        case.add_error_info(sentence, text, "error")
    elif gate.verdict == "inconclusive" and allowed:
        # The policy lets it through: a failure here would turn a build red that robustcheck passed.
        case.add_skipped_info(f"inconclusive, which the policy allows: {sentence}", text)
    else:
        case.add_failure_info(sentence, text, gate.verdict)
    return case


def _not_run_case(gate_id: str, *, interrupted: bool) -> TestCase:
    case = _case(gate_id, None)
    case.add_skipped_info("not run: the run was interrupted" if interrupted else "not run: deselected or not reached")
    return case


def _needs_run_case(report: AuditReport, cases: list[TestCase]) -> bool:
    if report.green:
        return False
    red = any(case.is_failure() or case.is_error() for case in cases)
    return report.interrupted or not report.gates or not red


def _run_case(report: AuditReport) -> TestCase:
    if report.interrupted:
        every = len(report.gates) + len(report.not_run)
        message = f"interrupted: {len(report.gates)} of {every} gates were evaluated"
    elif not report.gates:
        message = "no gate was evaluated"
    else:
        message = f"the verdict of the run is {report.verdict}"
    case = _case(RUN, None)
    case.add_error_info(message, f"{message}\n{summary_line(report)}", "error")
    return case


def _case(name: str, seconds: float | None) -> TestCase:
    known = seconds if seconds is not None and math.isfinite(seconds) else 0.0
    return TestCase(one_line(name), elapsed_sec=round(known, 3))


def suite_properties(report: AuditReport) -> list[tuple[str, str]]:
    """What a program may want to look up about a run: verdict, digests, versions."""
    found = [
        ("policy.name", one_line(report.policy.name)),
        ("verdict", report.verdict),
        ("policy.sha256", one_line(report.policy.sha256)),
    ]
    if report.model:
        found += [("model.path", one_line(report.model.path)), ("model.sha256", one_line(report.model.sha256))]
    if report.data:
        found += [
            ("data.source", one_line(report.data.source)),
            ("data.sha256", one_line(report.data.sha256)),
            ("data.samples", str(report.data.samples)),
            ("data.synthetic", "yes" if report.data.synthetic else "no"),
        ]
        if report.data.group is not None:
            found += [("data.group", one_line(report.data.group)), ("data.groups", str(report.data.groups))]
        if report.data.prevalence is not None:
            found.append(("data.prevalence", ", ".join(map(repr, report.data.prevalence))))
    found += [("seed", str(report.seed)), ("decision", one_line(report.decision)), ("stop", report.stop)]
    found.append(("evidence", one_line(report.evidence)))
    found += [("health", report.health)] if report.health else []
    return found + [(f"environment.{one_line(name)}", one_line(value)) for name, value in report.environment.items()]


def gate_properties(gate: GateResult) -> list[tuple[str, str]]:
    """What a program may want to look up about a gate: verdict, metrics, requirements, cost."""
    found = [("verdict", gate.verdict), ("attack", one_line(gate.attack or "none"))]
    if gate.threat:
        if ball := gate.threat.ball:
            found += [("threat.epsilon", one_line(ball.epsilon)), ("threat.norm", one_line(ball.norm))]
        found += [("threat.size", one_line(gate.threat.size))] if gate.threat.size is not None else []
        found += [("threat.queries", str(gate.threat.queries))] if gate.threat.queries is not None else []
    found += [(f"required.{one_line(item.metric)}", one_line(item.bound)) for item in gate.requirements]
    for name, metric in gate.metrics.items():
        # In full: a program that compares must not meet a rounded number.
        found.append((f"measured.{one_line(name)}", "undefined" if metric.value is None else repr(metric.value)))
    found += [("cost.forward", str(gate.cost.forward)), ("cost.gradient", str(gate.cost.gradient))]
    return [*found, ("cost.queries", str(gate.cost.queries.total))]
