"""What adversaries who may only ask leave of the shipped candidates on real chest X-rays."""

from __future__ import annotations

import pytest
from chest import gates_on_xrays

pytestmark = pytest.mark.xrays


def _gate(attack, epsilon, queries=None):
    return {"id": attack, "attack": attack, "epsilon": epsilon} | ({"queries": queries} if queries else {})


def _accuracy(gates):
    return {name: gate.metrics["accuracy"].value for name, gate in gates.items()}


def test_estimated_gradients_and_squares_come_near_to_what_true_gradients_leave(tmp_path, xrays):
    gates = [_gate("pgd", "8/255"), _gate("nes", "8/255", 3000), _gate("square", "8/255", 3000)]
    left = _accuracy(gates_on_xrays(tmp_path, xrays, "standard", gates, samples=50))
    assert left["pgd"] <= 0.01
    assert left["nes"] <= 0.06
    assert left["square"] <= 0.03


def test_labels_alone_make_progress_and_the_curve_shows_it(tmp_path, xrays):
    gates = gates_on_xrays(tmp_path, xrays, "standard", [_gate("label_only", "8/255", 2000)], samples=40)
    curve = gates["label_only"].query_curve
    assert curve[0].accuracy > 0.8
    at = {limit: min(point.accuracy for point in curve if point.queries <= limit) for limit in (100, 500, 2000)}
    assert at[100] > at[500] + 0.1 > at[2000] + 0.2


@pytest.mark.parametrize(
    ("kind", "epsilon", "queries"),
    [("standard", "4/255", 300), ("hardened", "8/255", 300), ("standard", "8/255", 60), ("standard", "8/255", 120)],
)
def test_no_attack_breaks_fewer_than_the_same_number_of_random_images(kind, epsilon, queries, tmp_path, xrays):
    attacks = ("noise", "square", "nes", "partial_information", "label_only", "hopskipjump", "rays")
    left = _accuracy(
        gates_on_xrays(tmp_path, xrays, kind, [_gate(attack, epsilon, queries) for attack in attacks], samples=16)
    )
    assert all(left[attack] <= left["noise"] for attack in attacks), left
    assert all(left[attack] < 1 for attack in attacks[1:]), left  # also where random images turn none


def test_smooth_directions_turn_more_xrays_of_the_hardened_candidate(tmp_path, xrays):
    attacks = ("nes", "partial_information", "label_only", "hopskipjump")
    gates = [
        _gate({"name": attack, **blur}, 1.5, 500) | {"id": f"{attack}-{kind}", "norm": "l2"}
        for attack in attacks
        for kind, blur in (("smooth", {}), ("plain", {"blur": 0}))
    ]
    left = _accuracy(gates_on_xrays(tmp_path, xrays, "hardened", gates, samples=16))
    gained = [left[f"{attack}-plain"] - left[f"{attack}-smooth"] for attack in attacks]
    assert min(gained) > 0, left
    assert sum(gained) > 0.25, left
