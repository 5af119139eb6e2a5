"""Which numbers of samples may decide a gate is looked up; it stops where measuring after each sample would stop it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from building import brightness_manifest, brightness_policy, brightness_project

from robustcheck import load_policy
from robustcheck.evaluation import stopping
from robustcheck.evaluation.adversary import goal_of
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.evaluation.search.found import Found, Trace
from robustcheck.evaluation.search.ledger import UNKNOWN
from robustcheck.evaluation.standing import Standing
from robustcheck.evaluation.stopping import Stopping
from robustcheck.models.head import NO_ANSWER
from robustcheck.policy.bounds import Bound

SAMPLES = 30
PLAIN = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "attack_success", "ppv", "npv")
METRICS = [*PLAIN, *(f"worst_subgroup.{name}" for name in PLAIN)]


@pytest.fixture(scope="module", params=["alone", "in groups"])
def setting(request, tmp_path_factory):
    """Of a policy whose gate may stop early, on samples of ten patients, or of nobody; of a sex all are negatives."""
    folder = tmp_path_factory.mktemp("stopping")
    brightness_project(folder)
    brightness_manifest(folder, [(100 + 6 * row, f"p{row}", "XXFMFMFMFM"[row]) for row in range(10)], images=3)
    data = "source: patients.csv, subgroups: [sex], prevalence: 0.2"
    data += ", group: patient" if request.param == "in groups" else ""
    gate = "\n  - {id: gate, attack: fgsm, epsilon: 2/255, require: {accuracy: 0}}\n"
    (folder / "policy.yaml").write_text(brightness_policy(gate, data=data, extra="decision: {stop: early}"))
    policy = load_policy(folder / "policy.yaml")
    return Evaluation(policy).setting, policy.gates[0]


def _bound(random, metric):
    wanted_low = metric.endswith("attack_success")
    return Bound(metric=metric, at_least=bool(random.random() < 0.5) != wanted_low, value=round(random.random(), 2))


def _standing(setting, gate, random):
    """What searches may come to: how many hold, who was read how before, and what is required are drawn."""
    holds, right = random.random(2)
    decisions = torch.tensor(np.where(random.random(SAMPLES) < right, setting.labels, 1 - setting.labels))
    setting = replace(setting, decisions=decisions, order=random.permutation(SAMPLES))
    metrics = random.choice(METRICS, size=random.choice([1, 1, 2]), replace=False)
    kind = "missed_finding" if random.random() < 0.2 else "untargeted"
    gate = replace(gate, bounds=tuple(_bound(random, metric) for metric in metrics), goal=kind)
    goal = goal_of(gate, setting)
    attackable = goal.attackable(decisions, setting.labels).numpy()
    attacked = setting.order[attackable[setting.order]].tolist()
    turned = [sample for sample in attacked if random.random() > holds]
    none = random.random(SAMPLES) < 0.4
    return Standing(
        gate=gate,
        setting=setting,
        goal=goal,
        among=setting.order,
        judged=setting.order,
        attacked=attacked,
        broken={
            one: replace(UNKNOWN, decision=NO_ANSWER if none[one] else 1 - int(setting.labels[one])) for one in turned
        },
        positive_probabilities=None,
        found=Found(trace=Trace(followable=set(attacked) - set(random.choice(SAMPLES, 2).tolist()))),
        loaded_surrogates=(),
        controlled=(),
        intervals=replace(setting.anytime_intervals, confidence=random.choice([0.5, 0.8, 0.95])),
        rule=setting.rule,
    )


def test_gates_stop_where_measuring_after_each_sample_stops_them(setting, monkeypatch):
    random, ends = np.random.default_rng(0), Counter[int | None]()
    for _ in range(120):
        known, before = _standing(*setting, random), int(random.choice([0, 8]))
        looked_up = Stopping.after(known, before, SAMPLES).needed
        with monkeypatch.context() as patch:
            patch.setattr(stopping, "may_decide", lambda _measurement, _bounds, counts: np.ones(len(counts), bool))
            assert looked_up == Stopping.after(known, before, SAMPLES).needed, known.gate.bounds
        ends[looked_up] += 1
    assert len(ends) > 12
    assert 10 < ends[None] < 90


def test_what_meets_its_bound_exactly_decides(setting):
    """Nine that hold, or three patients, where so much is required as these show."""
    setting, gate = setting
    groups = None if setting.samples.groups is None else np.repeat(np.arange(3), 3)
    known, every = _standing(setting, gate, np.random.default_rng(1)), np.arange(SAMPLES)
    value = known.intervals.rate(np.ones(9, bool), groups).low
    known = replace(
        known,
        gate=replace(gate, bounds=(Bound(metric="accuracy", at_least=True, value=value),)),
        setting=replace(known.setting, decisions=setting.labels.clone(), order=every),
        among=every,
        judged=every,
        attacked=every.tolist(),
        broken={},
        found=Found(trace=Trace(followable=set(every.tolist()))),
    )
    assert Stopping.after(known, 0, SAMPLES).needed == 9


def test_one_subgroup_that_is_turned_decides_what_the_worst_may_lose(setting):
    """All women are turned, and nobody else."""
    setting, gate = setting
    known, every = _standing(setting, gate, np.random.default_rng(1)), np.arange(SAMPLES)
    women = np.flatnonzero(setting.members["sex", "F"]).tolist()
    known = replace(
        known,
        gate=replace(gate, bounds=(Bound(metric="worst_subgroup.attack_success", at_least=False, value=0.3),)),
        setting=replace(known.setting, decisions=setting.labels.clone(), order=every),
        among=every,
        judged=every,
        attacked=every.tolist(),
        broken={one: replace(UNKNOWN, decision=1 - int(setting.labels[one])) for one in women},
        found=Found(trace=Trace(followable=set(every.tolist()))),
        intervals=replace(known.intervals, confidence=0.5),
    )
    seen = [count for count in range(1, SAMPLES + 1) if stopping.is_decided(known, count)]
    assert 3 < Stopping.after(known, 0, SAMPLES).needed == seen[0] < SAMPLES


def test_of_numbers_that_cannot_decide_none_is_measured(setting, monkeypatch):
    setting, gate = setting
    known = _standing(setting, gate, np.random.default_rng(1))
    # Just below what six that hold show of the smallest of three parts, or two patients that do.
    value = 0.36 if setting.samples.groups is None else 0.07
    bounds = [Bound(metric=metric, at_least=True, value=value) for metric in ("accuracy", "worst_subgroup.accuracy")]
    order = np.arange(SAMPLES)  # patient by patient
    every = order.tolist()
    known = replace(  # all are read rightly, and hold
        known,
        among=order,
        judged=order,
        gate=replace(gate, bounds=tuple(bounds)),
        setting=replace(known.setting, decisions=setting.labels.clone(), order=order),
        attacked=every,
        broken={},
        found=Found(trace=Trace(followable=set(every))),
    )
    measured, by_interval = [], stopping._decided_by_interval
    monkeypatch.setattr(
        stopping, "_decided_by_interval", lambda one, count: (measured.append(count), by_interval(one, count))[1]
    )
    needed = Stopping.after(known, 0, SAMPLES).needed
    assert needed is not None
    assert needed > 5
    assert measured == [needed]
