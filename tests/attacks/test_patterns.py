"""Stripes and blocks, which stand for searches that may ask too little: what is tried, and where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from searching import search
from test_closed_forms import _problem

from robustcheck.attacks import build
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.objectives import objective
from robustcheck.attacks.patterns import Patterns
from robustcheck.policy import ATTACKS
from robustcheck.threats import Goal, L2Ball, LinfBall

GOAL = Goal(labels=2)
BALL = LinfBall(levels=8, maximum=255)
KEYS = torch.tensor([3, -5, 8])
SEARCHING = [name for name, spec in ATTACKS.items() if "patterns_below" in spec.model_fields]


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


@pytest.mark.parametrize("name", SEARCHING)
def test_fewer_queries_than_an_attack_needs_are_patterns_unless_it_is_to_be_itself(name):
    spec = ATTACKS[name](name=name)
    (few,) = build(spec, BALL, GOAL, queries=spec.patterns_below - 1)
    (enough,) = build(spec, BALL, GOAL, queries=spec.patterns_below)
    (itself,) = build(spec.model_copy(update={"patterns_below": 0}), BALL, GOAL, queries=spec.patterns_below - 1)
    assert (type(few), few.queries) == (Patterns, spec.patterns_below - 1)
    assert type(enough) is type(itself) is not Patterns
    assert spec.patterns_below > spec.least_queries, "a policy may not give fewer"


def test_an_ensemble_keeps_its_own_square_however_few_its_queries():
    spec = ATTACKS["ensemble"](name="ensemble", queries=10)
    assert not any(isinstance(one, Patterns) for one in build(spec, BALL, GOAL))


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
