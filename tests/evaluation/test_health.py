"""Attacks that did not work are seen, and attacks that did are not accused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from building import brightness_gates, brightness_policy, brightness_project, even_images
from chest import POLICIES, gates_on_xrays
from masks import masked_gates

from robustcheck import load_policy, run
from robustcheck.errors import EvaluationError
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.health import probing
from robustcheck.evaluation.health.examination import Examination
from robustcheck.evaluation.health.probing import Probed, ProbeResult
from robustcheck.evaluation.search.found import Found
from robustcheck.evaluation.search.ledger import UNKNOWN
from robustcheck.results import Cost

PGD = "- {id: pgd, attack: {name: pgd, steps: 10}, epsilon: 4/255, require: {accuracy: 0.3}}"


def _suspected(gate):
    return {check.name for check in gate.health if check.outcome in ("suspect", "broken")}


# --- masked gradients ------------------------------------------------------------------------------------------------


@pytest.mark.xrays
@pytest.mark.parametrize(
    ("mask", "by"),
    [
        ("Quantised", "loss-rises"),
        ("SaturatedSigmoid", "gradients"),
        ("Shattered", "gradient-predicts"),
    ],
)
def test_candidates_that_hide_their_gradients_do_not_pass(mask, by, tmp_path, xrays):
    (gate,) = masked_gates(tmp_path, xrays, mask, PGD)
    assert gate.metrics["accuracy"].value > 0.6  # the attack failed, and without these checks the gate had passed
    assert gate.verdict == "error"
    assert by in _suspected(gate)


@pytest.mark.xrays
@pytest.mark.parametrize("mask", ["Distilled", "SaturatedSoftmax"])
def test_masks_that_the_attack_goes_through(mask, tmp_path, xrays):
    (gate,) = masked_gates(tmp_path, xrays, mask, PGD)
    assert gate.verdict == "fail"
    assert gate.metrics["accuracy"].value < 0.1
    assert not _suspected(gate)


@pytest.mark.xrays
def test_a_candidate_without_gradients_is_no_pass(tmp_path, xrays):
    (gate,) = masked_gates(tmp_path, xrays, "Thermometer", PGD)
    assert gate.verdict == "error"
    assert "it has no gradient" in gate.error


@pytest.mark.xrays
def test_one_step_is_examined_too(tmp_path, xrays):
    fgsm = "- {id: fgsm, attack: fgsm, epsilon: 4/255, require: {accuracy: 0.3}}"
    (gate,) = masked_gates(tmp_path, xrays, "Shattered", fgsm)
    assert (gate.verdict, _suspected(gate)) == ("error", {"gradient-predicts"})


@pytest.mark.xrays
def test_warn_only_says_it(tmp_path, xrays):
    (gate,) = masked_gates(tmp_path, xrays, "Shattered", PGD, extra="health: warn")
    assert gate.verdict == "pass"
    assert [finding.code for finding in gate.findings if finding.severity == "error"] == ["gradient-predicts"]


@pytest.mark.parametrize("health", ["strict", "warn"])
def test_where_there_was_nothing_to_follow_nothing_is_passed_in_any_case(health, tmp_path):
    brightness_project(tmp_path)
    source = (tmp_path / "brightness.py").read_text()
    (tmp_path / "brightness.py").write_text(
        source.replace("excess = (", "image = image.clamp_min(0.5)\n        excess = (")
    )
    gate = "  - {id: pgd, attack: {name: pgd, steps: 4}, epsilon: 1/255, require: {accuracy: 0.6}}\n"
    (found,) = brightness_gates(tmp_path, gate, extra=f"health: {health}")
    assert found.verdict == "error"
    assert "the attack had nothing to follow on " in found.error
    assert found.error.endswith("or replace the attack by one that needs none, such as square or transfer")


# --- candidates that draw --------------------------------------------------------------------------------------------


@pytest.mark.xrays
@pytest.mark.parametrize("mask", ["RandomResizing", "Noisy"])
def test_candidates_that_draw_are_attacked_by_the_mean_of_their_gradients(mask, tmp_path, xrays):
    gates = """
    - {id: clean, require: {accuracy: 0.7}}
    - {id: pgd, attack: {name: pgd, steps: 10}, epsilon: 16/255, require: {accuracy: 0.5}}
    """
    clean, pgd = masked_gates(tmp_path, xrays, mask, gates, samples=16)
    assert clean.verdict == "pass"
    assert "same-answers" in _suspected(pgd)
    assert any("depend on chance" in finding.message for finding in pgd.findings)
    assert pgd.verdict == "fail"
    assert {outcome.attacked for outcome in pgd.samples if outcome.status == "broken"} <= {"normal", "pneumonia"}
    assert [gate.samples for gate in masked_gates(tmp_path, xrays, mask, gates, samples=16)] == [
        clean.samples,
        pgd.samples,
    ]  # what a candidate draws derives from the seed


@pytest.mark.xrays
def test_one_lucky_call_is_no_counterexample(tmp_path, xrays):
    """Of noise as strong as this, single calls would misread many a sample some time; most calls do not."""
    noise = "- {id: noise, attack: noise, epsilon: 1/255, queries: 30, require: {accuracy: 0.5}}"
    (gate,) = masked_gates(tmp_path, xrays, "Noisy", noise, samples=16, kind="hardened")
    assert gate.metrics["attack_success"].value == 0
    assert "same-answers" in _suspected(gate)


# --- attacks that were too weak --------------------------------------------------------------------------------------


@pytest.mark.xrays
def test_too_few_steps(tmp_path, xrays):
    short = {"name": "pgd", "steps": 8, "step_size": "0.0004", "random_start": False}
    gate = {"id": "pgd", "attack": short, "epsilon": "4/255", "require": {"accuracy": 0.6}}
    found = gates_on_xrays(tmp_path, xrays, "standard", [gate], samples=624)["pgd"]
    assert found.metrics["accuracy"].value > 0.6
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert check.outcome == "broken"
    assert "32 steps turned" in check.evidence
    assert found.verdict == "error"


@pytest.mark.xrays
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_too_few_steps_behind_a_softmax(form, tmp_path, xrays):
    """Searches look at what goes into it, and losses there can be compared as well."""
    short = "{name: pgd, steps: 8, step_size: 0.0004, random_start: false}"
    gate = f"- {{id: pgd, attack: {short}, epsilon: 4/255, require: {{accuracy: 0.6}}}}"
    if form == "onnx":
        model = onnx.load(POLICIES / "candidates" / "pneumonia_standard.onnx")
        (output,) = model.graph.output
        model.graph.node.append(onnx.helper.make_node("Softmax", [output.name], ["probabilities"], axis=1))
        output.name = "probabilities"
        onnx.save(model, tmp_path / "model.onnx")
    (found,) = masked_gates(
        tmp_path, xrays, "Softmax", gate, samples=624, path="model.onnx" if form == "onnx" else None
    )
    assert found.metrics["accuracy"].value > 0.6
    outcomes = {check.name: check.outcome for check in found.health}
    assert (outcomes["loss-rises"], outcomes["enough-steps"]) == ("sound", "broken")
    assert found.verdict == "error"
    assert found.error.endswith("raise its steps, or leave step_size to its default")


@pytest.mark.parametrize("steps", [2, 3])
def test_a_search_of_a_few_steps_is_tried_with_more(steps, tmp_path):
    brightness_project(tmp_path)
    gate = f"""
  - id: pgd
    attack: {{name: pgd, steps: {steps}, step_size: 1/255}}
    epsilon: 8/255
    require: {{accuracy: 0.5}}
"""
    (found,) = brightness_gates(tmp_path, gate)
    assert found.metrics["accuracy"].value >= 0.6
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert check.outcome == "broken"
    assert f"a search of {steps} steps has no course" in check.evidence
    assert f"{4 * steps} steps turned" in check.evidence
    assert found.verdict == "error"


def test_a_few_steps_may_be_enough(tmp_path):
    brightness_project(tmp_path)
    gate = "  - {id: pgd, attack: {name: pgd, steps: 3}, epsilon: 2/255, require: {accuracy: 0.5}}\n"
    (found,) = brightness_gates(tmp_path, gate)
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert (check.outcome, found.verdict) == ("sound", "pass")
    assert check.evidence.endswith("; 12 steps turned 0 of 6 that held")


def test_steps_that_do_not_reach_the_border_are_told(tmp_path):
    brightness_project(tmp_path)
    (found,) = brightness_gates(tmp_path, SHORT.replace("steps: 2", "steps: 4"))
    message = (
        "the search has too few steps, or too small ones; 4 steps of 1/2550 from the image reach 0.4 of the 8 grey "
        "levels that epsilon admits"
    )
    assert found.verdict == "pass"
    assert [one.message for one in found.findings if one.code == "enough-steps" and one.message.startswith(message)]


def test_an_ensemble_is_tried_with_more_steps(tmp_path):
    brightness_project(tmp_path)
    attack = "{name: ensemble, steps: 2, queries: 1}"
    gate = f"  - {{id: ensemble, attack: {attack}, epsilon: 2/255, require: {{accuracy: 0}}}}\n"
    (found,) = brightness_gates(tmp_path, gate)
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert check.evidence.endswith("; 8 steps turned 0 of 6 that held")


def test_what_one_sample_shows_is_not_said_of_all():
    """One of six may be luck; two are a share of all that held. What was turned counts in any case."""

    def judged(turned: set[int], *, allowed: int) -> bool:
        found = Found()
        examination = Examination(
            setting=None, found=found, held=range(60), blind=set(), undermined_by=lambda lost: len(lost) > allowed
        )
        return examination._undermines(ProbeResult(turned=dict.fromkeys(turned, UNKNOWN), of=6))

    assert not judged({3}, allowed=1)
    assert judged({3}, allowed=0)
    assert judged({3, 4}, allowed=19)
    assert not judged({3, 4}, allowed=20)
    assert not judged(set(), allowed=0)


def _probed(*, iterates=True, allowed=60, **results):
    """The outcomes of checks, by name, of sixty samples that held and what probes of twenty of them came to."""
    probes = SimpleNamespace(
        attacked=range(60), iterates=iterates, averages=False, short=None, unreached=None,
        run=lambda _cost, more_steps: Probed(**results),
    )  # fmt: skip
    examination = Examination(
        setting=SimpleNamespace(candidate=SimpleNamespace(randomness=None)), found=Found(), held=range(60), blind=set(),
        undermined_by=lambda lost: len(lost) > allowed,
    )  # fmt: skip
    return {check.name: check.outcome for check in examination.checks(probes, Cost())}


def _turning(count, of=20):
    return ProbeResult(how="a probe", turned=dict.fromkeys(range(count), UNKNOWN), of=of)


@pytest.mark.parametrize(
    ("turned", "of", "more", "outcome"),
    [
        (0, 20, {}, "sound"),
        (1, 5, {}, "sound"),  # one may be luck
        (2, 21, {}, "sound"),  # less than a tenth
        (2, 20, {}, "broken"),
        (2, 20, {"iterates": False}, "suspect"),  # a single step is weak by design
        (2, 20, {"iterates": False, "allowed": 5}, "broken"),  # of all sixty as many would be six
        (1, 20, {"allowed": 0}, "broken"),  # what was turned is verified
    ],
)
def test_searches_without_gradients_that_do_better(turned, of, more, outcome):
    found = _probed(without_gradients=[_turning(0), _turning(turned, of)], **more)
    assert found["beats-searches-without-gradients"] == outcome


@pytest.mark.parametrize(
    ("turned", "of", "outcome"), [(9, 20, "broken"), (10, 20, "sound"), (0, 3, "broken"), (0, 2, "not examined")]
)
def test_what_no_distance_turns_was_not_followed(turned, of, outcome):
    assert _probed(unbounded=_turning(turned, of))["falls-as-budget-grows"] == outcome


SHORT = """
  - id: pgd
    attack: {name: pgd, steps: 2, step_size: 1/2550, random_start: false}
    epsilon: 8/255
    require: {accuracy: 0.5}
"""
SQUARE = "  - {id: square, attack: square, epsilon: 8/255, queries: 200, require: {accuracy: 0}}\n"


@pytest.mark.parametrize("gates", [SHORT + SQUARE, SQUARE + SHORT], ids=["before", "after"])
def test_an_attack_with_gradients_that_one_without_outdoes_passes_nothing(gates, tmp_path):
    brightness_project(tmp_path)
    found = {gate.id: gate for gate in brightness_gates(tmp_path, gates)}
    assert (found["square"].verdict, found["square"].health) == ("pass", ())
    assert found["pgd"].verdict == "error"
    (check,) = [check for check in found["pgd"].health if check.name == "as-strong-as-others"]
    assert (check.outcome, check.evidence) == ("broken", "square turned 6 of 8 samples that held in this gate")
    assert "turned what this one left" in found["pgd"].error


def test_what_failed_waits_for_nobody(tmp_path):
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text(
        brightness_policy(SHORT.replace("0.5}", "1}").replace("steps: 2", "steps: 60") + SQUARE)
    )
    evaluation = Evaluation(load_policy(tmp_path / "policy.yaml"))
    assert evaluation.gate("pgd").verdict == "fail"
    assert set(evaluation._results) == {"pgd"}


def test_gates_that_were_not_selected_are_not_run_for_a_comparison(tmp_path):
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text(brightness_policy(SHORT + SQUARE))
    evaluation = Evaluation(load_policy(tmp_path / "policy.yaml"))
    assert evaluation.gate("pgd", selected=["pgd"]).verdict == "pass"


def test_a_single_step_is_weak_by_design(tmp_path):
    brightness_project(tmp_path)
    short = SHORT.replace("steps: 2", "steps: 1")
    pgd = next(gate for gate in brightness_gates(tmp_path, short + SQUARE) if gate.id == "pgd")
    assert pgd.verdict == "pass"
    assert [check.outcome for check in pgd.health if check.name == "as-strong-as-others"] == ["suspect"]


FEW_BROKEN = """
  - id: pgd
    attack: {name: pgd, steps: 4, step_size: 1/2550, random_start: false}
    epsilon: 8/255
    require: {accuracy: BOUND}
"""


@pytest.mark.parametrize(
    "other",
    [
        "attack: square, queries: 200",
        "attack: square, queries: 200, goal: missed_finding",
        "attack: square, queries: 200, goal: targeted, target: dark",
        "attack: {name: pgd, steps: 10}, goal: missed_finding",
    ],
)
@pytest.mark.parametrize(("bound", "verdict"), [(0.95, "error"), (0.9, "pass")])
@pytest.mark.parametrize("first", [True, False])
def test_counterexamples_of_other_gates_decide_if_they_would_change_the_verdict(other, bound, verdict, first, tmp_path):
    """However few they are: they are verified, and lie in the gate's own threat model."""
    brightness_project(tmp_path)
    even_images(tmp_path, [160] * 37 + [130] * 3 + [60] * 10, [1] * 40 + [0] * 10)
    other = f"  - {{id: other, {other}, epsilon: 6/255, require: {{accuracy: 0}}}}\n"
    own = FEW_BROKEN.replace("BOUND", str(bound))
    found = {gate.id: gate for gate in brightness_gates(tmp_path, other + own if first else own + other)}
    assert found["pgd"].metrics["accuracy"].value == 1
    assert found["other"].metrics["attack_success"].successes == 3
    assert (found["pgd"].verdict, found["other"].verdict) == (verdict, "pass")
    if verdict == "error":
        assert "other turned 3 of 50 samples that held in this gate, which is failed with these" in found["pgd"].error


@pytest.mark.parametrize(
    "other",
    [
        "attack: square, queries: 200, epsilon: 9/255",
        "attack: square, queries: 200, epsilon: 6/255, goal: false_alarm",
    ],
    ids=["larger", "other goal"],
)
def test_counterexamples_of_another_threat_model_decide_nothing(other, tmp_path):
    brightness_project(tmp_path)
    even_images(tmp_path, [160] * 37 + [130] * 3 + [60] * 7 + [125] * 3, [1] * 40 + [0] * 10)
    own = FEW_BROKEN.replace("BOUND", "0.95").replace("epsilon", "goal: GOAL\n    epsilon")
    own = own.replace("GOAL", "missed_finding" if "false_alarm" in other else "untargeted")
    gates = brightness_gates(tmp_path, f"  - {{id: other, {other}, require: {{accuracy: 0}}}}\n" + own)
    assert gates[0].metrics["attack_success"].successes == (3 if "false_alarm" in other else 6)
    assert gates[1].verdict == "pass", gates[1].error


@pytest.mark.parametrize("first", [True, False])
def test_what_others_turned_counts_as_it_was_read_and_not_as_no_answer(first, tmp_path):
    """One of forty is read a little on the wrong side, and still above all of the other label."""
    brightness_project(tmp_path)
    even_images(tmp_path, [200] * 19 + [130] + [60] * 20, [1] * 20 + [0] * 20)
    other = "  - {id: other, attack: square, queries: 200, epsilon: 4/255, require: {accuracy: 0}}\n"
    own = FEW_BROKEN.replace("accuracy: BOUND", "auroc: 0.97").replace("8/255", "4/255")
    found = {gate.id: gate for gate in brightness_gates(tmp_path, other + own if first else own + other)}
    assert found["other"].metrics["attack_success"].successes == 1
    assert found["other"].metrics["auroc"].value == found["pgd"].metrics["auroc"].value == 1
    assert found["pgd"].verdict == "pass", found["pgd"].error


def test_steps_that_reach_the_border_once_they_are_rounded_are_no_weakness(tmp_path):
    brightness_project(tmp_path)
    gate = "  - {id: pgd, attack: {name: pgd, steps: 4, step_size: 0.0075, random_start: false}, epsilon: 8/255"
    (found,) = brightness_gates(tmp_path, f"{gate}, require: {{accuracy: 0}}}}\n")
    (check,) = [check for check in found.health if check.name == "enough-steps"]
    assert "reach" not in check.evidence  # 7.65 levels are stored as 8


def test_only_samples_that_both_looked_at_are_compared(tmp_path):
    brightness_project(tmp_path)
    even_images(tmp_path, [130] * 100, [1] * 100)
    square, pgd = brightness_gates(
        tmp_path, SQUARE.replace("accuracy: 0}", "accuracy: 0.5}") + SHORT, extra="decision: {stop: early}"
    )
    (check,) = [check for check in pgd.health if check.name == "as-strong-as-others"]
    seen = min(square.stopped.needed, pgd.stopped.needed)
    assert seen < 100
    assert check.evidence == f"square turned {seen} of {seen} samples that held in this gate"
    assert pgd.verdict == "error"


def test_samples_that_the_goal_spares_are_no_evidence_of_a_strong_attack(tmp_path):
    brightness_project(tmp_path)
    even_images(tmp_path, [100] * 40 + [130] * 3, [0] * 40 + [1] * 3)  # of which three may be missed
    aimed = "goal: missed_finding\n    epsilon: 8/255"
    short = SHORT.replace("epsilon: 8/255", aimed)
    square = SQUARE.replace("epsilon: 8/255", "goal: missed_finding, epsilon: 8/255")
    found = {gate.id: gate for gate in brightness_gates(tmp_path, short + square)}
    (check,) = [check for check in found["pgd"].health if check.name == "as-strong-as-others"]
    assert (check.outcome, check.evidence) == ("broken", "square turned 3 of 3 samples that held in this gate")
    assert found["pgd"].verdict == "error"


def test_several_steps_do_what_one_step_does_where_evidence_is_not_shared(tmp_path):
    brightness_project(tmp_path)
    fgsm = "  - {id: fgsm, attack: fgsm, epsilon: 8/255, require: {accuracy: 0}}\n"
    for evidence, verdict in (("isolated", "error"), ("shared", "fail")):
        gates = brightness_gates(tmp_path, fgsm + SHORT, extra=f"evidence: {evidence}")
        assert {gate.id: gate.verdict for gate in gates} == {"fgsm": "pass", "pgd": verdict}


def test_an_interrupted_comparison_is_made_again(tmp_path, monkeypatch):
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text(brightness_policy(SHORT + SQUARE))
    evaluation = Evaluation(load_policy(tmp_path / "policy.yaml"))
    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "_beside_others", lambda *_: pytest.fail("time limit"))
        with pytest.raises(pytest.fail.Exception):
            evaluation.gate("pgd")
    assert evaluation.gate("pgd").verdict == "error"


@pytest.mark.xrays
def test_what_is_concluded_depends_on_no_other_gate(tmp_path, xrays):
    gates = [
        {"id": "long", "attack": {"name": "pgd", "steps": 20}, "epsilon": "2/255"},
        {"id": "short", "attack": {"name": "pgd", "steps": 4}, "epsilon": "2/255"},
    ]
    both = gates_on_xrays(tmp_path, xrays, "hardened", gates, samples=40)
    alone = gates_on_xrays(tmp_path, xrays, "hardened", gates[1:], samples=40)
    assert both["short"].health == alone["short"].health


@pytest.mark.xrays
def test_health_of_the_smallest_gates_stays_small(tmp_path, xrays):
    """Three samples are tried whatever that costs, and then nothing else."""
    gate = [{"id": "fgsm", "attack": "fgsm", "epsilon": "2/255"}]
    found = gates_on_xrays(tmp_path, xrays, "hardened", gate, samples=20)["fgsm"]
    assert (found.cost.health_forward, found.cost.health_gradient) == (6, 3)


# --- what is inherited -----------------------------------------------------------------------------------------------


@pytest.mark.xrays
@pytest.mark.parametrize("attack", ["{name: pgd, steps: 10}, ladder: descending", "{name: fmn, steps: 10}"])
def test_who_inherits_from_a_search_inherits_its_health(attack, tmp_path, xrays):
    gates = f"- {{id: gate, attack: {attack}, epsilon: [2/255, 4/255], require: {{accuracy: 0.3}}}}"
    for gate in masked_gates(tmp_path, xrays, "Shattered", gates):
        assert gate.verdict == "error", gate.id
        assert "gradient-predicts" in _suspected(gate)


@pytest.mark.parametrize("attack", ["{name: pgd, steps: 10}, ladder: descending", "{name: fmn, steps: 10}"])
def test_who_would_inherit_from_a_search_that_was_not_examined_searches_itself(attack, tmp_path, monkeypatch):
    brightness_project(tmp_path)
    gates = f"  - {{id: gate, attack: {attack}, epsilon: [2/255, 1/255], require: {{accuracy: 0.3}}}}\n"
    whole, failed = Examination.checks, list[str]()

    def fails_once(self: Examination, *given: object) -> object:
        if failed:
            return whole(self, *given)
        failed.append("once")
        raise EvaluationError("memory ran out")

    plain = brightness_gates(tmp_path, gates)
    assert any(
        outcome.evidence == "inherited" for gate in plain for outcome in gate.samples if outcome.status == "held"
    )
    monkeypatch.setattr(Examination, "checks", fails_once)
    first, second = sorted(brightness_gates(tmp_path, gates), key=lambda gate: gate.verdict != "error")
    assert (first.verdict, second.verdict) == ("error", "pass")
    assert "inherited" not in {outcome.evidence for outcome in second.samples if outcome.status == "held"}


# --- patches and small gates -----------------------------------------------------------------------------------------


@pytest.mark.xrays
def test_patches_follow_gradients_too(tmp_path, xrays):
    patch = "- {id: patch, attack: {name: patch, steps: 5, train: samples}, size: 10%, require: {accuracy: 0.3}}"
    (gate,) = masked_gates(tmp_path, xrays, "Shattered", patch.replace(", train: samples", ""), samples=20)
    assert (gate.verdict, _suspected(gate)) == ("error", {"gradient-predicts"})


@pytest.mark.xrays
@pytest.mark.parametrize("extra", ["", "decision: {stop: early}"])
def test_a_few_samples_are_examined_however_small_the_gate_is(extra, tmp_path, xrays):
    fgsm = "- {id: fgsm, attack: fgsm, epsilon: 2/255, require: {accuracy: 0.3}}"
    (gate,) = masked_gates(tmp_path, xrays, "Shattered", fgsm, samples=24, extra=extra)
    assert (gate.verdict, _suspected(gate)) == ("error", {"gradient-predicts"})


@pytest.mark.xrays
def test_noise_on_the_scores_hides_no_mask(tmp_path, xrays):
    (gate,) = masked_gates(tmp_path, xrays, "ShatteredAndNoisy", PGD, samples=16)
    assert gate.verdict == "error"
    assert _suspected(gate) == {"gradient-predicts", "same-answers"}


# --- nobody is accused who did nothing -------------------------------------------------------------------------------


@pytest.mark.xrays
@pytest.mark.parametrize("kind", ["standard", "hardened"])
def test_plain_candidates_on_xrays_are_not_accused(kind, tmp_path, xrays):
    gates = [
        {"id": "fgsm", "attack": "fgsm", "epsilon": "2/255"},
        {"id": "pgd", "attack": {"name": "pgd", "steps": 10}, "epsilon": ["1/255", "4/255"]},
        {"id": "l2", "attack": {"name": "pgd", "steps": 10}, "norm": "l2", "epsilon": 0.5},
        {"id": "apgd", "attack": {"name": "apgd", "steps": 10, "loss": "dlr"}, "epsilon": "2/255"},
        {"id": "fmn", "attack": {"name": "fmn", "steps": 20}, "epsilon": "2/255"},
        {
            "id": "blur",
            "attack": {"name": "pgd", "steps": 5},
            "epsilon": "2/255",
            "conditions": {"blur": 1, "judged_on": 10},
        },
    ]
    for gate in gates_on_xrays(tmp_path, xrays, kind, gates, samples=120).values():
        assert not _suspected(gate), gate.id
        assert {check.name for check in gate.health if check.outcome == "sound"} >= {"gradients", "same-answers"}


@pytest.mark.parametrize("policy", ["quickstart.yaml", "quickstart_standard.yaml"])
def test_plain_candidates_on_phantoms_are_not_accused(policy):
    evaluation = Evaluation(load_policy(POLICIES / policy))
    for gate in ("fgsm", "pgd[2/255]"):
        result = evaluation.gate(gate)
        assert not _suspected(result)
        assert not [finding for finding in result.findings if finding.severity != "note"]


@pytest.mark.slow
@pytest.mark.xrays
def test_a_resnet18_is_not_accused(tmp_path, xrays):
    from benchmarks.candidates import CANDIDATES
    from benchmarks.training import ensure

    candidate = CANDIDATES["resnet18"]
    ensure(candidate, xrays)
    (tmp_path / "architectures.py").write_text(candidate.module.read_text())
    (tmp_path / "policy.yaml").write_text(f"""
robustcheck: 1
model:
  path: {candidate.weights}
  architecture: {candidate.architecture}
  task: multiclass
  labels: [normal, pneumonia]
  preprocess: {{mean: 0.5, std: 0.25}}
data: {{source: '{xrays}', samples: 100}}
gates:
  - {{id: pgd, attack: {{name: pgd, steps: 10}}, epsilon: [1/255, 4/255], require: {{accuracy: 0}}}}
""")
    for gate in run(load_policy(tmp_path / "policy.yaml")).gates:
        assert not _suspected(gate)


# --- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.xrays
@pytest.mark.parametrize(
    "attack",
    [
        "fgsm",
        {"name": "pgd", "steps": 20},
        {"name": "apgd", "steps": 10},
        {"name": "ensemble", "steps": 4, "queries": 20},
    ],
)
def test_health_costs_a_tenth_at_most(attack, tmp_path, xrays, monkeypatch):
    gate = [{"id": "gate", "attack": attack, "epsilon": "2/255"}]
    examined = gates_on_xrays(tmp_path, xrays, "hardened", gate, samples=300)["gate"]
    monkeypatch.setattr(probing.Probes, "run", lambda *_, **__: probing.Probed(at_images=[1, 1, 1]))
    plain = gates_on_xrays(tmp_path, xrays, "hardened", gate, samples=300)["gate"]
    cost = examined.cost
    assert 0 < cost.health_forward <= cost.forward / 10
    assert 0 < cost.health_gradient <= cost.gradient / 10
    assert (cost.forward, cost.gradient) == (plain.cost.forward, plain.cost.gradient)
    assert replace(plain, cost=cost, health=()) == replace(examined, health=())  # and changes nothing


def test_what_probes_find_is_in_no_ledger_and_no_file(tmp_path):
    brightness_project(tmp_path)
    even_images(tmp_path, [127, 128, *[150] * 598], [0, *[1] * 599])
    (gate,) = brightness_gates(
        tmp_path, "  - {id: pgd, attack: {name: pgd, steps: 20}, epsilon: 1/255, require: {accuracy: 0}}\n"
    )
    outcomes = {check.name: check for check in gate.health}
    assert outcomes["beats-searches-without-gradients"].outcome == "sound"
    assert outcomes["falls-as-budget-grows"].outcome == "sound"  # at least half of those probed were turned
    written = [path.name for path in (tmp_path / "out").rglob("*.png") if path.parent.name == "pgd"]
    assert len(written) == 2  # of 127 and 128: those that a level turns
    assert sum(outcome.status == "broken" for outcome in gate.samples) == 2


def test_health_is_strict_unless_the_policy_says_otherwise(tmp_path: Path):
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text("")
    gates = "  - {id: clean, require: {accuracy: 0}}\n"
    for extra, health in (("", "strict"), ("health: warn", "warn")):
        (tmp_path / "policy.yaml").write_text(brightness_policy(gates, extra=extra))
        assert run(load_policy(tmp_path / "policy.yaml")).health == health
