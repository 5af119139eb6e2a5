"""Budgets of one attack, up and down: what is searched, what is inherited, and where searches begin."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from building import accuracy_at, brightness_policy, brightness_project, flat_images

from robustcheck import load_policy, run
from robustcheck.attacks import PGD, GradientAttack, build, objective
from robustcheck.evaluation.adversary import ball_of_gate, goal_of
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.opening import searches_from_ends
from robustcheck.evaluation.search import searching
from robustcheck.evaluation.search.found import Found
from robustcheck.evaluation.search.searching import Search
from robustcheck.evaluation.search.warm_starts import WarmStarts, begins_anywhere
from robustcheck.policy import FMNSpec
from robustcheck.threats import Goal

GATES = """
  - id: pgd
    attack: {name: pgd, steps: 5}
    epsilon: [1/255, 2/255, 4/255, 8/255]
    ladder: LADDER
    require: {accuracy: 0}
"""


@pytest.fixture
def project(tmp_path):
    brightness_project(tmp_path)
    return tmp_path


def _gates(project, ladder, *, gates=GATES, extra=""):
    (project / "policy.yaml").write_text(brightness_policy(gates.replace("LADDER", ladder), extra=extra))
    order = []
    report = run(
        load_policy(project / "policy.yaml"), folder=project / "out", progress=lambda what, *_: order.append(what)
    )
    return report.gates, [name for name in dict.fromkeys(order) if name != "loading"]


@pytest.mark.parametrize("ladder", ["ascending", "descending"])
def test_both_ways_measure_the_closed_form(project, ladder):
    gates, _ = _gates(project, ladder)
    assert [gate.metrics["accuracy"].value for gate in gates] == [accuracy_at(levels) for levels in (1, 2, 4, 8)]


@pytest.mark.parametrize("attack", ["{name: apgd, steps: 1}", "{name: apgd, steps: 2}", "{name: fmn, steps: 1}"])
def test_where_the_last_step_led_is_judged_too(project, attack):
    gates, _ = _gates(project, "ascending", gates=GATES.replace("{name: pgd, steps: 5}", attack))
    assert [gate.metrics["accuracy"].value for gate in gates] == [accuracy_at(levels) for levels in (1, 2, 4, 8)]


def test_what_was_inherited_is_not_gathered_anew_for_each_sample(project, monkeypatch):
    gathered, inherited = [], Found.inherited.fget
    monkeypatch.setattr(Found, "inherited", property(lambda found: gathered.append(found) or inherited(found)))
    gates, _ = _gates(project, "descending")
    assert sum(sample.evidence == "inherited" for sample in gates[0].samples if sample.status == "held") > 5
    assert len(gathered) <= 6 * len(gates)


def test_going_down_what_survives_is_not_searched_again(project):
    gates, order = _gates(project, "descending")
    assert order == ["pgd[8/255]", "pgd[4/255]", "pgd[2/255]", "pgd[1/255]"]
    for larger, smaller in zip(gates[:0:-1], gates[-2::-1], strict=True):
        survived = {outcome.sample for outcome in larger.samples if outcome.status == "held"}
        assert survived
        inherited = {outcome.sample: outcome for outcome in smaller.samples if outcome.evidence == "inherited"}
        assert survived <= set(inherited)
        assert all(inherited[sample].status == "held" for sample in survived)
    searched = [sum(outcome.evidence == "searched" for outcome in gate.samples) for gate in gates]
    assert searched == [4, 6, 8, 10]  # of ten, those that the next larger budget broke


def test_going_down_a_few_large_steps_come_first_and_the_attack_follows_for_what_holds(project):
    gates, _ = _gates(project, "descending")
    found = {outcome.attack for gate in gates for outcome in gate.samples if outcome.found_by == gate.id}
    assert found == {"pgd-large-steps"}  # a linear network falls to its first step
    largest = gates[-1]
    broken = sum(outcome.status == "broken" for outcome in largest.samples)
    held = sum(outcome.status == "held" for outcome in largest.samples)
    # Two gradients show a sample that falls; one that holds is asked about at four large steps and at PGD's five.
    assert largest.cost.gradient == 2 * broken + (4 + 5) * held


def test_going_down_a_nearest_search_within_a_cascade_is_made_again_where_it_found_something(project, monkeypatch):
    """It ends at the first counterexample within its ball, and so knows nothing of smaller ones."""
    standing = PGD(objective=objective("margin", Goal(labels=2)), steps=1, restarts=1, step_share=0, random_start=False)

    def cascade(_spec, ball, goal, **_more):
        (fmn,) = build(FMNSpec(name="fmn", steps=20, step_size="8/255"), ball, goal)
        return standing, fmn

    monkeypatch.setattr(searching, "build", cascade)
    gates, _ = _gates(project, "descending")
    assert [gate.metrics["accuracy"].value for gate in gates] == [accuracy_at(levels) for levels in (1, 2, 4, 8)]
    for larger, smaller, levels in zip(gates[:0:-1], gates[-2::-1], (4, 2, 1), strict=True):
        farther = {one.sample for one in larger.samples if one.found_by == larger.id and one.distance_levels > levels}
        assert farther <= {one.sample for one in smaller.samples if one.evidence == "searched"}


def test_going_down_large_steps_begin_where_those_before_ended(project):
    gates, _ = _gates(project, "descending")
    for gate in gates[:-1]:
        broken = sum(outcome.status == "broken" for outcome in gate.samples)
        held = sum(outcome.status == "held" and outcome.evidence == "searched" for outcome in gate.samples)
        assert gate.cost.gradient == broken + (4 + 5) * held  # one gradient shows what falls


@pytest.mark.parametrize(
    ("attack", "warm"),
    [
        ("{name: pgd, steps: 5}", {"pgd-large-steps", "pgd"}),
        ("{name: pgd, steps: 5, random_start: false}", {"pgd-large-steps"}),
        ("{name: pgd, steps: 5, restarts: 2}", {"pgd-large-steps", "pgd"}),
    ],
)
def test_going_down_what_the_policy_has_begin_at_the_image_begins_there(project, monkeypatch, attack, warm):
    kept, keep = set(), WarmStarts.keep
    monkeypatch.setattr(
        WarmStarts, "keep", lambda self, entry, attack, *more: (kept.add(attack), keep(self, entry, attack, *more))
    )
    _gates(project, "descending", gates=GATES.replace("{name: pgd, steps: 5}", attack))
    assert kept == warm


def test_going_down_what_was_followed_at_a_larger_budget_was_followed(project):
    gates, _ = _gates(project, "descending", gates=GATES.replace("accuracy: 0", "accuracy: [0.8, 0.6, 0.4, 0.2]"))
    assert [gate.verdict for gate in gates] == ["pass"] * 4
    assert not [finding for gate in gates for finding in gate.findings if finding.severity != "note"]


def test_going_down_what_could_not_be_followed_at_a_larger_budget_passes_nothing(project):
    """The dark half has no gradient."""
    flat_images(project, (60, 70, 80, 90, 100, 129, 160, 170, 180, 190), [0] * 5 + [1] * 5)
    network = project / "brightness.py"
    network.write_text(network.read_text().replace("excess = (", "image = image.clamp_min(0.5)\n        excess = ("))
    small, large = _gates(project, "descending", gates=GATES.replace(", 4/255, 8/255", "").replace(": 0}", ": 0.6}"))[0]
    assert {one.evidence for one in small.samples if one.label == "dark"} == {"inherited"}
    for gate in (small, large):
        assert gate.verdict == "error"
        assert "the attack had little or nothing to follow on 5 of the samples that held" in gate.error


def test_going_up_a_single_step_is_one_from_the_image(project, monkeypatch):
    kept = []
    monkeypatch.setattr(WarmStarts, "keep", lambda *given: kept.append(given))
    for attack in ("fgsm", "{name: pgd, steps: 1}", "{name: apgd, steps: 1}"):
        _gates(project, "ascending", gates=GATES.replace("{name: pgd, steps: 5}", attack))
    assert not kept


@pytest.mark.parametrize(("ladder", "measured"), [("ascending", 4), ("descending", 1)])
def test_going_down_no_roc_area_is_made_of_what_was_searched_at_a_larger_budget(project, ladder, measured):
    gates, _ = _gates(project, ladder)
    assert sum("auroc" in gate.metrics for gate in gates) == measured
    assert "auroc" in gates[-1].metrics


def test_going_up_no_large_steps_come_first(project):
    gates, _ = _gates(project, "ascending")
    assert {outcome.attack for gate in gates for outcome in gate.samples if outcome.found_by} == {"pgd"}


def test_going_up_every_survivor_is_searched_again(project):
    gates, order = _gates(project, "ascending")
    assert order == ["pgd[1/255]", "pgd[2/255]", "pgd[4/255]", "pgd[8/255]"]
    for gate in gates:
        for outcome in gate.samples:
            assert outcome.evidence == ("inherited" if outcome.found_by not in (None, gate.id) else "searched")


def test_what_the_adversary_is_not_after_has_no_evidence(project):
    gates = """
  - {id: clean, require: {accuracy: 0}}
  - {id: alarm, attack: fgsm, epsilon: 4/255, goal: false_alarm, require: {accuracy: 0}}
"""
    (clean, alarm), _ = _gates(project, "", gates=gates)
    assert {outcome.evidence for outcome in clean.samples} == {None}
    assert {outcome.label for outcome in alarm.samples if outcome.evidence is None} == {"bright"}
    assert {outcome.label for outcome in alarm.samples if outcome.evidence == "searched"} == {"dark"}


def test_another_attack_does_not_stand_for_this_one(project):
    apgd = "{name: apgd, steps: 5}, epsilon: [1/255, 2/255], ladder: descending"
    gates = f"{GATES}  - {{id: apgd, attack: {apgd}, require: {{accuracy: 0}}}}\n"
    results, _ = _gates(project, "ascending", gates=gates)
    pgd = [gate for gate in results if gate.attack == "pgd"]
    assert all(outcome.evidence == "searched" for gate in pgd for outcome in gate.samples if outcome.status == "held")


def test_changes_come_back_at_unit_size():
    starts = WarmStarts(pixels=1000, budgets={"entry": 2})
    changes = torch.tensor([[[[0.0, -0.02], [0.01, 0.02]]], [[[0.0, 0.0], [0.0, 0.5]]]])
    starts.keep("entry", "pgd", np.array([3, 9]), changes)
    which, known = starts.known("entry", "pgd", [9, 1, 3])
    assert which.tolist() == [0, 2]
    torch.testing.assert_close(known[1], torch.tensor([[[0.0, -1.0], [0.5, 1.0]]]), atol=1 / 127, rtol=0)
    assert starts.known("entry", "fgsm", [9]) is None
    assert starts.known("other", "pgd", [9]) is None
    assert starts.known("entry", "pgd", [1]) is None


@pytest.mark.parametrize(
    ("pixels", "budgets", "kept"),
    [
        (2**27, {"entry": 2}, True),
        (2**28, {"entry": 2}, False),
        (2**27, {"entry": 2, "other": 9}, False),  # one limit for all
        (2**27, {"entry": 2, "other": 1}, True),
        (1000, {"entry": 1, "other": 2}, False),  # nobody would read it
        (1000, {}, False),
    ],
)
def test_what_is_kept_is_bounded_and_will_be_read(pixels, budgets, kept):
    starts = WarmStarts(pixels=pixels, budgets=budgets, searches={"entry": 3, "other": 3})
    starts.keep("entry", "pgd", np.array([3]), torch.ones(1, 1, 2, 2))
    assert (starts.known("entry", "pgd", [3]) is not None) == kept


def test_what_no_gate_will_read_is_forgotten():
    starts = WarmStarts(pixels=1000, budgets={"entry": 3})
    for gates_that_can_read in (2, 1, 0):
        starts.keep("entry", "pgd", np.array([gates_that_can_read]), torch.ones(1, 1, 2, 2))
        found = starts.known("entry", "pgd", [2, 1, 0])
        assert found is not None
        assert found[0].tolist() == [0, 1][: 3 - gates_that_can_read]
        starts.through("entry")
    assert starts.known("entry", "pgd", [2, 1, 0]) is None


ATTACKS = ("pgd", "{name: pgd, random_start: false}", "apgd", "fmn", "ensemble", "{name: nes, samples: 10}")
TRANSFER = [f"{{name: transfer, surrogate: brightness.safetensors, restarts: {count}}}" for count in (1, 2)]


@pytest.mark.parametrize(
    ("attack", "ladder"),
    [*product(ATTACKS, ["ascending", "descending"]), *product(TRANSFER, ["ascending"])],  # which goes up only
)
def test_searches_that_begin_where_others_ended_are_as_many_as_memory_is_planned_for(attack, ladder, project):
    queries = ", queries: 100" if "name: nes" in attack else ""
    gate = (
        f"{{id: gate, attack: {attack}, epsilon: [4/255, 8/255], ladder: {ladder}, require: {{accuracy: 0}}{queries}}}"
    )
    (project / "policy.yaml").write_text(brightness_policy(f"\n  - {gate}\n"))
    evaluation = Evaluation(load_policy(project / "policy.yaml"))
    gate, setting = evaluation.policy.gates[0], evaluation.setting
    search = Search(
        gate=gate, setting=setting, ball=ball_of_gate(gate, setting), goal=goal_of(gate, setting), family=gate.family
    )
    begin = [one for one in search.attacks if isinstance(one, GradientAttack) and begins_anywhere(one)]
    assert len(begin) <= searches_from_ends(gate)
    assert len(begin) == searches_from_ends(gate) or attack in ("fmn", "{name: nes, samples: 10}")
