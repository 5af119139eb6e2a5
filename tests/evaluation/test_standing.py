"""How a gate would be judged with other counterexamples, or without its own, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from building import brightness_policy, brightness_project

from robustcheck import load_policy
from robustcheck.evaluation.adversary import goal_of
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.outcomes import most_adverse
from robustcheck.evaluation.search.found import Found
from robustcheck.evaluation.search.ledger import UNKNOWN
from robustcheck.evaluation.standing import Standing
from robustcheck.policy.bounds import Bound
from robustcheck.results import Outcome

LEVELS = (100, 110, 150, 160)  # of two dark images and of two bright ones, each of which is read rightly


@pytest.fixture
def standing(tmp_path):
    """Makes the standing of a gate with one bound, whose attack has turned these samples."""
    brightness_project(tmp_path, levels=LEVELS)

    def made(metric, value, broken, *, stop="never"):
        gate = "  - {id: gate, attack: fgsm, epsilon: 2/255, require: {accuracy: 0}}\n"
        (tmp_path / "policy.yaml").write_text(brightness_policy(gate, extra=f"decision: {{stop: {stop}}}"))
        policy, every = load_policy(tmp_path / "policy.yaml"), np.arange(len(LEVELS))
        setting = Evaluation(policy).setting
        gate = replace(policy.gates[0], bounds=(Bound(metric=metric, at_least=True, value=value),))
        return Standing(
            gate=gate,
            setting=setting,
            goal=goal_of(gate, setting),
            among=every,
            judged=every,
            attacked=every.tolist(),
            broken=broken,
            positive_probabilities=most_adverse(setting, [], broken),
            found=Found(),
            loaded_surrogates=(),
            controlled=(),
            intervals=Intervals(),
            rule="confident" if stop == "early" else "estimate",
        )

    return made


def _turned(score):
    """A dark image that is read as bright, with this score."""
    return replace(UNKNOWN, decision=1, score=score)


def _outcome(standing, sample, score):
    """What another gate reports of a dark image that it turned."""
    name = standing.setting.samples.names[sample]
    return {name: Outcome(sample=name, label="dark", clean="dark", attacked="bright", status="broken", score=score)}


def test_what_another_attack_did_stands_in_place_of_the_gate_s_own_or_beside_it(standing):
    """Each attack turns another image of four, and the gate may lose one."""
    known = standing("accuracy", 0.75, {0: _turned(None)})
    other = _outcome(known, 1, None)
    assert known.verdict_if({}) == known.verdict_if_read({}, by_estimate=True) == "pass"
    assert known.verdict_if_read(other, by_estimate=True) == "fail"
    assert known.verdict_if_read(other, by_estimate=True, instead=True) == "pass"


def test_in_place_of_the_gate_s_own_scores_are_those_of_the_images(standing):
    """The gate has put one of two dark images above the bright ones, and another attack the other one."""
    known = standing("auroc", 0.5, {0: _turned(1.0)})
    other = _outcome(known, 1, 1.0)
    assert known.verdict_if({}) == "pass"  # two of four pairs are in order
    assert known.verdict_if_read(other, by_estimate=True) == "fail"  # none
    assert known.verdict_if_read(other, by_estimate=True, instead=True) == "pass"


def test_scores_of_further_counterexamples_count(standing):
    known = standing("auroc", 0.75, {})
    assert known.verdict_if({0: _turned(1.0)}) == "fail"
    assert known.verdict_if({0: _turned(0.0)}) == "pass", "an image that is darker than it was is no more adverse"


@pytest.mark.parametrize(("stop", "rule"), [("early", "estimate"), ("never", "confident"), ("determined", "confident")])
def test_only_where_a_gate_may_stop_early_is_the_estimate_asked_in_place_of_the_interval(stop, rule, standing):
    known = replace(standing("accuracy", 0.5, {}, stop=stop), rule="confident")
    assert known.by_estimate.rule == rule
