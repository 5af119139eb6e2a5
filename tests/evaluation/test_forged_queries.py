"""Reports that were forged with little work: what a search asked is stated as more, or as less, than it could be."""

from __future__ import annotations

import re

import numpy as np
import pytest
from building import brightness_project, flat_images
from forging import run_in

from robustcheck.results import AuditReport

HELD = (100,) * 150
ASKING = """
  - id: down
    attack: nes
    epsilon: [4/255, 8/255]
    ladder: descending
    queries: 600
    require: {accuracy: 0}
  - {id: other, attack: square, epsilon: 8/255, queries: 600, require: {accuracy: 0}}
  - {id: twice, attack: {name: square, restarts: 2, patterns: false}, epsilon: 8/255, queries: 31,
     require: {accuracy: 0}}
  - {id: lonely, attack: {name: label_only, patterns: false}, epsilon: 8/255, queries: 120, require: {accuracy: 0}}
  - {id: hsj, attack: hopskipjump, epsilon: 4/255, queries: 100, require: {accuracy: 0}}
  - {id: near, attack: partial_information, epsilon: 4/255, queries: 150, require: {accuracy: 0}}
  - {id: rays, attack: rays, epsilon: 2/255, queries: 31, require: {accuracy: 0}}
  - {id: noise, attack: noise, epsilon: 8/255, queries: 37, require: {accuracy: 0}}
  - {id: pgd, attack: {name: pgd, steps: 4}, epsilon: 4/255, require: {accuracy: 0}}
"""


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    """A project whose adversaries ask: some samples are theirs, some another gate's, some had nothing to start from."""
    folder = tmp_path_factory.mktemp("asking")
    brightness_project(folder, threshold=0.6)
    flat_images(folder, (100, 140, 147, 149, 151, 152, 40, 41), [0, 0, 0, 0, 0, 0, 1, 1])  # all are read as dark
    return run_in(folder, ASKING)


@pytest.fixture
def squares(tmp_path):
    """A project of a gate that asks and turns nothing; with or without what may end it early."""

    def made(extra=""):
        brightness_project(tmp_path, levels=HELD)
        gate = "  - {id: square, attack: square, epsilon: 1/255, queries: 30, require: {accuracy: 0.6}}"
        return run_in(tmp_path, gate, extra=extra)

    return made


def _costing(gate, cost):
    """Every sample costs as much, and so all of them do."""

    def alter(gates):
        for one in gates[gate]["samples"]:
            one["queries"] = cost
        every = [cost or 0] * len(gates[gate]["samples"])
        gates[gate]["cost"]["queries"] = {"total": sum(every), "max": max(every), "median": float(np.median(every))}

    return alter


def test_what_was_asked_for_here_or_elsewhere_or_never_started_agrees(amiss, asking):
    report = AuditReport.from_json((asking / "out" / "report.json").read_text())
    seen = {(one.status, one.evidence) for gate in report.gates for one in gate.samples}
    assert seen >= {("broken", "searched"), ("broken", "inherited"), ("held", "searched"), ("held", "inherited")}
    assert seen >= {("held", "unstarted"), ("wrong", None)}
    assert amiss(asking) == ""


@pytest.mark.parametrize("stop", ["early", "determined"])
def test_what_stopped_early_agrees(amiss, squares, stop):
    folder = squares(f"decision: {{stop: {stop}}}")
    report = AuditReport.from_json((folder / "out" / "report.json").read_text())
    assert report.gates[0].stopped.decided
    assert amiss(folder) == ""


def test_queries_are_those_of_the_samples(amiss, squares):
    folder = squares()
    assert amiss(folder) == ""

    def stated(**queries):
        return amiss(folder, lambda gates: gates["square"]["cost"]["queries"].update(queries))

    assert "square: cost.queries.total is stated as 5, but its samples cost 4,500" in stated(total=5)
    assert "square: cost.queries.total is stated as 4,501, but its samples cost 4,500" in stated(total=4501)
    assert "square: cost.queries.max is stated as 2,900, but of its samples it is 30" in stated(max=2900)
    assert "square: cost.queries.median is stated as 2.5, but of its samples it is 30.0" in stated(median=2.5)


def test_a_gate_that_was_decided_early_has_asked_about_no_more_than_all_others(amiss, squares):
    folder = squares("decision: {stop: early}")
    (gate,) = AuditReport.from_json((folder / "out" / "report.json").read_text()).gates
    own, most = 30 * gate.stopped.needed, 30 * len(HELD)
    assert own < gate.cost.queries.total < most

    def stated(total):
        return amiss(folder, lambda gates: gates["square"]["cost"]["queries"].update(total=total))

    assert stated(most) == stated(own) == ""
    said = f"square: cost.queries.total is stated as {{}}, but its samples cost {own:,} to 4,500"
    assert said.format("4,501") in stated(most + 1)
    assert said.format("1,000,000,000") in stated(10**9)
    assert said.format(f"{own - 1:,}") in stated(own - 1)


@pytest.mark.parametrize(("cost", "words"), [(None, "none"), (3000, "3,000"), (1, "1"), (31, "31"), (-1, "-1")])
def test_a_sample_that_held_costs_what_its_search_does(amiss, squares, cost, words):
    said = amiss(squares(), _costing("square", cost))
    assert len(
        re.findall(f"square: .*: its number of queries is stated as {words}, but can only be 28 to 30", said)
    ) == len(HELD)


@pytest.mark.parametrize(
    ("gate", "status", "evidence", "changes", "said"),
    [
        ("twice", "broken", "searched", {"queries": 0}, "number of queries is stated as 0, but can only be 1 to 31"),
        ("down[8/255]", "broken", "searched", {"found_after": 10**6}, "found_after is stated as 1,000,000, but can"),
        ("down[8/255]", "broken", "searched", {"found_after": None}, "found_after is stated as none, but can only be"),
        ("down[8/255]", "broken", "searched", {"found_after": 0}, "found_after is stated as 0, but can only be 1"),
        ("down[8/255]", "held", "searched", {"found_after": 7}, "found_after is stated as 7, but can only be none"),
        ("down[4/255]", "held", "inherited", {"queries": 9}, "number of queries is stated as 9, but can only be 0"),
        ("other", "broken", "inherited", {"queries": 9}, "number of queries is stated as 9, but can only be 0"),
        ("other", "broken", "inherited", {"queries": None}, "number of queries is stated as none, but can only be 0"),
        ("other", "broken", "inherited", {"found_after": 601}, "found_after is stated as 601, but can only be 1 to"),
        ("lonely", "held", "unstarted", {"queries": 1}, "number of queries is stated as 1, but can only be "),
        ("rays", "held", "searched", {"queries": 30}, "number of queries is stated as 30, but can only be 31"),
        ("noise", "held", "searched", {"queries": 36}, "number of queries is stated as 36, but can only be 37"),
        ("other", "wrong", None, {"queries": 0}, "number of queries is stated as 0, but can only be none"),
        ("other", "wrong", None, {"found_after": 5}, "found_after is stated as 5, but can only be none"),
        ("pgd", "held", "searched", {"queries": 5}, "number of queries is stated as 5, but can only be none"),
        ("pgd", "broken", "searched", {"found_after": 5}, "found_after is stated as 5, but can only be none"),
    ],
)
def test_what_a_sample_cost_and_when_it_was_broken_fit_its_outcome(
    amiss, asking, gate, status, evidence, changes, said
):
    def alter(gates):
        samples = gates[gate]["samples"]
        next(one for one in samples if (one["status"], one["evidence"]) == (status, evidence)).update(changes)

    assert re.search(f"{re.escape(gate)}: .*: its {said}", amiss(asking, alter))


def test_who_does_not_ask_has_no_queries(amiss, asking):
    said = amiss(asking, lambda gates: gates["pgd"]["cost"].update(queries={"total": 9, "max": 3, "median": 1.5}))
    assert "pgd: cost.queries.total is stated as 9, but its samples cost 0" in said
    assert "pgd: cost.queries.max is stated as 3, but of its samples it is 0" in said
