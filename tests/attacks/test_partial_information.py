"""Partial information at one pixel and more: what follows from a try that held, and from one that did not."""

from __future__ import annotations

import pytest
import torch

from robustcheck.attacks import Answers, objective
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.partial_information import PartialInformation
from robustcheck.threats import Goal, L2Ball, LinfBall

BALL = LinfBall(levels=51, maximum=255)  # a fifth of the range
CLEAN = torch.full((1, 1, 1, 4), 0.5)
DRAWS = Draws(keys=torch.arange(1))


def _attack(**parameters):
    given = {"samples": 2, "sigma": 0.01, "step": 0.5, "momentum": 0.0, "blur": 0.0, **parameters}
    return PartialInformation(objective=objective("margin", Goal(labels=2)), queries=10**6, **given)


def _tried(*, shown, away=0.4, **known):
    """The state after a try from an image that is so far away, and whether it was among the labels that are told."""
    attack = _attack()
    state = attack.start(CLEAN + away, CLEAN, BALL, DRAWS)
    for name, value in known.items():
        state[name] = torch.full_like(state[name], value)
    queries = attack.ask(state, CLEAN, BALL, DRAWS)
    no, told = torch.zeros(1, dtype=torch.bool), torch.tensor([shown])
    answers = Answers(loss=torch.zeros(1), fooled=no, shown=told)
    return attack.learn(state, queries, answers, CLEAN, BALL, DRAWS), queries


@pytest.mark.parametrize(
    ("known", "shown", "radius", "gain", "size", "trying"),
    [
        # At first all that the ball may shrink by; there it needs a slope to go on.
        ({}, True, 0.2, 0.0, 0.5, False),
        ({}, False, 0.4, 0.1, 0.5, True),
        # By twice as much after what held, but by no more than is left; by half as much after what did not.
        ({"gain": 0.05}, True, 0.35, 0.1, 0.5, True),
        ({"gain": 0.12}, True, 0.28, 0.08, 0.5, True),
        ({"gain": 0.03}, False, 0.4, 0.015, 0.5, True),
        # Half of less than .04 of the radius is little: it is tried in the ball as it is, if there is a slope.
        ({"gain": 0.015}, False, 0.4, 0.0, 0.5, False),
        ({"gain": 0.015, "mean": 1.0}, False, 0.4, 0.0, 0.5, True),
        # Steps in the ball as it is: halved down to a sixteenth; then, or after one that held, another estimate.
        ({"gain": 0.0, "mean": -1.0}, False, 0.4, 0.0, 0.25, True),
        ({"gain": 0.0, "mean": -1.0, "size": 0.5 / 8}, False, 0.4, 0.0, 0.5 / 16, True),
        ({"gain": 0.0, "mean": -1.0, "size": 0.5 / 16}, False, 0.4, 0.0, 0.5, False),
        ({"gain": 0.0, "mean": 1.0, "size": 0.25}, True, 0.4, 0.0, 0.5, False),
    ],
)
def test_a_try_shrinks_the_ball_or_halves_what_is_tried_next(known, shown, radius, gain, size, trying):
    state, queries = _tried(shown=shown, **known)
    found = [float(state[name]) for name in ("radius", "gain", "size")]
    assert found == pytest.approx([radius, gain, size], abs=1e-6)
    assert bool(state["trying"]) == trying
    torch.testing.assert_close(state["images"], queries.images if shown else CLEAN + 0.4)


def test_once_it_has_arrived_each_step_that_held_is_followed_by_an_estimate():
    state, _ = _tried(shown=True, away=0.2, mean=-1.0)
    assert float(state["radius"]) == pytest.approx(0.2)
    assert not state["trying"]


def test_a_step_is_a_share_of_the_balls_radius_along_the_slope_within_the_smaller_ball():
    attack = _attack()
    state = attack.start(CLEAN + 0.4, CLEAN, BALL, DRAWS)
    state |= {"gain": torch.tensor([0.1]), "mean": torch.tensor([1.0, -1.0, 0.0, -2.0]).view(CLEAN.shape)}
    moved = attack.ask(state, CLEAN, BALL, DRAWS).images - CLEAN
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.3, 0.2, 0.3, 0.2]))


@pytest.mark.parametrize("ball", [BALL, L2Ball(levels=51, maximum=255)], ids=["linf", "l2"])
def test_unless_it_is_given_an_estimate_asks_a_quarter_of_the_ball_away(ball):
    """In L2, for the whole offset."""
    attack, clean = _attack(sigma=None), torch.full((1, 1, 10, 10), 0.5)
    state = attack.start(clean, clean, ball, DRAWS)
    queries = attack.ask(state | {"trying": torch.zeros(1, dtype=torch.bool)}, clean, ball, DRAWS)
    pixel = 0.2 / 4 / (1 if ball is BALL else 10)
    torch.testing.assert_close(queries.images[:1] - clean, pixel * queries.noise[:, 0])


def test_after_an_estimate_the_ball_is_tried_as_small_as_it_may_become():
    attack = _attack()
    state = attack.start(CLEAN + 0.4, CLEAN, BALL, DRAWS)
    state |= {"trying": torch.zeros(1, dtype=torch.bool), "gain": torch.zeros(1)}
    queries, no = attack.ask(state, CLEAN, BALL, DRAWS), torch.zeros(2, dtype=torch.bool)
    state = attack.learn(
        state, queries, Answers(loss=torch.tensor([1.0, 0.0]), fooled=no, shown=no), CLEAN, BALL, DRAWS
    )
    assert state["trying"].all()
    assert float(state["gain"]) == pytest.approx(0.2)
