"""Plans, on a network whose answers are known: what they say before, and what a run then costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from building import LEVELS, brightness_policy, brightness_project, flat_images
from patching import FIXED, patch_policy

from robustcheck import load_policy, run
from robustcheck.evaluation.adversary import ball_of_gate, goal_of
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.planning.planning import plan
from robustcheck.evaluation.planning.stepping import Stopwatch
from robustcheck.evaluation.planning.workload import Work, of_search
from robustcheck.evaluation.search.searching import Search
from robustcheck.models import Candidate
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
    "rp2, drawn": (
        "{name: rp2, steps: 5, stickers: [0, 0, 0.5, 0.5], printable: [0.3, 0.6], angles: [0, 30]}",
        "conditions: {scale: [0.4, 1], perspective: 30, rotation: 5, noise: 0.01, draws: 2}",
    ),
    "missed": ("{name: pgd, steps: 5}", "epsilon: 3/255, goal: missed_finding"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_run_sends_no_more_through_the_network_than_was_planned(name, tmp_path):
    attack, more = ATTACKS[name]
    brightness_project(tmp_path)
    require = "{sensitivity: 0.5}" if name == "missed" else "{accuracy: 0.5}"  # which no missed finding can fail
    (gate,) = planned(tmp_path, brightness_policy(gate_text(attack, more=more, require=require))).gates
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert gate.error is result.error is None
    assert result.cost.forward <= gate.forward
    assert result.cost.gradient <= gate.gradient
    assert gate.gradient > 0 or result.cost.gradient == 0
    assert gate.seconds > 0


@pytest.mark.parametrize(("name", "starts"), [("fgsm", 0), ("pgd", 3), ("apgd", 2)])
def test_the_clean_images_of_a_network_that_ends_in_a_softmax_are_planned_too(name, starts, tmp_path):
    """Searches look at what goes into it, and those that start at random ask about clean images there once more."""
    (attack, more), bills, asked = ATTACKS[name], list[int](), list[int]()
    for ending in ("", ".softmax(dim=1)"):
        folder = tmp_path / f"network{ending}"
        folder.mkdir()
        brightness_project(folder)
        flat_images(folder, (20, 40, 60, 200, 220), (0, 0, 0, 1, 1))
        source = (folder / "brightness.py").read_text()
        (folder / "brightness.py").write_text(source.replace("excess], dim=1)", f"excess], dim=1){ending}"))
        (gate,) = planned(folder, brightness_policy(gate_text(attack, more=more))).gates
        (result,) = run(load_policy(folder / "policy.yaml")).gates
        assert [outcome.status for outcome in result.samples] == ["held"] * 5
        bills.append(gate.forward)
        asked.append(result.cost.forward)
    assert asked[1] - asked[0] == 5 * starts <= bills[1] - bills[0]


@pytest.mark.parametrize(
    ("attack", "steps"), [("fgsm", 1), ("{name: pgd, steps: 7}", 7), ("{name: pgd, steps: 4, restarts: 3}", 12)]
)
def test_where_all_hold_every_gradient_that_was_planned_is_asked_for(attack, steps, tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, (20, 40, 60, 200, 220), (0, 0, 0, 1, 1))
    (gate,) = planned(tmp_path, brightness_policy(gate_text(attack))).gates
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert gate.gradient == result.cost.gradient == 5 * steps
    assert gate.attacked == 5


def holding(folder, attacked):
    """What a gate's searches cost if nothing breaks and nothing is refuted, and what they did cost."""
    policy = load_policy(folder / "policy.yaml")
    (gate,), setting = policy.gates, Evaluation(policy).setting
    ball, goal = ball_of_gate(gate, setting), goal_of(gate, setting)
    search = Search(gate=gate, setting=setting, ball=ball, goal=goal, family=gate.id)
    return replace(of_search(search, attacked), refuted=Work()), run(policy).gates[0].cost


# In the others, a look at an end is spared where the image next to it is the same, or where nothing is near.
ALL_LOOKS = ("pgd-l2", "square", "rays", "conditions", "rp2", "rp2, drawn")


@pytest.mark.parametrize("name", ATTACKS)
def test_where_all_hold_a_run_costs_what_was_planned(name, tmp_path):
    attack, more = ATTACKS[name]
    brightness_project(tmp_path)
    flat_images(tmp_path, (20, 40, 60, 200, 220), (0, 0, 0, 1, 1))
    (tmp_path / "policy.yaml").write_text(brightness_policy(gate_text(attack, more=more)))
    bill, cost = holding(tmp_path, 2 if name == "missed" else 5)
    assert bill.gradient == cost.gradient
    assert cost.forward <= bill.forward
    assert name not in ALL_LOOKS or bill.forward == cost.forward


@pytest.fixture
def a_second_an_image(monkeypatch):
    """No clock: seconds are the images that are timed."""
    monkeypatch.setattr(Stopwatch, "seconds", lambda *_: 1.0)


def test_the_time_is_that_of_the_images_and_of_health_checks(tmp_path, a_second_an_image):
    brightness_project(tmp_path)

    def seconds(attack, more="epsilon: 3/255"):
        return planned(tmp_path, brightness_policy(gate_text(attack, more=more))).gates[0].seconds

    few, many = (seconds(f"{{name: pgd, steps: {steps}}}") for steps in (20, 40))
    assert few == pytest.approx(1.1 * 10 * (20 + 2))  # gradients, and two looks; a tenth is for health checks
    assert many == pytest.approx(1.1 * 10 * (40 + 2))
    asked = 10 * (50 + 1)
    assert seconds("noise", "epsilon: 3/255, queries: 50") == asked
    assert seconds("square", "epsilon: 3/255, queries: 50") == 2 * asked  # noise is asked about ten samples as well
    flat_images(tmp_path, [190] * 200, [1] * 200)
    assert seconds("square", "epsilon: 3/255, queries: 50") == pytest.approx(1.1 * 20 * asked)


@pytest.mark.parametrize(("conditions", "rows"), [("", 10), (", conditions: {brightness: 0.1, draws: 4}", 2)])
def test_steps_are_timed_with_as_many_rows_as_a_search_has(conditions, rows, tmp_path, monkeypatch):
    """Twenty looks at a row go through the network together where one that is seen under conditions is judged."""
    timed = dict[str, int]()

    def seconds(_watch, name, _of, _turn, at_once, _attacked):
        timed[name] = at_once
        return 1.0

    monkeypatch.setattr(Stopwatch, "seconds", seconds)
    brightness_project(tmp_path)
    gate = gate_text("{name: pgd, steps: 5}", more=f"epsilon: 3/255{conditions}")
    planned(tmp_path, brightness_policy(gate, model="batch_size: 40"))
    assert len(timed) == 2
    assert set(timed.values()) == {rows}


@pytest.mark.parametrize(
    ("attack", "more", "counted"),
    [("square", ", queries: 50", True), ("{name: ensemble, steps: 5, queries: 50}", "", False), ("fgsm", "", False)],
)
def test_questions_are_timed_as_they_are_asked(monkeypatch, tmp_path, attack, more, counted):
    asked, answers = list[int](), Candidate.oracle_logits
    monkeypatch.setattr(
        Candidate, "oracle_logits", lambda self, images: asked.append(len(images)) or answers(self, images)
    )
    brightness_project(tmp_path)
    as_it_is = "precision: full"  # or it could be asked at load, to compare layouts
    planned(tmp_path, brightness_policy(gate_text(attack, more=f"epsilon: 3/255{more}"), model=as_it_is))
    assert bool(asked) == counted


@pytest.mark.parametrize("attack", ["square", "{name: nes, samples: 4}"])
def test_the_time_of_asking_a_candidate_that_draws_has_its_calls(attack, tmp_path, a_second_an_image):
    brightness_project(tmp_path)
    source = (tmp_path / "brightness.py").read_text()
    drawn = source.replace("mean(dim=1) -", "mean(dim=1) + 0.05 * torch.randn(len(image)) -")
    (tmp_path / "brightness.py").write_text(drawn)
    flat_images(tmp_path, (100, 105, 150, 155) * 3, (0, 0, 1, 1) * 3)
    text = brightness_policy(gate_text(attack, more="epsilon: 2/255, queries: 50", require="{accuracy: 0}"))
    (gate,) = planned(tmp_path, text).gates
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert result.cost.forward > 50 * 12 + 60 * 12  # it is judged on the way, not at the end alone
    assert gate.seconds >= result.cost.forward


@pytest.mark.parametrize(
    "attack",
    [
        f"{FIXED}, target: bright}}",
        f"{FIXED}, target: bright, worst_of: 3, restarts: 2}}",
        f"{FIXED}, universal: false}}",
        f"{FIXED}}}",
        f"{FIXED}, restarts: 2}}",
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
    assert "1 is assumed: no true value is 0.05 from the bound" in clipped.notes
    assert result.too_few == ("g0", "g1")


def test_a_metric_without_samples_is_undefined(tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, (10, 20), (0, 0))
    (gate,) = planned(tmp_path, brightness_policy(gate_text("fgsm", require="{sensitivity: 0.5, auroc: 0.5}"))).gates
    for one in gate.requirements:
        assert (one.low, one.high, one.power, one.enough) == (None, None, None, False)
        assert "undefined on these samples" in one.notes


def test_a_gate_that_attacks_nothing_costs_nothing(tmp_path):
    brightness_project(tmp_path, threshold=-1)
    flat_images(tmp_path, (10, 20), (0, 0))  # both are read as bright
    (gate,) = planned(tmp_path, brightness_policy(gate_text("fgsm"))).gates
    assert (gate.attacked, gate.forward, gate.gradient, gate.seconds) == (0, 0, 0, 0)
    assert gate.notes == ("no sample that its goal is about is read correctly",)


@pytest.mark.parametrize(("bound", "told"), [(0.6, False), (0.5, True)])
def test_what_no_attack_can_fail_is_told_before_a_run(bound, told, tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, (60, 60, 60, 200, 200, 200), (0, 0, 0, 1, 1, 1))
    text = gate_text("fgsm", require=f"{{accuracy: {bound}}}", more="epsilon: 1/255, goal: missed_finding")
    (gate,) = planned(tmp_path, brightness_policy(text)).gates
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert gate.notes == ((result.error,) if told else ())
    assert result.verdict == ("error" if told else "pass")


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
    assert plan_line(result).endswith("; too few samples for gate, asks; 1 gate cannot be evaluated: gate")
    assert "without" not in plan_line(result)


def test_a_candidate_that_exits_ends_its_gate_alone(tmp_path):
    brightness_project(tmp_path)
    source = (tmp_path / "brightness.py").read_text()
    leaving = "        if image.requires_grad:\n            raise SystemExit(0)\n        excess ="
    (tmp_path / "brightness.py").write_text(source.replace("        excess =", leaving))
    result = planned(tmp_path, brightness_policy(gate_text("fgsm") + "\n  - {id: clean, require: {accuracy: 0}}"))
    followed, clean = result.gates
    assert followed.error.startswith("unexpected SystemExit: 0; this is a defect of robustcheck, or of code that ")
    assert (followed.seconds, clean.error, result.failed) == (None, None, ("gate",))
    assert plan_line(result).endswith("; too few samples for gate; 1 gate cannot be evaluated: gate")


def test_whatever_stops_a_gate_is_told_of_it(tmp_path, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("by chance")

    brightness_project(tmp_path)
    monkeypatch.setattr(Stopwatch, "seconds", fails)
    two = gate_text("fgsm") + "\n" + gate_text("pgd").replace("gate", "other")
    result = planned(tmp_path, brightness_policy(two))
    assert all("unexpected ZeroDivisionError: by chance" in gate.error for gate in result.gates)
    assert plan_line(result).endswith("2 gates cannot be evaluated: gate, other")


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


def test_the_order_of_a_run_is_told_where_it_is_not_the_file_s(tmp_path):
    brightness_project(tmp_path)
    gates = """
  - {id: clean, require: {accuracy: 0}}
  - {id: large, attack: fgsm, epsilon: 4/255, require: {accuracy: 0}}
  - {id: small, attack: {name: pgd, steps: 2}, epsilon: 1/255, require: {accuracy: 0}}
  - {id: asked, attack: noise, epsilon: 1/255, queries: 2, require: {accuracy: 0}}
"""
    result = planned(tmp_path, brightness_policy(gates))
    came = list[str]()
    run(load_policy(tmp_path / "policy.yaml"), progress=lambda what, _done, _of: came.append(what))
    assert result.order == ("clean", "small", "large", "asked")
    assert [name for name in dict.fromkeys(came) if name in result.order] == ["small", "large", "asked"]
    assert "counterexamples go by budget: clean, small, large, asked." in render(
        plan_tables(result), width=99, color=False
    )
    alone = planned(tmp_path, brightness_policy(gates, extra="evidence: isolated"))
    assert "go by budget" not in render(plan_tables(alone), width=80, color=False)


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


def test_a_mean_over_labels_of_which_one_has_no_sample_is_never_enough(tmp_path):
    brightness_project(tmp_path, levels=[140, 150, 160])
    (gate,) = planned(tmp_path, brightness_policy("\n  - {id: clean, require: {balanced_accuracy: 0.5}}\n")).gates
    (result,) = run(load_policy(tmp_path / "policy.yaml")).gates
    assert result.verdict == "error"
    assert not gate.requirements[0].enough
