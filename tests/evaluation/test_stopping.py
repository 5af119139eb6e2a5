"""Gates that decide before all samples were looked at."""

from __future__ import annotations

import numpy as np
import pytest
from building import brightness_gates, brightness_project, flat_images

from robustcheck import load_policy, run
from robustcheck.data import in_random_order
from robustcheck.errors import PolicyError
from robustcheck.evaluation.health.probing import Probed, ProbeResult, Probes
from robustcheck.evaluation.metrics import anytime
from robustcheck.evaluation.search.ledger import UNKNOWN

SAMPLES = 300


def _project(folder, robust, *, samples=SAMPLES, wrong=0):
    """Even images, of which a share holds at 8/255, the others break; and some that are wrong before."""
    brightness_project(folder)
    far, near = round(robust * samples), samples - round(robust * samples) - wrong
    levels = [160] * far + [130] * near + [100] * wrong
    flat_images(folder, levels, [1] * samples)


def _gate(folder, decision, *, require="accuracy: 0.6", attack="fgsm", more=""):
    gate = f"  - {{id: gate, attack: {attack}, epsilon: 8/255, require: {{{require}}}{more}}}\n"
    (result,) = brightness_gates(folder, gate, extra=f"decision: {decision}")
    return result


# --- early -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["estimate", "confident"])
@pytest.mark.parametrize(("robust", "verdict", "most"), [(0.1, "fail", 16), (0.95, "pass", 40)])
def test_what_is_clear_is_decided_by_few_samples(rule, robust, verdict, most, tmp_path):
    _project(tmp_path, robust)
    gate = _gate(tmp_path, f"{{rule: {rule}, stop: early}}")
    assert gate.verdict == verdict
    assert gate.stopped.decided
    assert gate.stopped.needed <= most
    assert gate.stopped.of == SAMPLES
    accuracy = gate.metrics["accuracy"]
    assert accuracy.samples == len(gate.samples) == gate.stopped.needed
    assert (accuracy.low, accuracy.high) == tuple(map(float, anytime.ends(accuracy.successes, accuracy.samples, 0.95)))
    assert accuracy.high < 0.6 if verdict == "fail" else accuracy.low >= 0.6
    assert gate.cost.gradient < SAMPLES / 3


@pytest.mark.parametrize(("rule", "verdict"), [("estimate", "pass"), ("confident", "inconclusive")])
def test_what_no_interval_decides_is_looked_at_to_the_end(rule, verdict, tmp_path):
    _project(tmp_path, 0.6)
    gate = _gate(tmp_path, f"{{rule: {rule}, stop: early}}")
    assert (gate.stopped.decided, gate.stopped.needed, len(gate.samples)) == (False, SAMPLES, SAMPLES)
    assert gate.metrics["accuracy"].value == 0.6
    assert gate.verdict == verdict


def test_it_is_decided_at_the_first_sample_that_decides(tmp_path):
    """Whole stages are searched; what was found out in one after the decision is no part of the result."""
    _project(tmp_path, 0.3)
    gate = _gate(tmp_path, "{rule: confident, stop: early}")
    order = in_random_order([f"test/{index}" for index in range(SAMPLES)], seed=0)
    holds = np.arange(SAMPLES)[order] < 90
    ends = [anytime.ends(int(holds[:count].sum()), count, 0.95) for count in range(1, SAMPLES + 1)]
    assert gate.stopped.needed == 1 + next(place for place, (_, high) in enumerate(ends) if high < 0.6)


def test_several_requirements_are_all_decided(tmp_path):
    _project(tmp_path, 0.9)
    alone = _gate(tmp_path, "{rule: confident, stop: early}")
    both = _gate(tmp_path, "{rule: confident, stop: early}", require="accuracy: 0.6, attack_success: '<= 0.2'")
    assert (alone.verdict, both.verdict) == ("pass", "pass")
    assert both.stopped.needed > alone.stopped.needed


def test_gates_of_a_family_decide_alike_whatever_comes_before_them(tmp_path):
    _project(tmp_path, 0.2)
    decision = "decision: {rule: confident, stop: early}"
    ladder = "  - {id: pgd, attack: {name: pgd, steps: 3}, epsilon: [4/255, 8/255], require: {accuracy: 0.6}}\n"
    nes = "  - {id: nes, attack: nes, queries: 200, epsilon: 8/255, require: {accuracy: 0.6}}\n"
    first = brightness_gates(tmp_path, ladder + nes, extra=decision)
    second = brightness_gates(tmp_path, nes + ladder, extra=decision + "\nevidence: isolated")
    found = {gate.id: (gate.verdict, gate.stopped) for gate in first}
    assert found == {gate.id: (gate.verdict, gate.stopped) for gate in second}
    assert found["pgd[4/255]"] == found["pgd[8/255]"]  # all see the samples in one order


def test_another_seed_is_another_order():
    names = [f"test/{index}" for index in range(50)]
    orders = [in_random_order(names, seed=seed) for seed in (0, 0, 1)]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any()
    assert sorted(orders[2]) == list(range(50))
    shuffled = in_random_order(names[::-1], seed=0)
    assert [names[::-1][place] for place in shuffled] == [names[place] for place in orders[0]]


@pytest.mark.parametrize("attack", ["nes, queries: 100", "{name: fmn, steps: 40}"])
def test_curves_are_about_the_samples_that_were_needed(attack, tmp_path):
    """From their own clean accuracy down to what is left of them; FMN turns them all, farther away."""
    _project(tmp_path, 0.05, wrong=90)
    gate = _gate(tmp_path, "{stop: early}", attack=attack)
    order = in_random_order([f"test/{index}" for index in range(SAMPLES)], seed=0)
    needed = gate.stopped.needed
    clean = (order[:needed] < SAMPLES - 90).mean()
    assert needed < 16  # of the first stage, which was searched
    assert clean not in (0.7, 1)
    if "fmn" in attack:
        assert (gate.curve[0].accuracy, gate.curve[-1].accuracy) == (clean, 0)
    else:
        curve = gate.query_curve
        assert (curve[0].accuracy, curve[-1].accuracy) == (clean, gate.metrics["accuracy"].value)


# --- determined ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("robust", "verdict"), [(0.2, "fail"), (0.55, "fail"), (0.65, "pass"), (1.0, "pass")])
@pytest.mark.parametrize("wrong", [0, 30])
def test_what_no_sample_can_change_is_not_looked_for(robust, verdict, wrong, tmp_path):
    if robust == 1.0:
        wrong = 0
    _project(tmp_path, robust, wrong=wrong)
    gate = _gate(tmp_path, "{stop: determined}")
    assert gate.verdict == verdict == _gate(tmp_path, "{stop: never}").verdict
    order = in_random_order([f"test/{index}" for index in range(SAMPLES)], seed=0)
    far = round(robust * SAMPLES)
    holds, near = order < far, (order >= far) & (order < SAMPLES - wrong)
    if verdict == "pass":  # so many hold that the rest may break
        needed = 1 + int(np.argmax(np.cumsum(holds) >= 0.6 * SAMPLES))
    else:  # so many are broken or wrong that the rest may hold
        certain = np.cumsum(near) + wrong > 0.4 * SAMPLES
        seen = np.cumsum(holds) / np.arange(1, SAMPLES + 1) < 0.6  # and what was seen says so, too
        needed = 1 + int(np.argmax(certain & seen))
    assert gate.stopped.needed == needed < SAMPLES
    assert gate.metrics["accuracy"].samples == needed


def test_what_is_certain_is_looked_for_until_the_samples_that_were_seen_show_it(tmp_path):
    """After 87 too many are broken, or wrong among those to come; of the 87 themselves more hold than have to."""
    _project(tmp_path, 0.58, wrong=119)
    gate = _gate(tmp_path, "{stop: determined}")
    assert 87 < gate.stopped.needed < SAMPLES
    assert gate.verdict == "fail"
    assert gate.metrics["accuracy"].value < 0.6


def test_a_verdict_may_be_certain_before_a_sample_that_the_goal_is_about(tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, [60] * 270 + [130] * 30, [0] * 270 + [1] * 30)
    asked = {"require": "accuracy: 0.5", "more": ", goal: missed_finding"}
    gate = _gate(tmp_path, "{stop: determined}\nhealth: warn", **asked)  # else it's an error: no attack can fail it
    order = in_random_order([f"test/{index}" for index in range(SAMPLES)], seed=0)
    assert gate.stopped.needed <= np.argmax(order >= 270)  # whatever becomes of the 30, 270 of 300 stay
    assert gate.verdict == _gate(tmp_path, "{stop: never}\nhealth: warn", **asked).verdict == "pass"


def test_nothing_is_passed_early_before_something_was_attacked(tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, [60] * 290 + [160] * 10, [0] * 290 + [1] * 10)
    decision = "{stop: early}\nhealth: warn"  # else it is an error: no attack can fail it
    gate = _gate(tmp_path, decision, require="accuracy: 0.5", more=", goal: missed_finding")
    order = in_random_order([f"test/{index}" for index in range(SAMPLES)], seed=0)
    assert gate.verdict == "pass"
    assert gate.stopped.needed == max(12, 1 + int(np.argmax(order >= 290)))
    assert gate.metrics["attack_success"].samples == 1


def test_roc_areas_can_be_determined(tmp_path):
    brightness_project(tmp_path)
    levels = [40] * 60 + [120] * 60 + [135] * 60 + [215] * 60
    flat_images(tmp_path, levels, [0] * 120 + [1] * 120)
    gate = _gate(tmp_path, "{stop: determined}", require="auroc: 0.99", more=", ")
    assert (gate.verdict, gate.stopped.decided) == ("fail", True)
    assert gate.stopped.needed < 240


# --- what is rare ----------------------------------------------------------------------------------------------------


def _rare(folder, *, label):
    """95 images of a hundred hold; the five others break, and are a subgroup of their own or the only bright ones."""
    brightness_project(folder)
    rare = np.arange(SAMPLES) % 20 == 0
    levels = np.where(rare, 130, 60 if label else 200).astype(np.uint8)
    np.savez(
        folder / "rare.npz",
        test_images=np.broadcast_to(levels[:, None, None], (SAMPLES, 4, 4)),
        test_labels=(levels > 127).astype(int)[:, None],
        test_scanner=np.where(rare, "old", "new"),
    )


@pytest.mark.parametrize(
    ("label", "require"), [(False, "worst_subgroup.accuracy: 0.6"), (True, "balanced_accuracy: 0.6")]
)
def test_what_is_rare_and_broken_is_never_passed_early(label, require, tmp_path):
    """A gate that forgot what it has not yet seen would pass with the first samples of most orders."""
    _rare(tmp_path, label=label)
    for seed in range(20):
        (tmp_path / "policy.yaml").write_text(f"""
robustcheck: 1
seed: {seed}
model: {{path: brightness.safetensors, architecture: "brightness:Brightness", task: multiclass, labels: [dark, bright]}}
data: {{source: rare.npz, subgroups: scanner}}
decision: {{stop: early}}
gates:
  - {{id: gate, attack: fgsm, epsilon: 8/255, require: {{{require}}}}}
""")
        (gate,) = run(load_policy(tmp_path / "policy.yaml")).gates
        assert gate.verdict == "fail"


# --- and without it --------------------------------------------------------------------------------------------------


def test_gates_look_at_all_samples_unless_the_policy_says_otherwise(tmp_path):
    _project(tmp_path, 0.1)
    gate = _gate(tmp_path, "{rule: confident}")
    assert gate.stopped is None
    assert gate.metrics["accuracy"].samples == SAMPLES
    assert [outcome.sample for outcome in gate.samples] == [f"test/{index}" for index in range(SAMPLES)]


@pytest.mark.parametrize(
    ("decision", "require", "message"),
    [
        ("{rule: confident, stop: determined}", "accuracy: 0.6", "which is for rule: estimate"),
        ("{stop: early}", "auroc: 0.6", r"gates\[0\].require.auroc has no interval that holds at every number"),
        ("{stop: early}", "auroc: 0.6", r"; leave out gates\[0\].require.auroc, or decision.stop"),
        ("{stop: soon}", "accuracy: 0.6", "'never', 'early' or 'determined'"),
    ],
)
def test_mistakes(decision, require, message, tmp_path):
    brightness_project(tmp_path)
    with pytest.raises(PolicyError, match=message):
        _gate(tmp_path, decision, require=require)


def test_what_held_for_want_of_anything_to_follow_decides_nothing_early(tmp_path):
    """One image in ten is black, where the network is flat: without it the gate passes, and says so in time."""
    brightness_project(tmp_path)
    source = (tmp_path / "brightness.py").read_text()
    flat = source.replace("excess = (", "image = image.clamp_min(0.2)\n        excess = (")
    assert flat != source
    (tmp_path / "brightness.py").write_text(flat)
    flat_images(tmp_path, ([160] * 9 + [0]) * 10, ([1] * 9 + [0]) * 10)
    for seed in range(5):
        gate = "  - {id: gate, attack: {name: pgd, steps: 4}, epsilon: 8/255, require: {accuracy: 0.6}}\n"
        (result,) = brightness_gates(tmp_path, gate, extra=f"seed: {seed}\ndecision: {{stop: early}}")
        assert (result.verdict, result.stopped.decided) == ("pass", True)


def test_a_gate_that_has_just_been_decided_is_not_undone_by_one_sample_that_a_probe_turned(tmp_path, monkeypatch):
    """With one more that is broken its interval would not have decided yet."""

    def turns_one(probes, *_, **__):
        steps = ProbeResult(how="single steps", turned={probes.held[0]: UNKNOWN}, of=20)
        return Probed(at_images=[1.0, 1.0, 1.0], single_steps=steps)

    monkeypatch.setattr(Probes, "run", turns_one)
    _project(tmp_path, 1.0)
    gate = _gate(tmp_path, "{stop: early}", attack="{name: pgd, steps: 4}")
    assert gate.stopped.decided
    assert gate.verdict == "pass", gate.error
    (check,) = [check for check in gate.health if check.name == "beats-single-steps"]
    assert (check.outcome, check.evidence) == ("sound", "single steps turned 1 of 20 that held")
