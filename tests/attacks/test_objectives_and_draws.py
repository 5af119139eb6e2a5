"""The losses that are raised, and the random numbers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm
from torch.nn.functional import cross_entropy

from robustcheck.attacks import nearest_border, objective
from robustcheck.attacks.draws import Draws, _quantiles, key
from robustcheck.attacks.objectives import dlr, log_odds, log_probability, margin
from robustcheck.models.head import NO_ANSWER, Head
from robustcheck.threats import Goal

CPU = torch.device("cpu")
seeds = st.integers(0, 2**31)


def _logits(seed: int, labels: int, count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(count, labels, generator=generator, dtype=torch.float64)


@given(st.integers(2, 6), seeds)
def test_log_odds_rise_in_the_direction_of_cross_entropy(labels, seed):
    logits = _logits(seed, labels).requires_grad_()
    truth = torch.randint(0, labels, (4,), generator=torch.Generator().manual_seed(seed))
    ours = torch.autograd.grad(log_odds(logits, truth).sum(), logits)[0]
    theirs = torch.autograd.grad(cross_entropy(logits, truth, reduction="sum"), logits)[0]
    scale = (ours.norm(dim=1) / theirs.norm(dim=1))[:, None]
    assert (scale > 0).all()
    torch.testing.assert_close(ours, theirs * scale)


def test_log_odds_of_two_labels_are_the_margin_between_them():
    logits = torch.tensor([[2.0, -1.0], [0.0, 50.0]])
    torch.testing.assert_close(log_odds(logits, torch.tensor([0, 1])), torch.tensor([-3.0, -50.0]))


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("labels", [2, 3, 5])
@settings(max_examples=15)
@given(seed=seeds)
def test_the_nearest_border_is_the_margins_there_and_none_nearer_elsewhere(labels, multilabel, seed):
    logits, others = _logits(seed, labels, 30), _logits(seed + 1, labels, 30)
    readings = 2**labels if multilabel else labels
    truth = torch.randint(0, readings, (30,), generator=torch.Generator().manual_seed(seed))
    kinds = [("untargeted", None), ("missed_finding", 0), ("false_alarm", labels - 1), ("targeted", None)]
    for kind, positive in kinds[: 3 if multilabel else 4]:
        goal = Goal(kind=kind, positive=positive, target=1, labels=labels, multilabel=multilabel)
        about = goal.applies(truth)
        raised, border = objective("margin", goal), nearest_border(goal, logits, truth)
        torch.testing.assert_close(border(logits)[about], raised(logits, truth, truth)[about])
        further = raised(others, truth, truth)[about] - border(others)[about]
        assert (further <= 1e-9 if goal.toward is not None else further >= -1e-9).all()


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
@pytest.mark.parametrize("labels", [2, 3, 4, 7])
@given(seed=seeds)
def test_losses_are_above_zero_where_the_goal_is_met_and_have_a_gradient(loss, labels, seed):
    logits = _logits(seed, labels, 30).requires_grad_()
    truth = torch.randint(0, labels, (30,), generator=torch.Generator().manual_seed(seed))
    aims = (truth + 1) % labels
    goals = {
        "untargeted": Goal(labels=labels),
        "targeted": Goal(kind="targeted", target=1, labels=labels),
        "missed_finding": Goal(kind="missed_finding", positive=labels - 1, labels=labels),
        "false_alarm": Goal(kind="false_alarm", positive=labels - 1, labels=labels),
    }
    decisions = logits.argmax(dim=1)
    for goal in goals.values():
        values = objective(loss, goal)(logits, truth, aims)
        assert values.isfinite().all()
        gradient = torch.autograd.grad(values.sum(), logits)[0]
        assert gradient.isfinite().all()
        met = goal.met(decisions, truth)[goal.applies(truth)]
        positive = (values > 0)[goal.applies(truth)]
        assert (gradient.abs().sum(dim=1) > 0)[goal.applies(truth)][~met].all()
        # Log-odds ask for more than half of the probability, for which the lead is not enough with three labels.
        if loss != "cross_entropy" or labels == 2:
            assert torch.equal(met, positive)
        elif goal.toward is not None:
            assert (met | ~positive).all()
        else:
            assert (positive | ~met).all()


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
@pytest.mark.parametrize("labels", [2, 3, 14])
@given(seed=seeds, point=st.floats(0.001, 0.999))
def test_at_any_operating_point_losses_are_above_zero_where_the_goal_is_met(loss, labels, seed, point):
    positive, truth = 1, torch.arange(labels).repeat(5)
    logits, aims = _logits(seed, labels, len(truth)), (truth + 1) % labels
    head = Head(
        labels=tuple(map(str, range(labels))), binary=False, outputs_probabilities=False, positive=positive,
        operating_point=point, found="",
    )  # fmt: skip
    readings = head.decide(logits)
    goals = [
        Goal(labels=labels),
        Goal(kind="missed_finding", positive=positive, labels=labels),
        Goal(kind="false_alarm", positive=positive, labels=labels),
        Goal(kind="targeted", target=0, labels=labels),
    ]
    for goal in goals:
        raised = objective(loss, goal)
        values = raised(head.at_operating_point(logits, raised), truth, aims)
        about, met = goal.applies(truth), goal.met(readings, truth)
        # Log-odds of the positive label are what the operating point is about. Those of another label ask for more than
        # half of the probability: where that is so one label is read, and where another one is read it is not so.
        exact = torch.ones_like(met) if loss != "cross_entropy" or labels == 2 else truth == positive
        if loss == "cross_entropy" and labels > 2 and goal.toward is not None:
            exact = torch.full_like(met, goal.toward == positive)
        assert torch.equal((values > 0)[about & exact], met[about & exact])
        one_sided = (met | (values <= 0)) if goal.toward is not None else ((values > 0) | ~met)
        assert one_sided[about].all()


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr", "log_probability"])
@pytest.mark.parametrize("labels", [2, 3, 14])
@pytest.mark.parametrize("point", [None, 0.02, 0.5, 0.9])
def test_gradients_at_an_operating_point_are_the_objectives_own(loss, labels, point):
    head = Head(
        labels=tuple(map(str, range(labels))), binary=False, outputs_probabilities=False, positive=1,
        operating_point=point, found="",
    )  # fmt: skip
    truth = torch.arange(labels)
    for goal in (Goal(labels=labels), Goal(kind="false_alarm", positive=1, labels=labels)):
        raised = log_probability(goal) if loss == "log_probability" else objective(loss, goal)

        def value(logits, raised=raised):
            return raised(head.at_operating_point(logits, raised), truth, truth)

        assert torch.autograd.gradcheck(value, (_logits(5, labels, labels).requires_grad_(),))


@given(seeds, st.sampled_from([1e-25, 0.1, 100.0, 1e25]))
def test_dlr_does_not_see_the_scale_of_the_logits(seed, scale):
    logits, truth = _logits(seed, 5), torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(dlr(logits * scale, truth), dlr(logits, truth))


def test_dlr_is_that_of_the_paper():
    logits = torch.tensor([[4.0, 1.0, 3.0, -1.0]])
    assert dlr(logits, torch.tensor([0])).item() == pytest.approx(-(4 - 3) / (4 - 1))  # equation 5
    aimed = objective("dlr", Goal(labels=4), aimed=True)
    value = aimed(logits, torch.tensor([0]), torch.tensor([1])).item()
    assert value == pytest.approx(-(4 - 1) / (4 - (1 + -1) / 2))  # equation 6
    assert margin(logits, torch.tensor([2])).item() == 1


def test_of_several_findings_the_one_nearest_to_its_threshold_is_turned():
    logits = torch.tensor([[5.0, -0.5, -3.0], [5.0, -0.5, -3.0]])
    truth = torch.tensor([0b001, 0b111])

    def value(kind, positive=None):
        goal = Goal(kind=kind, positive=positive, labels=3, multilabel=True)
        return objective("margin", goal)(logits, truth, truth).tolist()

    assert value("untargeted") == [-0.5, 3.0]  # the second reads two findings wrongly already, one by 3
    assert value("missed_finding") == [-5.0, 3.0]
    assert value("missed_finding", positive=0) == [-5.0, -5.0]
    assert value("false_alarm")[0] == -0.5


def _findings(seed: int, *, count: int = 30, present: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, 4) of findings, and true readings (N,) of which most are turned nowhere."""
    logits = _logits(seed, 4, count)
    generator = torch.Generator().manual_seed(seed)
    as_read = torch.rand(count, 4, generator=generator) < 0.9
    there = ((logits >= 0) == as_read).long()
    return logits, (there << torch.arange(4)).sum(dim=1)


@pytest.mark.parametrize("positive", [None, 2])
@pytest.mark.parametrize("kind", ["untargeted", "missed_finding", "false_alarm"])
@given(seed=seeds)
def test_losses_of_findings_are_above_zero_where_one_is_turned_and_have_a_gradient(kind, positive, seed):
    logits, truth = _findings(seed)
    logits.requires_grad_()
    goal = Goal(kind=kind, positive=positive, labels=4, multilabel=True)
    decisions = ((logits >= 0).long() << torch.arange(4)).sum(dim=1)
    about = goal.applies(truth)
    for loss in ("cross_entropy", "margin", "dlr"):
        values = objective(loss, goal)(logits, truth, truth)
        assert torch.equal((values > 0)[about], goal.met(decisions, truth)[about])
        gradient = torch.autograd.grad(values.sum(), logits)[0]
        assert (gradient.abs().sum(dim=1) > 0)[about].all()
        assert not gradient[~goal.attackable_findings(truth) & about[:, None]].any()


def test_findings_pull_by_the_inverse_cube_of_how_far_they_are_from_their_thresholds():
    """-1 / √(1/1 + 1/4 + 1/16) of the distances 1, 2 and 4."""
    logits = torch.tensor([[-1.0, 2.0, -4.0]], requires_grad=True)
    truth = torch.tensor([0b010])
    value = objective("cross_entropy", Goal(labels=3, multilabel=True))(logits, truth, truth)
    assert value.item() == pytest.approx(-4 / 21**0.5)
    pulls = torch.autograd.grad(value.sum(), logits)[0][0]
    assert pulls.tolist() == pytest.approx([64 / 21**1.5, -8 / 21**1.5, 1 / 21**1.5])
    assert torch.autograd.gradcheck(
        lambda others: objective("cross_entropy", Goal(labels=3, multilabel=True))(others, truth, truth),
        (logits.detach().double().requires_grad_(),),
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_the_pull_of_findings_has_no_scale(scale):
    logits, truth = _findings(1)
    goal = Goal(labels=4, multilabel=True)
    pulls = []
    for factor in (1.0, scale):
        given_ = (logits * factor).float().requires_grad_()
        pulls.append(torch.autograd.grad(objective("cross_entropy", goal)(given_, truth, truth).sum(), given_)[0])
    torch.testing.assert_close(*pulls)


def test_a_finding_at_its_threshold_and_one_that_nobody_is_after_have_finite_gradients():
    logits = torch.tensor([[0.0, -1.0], [-0.0, 1.0], [-3.0, -2.0]], requires_grad=True)
    truth = torch.tensor([0b01, 0b00, 0b11])  # the last one has no finding that could be a false alarm
    for kind in ("untargeted", "missed_finding", "false_alarm"):
        goal = Goal(kind=kind, labels=2, multilabel=True)
        values = objective("cross_entropy", goal)(logits, truth, truth)
        assert torch.autograd.grad(values.sum(), logits)[0].isfinite().all()


def test_the_log_probability_of_findings_is_that_of_their_soft_maximum_where_a_change_is_of_many_images():
    logits, truth, goal = torch.tensor([[-1.0, 2.0, -4.0]]), torch.tensor([0b010]), Goal(labels=3, multilabel=True)
    odds = torch.tensor([-1.0, -2.0, -4.0]).logsumexp(dim=0)
    of_many = log_probability(goal, of_many=True)(logits, truth, truth)
    torch.testing.assert_close(of_many, torch.nn.functional.logsigmoid(odds)[None])
    of_one = log_probability(goal)(logits, truth, truth)
    torch.testing.assert_close(of_one, torch.nn.functional.logsigmoid(torch.tensor([-4 / 21**0.5])))


def test_goals_say_whom_they_are_about_and_what_meets_them():
    labels, decisions = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 2, 1, NO_ANSWER, 1])

    def about(**words):
        goal = Goal(labels=3, **words)
        return goal.applies(labels).tolist(), goal.met(decisions, labels).tolist()

    assert about() == ([True] * 5, [False, True, False, True, True])
    assert about(kind="targeted", target=1) == ([True, True, False, False, True], [False, False, True, False, True])
    assert about(kind="missed_finding", positive=1) == (
        [False, False, True, True, False],
        [False, True, False, True, True],
    )
    assert about(kind="false_alarm", positive=2) == ([True] * 4 + [False], [False, True, False, False, False])


def test_goals_on_several_findings():
    labels, decisions = torch.tensor([0b01, 0b01, 0b10, 0b11]), torch.tensor([0b11, 0b00, NO_ANSWER, 0b11])

    def about(kind, positive=None):
        goal = Goal(kind=kind, positive=positive, labels=2, multilabel=True)
        return goal.applies(labels).tolist(), goal.met(decisions, labels).tolist()

    assert about("untargeted") == ([True] * 4, [True, True, True, False])
    assert about("missed_finding") == ([True] * 4, [False, True, True, False])
    assert about("false_alarm") == ([True, True, True, False], [True, False, False, False])
    assert about("missed_finding", 1)[0] == [False, False, True, True]


def _first(*name) -> list[float]:
    return Draws.of([key(*name)], CPU).uniform((4,)).flatten().tolist()


def test_a_draw_depends_on_seed_gate_sample_and_restart_and_on_each():
    base = _first(0, "pgd", "test/1", 0)
    assert _first(0, "pgd", "test/1", 0) == base
    others = [
        _first(1, "pgd", "test/1", 0),
        _first(0, "fgsm", "test/1", 0),
        _first(0, "pgd", "test/2", 0),
        _first(0, "pgd", "test/1", 1),
    ]
    assert all(other != base for other in others)
    assert len({tuple(draw) for draw in others}) == len(others)


def test_a_row_draws_the_same_whoever_is_beside_it_and_whatever_they_are_at():
    keys = [key(0, "pgd", f"test/{index}", 0) for index in range(5)]
    together = Draws.of(keys, CPU).uniform((2, 3), at=torch.tensor([0, 1, 2, 3, 4]))
    for row, one in enumerate(keys):
        assert torch.equal(Draws.of([one], CPU).uniform((2, 3), at=row)[0], together[row])


def test_a_draw_is_the_same_on_every_platform_and_in_every_version():
    # SplitMix64 from state 0 gives these first numbers (Vigna's reference implementation).
    reference = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    drawn = Draws.of([0], CPU).uniform((3,)).flatten().tolist()
    assert drawn == [(number >> 40) / 2**24 for number in reference]
    assert key(0, "pgd[2/255]", "test/17", 0) == -4913162645798740452


def test_draws_are_uniform_and_rows_and_steps_are_independent():
    keys = [key(7, "gate", f"s{index}", 0) for index in range(40)]
    drawn = np.stack([Draws.of(keys, CPU).uniform((500,), at=step).numpy() for step in range(5)], axis=1)
    assert kstest(drawn.ravel(), "uniform").pvalue > 1e-3
    correlation = np.corrcoef(drawn.reshape(200, 500)) - np.eye(200)
    assert np.abs(correlation).max() < 0.25
    assert drawn.min() >= 0
    assert drawn.max() < 1


def test_normal_numbers_are_quantiles_that_four_parts_of_a_word_choose():
    word = 0xE220A8397B1DCDAF  # SplitMix64's first from state 0
    parts = [word >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
    places = [part - 2**16 if part >= 2**15 else part for part in parts]  # as signed numbers
    drawn = Draws.of([0], CPU).normal((2, 3))
    expected = norm.ppf([(place + 2**15 + 0.5) / 2**16 for place in places])
    assert drawn.shape == (1, 2, 3)
    assert np.allclose(drawn.flatten()[:4].numpy(), expected, rtol=1e-4)
    assert torch.equal(Draws.of([0], CPU).normal((6,)).flatten()[:3], Draws.of([0], CPU).normal((3,)).flatten())


def test_normal_numbers_are_the_same_on_every_platform():
    table = _quantiles(CPU).numpy().astype("<f4")
    assert (
        hashlib.sha256(table.tobytes()).hexdigest()
        == "e8cfff23047b7e58f6ae180f798c0bd13cfa7a46c5e6db798596865662071226"
    )


def test_normal_numbers_are_normal_and_those_of_a_word_independent():
    keys = [key(1, "gate", f"test/{row}", 0) for row in range(40)]
    drawn = np.stack([Draws.of(keys, CPU).normal((500,), at=step).numpy() for step in range(5)], axis=1)
    assert kstest(drawn.ravel(), "norm").pvalue > 1e-3
    assert _quantiles(CPU).double().square().mean().sqrt() == pytest.approx(1, abs=1e-6)
    assert 4.3 < _quantiles(CPU).max() == -_quantiles(CPU).min() < 4.33
    words = drawn.reshape(-1, 4)
    for values in (words, words**2):
        assert np.abs(np.corrcoef(values.T) - np.eye(4)).max() < 4 / np.sqrt(len(words))


def test_a_row_draws_the_same_normal_numbers_whoever_is_beside_it():
    keys = [key(0, "gate", f"test/{row}", 0) for row in range(5)]
    together = Draws.of(keys, CPU).normal((2, 3), at=torch.tensor([0, 1, 2, 3, 4]))
    for row, one in enumerate(keys):
        assert torch.equal(Draws.of([one], CPU).normal((2, 3), at=row)[0], together[row])


def test_numbers_for_another_purpose_are_others_for_each():
    draws = Draws.of([key(0, "gate", "test/1", 0)], CPU)
    drawn = {tuple(one.uniform((4,)).flatten().tolist()) for one in (draws, draws.apart(1), draws.apart(2))}
    assert len(drawn) == 3
    assert torch.equal(draws.apart(2).uniform((4,)), draws.apart(2).uniform((4,)))
