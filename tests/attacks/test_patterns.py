"""Stripes and blocks, which stand for searches that may ask too little: what is tried, and where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from building import brightness_gates, brightness_project
from searching import search
from test_closed_forms import _problem

from robustcheck.attacks.draws import Draws
from robustcheck.attacks.objectives import objective
from robustcheck.attacks.patterns import Patterns
from robustcheck.policy import ATTACKS
from robustcheck.threats import Goal, L2Ball, LinfBall

GOAL = Goal(labels=2)
BALL = LinfBall(levels=8, maximum=255)
KEYS = torch.tensor([3, -5, 8])


def _patterns(queries=20):
    return Patterns(objective=objective("cross_entropy", GOAL), queries=queries)


def _tried(shape, *, ball=BALL, queries=20, keys=KEYS):
    """Everything that is asked about grey images (N, Q, C, H, W), as offsets."""
    clean = torch.full((len(keys), *shape), 0.5)
    attack, draws = _patterns(queries), Draws(keys=keys)
    state, turns = attack.start(clean, clean, ball, draws), []
    while sum(turn.shape[1] for turn in turns) < queries:
        asked = attack.ask(state, clean, ball, draws)
        turns.append(asked.images.unflatten(0, (len(keys), -1)) - clean[:, None])
        state = attack.learn(state, asked, None, clean, ball, draws)
    return torch.cat(turns, dim=1)


def _changes(offsets, dim):
    """How often neighbours differ along a dimension, at most, of each pattern (N, Q)."""
    return (offsets.diff(dim=dim) != 0).sum(dim=dim).flatten(2).amax(dim=2)


def test_each_turn_tries_stripes_along_both_axes_and_blocks_of_three_sizes():
    offsets = _tried((2, 24, 32))
    down, across = _changes(offsets, 3), _changes(offsets, 4)
    for kind, (rows, columns) in enumerate([(24, 1), (4, 4), (1, 32), (8, 8), (2, 2)]):
        assert (down[:, kind::5] < rows).all(), kind
        assert (across[:, kind::5] < columns).all(), kind
        if kind < 4:  # each as fine as it can be, but for luck
            assert down[:, kind::5].max() >= min(rows - 1, rows // 2)
            assert across[:, kind::5].max() >= min(columns - 1, columns // 2)
    assert (offsets[:, 4] > 0).all(), "the whole image brighter"
    assert (offsets[:, 9] < 0).all(), "and darker"
    assert len({one.numpy().tobytes() for one in offsets.flatten(0, 1)}) > 50, "other signs in each turn and sample"
    assert (offsets[:, 0, 0] != offsets[:, 0, 1]).any(), "and in each channel"


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 9), (1, 28, 28)])
@pytest.mark.parametrize("ball", [BALL, L2Ball(levels=300, maximum=255)])
def test_patterns_lie_at_the_border_of_the_ball_however_small_an_image_is(shape, ball):
    offsets = _tried(shape, ball=ball).flatten(0, 1)
    assert ball.norm(offsets).numpy() == pytest.approx(
        np.minimum(ball.radius, ball.norm_of_ones(offsets[0].numel()) / 2)
    )


@pytest.mark.parametrize("queries", [1, 5, 7, 12])
def test_the_last_turn_asks_only_what_is_left_to_ask(queries):
    assert (_tried((1, 8, 8), queries=20)[:, :queries] == _tried((1, 8, 8), queries=queries)).all()


def test_what_is_tried_of_a_sample_does_not_depend_on_others():
    assert (_tried((1, 8, 8))[1:2] == _tried((1, 8, 8), keys=KEYS[1:2])).all()


@pytest.mark.parametrize(
    ("name", "queries"),
    [("square", 20), ("rays", 108), ("hopskipjump", 102), ("partial_information", 153), ("label_only", 153)],
)
def test_queries_too_few_to_begin_are_patterns_unless_the_attack_is_to_be_itself(name, queries):
    spec, itself = ATTACKS[name](name=name), ATTACKS[name](name=name, patterns=False)
    wide = {"norm": "linf", "goal": "untargeted"}
    assert spec.by_patterns(queries=queries - 1, **wide)
    assert not spec.by_patterns(queries=queries, **wide)
    assert not itself.by_patterns(queries=queries - 1, **wide)
    assert not spec.by_patterns(queries=queries - 1, norm="l2", goal="untargeted")
    assert not spec.by_patterns(queries=queries - 1, norm="linf", goal="targeted")
    assert spec.by_patterns(queries=queries - 1, norm="linf", goal="missed_finding")
    assert queries > spec.least_queries, "a policy may not give fewer"


def test_a_first_step_that_costs_more_begins_later():
    spec = ATTACKS["label_only"](name="label_only", copies=5)
    assert spec.by_patterns(queries=300, norm="linf", goal="untargeted")


def test_a_gate_is_tried_with_patterns_where_its_attack_could_not_begin(tmp_path):
    brightness_project(tmp_path)
    shared = "attack: label_only, require: {accuracy: 0}"
    few, l2, enough = brightness_gates(
        tmp_path,
        f"  - {{id: few, epsilon: 8/255, queries: 152, {shared}}}\n"
        f"  - {{id: l2, norm: l2, epsilon: 0.5, queries: 152, {shared}}}\n"
        f"  - {{id: enough, epsilon: 8/255, queries: 153, {shared}}}\n",
    )
    found = [{one.attack for one in gate.samples if one.status == "broken"} for gate in (few, l2, enough)]
    assert found == [{"patterns"}, {"label_only"}, {"label_only"}]
    assert few.parameters == {"patterns": "in its place, as its queries pay for fewer than 3 steps"}
    assert enough.parameters["samples"] == 50


def test_every_query_is_spent_on_what_holds_and_the_first_hit_counts():
    network, images, truth, smallest = _problem(labels=2, seed=2, count=40)
    ball = LinfBall(levels=14, maximum=255)
    found = search(_patterns(33), network, images, truth, ball, count=2, queries=33)
    assert 0 < len(found.hits) < 40
    after = {hit.queries for hit in found.hits.values()}
    assert after <= set(range(1, 34))
    assert after - {5, 10, 15, 20, 25, 30, 33}, "not only at the end of a turn"
    assert all(smallest[row] <= 14 for row in found.hits)
    counts = found.engine.oracle.counts
    assert all(counts[row] == 33 for row in range(40) if row not in found.hits)
