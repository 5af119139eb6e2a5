"""The search loop: exact work, full batches, the same answers however samples are batched."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from searching import Searched, search

from robustcheck.attacks import APGD, FGSM, FMN, PGD, Square, objective
from robustcheck.attacks.draws import Draws
from robustcheck.errors import NoMemoryError
from robustcheck.evaluation.search.adjudication import adjudicate, finite
from robustcheck.threats import Goal, LinfBall

GOAL = Goal(labels=3)


class Counting(torch.nn.Module):
    """A small nonlinear network that counts the images that reach it, and may run out of memory."""

    def __init__(self, most: int = 10**9) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = torch.nn.Parameter(torch.randn(16, 36, generator=generator))
        self.second = torch.nn.Parameter(torch.randn(3, 16, generator=generator))
        self.seen: list[int] = []
        self.most = most

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(image))
        if len(image) > self.most:
            raise torch.OutOfMemoryError("pretended")
        return torch.relu((image - 0.5).flatten(1) @ self.first.T) @ self.second.T


def _pgd(steps=6, restarts=2, levels=3, goal=GOAL):
    return PGD(
        objective=objective("cross_entropy", goal),
        steps=steps,
        restarts=restarts,
        step_share=2.5 * levels / 255 / steps,
        random_start=True,
    )


ATTACKS = {
    "pgd": _pgd(),
    "apgd": APGD(objective=objective("margin", GOAL), steps=12, restarts=2),
    "apgd-targeted": APGD(objective=objective("dlr", GOAL, aimed=True), steps=12, restarts=2, target_count=2),
    "fmn": FMN(objective=objective("margin", GOAL), steps=12),
    "square": Square(objective=objective("margin", GOAL), queries=100, share=0.8),
}


def _run(
    *,
    batch=16,
    steps=6,
    restarts=2,
    levels=3,
    count=50,
    order=None,
    network=None,
    attack=None,
    doubtful_margin=None,
    rises=False,
) -> Searched:
    network = network or Counting()
    rng = np.random.default_rng(0)
    images = rng.integers(60, 196, (count, 1, 6, 6)).astype(np.uint8)
    logits = torch.cat([network(torch.from_numpy(images[i : i + 1]).float() / 255) for i in range(count)]).detach()
    labels = logits.argmax(1)
    network.seen.clear()
    return search(
        attack or _pgd(steps, restarts, levels),
        network,
        images,
        labels,
        LinfBall(levels=levels, maximum=255),
        count=3,
        batch=batch,
        order=order,
        doubtful_margin=doubtful_margin,
        clean_logits=logits if rises else None,
        aim=lambda sample, rank: [label for label in range(3) if label != int(labels[sample])][rank],
    )


def test_some_samples_are_broken_and_some_hold():
    run = _run()
    assert 5 < len(run.hits) < 45
    assert run.done[-1] == 50
    assert run.done == sorted(run.done)


@cache
def _reference(name: str) -> Searched:
    """What others are compared with: batches of 16, in order."""
    return _run(attack=ATTACKS[name], batch=16, network=_network(name))


def _network(name: str) -> torch.nn.Module:
    """Square keeps an image that is better by the last bit of a float32, which the batch may decide."""
    return InDoubles() if name == "square" else Counting()


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("name", ATTACKS)
def test_the_batch_changes_no_counterexample(name, batch):
    run, other = _reference(name), _run(attack=ATTACKS[name], batch=batch, network=_network(name))
    assert len(run.hits) > 5
    if name == "fmn":  # ends on the border itself, where the last bit of a float decides which of its points is nearest
        assert np.array_equal(other.distances(50), run.distances(50))
    else:
        assert other.found == run.found


@pytest.mark.parametrize("name", ATTACKS)
def test_the_order_of_the_samples_changes_no_counterexample(name):
    order = np.random.default_rng(1).permutation(50).tolist()
    assert _run(attack=ATTACKS[name], order=order, network=_network(name)).found == _reference(name).found


def test_running_out_of_memory_changes_no_counterexample():
    run = _run(batch=16, network=Counting(most=3))
    assert run.found == _run().found
    assert run.engine.task.candidate.chunks.halved_to == 2


def test_a_network_that_takes_not_even_one_image_ends_in_a_sentence():
    network = Counting()
    run = _run(network=network)
    network.most = 0
    with pytest.raises(NoMemoryError, match="batch of one image"):
        run.engine.run([(0, 0)])


def test_the_meter_counts_what_really_reached_the_network():
    run = _run()
    meter = run.engine.task.candidate.meter
    assert sum(run.engine.task.candidate.network.forward.seen) == meter.forward
    assert 0 < meter.gradient < meter.forward


def test_nothing_is_computed_for_a_sample_once_it_is_broken():
    run = _run(batch=1, restarts=1, steps=6)
    looks = 50 + run.engine.task.trace.refuted  # each at the image, and at its neighbour if that is another
    gradients = 0
    for sample in range(50):
        hit = run.hits.get(sample)
        # Broken at step s: gradients at 0 … s, of which the last one showed it; at the last image: all steps.
        gradients += 6 if hit is None else min(hit.step + 1, 6)
    assert run.engine.task.candidate.meter.gradient == gradients
    assert gradients + looks <= run.engine.task.candidate.meter.forward <= gradients + 2 * looks


def test_a_sample_that_holds_costs_its_steps_and_at_most_two_looks_a_restart():
    run = _run(levels=1, count=8, restarts=3, steps=4, batch=1)
    held = [sample for sample in range(8) if sample not in run.hits]
    assert len(held) >= 4
    alone = _run(levels=1, count=8, restarts=3, steps=4, order=held)
    assert alone.engine.task.candidate.meter.gradient == len(held) * 3 * 4
    looks = alone.engine.task.candidate.meter.forward - alone.engine.task.candidate.meter.gradient
    least = len(held) * 3 + alone.engine.task.trace.refuted
    assert least < looks <= 2 * least  # a border's corner is its own neighbour


def test_an_image_that_is_its_own_neighbour_is_looked_at_once():
    run = _run(attack=FGSM(objective=objective("cross_entropy", GOAL)), levels=1)
    held = 50 - len(run.hits)
    assert held > 5
    # FGSM's image is a corner of the ball: there is nothing beside it on the gradient's side.
    assert run.engine.task.candidate.meter.forward == run.engine.task.candidate.meter.gradient + 50


def test_neighbours_are_looked_at_only_where_the_search_came_near_the_border():
    far, close = _run(restarts=1, doubtful_margin=0.0), _run(restarts=1, doubtful_margin=1e9)
    assert far.found == close.found
    looks = [run.engine.task.candidate.meter.forward - run.engine.task.candidate.meter.gradient for run in (far, close)]
    assert looks[0] == 50 < looks[1]


class Wandering(PGD):
    """Goes to images that are so many grey levels brighter, wherever gradients lead."""

    levels = (27.2, 1.3, 3.3)

    def step(self, state, told, clean, ball, draws):
        return {"images": clean + torch.tensor(self.levels)[told.step].view(-1, 1, 1, 1) / ball.maximum}


@pytest.mark.parametrize(("doubtful_margin", "looks"), [(0.15, 2), (0.1, 1)])
def test_a_search_that_came_near_and_went_away_again_gets_its_second_look(doubtful_margin, looks):
    """At its second point its margin is .12."""
    images, truth = np.full((1, 1, 6, 6), 100, dtype=np.uint8), torch.zeros(1, dtype=torch.int64)
    attack = Wandering(objective=objective("margin", Goal(labels=2)), steps=3, restarts=1, step_share=0.0)
    ball = LinfBall(levels=30, maximum=255)
    run = search(attack, Bright(), images, truth, ball, count=2, doubtful_margin=doubtful_margin)
    assert not run.hits
    meter = run.engine.task.candidate.meter
    assert meter.forward - meter.gradient == looks


class Brightening(Wandering):
    levels = tuple(range(1, 9))


class Returning(Wandering):
    levels = (1.0, 5.0, 3.0, 2.0, 2.0, 6.0, 4.0, 1.0)


@pytest.mark.parametrize(("kind", "rose"), [(Brightening, [0, 5, 7]), (Returning, [0, 5, 6])])
def test_the_last_quarter_of_eight_steps_are_two(kind, rose):
    """Points are asked about before each step: the clean image, and those of the first seven steps."""
    images, truth = np.full((1, 1, 6, 6), 100, dtype=np.uint8), torch.zeros(1, dtype=torch.int64)
    attack = kind(objective=objective("margin", Goal(labels=2)), steps=8, restarts=1, step_share=0.0)
    clean = Bright()(torch.from_numpy(images).float() / 255)
    run = search(attack, Bright(), images, truth, LinfBall(levels=30, maximum=255), count=2, clean_logits=clean)
    rise = run.engine.task.trace.rises[0]["pgd"]
    told = [(loss + 100 * 27.5 / 255) / (100 / 255) for loss in (rise.began, rise.earlier, rise.highest)]
    assert told == pytest.approx(rose, abs=1e-3)


class Bright(torch.nn.Module):
    """Is turned by a mean of half the range: a margin of 1 is 1 % of it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        excess = 50 * (image.mean((1, 2, 3)) - 0.5)
        return torch.stack([-excess, excess], dim=1)


def test_the_batch_is_full_until_the_last_samples():
    run = _run(batch=16, restarts=1)
    calls = [seen for seen in run.engine.task.candidate.network.forward.seen if seen > 1]
    assert max(calls) == 16
    total = run.engine.task.candidate.meter.gradient
    assert sum(seen == 16 for seen in run.engine.task.candidate.network.forward.seen) >= total / 16 * 0.6


def test_every_counterexample_is_stored_admissible_and_read_wrongly_by_the_artefact():
    run = _run()
    for hit in run.hits.values():
        assert hit.stored.dtype == np.uint8
        assert hit.stored.base is None, "a view would keep the whole turn's images in memory"
        logits = run.engine.task.candidate.network.forward(torch.from_numpy(hit.stored[None]).float() / 255)
        assert int(logits.argmax()) == hit.decision != int(run.engine.task.labels[hit.sample])
        assert hit.distance <= 3


class Fine(torch.nn.Module):
    """Is turned by half a grey level, and by that only: nothing that can be stored turns it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        off_grid = ((image * 255 - (image * 255).round()).abs() > 0.2).float()
        wrong = off_grid.mean((1, 2, 3)) * 100 + image.mean((1, 2, 3))
        return torch.stack([torch.ones_like(wrong) * 5, wrong], dim=1)


def test_a_proposal_that_rounding_undoes_is_searched_on_and_not_counted():
    attack = PGD(
        objective=objective("cross_entropy", Goal(labels=2)),
        steps=4,
        restarts=1,
        step_share=0.3 / 255,
        random_start=True,
    )
    images = np.full((4, 1, 6, 6), 100, dtype=np.uint8)
    labels = torch.zeros(4, dtype=torch.int64)
    run = search(attack, Fine(), images, labels, LinfBall(levels=2, maximum=255), count=2)
    assert run.hits == {}
    assert run.engine.task.trace.refuted > 0
    assert run.engine.task.candidate.meter.gradient == 16


class Cheating(PGD):
    """Proposes images outside the ball: a defective attack."""

    def step(self, state, told, clean, ball, draws):
        return {"images": 1 - clean}


def test_no_attack_is_believed_that_leaves_the_ball():
    run = _run(attack=Cheating(**vars(_pgd(restarts=1))))
    assert run.hits == {}
    assert run.engine.task.trace.scores == {}


def test_a_row_that_leaves_makes_room_in_place_and_the_others_do_not_move():
    rows = _run(batch=4, restarts=1, steps=30)
    alone = [_run(batch=1, restarts=1, steps=30, order=[sample]).found for sample in range(50)]
    assert rows.found == {sample: hit for one in alone for sample, hit in one.items()}


def test_a_search_begins_where_a_smaller_budget_ended():
    far = torch.ones(1, 1, 6, 6)
    begun: list[int] = []

    def known_starts(starts):
        begun.extend(sample for sample, _ in starts)
        which = np.array([place for place, (sample, _) in enumerate(starts) if sample == 7], dtype=np.int64)
        return (which, far) if len(which) else None

    images = np.full((9, 1, 6, 6), 100, dtype=np.uint8)
    labels = torch.zeros(9, dtype=torch.int64)
    attack = PGD(
        objective=lambda logits, _labels, _aims: logits.sum(dim=1) * 0, steps=1, restarts=1, step_share=0.0,
        random_start=True,
    )  # fmt: skip
    ball = LinfBall(levels=5, maximum=255)
    run = search(attack, Steady(), images, labels, ball, count=2, known_starts=known_starts)
    assert sorted(begun) == list(range(9))
    assert torch.allclose(run.held[7] * 255, torch.full((1, 6, 6), 105.0))
    assert all((run.held[sample] * 255 - 105).abs().max() > 1 for sample in range(9) if sample != 7)


class Steady(torch.nn.Module):
    """Reads every image as the first label."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.stack([image.mean((1, 2, 3)) * 0 + 1, image.mean((1, 2, 3)) * 0], dim=1)


class NotANumber(Counting):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = super().forward(image)
        return logits + torch.sqrt(torch.zeros_like(image).flatten(1).sum(1, keepdim=True) * image.mean())


def test_gradients_that_are_nan_are_noted_and_not_followed():
    run = _run(network=NotANumber(), restarts=1)
    assert run.engine.task.trace.not_finite == set(range(50))
    assert run.engine.task.trace.gradients_not_finite == 50 * 6
    assert run.engine.task.trace.followable == set()


def test_proposals_of_many_are_judged_as_those_of_one():
    run = _run()
    clean = torch.full((5, 1, 6, 6), 100 / 255)
    proposals = clean + torch.tensor([0.0, 1.4, 1.6, 3.4, 3.6]).view(-1, 1, 1, 1) / 255
    labels = torch.zeros(5, dtype=torch.int64)
    draws, at = Draws.of(range(5), torch.device("cpu")), torch.zeros(5, dtype=torch.int64)
    judged = adjudicate(run.engine.task.viewer, run.engine.ball, proposals, clean, labels, draws, at)
    assert judged.stored[:, 0, 0, 0].tolist() == [100, 101, 102, 103, 104]
    assert judged.distance.tolist() == [0, 1, 2, 3, 4]
    assert judged.admissible.tolist() == [
        False,
        True,
        True,
        True,
        False,
    ]  # the clean image is none, nor is one beyond 3
    assert not judged.broken[4]


def test_a_score_that_is_no_number_is_none():
    scores = torch.tensor([0.5, torch.nan, torch.inf])
    assert [finite(scores, row) for row in range(3)] == [0.5, None, None]
    assert finite(None, 0) is None


def test_scores_are_those_of_the_budget_and_so_none_of_a_search_that_goes_on_to_the_nearest():
    assert len(_run(levels=1).engine.task.trace.scores) > 20
    nearest = _run(attack=ATTACKS["fmn"], levels=1)
    assert max(hit.distance for hit in nearest.hits.values()) > 1
    assert not nearest.engine.task.trace.scores


def test_of_all_restarts_the_score_is_kept_that_hurts_most():
    staying = replace(_pgd(), step_share=0.0)  # where it begins: at random
    first, both = (_run(attack=replace(staying, restarts=count), network=InDoubles()).engine.task for count in (1, 2))
    hurts = {
        sample: (score - both.trace.scores[sample]) * (1 if both.labels[sample] == 2 else -1)
        for sample, score in first.trace.scores.items()
    }
    assert min(hurts.values()) > -1e-6
    assert max(hurts.values()) > 1e-3


class OfSizes(Counting):
    """Gradients of one factor a row."""

    factors = torch.tensor([1, 0, torch.nan, torch.inf, 1e-30, 1e30])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.requires_grad:
            image.register_hook(lambda gradient: gradient * self.factors[:, None, None, None])
        return super().forward(image)


def test_each_gradient_is_followed_that_is_finite_and_not_zero():
    run = _run(network=OfSizes(), count=6, levels=1, steps=2, restarts=1)
    assert not run.hits  # all rows stay where they are
    trace = run.engine.task.trace
    assert trace.followable == {0, 4, 5}  # squares of 1e-30 are 0, and of 1e30 infinite
    assert trace.not_finite == {2, 3}
    assert (trace.gradients, trace.gradients_zero, trace.gradients_not_finite) == (12, 2, 4)


class Lost(Counting):
    """From some gradient on they are of no use."""

    def __init__(self, followed: int, factor: float) -> None:
        super().__init__()
        self.followed, self.factor = followed, factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.requires_grad:
            factor = 1.0 if self.followed > 0 else self.factor
            self.followed -= 1
            image.register_hook(lambda gradient: gradient * factor)
        return super().forward(image)


@pytest.mark.parametrize("factor", [0.0, torch.nan])
@pytest.mark.parametrize(("followed", "steps", "enough"), [(2, 6, False), (3, 6, True), (1, 3, False), (1, 1, True)])
def test_a_search_counts_where_half_of_its_gradients_could_be_followed(followed, steps, enough, factor):
    run = _run(network=Lost(followed, factor), batch=64, levels=1, steps=steps, restarts=1)
    held = set(range(50)) - set(run.hits)
    assert len(held) > 20
    assert held & run.engine.task.trace.followable == (held if enough else set())


def test_of_several_searches_of_a_sample_one_that_counts_is_enough():
    run = _run(network=Lost(4, 0.0), batch=64, levels=1, steps=4, restarts=3)
    assert run.engine.task.trace.followable == set(range(50))


class Plateau(torch.nn.Module):
    """Dark below the middle, where bright seems farther than it is, and bright above it, where it has no gradient."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        brightness = image.flatten(1).mean(dim=1)
        excess = torch.where(brightness < 0.5, brightness - 1, 1)
        return torch.stack([-excess, excess], dim=1)


def test_where_a_search_has_what_it_wants_it_needs_no_gradient():
    images = np.full((4, 1, 6, 6), 120, dtype=np.uint8)
    attack = FMN(objective=objective("margin", Goal(labels=2)), steps=30)
    run = search(attack, Plateau(), images, torch.zeros(4, dtype=torch.int64), LinfBall(levels=1, maximum=255), count=2)
    trace = run.engine.task.trace
    assert trace.gradients_zero > 0.8 * trace.gradients
    assert trace.followable == {0, 1, 2, 3}


class Precipice(Plateau):
    """The same, but where it is bright its gradient is no number."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        brightness = image.flatten(1).mean(dim=1)
        one = torch.where(brightness < 0.5, 1.0, 0 * brightness).sqrt()  # 0 there, with a slope of 0 times infinity
        return super().forward(image) + 0 * one[:, None]


def test_what_is_no_number_is_lost_where_a_search_has_what_it_wants_too():
    images = np.full((4, 1, 6, 6), 120, dtype=np.uint8)
    attack = FMN(objective=objective("margin", Goal(labels=2)), steps=30)
    ball, truth = LinfBall(levels=1, maximum=255), torch.zeros(4, dtype=torch.int64)
    trace = search(attack, Precipice(), images, truth, ball, count=2).engine.task.trace
    assert trace.gradients_not_finite > 0.5 * trace.gradients
    assert trace.followable == set()


class BetweenLevels(torch.nn.Module):
    """Is turned by any part of a grey level, and has no gradient."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        off_grid = ((image * 255 - (image * 255).round()).abs() > 0.01).flatten(1).any(dim=1).float()
        return torch.stack([torch.full_like(off_grid, 0.5), off_grid], dim=1) + 0 * image.sum()


def test_what_had_nothing_to_follow_could_not_be_followed_though_the_search_had_what_it_wanted():
    images, truth = np.full((4, 1, 6, 6), 100, dtype=np.uint8), torch.zeros(4, dtype=torch.int64)
    attack = PGD(objective=objective("margin", Goal(labels=2)), steps=4, restarts=1, step_share=0.0, random_start=True)
    run = search(attack, BetweenLevels(), images, truth, LinfBall(levels=3, maximum=255), count=2)
    assert not run.hits
    assert run.engine.task.trace.refuted > 0
    assert run.engine.task.trace.followable == set()


class InDoubles(Counting):
    """Rounds to the same float32 whatever the batch is; how a processor adds up float32 may depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image.double()).float()


def test_losses_of_the_first_three_quarters_are_remembered_whenever_a_search_began():
    # Later searches and restarts begin in the turns of others.
    run = _run(network=InDoubles(), batch=7, steps=8, levels=1, rises=True)
    assert len(run.engine.task.trace.rises) > 20
    other = _run(network=InDoubles(), batch=64, steps=8, levels=1, rises=True)
    for sample, courses in run.engine.task.trace.rises.items():
        rise = courses["pgd"]
        assert rise.earlier == pytest.approx(other.engine.task.trace.rises[sample]["pgd"].earlier, abs=1e-5)
        assert np.isfinite(rise.earlier)
        assert rise.began < rise.highest
        assert rise.earlier <= rise.highest


class Rounded(InDoubles):
    """Its gradient is zero."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward((image * 64).round() / 64)


def test_what_chance_raised_at_the_start_is_no_rise():
    run = _run(network=Rounded(), restarts=3, levels=2, rises=True)
    assert len(run.engine.task.trace.rises) > 20
    for courses in run.engine.task.trace.rises.values():
        assert courses["pgd"].highest <= courses["pgd"].began


def test_what_began_where_another_search_ended_rose_above_the_image():
    network, images = InDoubles(), np.random.default_rng(0).integers(60, 196, (50, 1, 6, 6)).astype(np.uint8)
    logits = network(torch.from_numpy(images).float() / 255).detach()
    truth = logits.argmax(dim=1)
    run = search(
        _pgd(levels=1, restarts=1), network, images, truth, LinfBall(levels=1, maximum=255), count=3,
        known_starts=lambda starts: (np.arange(len(starts)), torch.ones(len(starts), 1, 6, 6)), clean_logits=logits,
    )  # fmt: skip
    losses = objective("cross_entropy", GOAL)(logits, truth, truth)
    assert len(run.engine.task.trace.rises) > 20
    for sample, courses in run.engine.task.trace.rises.items():
        assert courses["pgd"].began == pytest.approx(float(losses[sample]), abs=1e-6)
