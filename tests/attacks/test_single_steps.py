"""Single steps along a gradient and against it: points of one line through the clean image."""

import pytest
import torch

from robustcheck.attacks.base import Told
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.single_steps import SingleSteps
from robustcheck.threats import Goal, L2Ball, LinfBall

CLEAN = torch.full((2, 1, 3, 4), 0.5)
FIRST = torch.linspace(-1, 2, 24).view(2, 1, 3, 4)


@pytest.mark.parametrize("kind", [LinfBall, L2Ball])
def test_each_step_is_from_the_image_along_its_own_gradient(kind):
    ball = kind(levels=8, maximum=255)
    attack = SingleSteps.toward(Goal(labels=2))
    draws = Draws.of([0, 1], CLEAN.device)
    state = attack.start(CLEAN, CLEAN, ball, draws)
    assert torch.equal(state["images"], CLEAN)
    direction, points = ball.steepest(FIRST), []
    for turn in range(attack.steps):
        gradient = FIRST if turn == 0 else torch.randn(FIRST.shape)
        told = Told(
            step=torch.full((2,), turn), loss=torch.zeros(2), fooled=torch.zeros(2, dtype=torch.bool), gradient=gradient
        )
        state = attack.step(state, told, CLEAN, ball, draws)
        points.append(state["images"])
    for point, length in zip(points, (1, -1, 0.5, -0.5), strict=True):
        torch.testing.assert_close(point, CLEAN + length * ball.radius * direction)
        assert (ball.norm(point - CLEAN) <= ball.radius * (1 + 1e-5)).all()
    assert attack.best(state) is points[-1]


def test_rows_that_are_at_different_steps():
    ball = LinfBall(levels=8, maximum=255)
    attack, draws = SingleSteps.toward(Goal(labels=2)), Draws.of([0, 1], CLEAN.device)
    kept = torch.ones_like(FIRST)
    told = Told(
        step=torch.tensor([0, 2]), loss=torch.zeros(2), fooled=torch.zeros(2, dtype=torch.bool), gradient=-FIRST.abs()
    )
    images = attack.step({"images": CLEAN, "direction": kept}, told, CLEAN, ball, draws)["images"]
    assert torch.equal(images[0] < CLEAN[0], FIRST[0] != 0)
    torch.testing.assert_close(images[1], CLEAN[1] + 0.5 * ball.radius)


@pytest.mark.parametrize("kind", [LinfBall, L2Ball])
def test_steps_beyond_the_range_end_there(kind):
    ball, white = kind(levels=8, maximum=255), torch.ones_like(CLEAN)
    attack, draws = SingleSteps.toward(Goal(labels=2)), Draws.of([0, 1], CLEAN.device)
    told = Told(
        step=torch.tensor([0, 1]), loss=torch.zeros(2), fooled=torch.zeros(2, dtype=torch.bool), gradient=FIRST.abs()
    )
    state = attack.start(white, white, ball, draws) | {"direction": -ball.steepest(FIRST.abs())}
    assert torch.equal(attack.step(state, told, white, ball, draws)["images"], white)
