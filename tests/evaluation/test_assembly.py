"""A report is about a policy's gates, in whatever order and in whichever place they were evaluated."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from building import brightness_policy, brightness_project

from robustcheck import load_policy
from robustcheck.evaluation.assembly import assemble
from robustcheck.results import GateResult

GATES = """
  - {id: clean, require: {accuracy: 0.6}}
  - {id: left, attack: fgsm, epsilon: 2/255, require: {accuracy: 0.4}}
  - {id: pgd, attack: pgd, epsilon: 2/255, require: {accuracy: 0.4}}
"""


def test_gates_are_in_the_policy_s_order_and_times_in_utc(tmp_path):
    """Workers may answer in any order, and a clock may be any zone's."""
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text(brightness_policy(GATES))
    policy = load_policy(tmp_path / "policy.yaml")
    results = {id_: GateResult(id=id_, attack=None, threat=None, verdict="pass") for id_ in ("pgd", "clean")}
    started = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    report = assemble(policy, results, model=None, data=None, environment={}, started=started, seconds=1.23456)
    assert [gate.id for gate in report.gates] == ["clean", "pgd"]
    assert report.not_run == ("left",)
    assert (report.started, report.seconds) == ("2026-02-28T23:30:00+00:00", 1.235)
