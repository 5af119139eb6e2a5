"""Plans, on a network whose answers are known: what they say before, and what a run then costs."""

from __future__ import annotations

import numpy as np
import pytest
from building import LEVELS, brightness_policy, brightness_project, even_images
from patching import FIXED, patch_policy
from PIL import Image

from robustcheck import load_policy, run
from robustcheck.evaluation.planning import plan
from robustcheck.report.plan import plan_line, plan_tables
from robustcheck.report.summary import render


def planned(folder, text, **options):
    (folder / "policy.yaml").write_text(text)
    return plan(load_policy(folder / "policy.yaml"), **options)


def gate_text(attack, *, require="{accuracy: 0.5}", more="epsilon: 3/255"):
    return f"  - {{id: gate, attack: {attack}, {more}, require: {require}}}"


ATTACKS = {
    "fgsm": ("fgsm", "epsilon: 3/255"),
    "pgd": ("{name: pgd, steps: 10, restarts: 3}", "epsilon: 3/255"),
    "pgd-l2": ("{name: pgd, steps: 10}", "epsilon: 0.1, norm: l2"),
    "apgd": ("{name: apgd, steps: 10, restarts: 2}", "epsilon: 3/255"),
    "fmn": ("{name: fmn, steps: 20}", "epsilon: 3/255"),
    "ensemble": ("{name: ensemble, steps: 10, queries: 50}", "epsilon: 3/255"),
    "square": ("{name: square, restarts: 2}", "epsilon: 3/255, queries: 101"),
    "nes": ("{name: nes, samples: 10}", "epsilon: 3/255, queries: 100"),
    "label_only": ("{name: label_only, samples: 4, copies: 2}", "epsilon: 3/255, queries: 100"),
    "rays": ("rays", "epsilon: 3/255, queries: 50"),
    "conditions": (
        "{name: pgd, steps: 4}",
        "epsilon: 3/255, conditions: {brightness: 0.01, draws: 2, judged_on: 10}",
    ),
    "rp2": (
        "{name: rp2, steps: 5, stickers: [0, 0, 0.5, 0.5]}",
        "conditions: {scale: [0.4, 1], perspective: 30, draws: 2}",
    ),
    "missed": ("{name: pgd, steps: 5}", "epsilon: 3/255, goal: missed_finding"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_run_sends_no_more_through_the_network_than_was_planned(name, tmp_path):
    attack, more = ATTACKS[name]
    brightness_project(tmp_path)
    (gate,) = planned(tmp_path, brightness_policy(gate_text(attack, more=more))).gates
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert gate.error is result.error is None
    assert result.cost.forward <= gate.forward
    assert result.cost.gradient <= gate.gradient
    assert gate.gradient > 0 or result.cost.gradient == 0
    assert gate.seconds > 0


@pytest.mark.parametrize(
    ("attack", "steps"), [("fgsm", 1), ("{name: pgd, steps: 7}", 7), ("{name: pgd, steps: 4, restarts: 3}", 12)]
)
def test_where_all_hold_every_gradient_that_was_planned_is_asked_for(attack, steps, tmp_path):
    brightness_project(tmp_path)
    even_images(tmp_path, (20, 40, 60, 200, 220), (0, 0, 0, 1, 1))
    (gate,) = planned(tmp_path, brightness_policy(gate_text(attack))).gates
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert gate.gradient == result.cost.gradient == 5 * steps
    assert gate.attacked == 5


@pytest.mark.parametrize(
    "attack",
    [
        f"{FIXED}, target: bright}}",
        f"{FIXED}, target: bright, worst_of: 3, restarts: 2}}",
        f"{FIXED}, universal: false}}",
        f"{FIXED}, target: bright, train_on: 0.5}}",
    ],
)
def test_patches_cost_what_was_planned(attack, patched):
    (gate,) = planned(patched, patch_policy(attack)).gates
    (result,) = run(load_policy(patched / "policy.yaml"), folder=patched / "out").gates
    assert gate.error is None
    assert gate.gradient == result.cost.gradient
    assert result.cost.forward <= gate.forward
    assert gate.requirements[0].samples == gate.attacked == result.metrics["attack_success"].samples


def test_samples_that_a_patch_is_trained_on_are_not_judged(patched):
    text = patch_policy(f"{FIXED}, target: bright, train_on: 0.25}}")
    text = text.replace("require: {", "require: {accuracy: 0, sensitivity: 0, ")
    (gate,) = planned(patched, text).gates
    (result,) = run(load_policy(patched / "policy.yaml"), folder=patched / "out").gates
    has = {one.metric: one.samples for one in gate.requirements}
    assert has["accuracy"] == len(result.samples) == 9
    assert has == {metric: result.metrics[metric].samples for metric in has}


def test_surrogates_are_counted_each_and_not_trained(tmp_path):
    brightness_project(tmp_path)
    other = "{path: brightness.safetensors, architecture: 'brightness:Brightness'}"
    text = brightness_policy(gate_text(f"{{name: transfer, steps: 5, surrogate: [{other}, {other}]}}"))
    (gate,) = planned(tmp_path, text).gates
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert result.cost.gradient == gate.gradient == 2 * 5 * len(LEVELS)
    assert result.cost.forward <= gate.forward
    assert gate.notes == ()


def test_each_metric_has_the_samples_that_it_is_about(tmp_path):
    brightness_project(tmp_path, threshold=0.4)  # 100 is dark, all others are read as bright
    require = "{accuracy: 0.5, sensitivity: 0.5, specificity: 0.5, attack_success: '<= 0.5', auroc: 0.5}"
    (gate,) = planned(tmp_path, brightness_policy(gate_text("fgsm", require=require))).gates
    has = {one.metric: one.samples for one in gate.requirements}
    right = 1 + sum(level > 127.5 for level in LEVELS)
    assert has == {"accuracy": 10, "sensitivity": 5, "specificity": 5, "attack_success": right, "auroc": 10}
    assert gate.attacked == right
    clean = {one.metric: one.clean for one in gate.requirements}
    assert clean["accuracy"] == 0.6
    assert clean["specificity"] == 0.2
    assert clean["attack_success"] is None
    notes = {one.metric: one.notes for one in gate.requirements}
    assert notes["specificity"] == ("the clean specificity 0.200 is below it",)
    assert notes["accuracy"] == ()


def test_needed_follows_the_rule_the_margin_and_the_power(tmp_path):
    brightness_project(tmp_path)
    confident = brightness_policy(gate_text("fgsm", require="{accuracy: 0.7}"), extra="decision: {rule: confident}")
    (gate,) = planned(tmp_path, confident).gates
    assert (gate.requirements[0].needed, gate.requirements[0].enough) == (870, False)
    (narrow,) = planned(tmp_path, confident, margin=0.1).gates
    (weak,) = planned(tmp_path, confident, power=0.5).gates
    (by_estimate,) = planned(tmp_path, confident.replace("rule: confident", "rule: estimate")).gates
    for other in (narrow, weak, by_estimate):
        assert other.requirements[0].needed < 870


def test_bounds_that_no_samples_show_and_values_that_cannot_be(tmp_path):
    brightness_project(tmp_path)
    gates = "\n".join(
        f"  - {{id: g{number}, require: {{accuracy: {bound}}}}}" for number, bound in enumerate((1, 0.98))
    )
    result = planned(tmp_path, brightness_policy(gates, extra="decision: {rule: confident}"))
    never, clipped = (gate.requirements[0] for gate in result.gates)
    assert never.never
    assert never.needed is None
    assert "no number of samples shows accuracy >= 1 with confidence" in never.notes
    assert clipped.supposed == 1
    assert "1 is supposed: no true value is 0.05 from the bound" in clipped.notes
    assert result.too_few == ("g0", "g1")


def test_a_metric_without_samples_is_undefined(tmp_path):
    brightness_project(tmp_path)
    even_images(tmp_path, (10, 20), (0, 0))
    (gate,) = planned(tmp_path, brightness_policy(gate_text("fgsm", require="{sensitivity: 0.5, auroc: 0.5}"))).gates
    for one in gate.requirements:
        assert (one.low, one.high, one.power, one.enough) == (None, None, None, False)
        assert "undefined on these samples" in one.notes


def test_a_gate_that_attacks_nothing_costs_nothing(tmp_path):
    brightness_project(tmp_path, threshold=-1)
    even_images(tmp_path, (10, 20), (0, 0))  # both are read as bright
    (gate,) = planned(tmp_path, brightness_policy(gate_text("fgsm"))).gates
    assert (gate.attacked, gate.forward, gate.gradient, gate.seconds) == (0, 0, 0, 0)
    assert gate.notes == ("no sample is right and of the kind that its goal is about",)


NO_GRADIENT = """
import torch

class Brightness(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, image):
        excess = (image.flatten(1).mean(dim=1).detach() - self.threshold) * 20
        return torch.stack([-excess, excess], dim=1)
"""


def test_a_candidate_without_gradients_can_be_asked_and_not_followed(tmp_path):
    brightness_project(tmp_path)
    (tmp_path / "brightness.py").write_text(NO_GRADIENT)
    gates = gate_text("fgsm") + "\n" + gate_text("square", more="epsilon: 3/255, queries: 20").replace("gate", "asks")
    result = planned(tmp_path, brightness_policy(gates))
    followed, asked = result.gates
    assert "no gradient" in followed.error
    assert followed.seconds is None
    assert followed.requirements[0].samples == 10
    assert asked.error is None
    assert asked.seconds > 0
    text = render(plan_tables(result), width=80, color=False)
    assert "cannot be evaluated: " in text
    assert "without gate, of which" in plan_line(result)


def test_tables_and_the_last_line(tmp_path):
    brightness_project(tmp_path)
    result = planned(tmp_path, brightness_policy(gate_text("fgsm", require="{accuracy: 0.7}")))
    text = render(plan_tables(result), width=80, color=False)
    assert "gate: fgsm at 3/255, 10 samples attacked, at most about 0.0 s" in text
    row = next(line for line in text.splitlines() if line.startswith("accuracy"))
    assert row.split()[:4] == ["accuracy", ">=0.7", "137", "10"]
    assert "too few" in row
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "\x1b" in render(plan_tables(result), width=80, color=True)
    assert plan_line(result).endswith("; too few samples for gate")
    assert plan_line(result).startswith("PLAN: at most about ")


# --- parts of the samples, groups, and deciding early ----------------------------------------------------------------


def _patients(folder, images=1):
    brightness_project(folder)
    lines = ["path,label,patient,sex"]
    for number in range(60):
        level, sex = (160 if number % 2 else 100), "F" if number < 40 else "M"
        for index in range(images):
            name = f"{number}-{index}.png"
            Image.fromarray(np.full((8, 8), level, np.uint8)).save(folder / name)
            lines.append(f"{name},{'bright' if number % 2 else 'dark'},p{number},{sex}")
    (folder / "patients.csv").write_text("\n".join(lines))


def _one(folder, require, *, data="", decision="{rule: confident}"):
    (folder / "policy.yaml").write_text(f"""
robustcheck: 1
model:
  path: brightness.safetensors
  architecture: brightness:Brightness
  task: multiclass
  labels: [dark, bright]
  positive: bright
data: {{source: patients.csv, bits: 8{data}}}
decision: {decision}
gates: [{{id: gate, attack: fgsm, epsilon: 8/255, require: {{{require}}}}}]
""")
    (gate,) = plan(load_policy(folder / "policy.yaml")).gates
    assert gate.error is None
    (requirement,) = gate.requirements
    return requirement


def test_the_worst_subgroup_is_planned_for_the_smallest_with_all_intervals_together(tmp_path):
    _patients(tmp_path)
    whole = _one(tmp_path, "accuracy: 0.6")
    worst = _one(tmp_path, "worst_subgroup.accuracy: 0.6", data=", subgroups: sex")
    assert (whole.samples, worst.samples) == (60, 20)
    assert worst.needed > whole.needed  # each interval is surer
    assert worst.clean == 1
    assert "of sex=M, the smallest of 2" in worst.notes
    few = _one(tmp_path, "worst_subgroup.sensitivity: 0.6", data=", subgroups: sex")
    assert few.samples == 10


def test_images_of_a_patient_are_worth_one_at_least(tmp_path):
    _patients(tmp_path, images=4)
    alone, grouped = _one(tmp_path, "accuracy: 0.6"), _one(tmp_path, "accuracy: 0.6", data=", group: patient")
    assert (alone.samples, grouped.samples) == (240, 240)
    assert alone.needed == grouped.needed
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    assert grouped.power < alone.power
    assert any("240 images of 60 groups, worth 60 at least" in note for note in grouped.notes)
    plain = _one(tmp_path, "accuracy: 0.6", data=", group: patient, samples: 20")
    assert plain.samples == 20


def test_predictive_values_are_planned_as_if_both_rates_were_equal(tmp_path):
    _patients(tmp_path)
    ppv = _one(tmp_path, "ppv: 0.4", data=", prevalence: 0.1")
    assert ppv.about
    assert ppv.needed > 60
    assert ppv.low < 0.45 < ppv.high
    assert ppv.clean == 1


def test_gates_that_may_stop_are_planned_with_their_own_interval(tmp_path):
    _patients(tmp_path)
    fixed, early = (
        _one(tmp_path, "accuracy: 0.6"),
        _one(tmp_path, "accuracy: 0.6", decision="{rule: confident, stop: early}"),
    )
    assert early.needed > fixed.needed  # an interval that holds at every number of samples is wider
    assert early.high - early.low > fixed.high - fixed.low


def test_a_candidate_that_draws_is_planned_with_its_calls(tmp_path):
    brightness_project(tmp_path)
    source = (tmp_path / "brightness.py").read_text()
    drawn = source.replace("excess], dim=1)", "excess], dim=1) + 0.01 * torch.randn(len(image), 2)")
    (tmp_path / "brightness.py").write_text(drawn)
    for attack, more in (("{name: pgd, steps: 4}", "epsilon: 1/255"), ("noise", "epsilon: 1/255, queries: 20")):
        text = brightness_policy(gate_text(attack, more=more))
        (promised,) = planned(tmp_path, text).gates
        (gate,) = run(load_policy(tmp_path / "policy.yaml")).gates
        assert gate.cost.forward > 10 * 50  # each image is judged on a hundred calls, or until that is hopeless
        assert promised.forward >= gate.cost.forward
        assert promised.gradient >= gate.cost.gradient
