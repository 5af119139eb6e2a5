"""How far attacks go and how much they ask, turn by turn, as their papers prescribe: losses are told, not computed."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from robustcheck.attacks import APGD, FMN, PGD, Answers, Square, Told, objective
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.hopskipjump import HopSkipJump
from robustcheck.attacks.nes import NES
from robustcheck.threats import Goal, L2Ball, LinfBall

MARGIN = objective("margin", Goal(labels=2))
BALL = LinfBall(levels=40, maximum=255)
GREY = torch.full((1, 1, 1, 1), 0.5)


def _draws(rows: int) -> Draws:
    return Draws(keys=torch.arange(rows))


def _told(step: int, loss: torch.Tensor, gradient: torch.Tensor, *, fooled: bool = False) -> Told:
    rows = len(loss)
    return Told(step=torch.full((rows,), step), loss=loss, fooled=torch.full((rows,), fooled), gradient=gradient)


# --- APGD ------------------------------------------------------------------------------------------------------------


def test_apgd_looks_back_where_the_paper_does():
    """Section 3.2: of the steps, p₀ = 0, p₁ = .22, and then p grows by max(pⱼ - pⱼ₋₁ - .03, .06)."""
    table = APGD(objective=MARGIN, steps=100)._since_checkpoint
    checkpoints = table.nonzero().flatten().tolist()
    assert checkpoints == [22, 41, 57, 70, 80, 87, 93, 99]
    assert [later - earlier for earlier, later in pairwise([0, *checkpoints])] == table[checkpoints].tolist()


def _sizes(losses: list[float]) -> list[float]:
    """APGD's step after each loss, of a hundred, in ε."""
    attack, draws = APGD(objective=MARGIN, steps=100), _draws(1)
    state, sizes = attack.start(GREY, GREY, BALL, draws), list[float]()
    for step, loss in enumerate(losses):
        state = attack.step(state, _told(step, torch.tensor([loss]), torch.ones_like(GREY)), GREY, BALL, draws)
        sizes.append(float(state["size"]) / BALL.radius)
    return sizes


def _rising(times: int, of: int, last: float) -> list[float]:
    """Losses of which the first rise above the one before, and the others do not."""
    return [last + min(step, times) for step in range(1, of + 1)]


@pytest.mark.parametrize(
    ("losses", "halved_at"),
    [
        ([0, *_rising(16, 22, 0)], [22]),  # condition 1: fewer than .75 of 22 steps raised the loss
        ([0, *_rising(17, 22, 0)], []),
        ([9, *_rising(22, 22, -30)], [22]),  # condition 2: each step raised it, but none above the first
        ([0, *_rising(22, 22, 0), *_rising(14, 19, 22)], [41]),  # those before the last checkpoint do not count
        ([0, *_rising(22, 22, 0), *_rising(15, 19, 22)], []),
        ([0, *_rising(16, 22, 0), *_rising(19, 19, -30)], [22]),  # condition 2 waits for the step to have been tried
        ([0] * 100, [22, 41, 57, 70, 80, 87, 93, 99]),
    ],
)
def test_apgd_halves_its_step_where_the_paper_does(losses, halved_at):
    sizes = [2.0, *_sizes(losses)]  # from 2ε on
    assert [at for at, (before, after) in enumerate(pairwise(sizes)) if after == before / 2] == halved_at
    assert sizes[-1] == pytest.approx(2 / 2 ** len(halved_at))


def test_apgd_goes_on_from_its_best_point_when_it_halves_its_step():
    """Algorithm 1, line 13: the best point was the fourth, whose gradient leads another way than all others."""
    attack, draws, wide = APGD(objective=MARGIN, steps=100, momentum=1.0), _draws(1), LinfBall(levels=200, maximum=255)
    small, best = torch.tensor([0.1]), torch.full_like(GREY, 0.6)
    state = attack.start(GREY, GREY, wide, draws) | {"size": small, "size_then": small}
    for step in range(23):
        if step == 3:
            state |= {"images": best}
        gradient = torch.full_like(GREY, 1.0 if step == 3 else -1.0)
        state = attack.step(state, _told(step, torch.tensor([1.0 if step == 3 else 0.0]), gradient), GREY, wide, draws)
    assert torch.equal(state["best"], best)
    torch.testing.assert_close(state["images"], best + 0.05)


@pytest.mark.parametrize("seed", range(3))
def test_apgd_finds_a_peak_inside_the_ball(seed):
    """Of squares that are up to a hundred times as steep in one direction as in another."""
    clean = torch.full((20, 1, 4, 4), 0.5)
    away = 2 * torch.rand(clean.shape, generator=torch.Generator().manual_seed(seed)) - 1
    top, steep = clean + 0.9 * BALL.radius * away, torch.logspace(0, 2, 16).view(1, 1, 4, 4)
    attack, draws = APGD(objective=MARGIN, steps=100), _draws(20)
    state = attack.start(BALL.sample(clean, draws.uniform(clean.shape[1:])), clean, BALL, draws)
    for step in range(100):
        off = (state["images"] - top) / BALL.radius
        told = _told(step, -(steep * off**2).flatten(1).sum(dim=1), -2 * steep * off)
        state = attack.step(state, told, clean, BALL, draws)
    assert state["best_loss"].min() > -0.1  # it began at -900 to -200


# --- PGD and FMN -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_pgd_begins_with_its_step_which_falls_to_nothing(schedule):
    attack, draws = PGD(objective=MARGIN, steps=20, step_share=0.01, schedule=schedule), _draws(1)
    sizes = []
    for step in range(20):
        told = _told(step, torch.zeros(1), torch.ones_like(GREY, dtype=torch.float64))
        sizes.append(float(attack.step({"images": GREY.double()}, told, GREY.double(), BALL, draws)["images"] - 0.5))
    assert sizes[0] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in pairwise(sizes))
    assert 0 < sizes[-1] < 0.0006
    assert sum(sizes) / 20 == pytest.approx(0.01 * (1 / 2 + 1 / 40))  # the mean of either, over 20 steps


def _fmn(points: list[float], *, steps: int, fooled: bool, at: int = 0) -> list[tuple[float, float]]:
    """Where FMN goes from points of a line, and how wide its ball is then, from one step on."""
    ball, draws, clean = L2Ball(levels=Fraction(255), maximum=255), _draws(1), torch.zeros_like(GREY).double()
    attack, found = FMN(objective=MARGIN, steps=steps, step_share=0.001), list[tuple[float, float]]()
    state = attack.start(clean, clean, ball, draws) | {"radius": torch.ones(1, dtype=torch.float64)}
    for step, point in enumerate(points, start=at):
        told = _told(step, torch.full((1,), -9.0), torch.full_like(clean, 7.0), fooled=fooled)
        state = attack.step(state | {"images": clean + point}, told, clean, ball, draws)
        found.append((float(state["images"]) - point, float(state["radius"])))
    return found


def test_fmn_ends_with_a_hundredth_of_its_first_step_whatever_the_gradient():
    steps = [step for step, _ in _fmn([0.5] * 100, steps=100, fooled=False)]
    assert steps[0] == pytest.approx(0.001)
    assert all(later < earlier for earlier, later in pairwise(steps))
    assert 0.01 < steps[-1] / steps[0] < 0.0103


def test_fmn_shrinks_its_ball_by_a_share_that_falls_to_nothing():
    """Algorithm 1, lines 8 and 13: by γ₀ = .05 at first."""
    ((_, first),) = _fmn([1.0], steps=100, fooled=True)
    ((_, last),) = _fmn([1.0], steps=100, fooled=True, at=99)
    assert first == pytest.approx(0.95)
    assert 0.9999 < last < 1


def test_fmn_keeps_to_the_ball_of_the_nearest_point_that_it_has_seen_read_wrongly():
    """Algorithm 1, line 8: ε is no more than the least norm, though (1 - γ) of it were."""
    radii = [radius for _, radius in _fmn([0.3, 0.4, 0.3], steps=1000, fooled=True)]
    assert radii == pytest.approx([0.3, 0.3 * 0.95, 0.3 * 0.95**2], abs=1e-5)


# --- attacks that ask ------------------------------------------------------------------------------------------------


def test_square_covers_as_much_as_the_authors_code_does():
    """AutoAttack's `p_selection` is scaled to 10,000 queries, and halves after 10, 50, 200, 500, … of those."""
    asked = [0, 5, 6, 25, 26, 100, 101, 250, 251, 500, 501, 1000, 1001, 2000, 2001, 3000, 3001, 4000, 4001]
    halved = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9]
    attack = Square(objective=MARGIN, queries=5000, share=0.8)
    expected = [max(1, round((0.8 / 2**times * 100 * 100) ** 0.5)) for times in halved]
    assert attack._side(torch.tensor(asked), 100, 100).tolist() == expected


def test_squares_shrink_at_small_limits_as_at_one_of_500():
    """With fewer queries the schedule is cut short: gone through in 100, it leaves more samples than large squares."""
    short, long, longer = (
        Square(objective=MARGIN, queries=queries, share=0.8)._side(torch.arange(100), 100, 100).tolist()
        for queries in (100, 500, 1000)
    )
    assert short == long != longer


def test_squares_lie_anywhere_in_the_image():
    """Algorithm 2 draws their corner among all at which they fit."""
    clean, rows = torch.full((300, 1, 4, 5), 0.5), 300
    attack, draws = Square(objective=MARGIN, queries=10_000, share=0.2), _draws(rows)
    state = attack.start(clean, clean, BALL, draws)
    nothing = torch.zeros(rows, dtype=torch.bool)
    answers = Answers(loss=torch.full((rows,), -torch.inf), fooled=nothing, shown=nothing)  # the image stays the best
    state = attack.learn(state, attack.ask(state, clean, BALL, draws), answers, clean, BALL, draws)
    tried = (state["images"] != state["best"])[:, 0]
    corners = tried.flatten(1).int().argmax(dim=1)
    assert set(corners.tolist()) == {5 * row + column for row in range(3) for column in range(4)}
    assert (tried.flatten(1).sum(dim=1) == 4).all()  # of two by two


def _nes(**parameters) -> NES:
    given = {"step_share": 0.08, "least_step_share": 0.01, "momentum": 0.0, "plateau": 3, "blur": 0.0}
    return NES(objective=MARGIN, queries=10**6, sigma=0.001, **{"samples": 2, **given, **parameters})


def _walked(attack: NES, loss, steps: int) -> list[tuple[float, float]]:
    """How far NES went in each step on one pixel, and its step's size then; `loss` is told images and the step."""
    draws, wide = _draws(1), LinfBall(levels=127, maximum=255)
    state, walked = attack.start(GREY, GREY, wide, draws), list[tuple[float, float]]()
    while len(walked) < steps:
        before, queries = state["images"], attack.ask(state, GREY, wide, draws)
        told = loss(queries.images.flatten(), len(walked))
        answers = Answers(loss=told, fooled=told > torch.inf, shown=told > torch.inf)
        state = attack.learn(state, queries, answers, GREY, wide, draws)
        if state["pairs"] == 0:  # an estimate was complete
            walked.append((float(state["images"] - before), float(state["size"])))
    return walked


def test_nes_halves_its_step_after_a_plateau_down_to_its_least():
    """As in the authors' code, where the loss is no higher than it was at the plateau's beginning."""
    sizes = [size for _, size in _walked(_nes(), lambda images, _step: 0 * images, 20)]
    assert sizes == pytest.approx([0.08] * 5 + [0.04] * 3 + [0.02] * 3 + [0.01] * 9)
    rising = [size for _, size in _walked(_nes(), lambda images, step: 0 * images + step, 20)]
    assert rising == pytest.approx([0.08] * 20)


@pytest.mark.parametrize(("momentum", "back_after"), [(0.0, 0), (0.9, 1)])
def test_nes_follows_the_running_mean_of_its_estimates(momentum, back_after):
    """After two estimates of g, one of -g leaves .9 · .19 - .1 > 0 of it, and a second one .9² · .19 - .19 < 0."""
    attack = _nes(momentum=momentum, samples=400, step_share=0.01)
    ways = [way for way, _ in _walked(attack, lambda images, step: images if step < 2 else -images, 4)]
    assert ways == pytest.approx([0.01] * (2 + back_after) + [-0.01] * (2 - back_after), abs=1e-6)


def test_hopskipjump_asks_more_at_each_border_as_the_paper_does():
    """B_t = B₀ √t."""
    attack = HopSkipJump(objective=MARGIN, queries=4000, samples=32, delta=0.1, momentum=0, blur=0)
    assert attack._samples({"iteration": torch.tensor([0, 1, 4, 16])}).tolist() == [32, 32, 64, 128]
