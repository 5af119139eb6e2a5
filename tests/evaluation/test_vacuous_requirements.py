"""Gates that would pass whatever their attack does: their pass shows nothing."""

from __future__ import annotations

import pytest
from building import (
    brightness_gates,
    brightness_manifest,
    brightness_policy,
    brightness_project,
    flat_images,
    three_levels,
)

from robustcheck import load_policy, run

RARE = [60] * 38 + [160] * 2  # two bright images, of which neither breaks at 2/255


def _gates(folder, gates, *, levels=RARE, data="", extra="", health="strict", model=""):
    brightness_project(folder)
    flat_images(folder, levels, [int(level > 127.5) for level in levels])
    policy = brightness_policy(gates, data=f"source: flat.npz{data}", model=model, extra=f"health: {health}\n{extra}")
    (folder / "policy.yaml").write_text(policy)
    return run(load_policy(folder / "policy.yaml")).gates


def _gate(folder, require, *, goal="missed_finding", attack="{name: pgd, steps: 10}", **more):
    asked = f"attack: {attack}, epsilon: 2/255, goal: {goal}"
    (gate,) = _gates(folder, f"  - {{id: gate, {asked}, require: {{{require}}}}}", **more)
    return gate


def _told(gate):
    return [(one.severity, one.message) for one in gate.findings if one.code == "holds-whatever-is-turned"]


def test_an_accuracy_that_rests_on_those_whom_nobody_attacks_is_no_pass(tmp_path):
    gate = _gate(tmp_path, "accuracy: 0.8")
    message = (
        "the gate passes whatever the attack does: with every attacked sample turned (2), accuracy would be 0.950 "
        "(>= 0.8); require sensitivity or attack_success, or a bound that would not be met then"
    )
    assert (gate.verdict, gate.error) == ("error", message)
    assert _told(gate) == [("error", message)]


def test_with_health_warn_it_is_told_only(tmp_path):
    gate = _gate(tmp_path, "accuracy: 0.8", health="warn")
    assert gate.verdict == "pass"
    assert [severity for severity, _ in _told(gate)] == ["error"]


@pytest.mark.parametrize("attack", ["{name: pgd, steps: 10}", "{name: square}, queries: 50", "noise, queries: 20"])
@pytest.mark.parametrize(("require", "verdict"), [("npv: 0.95", "error"), ("npv: 0.981", "pass")])
def test_what_is_missed_everywhere_hardly_shows_where_disease_is_rare(require, verdict, attack, tmp_path):
    gate = _gate(tmp_path, require, data=", prevalence: 0.02", attack=attack)
    assert gate.verdict == verdict
    assert bool(_told(gate)) == (verdict == "error")
    if verdict == "error":
        assert "npv would be 0.980 (>= 0.95); require sensitivity or attack_success" in gate.error


@pytest.mark.parametrize(
    ("goal", "require", "told"),
    [
        ("false_alarm", "accuracy: 0.04", "require specificity or attack_success"),
        ("targeted, target: bright", "accuracy: 0.04", "require specificity or attack_success"),
        ("targeted, target: dark", "balanced_accuracy: 0.5", "require attack_success, or"),
    ],
)
def test_each_goal_has_what_to_require_instead(goal, require, told, tmp_path):
    gate = _gate(tmp_path, require, goal=goal)
    assert gate.verdict == "error"
    assert told in gate.error


def test_the_worst_subgroup_has_to_be_able_to_be_worse(tmp_path):
    brightness_project(tmp_path)
    brightness_manifest(
        tmp_path, [(60 if number < 18 else 160, f"p{number}", "FM"[number % 2]) for number in range(20)]
    )
    gate = "goal: missed_finding, require: {worst_subgroup.accuracy: 0.9, worst_subgroup.sensitivity: 0}"
    policy = brightness_policy(
        f"  - {{id: gate, attack: {{name: pgd, steps: 10}}, epsilon: 2/255, {gate}}}",
        data="source: patients.csv, bits: 8, subgroups: [sex]",
    )
    (tmp_path / "policy.yaml").write_text(policy)
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert result.verdict == "error"
    assert "worst_subgroup.accuracy would be 0.900 (>= 0.9); require sensitivity or" in result.error


def test_what_can_fail_beside_it_makes_it_a_warning(tmp_path):
    gate = _gate(tmp_path, "accuracy: 0.8, sensitivity: 0.9")
    assert gate.verdict == "pass"
    ((severity, message),) = _told(gate)
    assert severity == "warning"
    assert message.startswith("what is required of accuracy is met whatever the attack does: with every attacked")


@pytest.mark.parametrize(
    ("require", "goal"),
    [
        ("accuracy: 0", "missed_finding"),  # there to be measured
        ("accuracy: 0, npv: 0, attack_success: '<= 1'", "missed_finding"),
        ("sensitivity: 0.01", "missed_finding"),
        ("attack_success: '<= 0.99'", "missed_finding"),
        ("accuracy: 0.01", "untargeted"),
        ("accuracy: 0.951", "missed_finding"),
        ("auroc: 0.01", "missed_finding"),
        ("sensitivity: 0.9, specificity: 0", "missed_finding"),
    ],
)
def test_what_an_attack_could_have_failed_passes(require, goal, tmp_path):
    gate = _gate(tmp_path, require, goal=goal, data=", prevalence: 0.02")
    assert (gate.verdict, _told(gate)) == ("pass", [])


def test_that_an_attack_succeeds_may_be_required(tmp_path):
    brightness_project(tmp_path)
    gate = "{id: gate, attack: {name: pgd, steps: 10}, epsilon: 8/255, require: {attack_success: '>= 0.2'}}"
    (result,) = brightness_gates(tmp_path, f"  - {gate}")
    assert (result.verdict, _told(result)) == ("pass", [])


def test_what_has_failed_says_nothing_of_it(tmp_path):
    gate = _gate(tmp_path, "accuracy: 0.8, sensitivity: 0.9", levels=[60] * 38 + [128] * 2)
    assert (gate.verdict, _told(gate)) == ("fail", [])


@pytest.mark.parametrize("stop", ["early", "determined"])
def test_gates_that_stop_are_held_to_all_their_samples(stop, tmp_path):
    """What was seen first may have few bright images by chance."""
    rare, half = [60] * 285 + [160] * 15, [60] * 150 + [160] * 150
    stopping = f"decision: {{stop: {stop}}}"
    (tmp_path / "rare").mkdir()
    (tmp_path / "half").mkdir()
    gate = _gate(tmp_path / "rare", "accuracy: 0.8", levels=rare, extra=stopping)
    assert gate.stopped.decided
    assert gate.verdict == "error"
    assert "with every attacked sample turned (15), accuracy would be 0.950" in gate.error
    gate = _gate(tmp_path / "half", "accuracy: 0.6", levels=half, extra=stopping)
    assert (gate.verdict, _told(gate)) == ("pass", [])


def test_an_interval_that_would_not_decide_is_no_pass_to_be_had(tmp_path):
    """By interval, 38 of 40 do not show 0.9: the gate could have become inconclusive."""
    extra = "decision: {rule: confident}"
    assert _gate(tmp_path, "accuracy: 0.9", extra=extra).verdict == "pass"
    assert _gate(tmp_path, "accuracy: 0.8", extra=extra).verdict == "error"


def test_controls_alone_are_no_attack(tmp_path):
    """What control_success asks of conditions stands for itself; it makes nothing else of the gate fail."""
    seen = "conditions: {brightness: 0.01, judged_on: 10, draws: 2}"
    gates = "\n".join(
        f"  - {{id: {name}, attack: {{name: pgd, steps: 3}}, epsilon: 2/255, goal: missed_finding, {seen}, "
        f"require: {{control_success: '<= 0.5'{more}}}}}"
        for name, more in (("alone", ", attack_success: '<= 1'"), ("beside", ", accuracy: 0.8"))
    )
    alone, beside = _gates(tmp_path, gates)
    assert (alone.verdict, _told(alone)) == ("pass", [])
    assert beside.verdict == "error"


def test_of_three_labels_only_the_positives_count(tmp_path):
    three_levels(tmp_path)
    gate = "attack: {name: pgd, steps: 5}, epsilon: 1/255, goal: missed_finding, require: {accuracy: 0.3}"
    policy = brightness_policy(f"  - {{id: gate, {gate}}}").replace("[dark, bright]", "[dark, dim, bright]")
    (tmp_path / "policy.yaml").write_text(policy)
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert result.verdict == "error"
    assert "with every attacked sample turned (1), accuracy would be 0.400" in result.error


def _warned(gate, code):
    return [one.message for one in gate.findings if (one.code, one.severity) == (code, "warning")]


@pytest.mark.parametrize(
    ("require", "named"),
    [
        ("accuracy: '<= 1', attack_success: '>= 0'", None),
        ("accuracy: '<= 0.9'", "accuracy <= 0.9 is met"),
        ("attack_success: '>= 0.5', accuracy: 0", "attack_success >= 0.5 is met"),
        ("sensitivity: '<= 0.9', attack_success: '>= 0.5'", "sensitivity <= 0.9, attack_success >= 0.5 is met"),
        ("accuracy: '<= 0.9', attack_success: '<= 1'", "accuracy <= 0.9 is met"),
        ("accuracy: 0.2", None),
        ("accuracy: '<= 0.9', sensitivity: 0.1", None),
        ("attack_success: '<= 0.9'", None),
    ],
)
def test_a_pass_that_is_earned_by_weakness_is_said_to_be(require, named, tmp_path):
    half = [60] * 4 + [126] * 4 + [129] * 4 + [160] * 4
    gate = _gate(tmp_path, require, goal="untargeted", levels=half)
    assert gate.verdict == "pass"
    told = _warned(gate, "met-by-weakness")
    assert bool(told) == (named is not None)
    if named is not None:
        assert told == [
            f"{named} by a candidate that the attack breaks, and not by one that holds: a pass shows no robustness; to "
            "require robustness, reverse the bound"
        ]


def test_without_an_attack_a_bound_from_above_is_no_weakness(tmp_path):
    (gate,) = _gates(tmp_path, "  - {id: gate, require: {accuracy: '<= 1', sensitivity: '<= 1'}}")
    assert "met-by-weakness" not in [finding.code for finding in gate.findings]


def _aimed(folder, goal, labels):
    """A gate on images of which half are dark and half bright, of a candidate that reads them so."""
    brightness_project(folder)
    count = len(labels) // 2
    flat_images(folder, [60] * count + [160] * count, labels)
    asked = f"attack: {{name: pgd, steps: 3}}, epsilon: 2/255, goal: {goal}, require: {{attack_success: '<= 0.5'}}"
    policy = brightness_policy(f"  - {{id: gate, {asked}}}", data="source: flat.npz")
    (folder / "policy.yaml").write_text(policy)
    (result,) = run(load_policy(folder / "policy.yaml")).gates
    return result


@pytest.mark.parametrize(
    ("goal", "labels", "why"),
    [
        (
            "untargeted",
            [1] * 20 + [0] * 11 + [1] * 9,
            "9 of 40 samples to turn, because 31 are read wrongly before the attack",
        ),
        (
            "missed_finding",
            [0] * 13 + [1] * 7 + [0] * 18 + [1] * 2,
            "2 of 40 samples to turn, because the goal missed_finding is not about 31 of them and 7 are read wrongly "
            "before the attack",
        ),
        (
            "false_alarm",
            [1] * 11 + [0] * 9 + [1] * 19 + [0],
            "9 of 40 samples to turn, because the goal false_alarm is not about 30 of them and 1 is read wrongly "
            "before the attack",
        ),
        ("untargeted", [1] * 20 + [0] * 10 + [1] * 10, None),  # ten
        ("missed_finding", [0] * 6 + [1] * 6, None),  # half
    ],
)
def test_few_attacked_samples_are_told_with_why_they_are_few(goal, labels, why, tmp_path):
    gate = _aimed(tmp_path, goal, labels)
    assert gate.verdict == "pass"
    told = [] if why is None else [f"the attack had only {why}: the result on so few says little"]
    assert _warned(gate, "few-attacked") == told
