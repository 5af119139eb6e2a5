"""HopSkipJump at a plane: what it asks about the border, what it learns of it, and which steps it takes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from robustcheck.attacks import Answers, build
from robustcheck.attacks.base import of_rows, with_rows
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.hopskipjump import (
    _BISECTING,
    _BRACKETING,
    _ESTIMATING,
    _LONGER,
    _SHORTER,
    _STEPPING,
)
from robustcheck.policy import HopSkipJumpSpec
from robustcheck.threats import Goal, L2Ball, LinfBall
from robustcheck.threats.ball import per_row


class Border:
    """A plane through the middle of the range, HopSkipJump, and rows whose images lie on it."""

    def __init__(self, ball, rows=30, *, shape=(1, 8, 8), slant=0.1, **parameters):
        self.ball, self.draws = ball, Draws(keys=torch.arange(rows))
        spec = HopSkipJumpSpec(name="hopskipjump", samples=32, **parameters)
        (self.attack,) = build(spec, ball, Goal(labels=2), queries=4000, stored=False)
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.randn(*shape, generator=generator)
        self.images = torch.full((rows, *shape), 0.5)
        nearest = self.weight.sign() if isinstance(ball, LinfBall) else self.weight
        ways = slant * torch.rand(self.images.shape, generator=generator) + 0.1 * nearest
        self.clean = self.images - ways  # read rightly: their margins are negative

    def margins(self, images):
        """Above zero: read as wanted."""
        return ((images - 0.5) * self.weight).flatten(1).sum(dim=1)

    def estimating(self):
        """The state of a search that stands at the border and has asked nothing there."""
        state = self.attack.start(self.images, self.clean, self.ball, self.draws)
        return state | {"phase": torch.full((len(self.images),), _ESTIMATING)}

    def told(self, fooled, **known):
        """The state after one question, or a turn's part of an estimate, whose answers are all alike."""
        state = self.attack.start(self.images, self.clean, self.ball, self.draws)
        for name, value in known.items():
            state[name] = torch.full_like(state[name], value)
        queries = self.attack.ask(state, self.clean, self.ball, self.draws)
        same = torch.full((len(queries.images),), fooled)
        answers = Answers(loss=torch.where(same, 1.0, -1.0), fooled=same, shown=same)
        return state, self.attack.learn(state, queries, answers, self.clean, self.ball, self.draws)

    def turn(self, state):
        """Ask and learn once."""
        queries = self.attack.ask(state, self.clean, self.ball, self.draws)
        fooled = self.margins(queries.images) > 0
        answers = Answers(loss=torch.where(fooled, 1.0, -1.0), fooled=fooled, shown=fooled)
        return self.attack.learn(state, queries, answers, self.clean, self.ball, self.draws)

    def across(self, images):
        """What of (N, 1, 8, 8) is perpendicular to the ways from the samples, as rows."""
        way = (self.images - self.clean).flatten(1)
        way = way / way.norm(dim=1, keepdim=True)
        flat = images.flatten(1).expand_as(way)
        return flat - (flat * way).sum(dim=1, keepdim=True) * way


L2_BALL = L2Ball(levels=Fraction(100), maximum=255)


def _cosine_of_normals(**parameters):
    """The mean cosine of normals, after four estimates, to the true one, of what of either is across the way."""
    border = Border(L2_BALL, **parameters)
    state = border.estimating()
    for _ in range(4):
        state |= {name: values for name, values in border.estimating().items() if name in ("phase", "asked", "sum")}
        while (state["phase"] == _ESTIMATING).all():
            state = border.turn(state)
    known, true = border.across(state["normal"]), border.across(border.weight)
    return torch.nn.functional.cosine_similarity(known, true).mean()


def test_hopskipjump_knows_a_border_better_for_what_it_keeps_of_it():
    assert _cosine_of_normals(momentum=0.9, blur=0) > 1.3 * _cosine_of_normals(momentum=0, blur=0)


def test_hopskipjump_learns_from_answers_by_how_unusual_they_are():
    """Off the border most answers are one (equation 16): their mean is no direction, but as they are it weighs most."""
    border = Border(L2_BALL, momentum=0, blur=0)
    state, plain, agreeing = border.estimating(), torch.zeros_like(border.images), []
    off = border.attack._delta(state, border.clean, border.ball).mean() / 14  # about a deviation of where offsets lead
    state |= {"images": border.images + off * border.weight / border.weight.norm()}
    while (state["phase"] == _ESTIMATING).all():
        queries = border.attack.ask(state, border.clean, border.ball, border.draws)
        answers = (border.margins(queries.images) > 0).float() * 2 - 1
        plain += torch.einsum("nq,nqchw->nchw", queries.table(answers), queries.noise)
        agreeing.append(answers.mean().abs() / 2 + 0.5)
        state = border.turn(state)
    assert 0.8 < torch.stack(agreeing).mean() < 0.9
    true = border.across(border.weight)
    told, known = (
        torch.nn.functional.cosine_similarity(border.across(found), true).mean() for found in (plain, state["normal"])
    )
    assert known > 1.15 * told


def test_hopskipjump_asks_nothing_along_the_way_to_the_sample():
    border = Border(L2_BALL)
    queries = border.attack.ask(border.estimating(), border.clean, border.ball, border.draws)
    offsets = (queries.images - border.images[queries.rows]).flatten(1)
    ways = (border.images - border.clean)[queries.rows].flatten(1)
    assert len(offsets) == 30 * 16
    assert torch.nn.functional.cosine_similarity(offsets, ways).abs().max() < 1e-3


@pytest.mark.parametrize("ball", [L2_BALL, LinfBall(levels=100, maximum=255)], ids=["l2", "linf"])
def test_hopskipjump_asks_as_far_from_the_border_as_it_is_told(ball):
    border = Border(ball, delta=0.05)
    queries = border.attack.ask(border.estimating(), border.clean, ball, border.draws)
    offsets = (queries.images - border.images[queries.rows]).flatten(1).norm(dim=1)
    distance = ball.norm(border.images - border.clean)
    length = distance if ball is L2_BALL else distance * 8  # of a change of all 64 pixels by as much
    assert torch.allclose(offsets, 0.05 * length[queries.rows], rtol=1e-4)


def test_hopskipjump_asks_about_images_of_one_value_too():
    border = Border(L2_BALL, shape=(1, 1, 1))
    state = border.estimating()
    while (state["phase"] == _ESTIMATING).any():
        state = border.turn(state)
    assert (state["normal"].isfinite() & (state["normal"] != 0)).all()


@pytest.mark.parametrize("ball", [L2_BALL, LinfBall(levels=100, maximum=255)], ids=["l2", "linf"])
@pytest.mark.parametrize(
    ("taken", "iteration", "slant"),
    [("plain", 1, 0.3), ("longer", 16, 0.3), ("shorter", 1, 0.1)],
)
def test_hopskipjump_takes_its_step_or_one_twice_or_half_as_long(ball, taken, iteration, slant):
    border = Border(ball, slant=slant, delta=0.002)
    state = border.estimating() | {"iteration": torch.full((30,), iteration)}
    while (state["phase"] == _ESTIMATING).any():
        state = border.turn(state)
    steps = per_row(state["size"]) * ball.steepest(state["normal"])
    while (walking := state["phase"] != _ESTIMATING).any():
        state = with_rows(state, walking, of_rows(border.turn(state), walking))

    def nearest(times):
        """How near to the sample the border is where a step ends, as a share of how near it was."""
        ends = (border.images + times * steps).clamp(0, 1)
        low, high = torch.zeros(30), torch.ones(30)
        for _ in range(30):
            middle = (low + high) / 2
            there = border.margins(ball.within(ends, border.clean, middle * ball.norm(ends - border.clean))) > 0
            low, high = torch.where(there, low, middle), torch.where(there, middle, high)
        distance = torch.where(border.margins(ends) > 0, high * ball.norm(ends - border.clean), torch.inf)
        return distance / ball.norm(border.images - border.clean)

    reached = ball.norm(state["images"] - border.clean) / ball.norm(border.images - border.clean)
    plain, longer, shorter = nearest(1), nearest(2), nearest(0.5)
    expected = {
        "longer": (longer < plain - 2**-5, longer),
        "shorter": ((longer > plain + 2**-5) & (shorter < plain - 2**-5), shorter),
        "plain": ((longer > plain) & (shorter > plain), plain),
    }
    for rows, distance in expected.values():
        assert torch.allclose(reached[rows], distance[rows], rtol=5e-3)  # θ is .0003 of the way to where a step ends
    assert expected[taken][0].sum() >= 5, {name: int(rows.sum()) for name, (rows, _) in expected.items()}


# --- where one answer leads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "fooled", "phase"),
    [
        (0.5, 0.5 + 2**-4, True, _BRACKETING),  # 2⁻⁶ of the way are good enough to try another length
        (0.5, 0.5 + 2**-5, True, _LONGER),
        (0.5, 0.5 + 2**-5, False, _LONGER),
        (0.0, 2**-5, True, _BISECTING),  # the sample itself is read rightly, and no image to try another length at
    ],
)
def test_hopskipjump_tries_other_lengths_once_the_border_is_roughly_known(low, high, fooled, phase):
    border = Border(L2_BALL)
    size = float(border.ball.norm(border.images - border.clean).max())
    _, state = border.told(fooled, phase=_BRACKETING, low=low, high=high, size=size)
    assert set(state["phase"].tolist()) == {phase}


@pytest.mark.parametrize(
    ("size", "fooled", "phase", "left"),
    [(0.1, True, _BRACKETING, 0.1), (0.1, False, _STEPPING, 0.05), (1e-7, False, _ESTIMATING, 5e-8)],
)
def test_hopskipjump_halves_its_step_until_its_end_is_read_as_wanted_or_it_leads_nowhere(size, fooled, phase, left):
    border = Border(L2_BALL)
    _, state = border.told(fooled, phase=_STEPPING, size=size, normal=1.0)
    assert set(state["phase"].tolist()) == {phase}
    torch.testing.assert_close(state["size"], torch.full((30,), left))


@pytest.mark.parametrize(
    ("tried", "fooled", "width", "phase", "iteration"),
    [
        (_LONGER, True, 2**-7, _BISECTING, 3),
        (_LONGER, False, 2**-7, _SHORTER, 3),
        (_SHORTER, True, 2**-7, _BISECTING, 3),
        (_SHORTER, False, 2**-7, _BISECTING, 3),  # the search for the border goes on where it was
        (_SHORTER, False, 1e-7, _ESTIMATING, 4),
    ],
)
def test_hopskipjump_compares_lengths_and_goes_on_with_the_better(tried, fooled, width, phase, iteration):
    border = Border(L2_BALL, delta=0.002)
    known = {"phase": tried, "low": 0.5, "high": 0.5 + width, "iteration": 3, "size": 0.1, "normal": 1.0}
    before, state = border.told(fooled, **known)
    assert set(zip(state["phase"].tolist(), state["iteration"].tolist(), strict=True)) == {(phase, iteration)}
    again = not fooled and phase != _ESTIMATING
    assert torch.equal(state["low"], before["low"] if again else torch.zeros(30))
    assert torch.equal(state["high"], before["high"] if again else torch.ones(30))


# --- what an estimate asks, and what is made of it -------------------------------------------------------------------


def _estimated(border, *, answer, **known):
    """The state after an estimate with the same answer everywhere, its turns' questions, and the sum of directions."""
    state = border.estimating()
    for name, value in known.items():
        state[name] = torch.full_like(state[name], value)
    turns, total = [], torch.zeros_like(border.images)
    while (state["phase"] == _ESTIMATING).all():
        queries = border.attack.ask(state, border.clean, border.ball, border.draws)
        same = torch.full((len(queries.images),), answer > 0)
        answers = Answers(loss=torch.full(same.shape, float(answer)), fooled=same, shown=same)
        total += torch.einsum("nq,nqchw->nchw", queries.asked.float(), queries.noise)
        turns.append(queries)
        state = border.attack.learn(state, queries, answers, border.clean, border.ball, border.draws)
    return state, turns, total


def test_an_estimate_asks_as_often_as_it_has_to_and_about_other_images_each_turn():
    _, turns, _ = _estimated(Border(L2_BALL), answer=1, iteration=2)
    assert [turn.counts.tolist() for turn in turns] == [[16] * 30, [16] * 30, [13] * 30]  # 32 √2
    assert not torch.isclose(turns[0].images, turns[1].images).flatten(1).all(dim=1).any()


@pytest.mark.parametrize("answer", [1, -1])
def test_of_answers_that_are_all_alike_the_side_is_known(answer):
    border = Border(L2_BALL, momentum=0, blur=0)
    state, _, total = _estimated(border, answer=answer)
    known = border.across(state["normal"])
    torch.testing.assert_close(known, answer * total.flatten(1), atol=1e-2, rtol=1e-3)


def test_along_the_way_a_normal_has_half_of_what_it_has_across():
    border = Border(L2_BALL, momentum=0)
    state, _, _ = _estimated(border, answer=1)
    way = (border.images - border.clean).flatten(1)
    along = (state["normal"].flatten(1) * way).sum(dim=1) / way.norm(dim=1)
    torch.testing.assert_close(along, border.across(state["normal"]).norm(dim=1) / 2, rtol=1e-3, atol=0)


@pytest.mark.parametrize("iteration", [1, 16])
def test_a_step_is_as_long_as_the_distance_divided_by_the_root_of_the_iteration(iteration):
    border = Border(L2_BALL)
    state, _, _ = _estimated(border, answer=1, iteration=iteration)
    torch.testing.assert_close(state["size"], border.ball.norm(border.images - border.clean) / iteration**0.5)


def test_estimates_ask_no_nearer_than_images_can_be_told_apart():
    border = Border(L2_BALL, delta=0.001)
    border.attack = replace(border.attack, least_offset=0.01)
    queries = border.attack.ask(border.estimating(), border.clean, border.ball, border.draws)
    offsets = (queries.images - border.images[queries.rows]).flatten(1).norm(dim=1)
    torch.testing.assert_close(offsets, torch.full_like(offsets, 0.01 * 8))  # of 64 pixels


def test_at_an_end_of_the_range_directions_are_those_in_which_was_asked():
    border = Border(L2_BALL)
    border.images = torch.ones_like(border.images)
    queries = border.attack.ask(border.estimating(), border.clean, border.ball, border.draws)
    asked = (queries.images - border.images[queries.rows]).view(queries.noise.shape)
    delta = border.attack._delta(border.estimating(), border.clean, border.ball).view(-1, 1, 1, 1, 1)
    assert (asked == 0).float().mean() > 0.4
    torch.testing.assert_close(queries.noise * delta, asked)


def test_the_border_is_looked_for_as_finely_as_an_estimate_asks_in_a_pixel():
    """θ = δ / √d."""
    border = Border(L2_BALL, delta=0.08)
    torch.testing.assert_close(
        border.attack._finest(border.estimating(), border.clean, border.ball), torch.full((30,), 0.01)
    )


def test_of_files_that_are_the_same_a_binary_search_ends_at_the_innermost():
    """Half a level inside, but for a hundredth: from there, offsets lead to either side of the border."""
    border = Border(LinfBall(levels=100, maximum=255))
    border.attack = replace(border.attack, grey_level=1 / 255)
    border.clean = border.images - 10 / 255
    ends = border.attack._at_border(torch.ones(30), border.estimating(), border.clean, border.ball)
    torch.testing.assert_close(ends - border.clean, torch.full_like(ends, 9.51 / 255))
