"""Goals, norms, query limits and minimum-norm attacks, in whole policies on candidates known in closed form."""

from __future__ import annotations

import pytest
from building import (
    LEVELS,
    accuracy_at,
    brightness_gates,
    brightness_project,
    three_levels,
    three_levels_policy,
)

from robustcheck import load_policy, run

DARK = [level for level in LEVELS if level < 127.5]
BRIGHT = [level for level in LEVELS if level > 127.5]


@pytest.fixture
def project(tmp_path):
    brightness_project(tmp_path)
    return tmp_path


def _turned(gate):
    return {LEVELS[index] for index, outcome in enumerate(gate.samples) if outcome.status == "broken"}


@pytest.mark.parametrize(
    "attack", ["fgsm", "{name: pgd, steps: 5}", "{name: apgd, steps: 10}", "{name: ensemble, steps: 10}"]
)
def test_each_goal_turns_those_that_it_is_about_and_that_it_can(project, attack):
    missed, alarm, targeted, any_wrong = brightness_gates(
        project,
        f"""
  - {{id: missed, attack: {attack}, epsilon: 4/255, goal: missed_finding, require: {{sensitivity: 0}}}}
  - {{id: alarm, attack: {attack}, epsilon: 4/255, goal: false_alarm, require: {{specificity: 0}}}}
  - {{id: to-dark, attack: {attack}, epsilon: 4/255, goal: targeted, target: dark, require: {{accuracy: 0}}}}
  - {{id: any, attack: {attack}, epsilon: 4/255, require: {{accuracy: 0}}}}
""",
    )
    near = {level for level in LEVELS if abs(level - 127.5) <= 4}
    assert _turned(missed) == _turned(targeted) == near & set(BRIGHT)
    assert _turned(alarm) == near & set(DARK)
    assert _turned(any_wrong) == near
    assert missed.metrics["sensitivity"].value == pytest.approx(1 - len(near & set(BRIGHT)) / len(BRIGHT))
    assert missed.metrics["specificity"].value == 1.0
    assert missed.metrics["attack_success"].samples == len(BRIGHT)
    assert targeted.threat.target == "dark"
    assert any_wrong.metrics["accuracy"].value == accuracy_at(4)


@pytest.mark.parametrize("goal", ["goal: false_alarm", "goal: targeted, target: bright"])
def test_a_false_alarm_is_sought_where_a_negative_is_taken_for_another_one_too(tmp_path, goal):
    levels, labels = three_levels(tmp_path)
    require = "require: {specificity: 0.6, accuracy: 0}"
    gates = f"\n  - {{id: alarm, attack: {{name: pgd, steps: 10}}, epsilon: 4/255, {goal}, {require}}}\n"
    (tmp_path / "policy.yaml").write_text(three_levels_policy(gates))
    (gate,) = run(load_policy(tmp_path / "policy.yaml"), folder=tmp_path / "out").gates
    # Both of 158 are read as dim, one of them wrongly, and both become an alarm.
    assert [outcome.status for outcome in gate.samples] == ["broken", "broken", "held", "held", "held"]
    assert gate.metrics["specificity"].value == 0.5
    assert gate.metrics["attack_success"].samples == len(levels) - 1
    assert gate.metrics["accuracy"].value == (labels[3:].count(1) + labels.count(2)) / len(levels)
    assert gate.verdict == "fail"


def test_a_gate_that_had_nobody_to_attack_is_no_pass(project):
    # Only the brightest is above this point, which lies 29 levels higher: of the others every bright one is missed.
    asked = "attack: {name: pgd, steps: 2}, epsilon: 1/255, goal: missed_finding, require: {accuracy: 0.5}"
    (gate,) = brightness_gates(project, f"\n  - {{id: pgd, {asked}}}\n", model="operating_point: 0.99")
    assert gate.metrics["attack_success"].samples == 0
    assert gate.metrics["accuracy"].value == len(DARK) / len(LEVELS) == 0.5
    assert gate.verdict == "error"
    assert gate.error == (
        "no sample that the goal missed_finding is about is read correctly before the attack: nothing was attacked"
    )


def test_an_operating_point_moves_the_border_for_searches_as_for_verdicts(project):
    gates = "\n  - {id: pgd, attack: {name: pgd, steps: 10}, epsilon: 4/255, require: {accuracy: 0}}\n"
    # The logits differ by 2 · 20 · (level - 127.5) / 255: at odds of 3 to 1 the border lies 7 levels farther up.
    (gate,) = brightness_gates(project, gates, model="operating_point: 0.75")
    border = 127.5 + 1.0986 * 255 / 40
    assert {LEVELS[i] for i, outcome in enumerate(gate.samples) if outcome.status == "wrong"} == {
        level for level in BRIGHT if level < border
    }
    assert _turned(gate) == {
        level for level in LEVELS if (level < 127.5 and border - level < 4) or (level > border and level - border < 4)
    }


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "apgd", "ensemble"])
def test_in_l2_an_even_change_of_every_pixel_is_the_optimum(project, attack):
    # 64 pixels, each by d: the length is 8 · d.
    (gate,) = brightness_gates(
        project, f"\n  - {{id: gate, attack: {attack}, norm: l2, epsilon: 34 levels, require: {{accuracy: 0}}}}\n"
    )
    assert _turned(gate) == {level for level in LEVELS if abs(level - 127.5) <= 4}
    assert gate.threat.norm == "l2"
    assert gate.threat.epsilon_levels == 34
    assert all(outcome.distance_levels <= 34 for outcome in gate.samples if outcome.status == "broken")


def test_one_minimum_norm_search_serves_every_budget_and_gives_the_whole_curve(project):
    gates = brightness_gates(
        project, "\n  - {id: fmn, attack: fmn, epsilon: [1/255, 2/255, 4/255, 8/255], require: {accuracy: 0}}\n"
    )
    assert [gate.metrics["accuracy"].value for gate in gates] == [accuracy_at(levels) for levels in (1, 2, 4, 8)]
    assert [gate.cost.gradient > 0 for gate in gates] == [True, False, False, False]
    for gate in gates:
        for point, following in zip(gate.curve, (*gate.curve[1:], None), strict=True):
            assert point.accuracy == pytest.approx(accuracy_at(int(point.levels)))
            assert following is None or following.levels > point.levels
        assert gate.curve[0].levels == 0
        assert gate.curve[-1].accuracy == 0
    held = [outcome for outcome in gates[1].samples if outcome.status == "held"]
    assert {outcome.evidence for outcome in held} == {"inherited"}


def test_minimum_norm_searches_run_for_each_budget_where_evidence_is_isolated(project):
    gates = "\n  - {id: fmn, attack: fmn, epsilon: [2/255, 4/255], require: {accuracy: 0}}\n"
    results = brightness_gates(project, gates, extra="evidence: isolated")
    assert all(gate.cost.gradient > 0 for gate in results)
    assert [gate.metrics["accuracy"].value for gate in results] == [accuracy_at(levels) for levels in (2, 4)]


def test_square_asks_an_oracle_no_more_often_than_it_may_and_never_for_gradients(project):
    (gate,) = brightness_gates(
        project, "\n  - {id: square, attack: square, epsilon: 8/255, queries: 60, require: {accuracy: 0}}\n"
    )
    assert gate.threat.knowledge == "scores"
    assert gate.threat.queries == 60
    assert gate.cost.gradient == 0
    counts = [outcome.queries for outcome in gate.samples]
    assert gate.cost.queries.total == sum(counts)
    assert gate.cost.queries.max == max(counts) == 60
    for outcome in gate.samples:
        assert outcome.queries == (60 if outcome.status == "held" else outcome.step + 1)
    assert _turned(gate) <= {level for level in LEVELS if abs(level - 127.5) <= 8}
    assert {126, 127, 128, 129} <= _turned(gate)


def test_an_ensemble_says_which_of_its_attacks_found_what(project):
    (gate,) = brightness_gates(
        project,
        "\n  - {id: all, attack: {name: ensemble, steps: 5, queries: 20}, epsilon: 4/255, require: {accuracy: 0}}\n",
    )
    assert {outcome.attack for outcome in gate.samples if outcome.status == "broken"} <= {
        "apgd-ce", "apgd-dlr-targeted", "fmn", "square",
    }  # fmt: skip
    assert {outcome.found_by for outcome in gate.samples if outcome.status == "broken"} == {"all"}
    # What holds has been through all four: 5 + 5 + 5 gradients each, and 20 looks of Square.
    held = sum(outcome.status == "held" for outcome in gate.samples)
    assert gate.cost.gradient >= held * 15
    assert gate.cost.forward >= held * 35
