"""Attacks that ask are examined by as many random images, where no gate of the policy asks about those."""

from __future__ import annotations

import json
from functools import partial

import pytest
from building import ARCHITECTURE, brightness_gates, brightness_policy, brightness_project, flat_images
from forging import run_in

from robustcheck import load_policy
from robustcheck.attacks.square import Square
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.replay.replaying import replay
from robustcheck.evaluation.search import searching
from robustcheck.report.pictures import read_stored
from robustcheck.results import AuditReport

SQUARE = "  - {id: square, attack: square, epsilon: 8/255, queries: 200, require: {accuracy: BOUND}}\n"
NOISE = "  - {id: noise, attack: noise, epsilon: 8/255, queries: 200, require: {accuracy: 0}}\n"
NES = """
  - id: nes
    attack: {name: nes, samples: 10}
    goal: missed_finding
    norm: l2
    epsilon: 0.1
    queries: 50
    oracle: ORACLE
    require: {accuracy: 0.1}
"""


def _square(bound, **others):
    gate = SQUARE.replace("BOUND", str(bound))
    for key, value in others.items():
        gate = gate.replace("require:", f"{key}: {value}, require:")
    return gate


def _outcomes(gate):
    return [(check.name, check.outcome) for check in gate.health]


@pytest.mark.usefixtures("feeble")
@pytest.mark.parametrize(("health", "verdict"), [("strict", "error"), ("warn", "pass")])
def test_who_asks_does_not_pass_where_noise_turns_so_much_that_it_would_not(health, verdict, tmp_path):
    brightness_project(tmp_path)
    (square,) = brightness_gates(tmp_path, _square(0.9), extra=f"health: {health}")
    (check,) = square.health
    assert (check.name, check.outcome) == ("beats-noise", "broken")
    assert check.evidence == "of 10 samples this gate turned 0, and noise with as many queries a sample 4"
    assert square.verdict == verdict
    assert ("beats-noise", "error") in {(one.code, one.severity) for one in square.findings}
    if verdict == "error":
        assert "random images turned more samples than the attack did" in square.error
        assert square.error.endswith("raise queries, or replace the attack with a stronger one that may ask as much")


@pytest.mark.usefixtures("feeble")
def test_who_would_pass_with_what_noise_turns_passes_with_a_warning(tmp_path):
    brightness_project(tmp_path)
    (square,) = brightness_gates(tmp_path, _square(0.6))
    assert (square.verdict, _outcomes(square)) == ("pass", [("beats-noise", "suspect")])
    assert ("beats-noise", "warning") in {(one.code, one.severity) for one in square.findings}


@pytest.mark.usefixtures("feeble")
def test_the_share_that_noise_turns_counts_for_all_that_held(tmp_path):
    """Of forty samples it is asked about ten: each is as easily turned as any other."""
    brightness_project(tmp_path)
    flat_images(tmp_path, [127, 128] * 20, [0, 1] * 20)
    (square,) = brightness_gates(tmp_path, _square(0.5))
    (check,) = square.health
    assert check.evidence == "of 10 samples this gate turned 0, and noise with as many queries a sample 10"
    assert (square.verdict, check.outcome) == ("error", "broken")


@pytest.mark.usefixtures("feeble")
def test_a_sample_that_noise_alone_turns_is_luck(tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, [127, *[60] * 9], [0] * 10)
    (square,) = brightness_gates(tmp_path, _square(1))
    (check,) = square.health
    assert check.evidence == "of 10 samples this gate turned 0, and noise with as many queries a sample 1"
    assert (square.verdict, check.outcome) == ("pass", "sound")


@pytest.mark.parametrize("samples", [40, 400])
def test_noise_is_asked_about_a_tenth_of_what_held_and_at_least_ten(samples, tmp_path):
    """The gate's own queries stay its own."""
    brightness_project(tmp_path)
    flat_images(tmp_path, [190] * samples, [1] * samples)
    (square,) = brightness_gates(tmp_path, _square(0.5))
    assert _outcomes(square) == [("beats-noise", "sound")]
    count = {40: 10, 400: 39}[samples]
    assert (
        square.health[0].evidence == f"of {count} samples this gate turned 0, and noise with as many queries a sample 0"
    )
    assert square.cost.health_forward == 201 * count  # one look at the end
    assert square.cost.queries.total == 200 * samples
    assert {one.queries for one in square.samples} == {200}


@pytest.mark.parametrize("oracle", ["float", "stored"])
def test_noise_may_do_what_the_gate_s_adversary_may(oracle, tmp_path, monkeypatch):
    made, oracle_of = [], searching.oracle_of
    monkeypatch.setattr(searching, "oracle_of", lambda gate, *args: [made.append(gate), oracle_of(gate, *args)][1])
    brightness_project(tmp_path)
    brightness_gates(tmp_path, NES.replace("ORACLE", oracle))
    own, noise = made
    assert (own.attack.name, noise.attack.name) == ("nes", "noise")
    same = ("queries", "oracle", "goal", "norm", "epsilon", "finding", "target")
    assert [getattr(own, name) for name in same] == [getattr(noise, name) for name in same]
    assert noise.oracle == oracle


@pytest.mark.usefixtures("feeble")
@pytest.mark.parametrize(("dark", "outcome"), [(4, "sound"), (5, "sound"), (6, "suspect")])
def test_who_turns_as_many_as_noise_is_not_faulted_for_turning_others(dark, outcome, tmp_path, monkeypatch):
    """Noise turns what is nearly bright; this Square only what is bright, by moving all of it."""

    def darkened(_self, _images, clean, *_):
        return {"images": clean - 8 / 255 * (clean > 0.5)}

    monkeypatch.setattr(Square, "start", darkened)
    brightness_project(tmp_path)
    flat_images(tmp_path, [127] * dark + [135] * (10 - dark), [0] * dark + [1] * (10 - dark))
    (square,) = brightness_gates(tmp_path, _square(0))
    (check,) = square.health
    told = f"of 10 samples this gate turned {10 - dark}, and noise with as many queries a sample {dark}"
    assert (check.outcome, check.evidence) == (outcome, told)


@pytest.mark.usefixtures("feeble")
def test_what_noise_turns_does_not_depend_on_the_batch(tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, [125, 126, 127, 128, 129, 130] * 5, [0, 0, 0, 1, 1, 1] * 5)
    found = [brightness_gates(tmp_path, _square(0), model=f"batch_size: {size}")[0] for size in (1, 7, 64)]
    assert found[0].health == found[1].health == found[2].health
    assert len({gate.cost.health_forward for gate in found}) == 1


def test_nobody_asks_noise_for_who_does_not_pass_or_is_noise(tmp_path):
    brightness_project(tmp_path)
    square, noise = brightness_gates(tmp_path, _square(1) + NOISE.replace("200", "300"))
    assert square.verdict == "fail"
    assert [(check.outcome, check.evidence) for check in square.health] == [("not examined", "the gate does not pass")]
    assert (noise.health, square.cost.health_forward, noise.cost.health_forward) == ((), 0, 0)


@pytest.mark.usefixtures("feeble")
def test_the_policy_s_own_noise_is_enough_if_it_is_run(tmp_path):
    brightness_project(tmp_path)
    (tmp_path / "policy.yaml").write_text(brightness_policy(_square(0.9) + NOISE))
    both, alone = (
        Evaluation(load_policy(tmp_path / "policy.yaml")).gate("square", selected=selected)
        for selected in (None, ["square"])
    )
    assert both.health[0].evidence == "the policy's own noise is compared with it"
    assert both.cost.health_forward == 0
    assert _outcomes(alone) == [("beats-noise", "broken")]


@pytest.mark.usefixtures("feeble")
@pytest.mark.parametrize(("own", "token"), [("200", "199"), ("8/255", "7/255"), ("200,", "200, oracle: stored,")])
def test_noise_that_may_do_less_is_not_enough(own, token, tmp_path):
    brightness_project(tmp_path)
    square, _ = brightness_gates(tmp_path, _square(0.9) + NOISE.replace(own, token))
    assert ("beats-noise", "broken") in _outcomes(square)


def test_a_candidate_that_draws_is_not_asked(tmp_path):
    brightness_project(tmp_path)
    noisy = ARCHITECTURE.replace("        return", "        excess = excess + torch.randn_like(excess)\n        return")
    (tmp_path / "brightness.py").write_text(noisy)
    flat_images(tmp_path, [60] * 4, [0] * 4)
    (square,) = brightness_gates(tmp_path, _square(0.5, queries=5).replace("queries: 200, ", ""))
    assert _outcomes(square) == [("beats-noise", "not examined"), ("same-answers", "suspect")]
    assert square.health[0].evidence == "not tried where answers are drawn"


def test_two_samples_that_held_are_too_few(tmp_path):
    brightness_project(tmp_path)
    flat_images(tmp_path, [60, 190], [0, 1])
    (square,) = brightness_gates(tmp_path, _square(0.5))
    assert [(check.outcome, check.evidence) for check in square.health] == [("not examined", "2 samples held")]


def test_a_replay_misses_the_check_if_somebody_struck_it(tmp_path):
    brightness_project(tmp_path)
    run_in(tmp_path, _square(0.1))
    report = json.loads((tmp_path / "out" / "report.json").read_text())

    def amiss():
        stated = AuditReport.from_json(json.dumps(report))
        found = replay(load_policy(tmp_path / "policy.yaml"), stated, partial(read_stored, tmp_path / "out"))
        return found.gates[0].amiss

    assert report["gates"][0]["health"]
    assert amiss() == ()
    report["gates"][0]["health"] = []
    assert amiss() == ("its health check beats-noise is missing",)
