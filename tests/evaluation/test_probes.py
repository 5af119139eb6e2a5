"""Which searches are tried beside a gate's own, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from building import ARCHITECTURE, brightness_gates, brightness_policy, brightness_project, flat_images

from robustcheck import load_policy, run
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.health.probing import Probes
from robustcheck.evaluation.search.searching import Search
from robustcheck.results import Cost

HELD = 300  # samples, enough for a tenth to pay for all probes


@pytest.fixture
def held(tmp_path):
    """A project none of whose images any search turns."""
    brightness_project(tmp_path)
    flat_images(tmp_path, [190] * HELD, [1] * HELD)
    return tmp_path


def _gate(attack, more=""):
    return f"  - {{id: gate, attack: {attack}, epsilon: 2/255, require: {{accuracy: 0}}{more}}}\n"


def _search(folder, attack, more=""):
    """That of a gate."""
    (folder / "policy.yaml").write_text(brightness_policy(_gate(attack, more)))
    evaluation = Evaluation(load_policy(folder / "policy.yaml"), folder=folder)
    return Search.of(evaluation.policy.gates[0], evaluation.setting, shared=False)


def _evidence(gate):
    return {check.name: check.evidence for check in gate.health}


@pytest.mark.parametrize(("norm", "rival"), [("linf", "square with "), ("l2", "nes with ")])
def test_the_search_without_gradients_is_one_for_the_gate_s_norm(norm, rival, held):
    """Square is one of corners of an L∞ ball."""
    (gate,) = brightness_gates(held, _gate("{name: pgd, steps: 20}", f", norm: {norm}"))
    assert _evidence(gate)["beats-searches-without-gradients"].startswith(rival)


@pytest.mark.parametrize("mean_over", [None, "calls", "looks"])
def test_nothing_is_probed_where_a_gradient_is_a_mean_over_many(mean_over, held):
    """Of calls of a candidate that draws, or of looks under conditions: it would cost as many times as much."""
    if mean_over == "calls":
        noisy = ARCHITECTURE.replace(
            "        return", "        excess = excess + torch.randn_like(excess)\n        return"
        )
        (held / "brightness.py").write_text(noisy)
    flat_images(held, [190] * 4, [1] * 4)
    search = _search(held, "{name: pgd, steps: 2}", ", conditions: {brightness: 0.01}" if mean_over == "looks" else "")
    rich = Cost(forward=100_000, gradient=100_000)
    found = Probes(search=search, attacked=range(4), held=range(4)).run(rich, more_steps=True)
    probes = (found.single_steps, *found.without_gradients, found.unbounded, found.longer)
    assert [probe.of for probe in probes if probe.of] == ([4] * 5 if mean_over is None else [])


@pytest.mark.parametrize("passes", [1_000, 3_000, 10_000])
def test_all_probes_together_cost_a_tenth_of_what_the_gate_did(passes, held):
    flat_images(held, [190] * 40, [1] * 40)
    search = _search(held, "{name: pgd, steps: 20}")
    meter = search.setting.candidate.meter
    before = replace(meter)
    probes = Probes(search=search, attacked=range(40), held=range(40))
    probes.run(Cost(forward=passes, gradient=passes), more_steps=False)
    assert passes / 20 < meter.forward - before.forward <= passes / 10
    assert meter.gradient - before.gradient <= passes / 10


@pytest.mark.parametrize(
    ("attack", "iterates"),
    [
        ("{name: pgd, steps: 2}", True),
        ("{name: apgd, steps: 2}", True),
        ("{name: ensemble, steps: 2}", True),
        ("{name: pgd, steps: 1}", False),
        ("fgsm", False),
        ("fmn", False),  # it ends at the nearest, and is not asked to raise a loss
    ],
)
def test_which_searches_go_on_from_step_to_step(attack, iterates, held):
    assert Probes(search=_search(held, attack), attacked=(), held=()).iterates is iterates


def test_who_listens_hears_of_the_gate_s_own_search_alone(held):
    told = []
    (held / "policy.yaml").write_text(brightness_policy(_gate("{name: pgd, steps: 20}")))
    (gate,) = run(load_policy(held / "policy.yaml"), progress=lambda *one: told.append(one)).gates
    assert "turned 0 of " in _evidence(gate)["beats-single-steps"]
    own = [(done, of) for what, done, of in told if what == "gate"]
    assert own == sorted(own)
    assert own[-1] == (HELD, HELD)


@pytest.mark.parametrize("restarts", [1, 3])
def test_more_steps_are_those_of_one_restart(restarts, held):
    """Of eight steps, with what looks at their ends: a budget is spent on as many samples."""
    search = _search(held, f"{{name: pgd, steps: 2, restarts: {restarts}}}")
    found = Probes(search=search, attacked=range(10), held=range(10))._longer(66, least=0)
    assert (found.how, found.of) == ("8 steps", 6)
