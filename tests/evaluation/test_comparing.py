"""Gates beside one another: what others turned that may do no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from building import brightness_gates, brightness_policy, brightness_project, flat_images

from robustcheck import load_policy
from robustcheck.attacks import searches
from robustcheck.data import in_random_order
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.health.comparing import comparable, compared
from robustcheck.results import GateResult, HealthCheck, Outcome, Threat

SHORT = """
  - id: pgd
    attack: {name: pgd, steps: 2, step_size: 1/2550, random_start: false}
    epsilon: 8/255
    require: {accuracy: 0.5}
"""
SQUARE = "  - {id: square, attack: square, epsilon: 8/255, queries: 200, require: {accuracy: 0}}\n"


def _outcomes(gate):
    return [(check.name, check.outcome) for check in gate.health]


@pytest.mark.parametrize("gates", [SHORT + SQUARE, SQUARE + SHORT], ids=["before", "after"])
def test_an_attack_with_gradients_that_one_without_outdoes_passes_nothing(gates, tmp_path):
    brightness_project(tmp_path)
    found = {gate.id: gate for gate in brightness_gates(tmp_path, gates)}
    assert (found["square"].verdict, _outcomes(found["square"])) == ("pass", [("beats-noise", "not examined")])
    assert found["pgd"].verdict == "error"
    (check,) = [check for check in found["pgd"].health if check.name == "as-strong-as-others"]
    assert (check.outcome, check.evidence) == ("broken", "square turned 6 of 8 samples that held in this gate")
    assert "turned samples that this one did not" in found["pgd"].error


def test_gates_wait_for_those_whose_adversaries_may_do_no_more(tmp_path):
    """A single step is not held to what other goals find, and does what it does where evidence is not shared."""
    brightness_project(tmp_path)
    pgd, stolen = "attack: {name: pgd, steps: 4}", "attack: {name: transfer, surrogate: brightness.safetensors}"
    gates = {
        "pgd": pgd,
        "missed": f"{pgd}, goal: missed_finding",
        "l2": f"{pgd}, norm: l2",
        "seen": f"{pgd}, conditions: {{brightness: 0.1}}",
        "step": "attack: {name: pgd, steps: 1}",
        "step_missed": "attack: fgsm, goal: missed_finding",
        "scores": "attack: square, queries: 100",
        "best": "attack: partial_information, queries: 100",
        "label": "attack: hopskipjump, queries: 100",
        "noise": "attack: noise, queries: 100",
        "noise_missed": "attack: noise, queries: 100, goal: missed_finding",
        "longer_noise": "attack: noise, queries: 101",
        "transfer": stolen,
        "transfer_seen": f"{stolen}, conditions: {{brightness: 0.1}}",
    }
    entries = "".join(
        f"  - {{id: {name}, {what}, epsilon: 2/255, require: {{accuracy: 0}}}}\n" for name, what in gates.items()
    )
    (tmp_path / "policy.yaml").write_text(brightness_policy(entries))
    every = load_policy(tmp_path / "policy.yaml").gates

    def waits(*, isolated):
        return {own.id: {one.id for one in every if comparable(own, one, isolated=isolated)} for own in every}

    less = {"scores", "best", "label", "noise", "longer_noise", "transfer"}
    shared = {
        "pgd": less | {"missed", "step_missed", "noise_missed"},
        "missed": less | {"noise_missed"},
        "seen": {"transfer_seen"},
        "step": less,
        "step_missed": {"noise_missed"},
        **{name: {"noise"} for name in ("scores", "best", "label")},
        **{name: set() for name in ("l2", "noise", "noise_missed", "longer_noise", "transfer", "transfer_seen")},
    }
    assert waits(isolated=False) == shared
    assert waits(isolated=True) == shared | {"missed": shared["missed"] | {"step_missed"}}


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
    flat_images(tmp_path, [160] * 37 + [130] * 3 + [60] * 10, [1] * 40 + [0] * 10)
    other = f"  - {{id: other, {other}, epsilon: 6/255, require: {{accuracy: 0}}}}\n"
    own = FEW_BROKEN.replace("BOUND", str(bound))
    found = {gate.id: gate for gate in brightness_gates(tmp_path, other + own if first else own + other)}
    assert found["pgd"].metrics["accuracy"].value == 1
    assert found["other"].metrics["attack_success"].successes == 3
    assert (found["pgd"].verdict, found["other"].verdict) == (verdict, "pass")
    if verdict == "error":
        assert "other turned 3 of 50 samples that held in this gate, which fails with these" in found["pgd"].error


@pytest.mark.parametrize(("bound", "verdict"), [(0.95, "error"), (0.9, "pass")])
def test_what_others_turned_into_the_target_counts_for_who_wants_it(bound, verdict, tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, [160] * 37 + [130] * 3 + [60] * 7 + [125] * 3, [1] * 40 + [0] * 10)
    other = "  - {id: other, attack: square, queries: 200, epsilon: 6/255, require: {accuracy: 0}}\n"
    own = FEW_BROKEN.replace("BOUND", str(bound)).replace("epsilon", "goal: targeted\n    target: dark\n    epsilon")
    found = {gate.id: gate for gate in brightness_gates(tmp_path, other + own)}
    assert found["other"].metrics["attack_success"].successes == 6  # of which three are taken for bright
    assert found["pgd"].verdict == verdict
    if verdict == "error":
        assert "other turned 3 of 40 samples that held in this gate, which fails with these" in found["pgd"].error


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
    flat_images(tmp_path, [160] * 37 + [130] * 3 + [60] * 7 + [125] * 3, [1] * 40 + [0] * 10)
    own = FEW_BROKEN.replace("BOUND", "0.95").replace("epsilon", "goal: GOAL\n    epsilon")
    own = own.replace("GOAL", "missed_finding" if "false_alarm" in other else "untargeted")
    gates = brightness_gates(tmp_path, f"  - {{id: other, {other}, require: {{accuracy: 0}}}}\n" + own)
    assert gates[0].metrics["attack_success"].successes == (3 if "false_alarm" in other else 6)
    assert gates[1].verdict == "pass", gates[1].error


@pytest.mark.parametrize("first", [True, False])
def test_what_others_turned_counts_as_it_was_read_and_not_as_no_answer(first, tmp_path):
    """One of forty is read a little on the wrong side, and still above all of the other label."""
    brightness_project(tmp_path)
    flat_images(tmp_path, [200] * 19 + [130] + [60] * 20, [1] * 20 + [0] * 20)
    other = "  - {id: other, attack: square, queries: 200, epsilon: 4/255, require: {accuracy: 0}}\n"
    own = FEW_BROKEN.replace("accuracy: BOUND", "auroc: 0.97").replace("8/255", "4/255")
    found = {gate.id: gate for gate in brightness_gates(tmp_path, other + own if first else own + other)}
    assert found["other"].metrics["attack_success"].successes == 1
    assert found["other"].metrics["auroc"].value == found["pgd"].metrics["auroc"].value == 1
    assert found["pgd"].verdict == "pass", found["pgd"].error


@pytest.mark.parametrize("first", [True, False])
def test_what_others_turned_counts_with_its_score(first, tmp_path):
    """All bright images are turned, and none is above a dark one then."""
    brightness_project(tmp_path)
    flat_images(tmp_path, [126] * 10 + [130] * 10, [0] * 10 + [1] * 10)
    other = "attack: square, queries: 200, epsilon: 6/255, goal: missed_finding"
    other = f"  - {{id: other, {other}, require: {{sensitivity: 0}}}}\n"
    own = FEW_BROKEN.replace("accuracy: BOUND", "auroc: 0.97")
    found = {gate.id: gate for gate in brightness_gates(tmp_path, other + own if first else own + other)}
    assert found["other"].metrics["attack_success"].successes == 10
    assert found["pgd"].metrics["auroc"].value == 1
    assert found["pgd"].verdict == "error"
    assert "other turned 10 of 20 samples that held in this gate, which fails with these" in found["pgd"].error


def test_a_gate_that_has_just_been_decided_is_not_undone_by_one_sample(tmp_path):
    """With one more that is broken its interval would not have decided yet."""
    brightness_project(tmp_path)
    levels = np.full(100, 160)
    levels[in_random_order([f"test/{number}" for number in range(100)], seed=0)[0]] = 130
    flat_images(tmp_path, levels.tolist(), [1] * 100)
    other = "  - {id: other, attack: square, queries: 200, epsilon: 6/255, require: {accuracy: 0.6}}\n"
    gates = brightness_gates(tmp_path, other + FEW_BROKEN.replace("BOUND", "0.6"), extra="decision: {stop: early}")
    assert [gate.metrics["attack_success"].successes for gate in gates] == [1, 0]
    assert gates[1].stopped.decided
    assert gates[1].verdict == "pass", gates[1].error
    (check,) = [check for check in gates[1].health if check.name == "holds-against-others"]
    assert check.outcome == "suspect"
    assert check.evidence.endswith("samples that held in this gate, which is inconclusive with these")


def test_who_passes_undecided_is_undone_by_what_would_have_failed_it(tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, [160] * 47 + [130] * 3, [1] * 50)
    other = "  - {id: other, attack: square, queries: 200, epsilon: 6/255, require: {accuracy: 0}}\n"
    decision = "decision: {rule: confident, inconclusive: allow}"
    own = FEW_BROKEN.replace("BOUND", "0.99")
    alone, both = (brightness_gates(tmp_path, own + more, extra=decision)[0] for more in ("", other))
    assert (alone.verdict, both.verdict) == ("inconclusive", "error")
    assert "other turned 3 of 50 samples that held in this gate, which fails with these" in both.error


def test_only_samples_that_both_looked_at_are_compared(tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, [130] * 100, [1] * 100)
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
    flat_images(tmp_path, [100] * 40 + [130] * 3, [0] * 40 + [1] * 3)  # of which three may be missed
    aimed = "goal: missed_finding\n    epsilon: 8/255"
    short = SHORT.replace("epsilon: 8/255", aimed).replace("accuracy", "sensitivity")
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


TWO_LADDERS = (
    SHORT.replace("epsilon: 8/255", "epsilon: [4/255, 8/255]\n    ladder: descending")
    .replace("0.5", "0")
    .replace("steps: 2", "steps: 5")
    + "  - {id: apgd, attack: {name: apgd, steps: 5}, epsilon: [2/255, 4/255], ladder: descending, "
    + "require: {accuracy: 0}}\n"
    + SQUARE
)


@pytest.fixture
def at_once(monkeypatch):
    """Going down, no large steps come first, which would turn what a feeble search leaves."""
    monkeypatch.setattr(searches, "QUICK_STEPS", 5)


@pytest.mark.usefixtures("at_once")
def test_a_ladder_going_down_has_the_weakness_of_its_own_larger_rungs_alone(tmp_path):
    brightness_project(tmp_path)
    found = {gate.id: gate for gate in brightness_gates(tmp_path, TWO_LADDERS)}
    weak = {name for name, gate in found.items() for one in gate.health if one.name == "as-strong-as-others"}
    assert weak == {"pgd[4/255]", "pgd[8/255]"}
    assert "inherited" in {one.evidence for one in found["apgd[2/255]"].samples if one.status == "held"}
    assert {name: gate.verdict for name, gate in found.items()} == {
        name: "error" if name in weak else "pass" for name in found
    }


@pytest.mark.usefixtures("at_once")
def test_a_rung_of_which_nothing_held_by_a_larger_one_has_not_its_weakness(tmp_path):
    """What the larger rung left another ladder turned in between."""
    brightness_project(tmp_path, levels=(124, 125, 126, 129, 130, 131))
    pgd, apgd = TWO_LADDERS.split("  - {id: apgd")
    found = {gate.id: gate for gate in brightness_gates(tmp_path, f"  - {{id: apgd{apgd}{pgd}")}
    small, large = found["pgd[4/255]"], found["pgd[8/255]"]
    assert {(one.status, one.evidence) for one in small.samples} == {("broken", "inherited")}
    assert (small.verdict, large.verdict) == ("pass", "error")


NOISE = "  - {id: noise, attack: noise, epsilon: 8/255, queries: 200, require: {accuracy: 0}}\n"


@pytest.mark.usefixtures("feeble")
@pytest.mark.parametrize("gates", [SQUARE + NOISE, NOISE + SQUARE], ids=["before", "after"])
def test_who_asks_and_turns_fewer_than_noise_does_is_told(gates, tmp_path):
    brightness_project(tmp_path)
    found = {gate.id: gate for gate in brightness_gates(tmp_path, gates)}
    turned = found["noise"].metrics["attack_success"].successes
    assert turned >= 2
    assert _outcomes(found["square"]) == [("beats-noise", "not examined"), ("as-strong-as-noise", "suspect")]
    evidence = f"this gate turned 0 of 10 samples that both attacked, and noise {turned}"
    assert found["square"].health[1].evidence == evidence
    assert (found["square"].verdict, found["noise"].verdict, found["noise"].health) == ("pass", "pass", ())
    assert "as-strong-as-noise" in [one.code for one in found["square"].findings if one.severity == "warning"]


@pytest.mark.usefixtures("feeble")
def test_who_asks_does_not_pass_where_what_noise_turned_would_not(tmp_path):
    brightness_project(tmp_path)
    _, square = brightness_gates(tmp_path, NOISE + SQUARE.replace("accuracy: 0}", "accuracy: 0.9}"))
    assert square.verdict == "error"
    assert "with what other gates turned, this one does not pass" in square.error
    assert square.error.endswith("raise queries, or replace the attack with a stronger one that may ask as much")


@pytest.mark.usefixtures("feeble")
@pytest.mark.parametrize(
    "noise", ["epsilon: 9/255, queries: 200", "epsilon: 8/255, queries: 201", "epsilon: 8/255, queries: 200, norm: l2"]
)
def test_noise_that_may_do_more_is_no_measure_of_who_asks(noise, tmp_path):
    """So noise that may do as much is asked for it."""
    brightness_project(tmp_path)
    gates = SQUARE + NOISE.replace("epsilon: 8/255, queries: 200", noise)
    assert [_outcomes(gate) for gate in brightness_gates(tmp_path, gates)] == [[("beats-noise", "suspect")], []]


def test_who_asks_and_turns_more_than_noise_is_sound(tmp_path):
    brightness_project(tmp_path)
    square, noise = brightness_gates(tmp_path, SQUARE + NOISE + NOISE.replace("id: noise", "id: again"))[:2]
    assert [check.outcome for check in square.health] == ["not examined", "sound", "sound"]
    assert noise.health == ()


def test_luck_of_noise_is_not_held_against_who_turns_as_many(tmp_path):
    """Nobody who asks finds all that random images find: of two that turn as many, neither is weak."""
    brightness_project(tmp_path)
    square, noise = brightness_gates(tmp_path, SQUARE + NOISE)
    first, second = square.samples[4:6]
    broken, held = (replace(first, status=status, evidence="searched") for status in ("broken", "held"))
    lucky, unlucky = (replace(second, status=status, evidence="searched") for status in ("broken", "held"))
    own, other = replace(square, samples=(broken, unlucky), health=()), replace(noise, samples=(held, lucky))
    options = {"strict": True, "wanted": None, "multilabel": False}
    result = compared(own, [other], [], verdict_if=lambda outcomes, **_: "fail" if outcomes else "pass", **options)
    assert (result.verdict, [check.outcome for check in result.health]) == (own.verdict, ["sound"])
    weaker = replace(own, samples=(held, unlucky))
    result = compared(weaker, [other], [], verdict_if=lambda outcomes, **_: "fail" if outcomes else "pass", **options)
    assert [(check.name, check.outcome) for check in result.health] == [
        ("as-strong-as-noise", "suspect"),
        ("holds-against-others", "broken"),
    ]
    assert result.verdict == "error"
    (check,) = compared(own, [replace(other, samples=())], [], verdict_if=lambda *_, **__: "pass", **options).health
    assert (check.outcome, check.evidence) == (
        "not examined",
        "noise attacked none of the samples that this gate attacked",
    )


# --- results alone ---------------------------------------------------------------------------------------------------


def _result(name, statuses, *, goal="untargeted", became="dark", health=()):
    """A white-box gate whose samples, all bright, had these statuses; `attacked` is what the broken ones became."""
    samples = [
        Outcome(
            sample=f"test/{number}",
            label="bright",
            clean="bright",
            attacked=became if status == "broken" else "bright",
            status="held" if status == "unstarted" else status,
            evidence="unstarted" if status == "unstarted" else "searched",
        )
        for number, status in enumerate(statuses)
    ]
    threat = Threat(goal=goal, knowledge="white-box")
    return GateResult(id=name, attack="pgd", threat=threat, verdict="pass", samples=tuple(samples), health=health)


def _compared(own, others=(), larger=(), *, allowed=0, strict=True, wanted=None, multilabel=False):
    """A gate beside others, that passes if no more than so many samples are turned."""
    return compared(
        own,
        others,
        larger,
        strict=strict,
        verdict_if=lambda lost, **_: "fail" if len(lost) > allowed else "pass",
        wanted=wanted,
        multilabel=multilabel,
    )


HELD = ["held"] * 20


@pytest.mark.parametrize(
    ("theirs", "outcome"),
    [
        (["broken"] * 1 + ["held"] * 2, "sound"),  # one may be luck
        (["broken"] * 2 + ["held"] * 18, "broken"),
        (["broken"] * 2 + ["held"] * 17 + ["unstarted"], "broken"),  # of nineteen
        (["broken"] * 1 + ["held"] * 19, "sound"),
        (["broken"] * 2, "not examined"),
        (["unstarted"] * 20, "not examined"),
    ],
)
def test_how_much_another_attack_has_to_turn(theirs, outcome):
    (check,) = _compared(_result("own", HELD), [_result("other", theirs)], allowed=20).health
    assert (check.name, check.outcome) == ("as-strong-as-others", outcome)


def test_two_of_more_than_twenty_are_less_than_a_tenth():
    own, other = _result("own", ["held"] * 21), _result("other", ["broken"] * 2 + ["held"] * 19)
    assert [check.outcome for check in _compared(own, [other], allowed=20).health] == ["sound"]


@pytest.mark.parametrize(("strict", "verdict"), [(True, "error"), (False, "pass")])
def test_what_held_because_a_larger_search_held_is_worth_what_that_one_was(strict, verdict):
    outdone = HealthCheck(name="as-strong-as-others", outcome="broken", evidence="square turned 9 of 20")
    larger = _result("larger", HELD, health=(outdone,))
    found = _compared(_result("own", HELD), larger=[larger], strict=strict)
    assert found.verdict == verdict
    assert [check.outcome for check in found.health] == ["broken"]
    assert "as-strong-as-others" in [finding.code for finding in found.findings]


@pytest.mark.parametrize(
    ("goal", "became", "multilabel", "counts"),
    [
        ("untargeted", "dim", False, True),
        ("untargeted", "dim", True, True),
        ("missed_finding", "dim", False, True),
        ("missed_finding", "dark", True, False),  # of several findings another one may be what was missed
        ("targeted", "dark", False, True),
        ("targeted", "dim", False, False),
        ("targeted", "dark", True, False),
    ],
)
def test_what_another_goal_turned_counts_if_it_is_what_this_adversary_wants(goal, became, multilabel, counts):
    """One sample decides; how strong the attack was is compared with those of its own goal alone."""
    own = _result("own", HELD, goal=goal)
    other = _result("other", ["broken", *HELD[1:]], goal="false_alarm", became=became)
    found = _compared(own, [other], wanted="dark", multilabel=multilabel)
    assert [check.name for check in found.health] == ["holds-against-others"] * counts
    assert found.verdict == ("error" if counts else "pass")


def test_who_was_undecided_before_is_not_undone_by_what_leaves_it_so():
    own, other = _result("own", HELD), _result("other", ["broken"] * 2 + HELD[2:], goal="targeted")
    found = compared(
        own, [other], [], strict=True, verdict_if=lambda *_, **__: "inconclusive", wanted=None, multilabel=False
    )
    assert found.health == ()
