"""RayS: which signs it tries, one after another, and how far it looks along them."""

from __future__ import annotations

import pytest
import torch

from robustcheck.attacks import Answers, objective
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.rays import RayS
from robustcheck.threats import Goal, LinfBall

BALL = LinfBall(levels=26, maximum=255)
CLEAN = torch.full((1, 1, 2, 3), 0.5)


def _turns(fooled, turns, *, ball=BALL, clean=CLEAN, **parameters):
    """States and images of a search of one row; `fooled` is told how far each image is from the sample, and when."""
    attack = RayS(objective=objective("margin", Goal(labels=2)), queries=turns, **parameters)
    draws, passed = Draws(keys=torch.arange(1)), []
    state = attack.start(clean, clean, ball, draws)
    for turn in range(turns):
        queries = attack.ask(state, clean, ball, draws)
        passed.append((state, queries.images))
        read = torch.tensor([fooled(float((queries.images - clean).abs().max()), turn)])
        answers = Answers(loss=torch.where(read, 1.0, -1.0), fooled=read, shown=read)
        state = attack.learn(state, queries, answers, clean, ball, draws)
    return [*passed, (state, None)]


def test_blocks_are_halved_down_to_single_pixels_which_begin_again():
    """Algorithm 2: first the signs as they are, then those of 1, 2, 4 and 8 blocks of six pixels turned."""
    passed = _turns(lambda _distance, _turn: False, 20)
    turned = [(state["tried"] < 0).flatten().nonzero().flatten().tolist() for state, _ in passed[:-1]]
    pixels = [[pixel] for pixel in range(6)]
    assert turned == [[], [*range(6)], [0, 1, 2], [3, 4, 5], [0, 1], [2, 3], [4, 5], *pixels, *pixels, [0]]


def test_what_is_read_as_wanted_at_the_known_distance_is_looked_for_nearer_and_kept():
    """The border lies at .3 of the range where all signs are +1, which is less than to the end of the range."""
    passed = _turns(lambda distance, _turn: distance >= 0.3, 12)
    reached = [float((images - CLEAN).abs().max()) for _, images in passed[:-1]]
    # To the end of the range, and then halves of the whole range, whose larger half lies beyond it.
    assert reached[:5] == pytest.approx([0.5, 0.5, 0.25, 0.375, 0.3125])
    state = passed[-1][0]
    assert 0.3 <= float(state["distance"]) <= 0.3 + 2 * 1e-3
    torch.testing.assert_close(state["images"], CLEAN + float(state["distance"]))
    assert int(state["level"]) == 0
    assert (state["tried"] == -1).all()


def test_a_direction_is_kept_only_if_the_border_lies_nearer_there():
    """All signs turned, the border is farther away; with those of the first three pixels it is half as far."""
    attack, draws = RayS(objective=objective("margin", Goal(labels=2)), queries=60), Draws(keys=torch.arange(1))
    state = attack.start(CLEAN, CLEAN, BALL, draws)
    for _ in range(60):
        queries = attack.ask(state, CLEAN, BALL, draws)
        turned = (state["tried"] < 0).flatten().tolist()
        border = {(False,) * 6: 0.4, (True,) * 3 + (False,) * 3: 0.2}.get(tuple(turned), 0.9)
        read = (queries.images - CLEAN).abs().amax()[None] >= border
        answers = Answers(loss=torch.where(read, 1.0, -1.0), fooled=read, shown=read)
        state = attack.learn(state, queries, answers, CLEAN, BALL, draws)
    assert float(state["distance"]) == pytest.approx(0.2, abs=2e-3)
    assert state["sign"].flatten().tolist() == [-1, -1, -1, 1, 1, 1]


@pytest.mark.parametrize(("maximum", "within"), [(255, 0.25 / 255), (4095, 0.25 / 4095), (100, 1e-3)])
def test_a_binary_search_ends_at_a_thousandth_of_the_range_or_a_quarter_of_a_small_budget(maximum, within):
    passed = _turns(lambda distance, _turn: distance >= 0.3, 20, ball=LinfBall(levels=1, maximum=maximum))
    first = [state for state, _ in passed if bool(state["bisecting"]) and int(state["level"]) < 0]
    widths = [float(state["high"] - state["low"]) for state in first]
    assert widths[-1] > within >= widths[-1] / 2


def test_a_binary_search_of_files_is_over_whole_levels():
    passed = _turns(lambda distance, _turn: distance >= 77.5 / 255, 12, grey_level=1 / 255)
    asked = [float((images - CLEAN).abs().max()) * 255 for state, images in passed[:-1] if bool(state["bisecting"])]
    assert all(one == pytest.approx(round(one), abs=1e-2) or one == pytest.approx(127.5) for one in asked)
    assert float(passed[-1][0]["distance"]) * 255 == pytest.approx(78, abs=1e-2)
