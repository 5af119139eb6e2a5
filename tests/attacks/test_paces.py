"""How far attacks go and how much they ask, turn by turn, as their papers prescribe: losses are told, not computed."""

from __future__ import annotations

from dataclasses import replace
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
        ([0, *_rising(16, 22, 0), *_rising(19, 19, -30), *_rising(16, 16, -60)], [22, 57]),  # then it was
        ([0, *_rising(22, 22, 0), *_rising(19, 19, -30)], [41]),  # none above the best at the last checkpoint
        ([0, *_rising(22, 22, 0), *_rising(19, 19, 22), *_rising(12, 16, 41)], []),  # .75 of 16 are enough
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


def test_apgd_goes_on_from_where_it_is_while_its_step_stays():
    """At the first checkpoint the best point is the one before."""
    attack, draws, wide = APGD(objective=MARGIN, steps=100, momentum=1.0), _draws(1), LinfBall(levels=200, maximum=255)
    small = torch.tensor([0.01])
    state = attack.start(GREY, GREY, wide, draws) | {"size": small, "size_then": small}
    for step in range(23):
        before, loss = state["images"], torch.tensor([float(step % 22)])
        state = attack.step(state, _told(step, loss, torch.ones_like(GREY)), GREY, wide, draws)
    assert state["best"] < before
    torch.testing.assert_close(state["images"], before + 0.01)


def test_apgd_has_its_momentum_from_the_point_before_and_from_the_best_once_it_was_there():
    """x + α (z - x) + (1 - α) (x - y) with α = .75: y is the point before; after a halving x is the best point."""
    attack, draws, wide = APGD(objective=MARGIN, steps=100), _draws(1), LinfBall(levels=200, maximum=255)
    told = {"before": GREY - 0.02, "best": GREY + 0.1, "best_gradient": torch.ones_like(GREY)}
    told |= {"best_loss": torch.ones(1), "size": torch.tensor([0.1])}
    state, loss = attack.start(GREY, GREY, wide, draws) | told, torch.zeros(1)
    for step, expected in ((22, 0.6 + 0.75 * 0.05 + 0.25 * 0.12), (23, 0.6675 + 0.75 * 0.05 + 0.25 * 0.0675)):
        gradient = torch.full_like(GREY, -1.0 if step == 22 else 1.0)
        state = attack.step(state, _told(step, loss, gradient), GREY, wide, draws)
        torch.testing.assert_close(state["images"], torch.full_like(GREY, expected))


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


def test_pgd_with_momentum_follows_a_decaying_sum_of_normalised_gradients():
    """gₜ₊₁ = μ gₜ + ∇ / ‖∇‖₁ (algorithm 1, equation 6), here with a mean of absolute values in place of their sum."""
    ball, draws, clean = L2Ball(levels=Fraction(100), maximum=255), _draws(1), torch.full((1, 1, 1, 2), 0.5)
    attack = PGD(objective=MARGIN, steps=3, step_share=0.01, momentum=0.5)
    state, walked = attack.start(clean, clean, ball, draws), list[torch.Tensor]()
    for step, gradient in enumerate(([4.0, 2.0], [-1e-3, 1e-3], [8.0, -8.0])):
        before, given = state["images"], torch.tensor(gradient).view(1, 1, 1, 2)
        state = attack.step(state, _told(step, torch.zeros(1), given), clean, ball, draws)
        walked.append((state["images"] - before).flatten() / 0.01)
    for way, total in zip(walked, ([4 / 3, 2 / 3], [-1 / 3, 4 / 3], [5 / 6, -1 / 3]), strict=True):
        torch.testing.assert_close(way, torch.tensor(total) / torch.tensor(total).norm(), atol=1e-4, rtol=0)


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


def test_squares_lie_anywhere_in_the_image_and_are_of_either_colour_there():
    """Algorithm 2 draws their corner among all at which they fit, and their colour."""
    clean, rows = torch.full((300, 1, 4, 5), 0.5), 300
    attack, draws = Square(objective=MARGIN, queries=10_000, share=0.2), _draws(rows)
    state = attack.start(clean, clean, BALL, draws)
    nothing = torch.zeros(rows, dtype=torch.bool)
    answers = Answers(loss=torch.full((rows,), -torch.inf), fooled=nothing, shown=nothing)  # the image stays the best
    state = attack.learn(state, attack.ask(state, clean, BALL, draws), answers, clean, BALL, draws)
    tried = (state["images"] - state["best"])[:, 0].flatten(1)
    corners, colours = (tried != 0).int().argmax(dim=1), tried.sum(dim=1).sign().int()
    everywhere = {(5 * row + column, colour) for row in range(3) for column in range(4) for colour in (-1, 1)}
    assert set(zip(corners.tolist(), colours.tolist(), strict=True)) == everywhere
    assert ((tried != 0).sum(dim=1) == 4).all()  # of two by two


def test_squares_are_smaller_than_the_shorter_side_of_the_image():
    """As in the authors' code, which leaves a row and a column."""
    sides = [Square(objective=MARGIN, queries=500, share=share) for share in (0.8, 1.0)]
    assert [int(one._side(torch.tensor([0]), *shape)) for one in sides for shape in ((4, 100), (100, 4))] == [3] * 4
    assert int(sides[0]._side(torch.tensor([0]), 1, 1)) == 1


def test_square_begins_with_vertical_stripes_at_the_border_and_keeps_to_it():
    """Section 3.1: ±ε in each column and channel; and a square of the same changes by 2ε what has the other colour."""
    clean = torch.full((20, 3, 7, 9), 0.5)
    attack, draws = Square(objective=MARGIN, queries=500, share=0.8), _draws(20)
    state = attack.start(clean, clean, BALL, draws)
    stripes = ((state["images"] - clean) / BALL.radius).round()
    torch.testing.assert_close(state["images"], clean + BALL.radius * stripes)
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert len(stripes[:, :, 0].flatten(0, 1).unique(dim=0)) > 50  # of sixty
    everything = torch.ones(20, dtype=torch.bool)
    answers = Answers(loss=torch.zeros(20), fooled=everything, shown=everything)
    state = attack.learn(state, attack.ask(state, clean, BALL, draws), answers, clean, BALL, draws)
    torch.testing.assert_close((state["images"] - clean).abs(), torch.full_like(clean, BALL.radius))


def test_square_keeps_what_raises_the_loss_and_nothing_that_leaves_it_as_it_was():
    clean = torch.full((3, 1, 7, 9), 0.5)
    attack, draws = Square(objective=MARGIN, queries=500, share=0.8), _draws(3)
    state, nothing = attack.start(clean, clean, BALL, draws), torch.zeros(3, dtype=torch.bool)
    for loss in ([0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]):
        before, tried = state["best"], state["images"]
        answers = Answers(loss=torch.tensor(loss), fooled=nothing, shown=nothing)
        state = attack.learn(state, attack.ask(state, clean, BALL, draws), answers, clean, BALL, draws)
    assert torch.equal(state["best"][:2], before[:2])
    assert torch.equal(state["best"][2], tried[2])


def test_the_first_square_covers_the_share_that_it_is_told():
    """At 500 queries the second is of half the area already."""
    clean = torch.full((20, 1, 10, 10), 0.5)
    attack, draws = Square(objective=MARGIN, queries=500, share=0.8), _draws(20)
    state, covered = attack.start(clean, clean, BALL, draws), list[int]()
    nothing = torch.zeros(20, dtype=torch.bool)
    answers = Answers(loss=torch.full((20,), -torch.inf), fooled=nothing, shown=nothing)  # the image stays the best
    for _ in range(2):
        state = attack.learn(state, attack.ask(state, clean, BALL, draws), answers, clean, BALL, draws)
        (side,) = set((state["images"] != clean).flatten(1).sum(dim=1).tolist())
        covered.append(side)
    assert covered == [9 * 9, 6 * 6]


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


@pytest.mark.parametrize("samples", [2, 130], ids=["one turn", "three turns"])
def test_nes_halves_its_step_after_a_plateau_down_to_its_least(samples):
    """As in the authors' code, where the loss is no higher than it was at the plateau's beginning."""
    attack = _nes(samples=samples)
    sizes = [size for _, size in _walked(attack, lambda images, _step: 0 * images, 20)]
    assert sizes == pytest.approx([0.08] * 5 + [0.04] * 3 + [0.02] * 3 + [0.01] * 9)
    rising = [size for _, size in _walked(attack, lambda images, step: 0 * images + step, 20)]
    assert rising == pytest.approx([0.08] * 20)
    losses = [0.0, 2.0, 1.0, 3.0, 2.0, 1.5, 9.0, 9.0, 1.4]  # the sixth is below the fifth, and above the third
    falling = [size for _, size in _walked(attack, lambda images, step: 0 * images + losses[step], 9)]
    assert falling == pytest.approx([0.08] * 8 + [0.04])


def test_nes_knows_the_loss_of_points_that_it_asked_about_and_of_no_others():
    """Of three turns of an estimate, the first asks about the point."""
    attack, draws = _nes(samples=130), _draws(1)
    state = attack.start(GREY, GREY, BALL, draws)
    for turn in range(6):
        queries = attack.ask(state, GREY, BALL, draws)
        assert bool(queries.asked[0, 0]) == (turn % 3 == 0)
        losses = torch.full((len(queries.images),), -9.0 + turn // 3)
        state = attack.learn(
            state, queries, Answers(loss=losses, fooled=losses > 0, shown=losses > 0), GREY, BALL, draws
        )
        assert float(state["loss"]) == float(state["best_loss"]) == -9 + turn // 3


@pytest.mark.parametrize("side", [1, -1])
def test_nes_goes_to_the_border_with_its_last_step_wherever_it_is(side):
    attack, draws, far = replace(_nes(step_share=1e-3), queries=3), _draws(1), GREY - side * BALL.radius
    state = attack.start(far, GREY, BALL, draws)
    queries = attack.ask(state, GREY, BALL, draws)
    losses = side * queries.images.flatten()
    answers = Answers(loss=losses, fooled=losses > 9, shown=losses > 9)
    state = attack.learn(state, queries, answers, GREY, BALL, draws)
    torch.testing.assert_close(state["images"], GREY + side * BALL.radius)


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
