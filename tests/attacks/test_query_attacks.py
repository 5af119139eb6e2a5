"""Attacks that only ask, against linear networks whose smallest adversarial perturbation is known."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from building import candidate
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from searching import search
from test_closed_forms import DEEP, _problem
from torch.utils._python_dispatch import TorchDispatchMode

from robustcheck.attacks import Answers, build
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.partial_information import PartialInformation
from robustcheck.evaluation.search import query_loop
from robustcheck.models import LabelOracle, TopKOracle
from robustcheck.models.head import NO_ANSWER
from robustcheck.policy import ATTACKS
from robustcheck.threats import Goal, L2Ball, LinfBall

GOAL = Goal(labels=2)
ASKING = [name for name, spec in ATTACKS.items() if spec.knowledge in ("scores", "top-k", "label")]
SEARCHING = [name for name in ASKING if name != "noise"]
IN_L2 = [name for name in SEARCHING if not ATTACKS[name].linf_only]


def _attack(name, ball, queries, *, stored=False, goal=GOAL, **parameters):
    (attack,) = build(ATTACKS[name](name=name, **parameters), ball, goal, queries=queries, stored=stored)
    return attack


@pytest.mark.parametrize("name", SEARCHING)
def test_in_linf_the_optimum_is_reached_within_a_quarter_and_never_passed(name):
    network, images, truth, smallest = _problem(labels=2, seed=2, count=40)
    ball = LinfBall(levels=12, maximum=255)
    found = search(_attack(name, ball, 2000), network, images, truth, ball, count=2, queries=2000)
    assert {row for row in range(40) if smallest[row] * 1.25 <= 12} <= set(found.hits)
    assert not set(found.hits) & {row for row in range(40) if smallest[row] > 12}
    assert 5 < len(found.hits) < 40


@pytest.mark.parametrize("name", IN_L2)
def test_in_l2_the_optimum_is_reached_within_a_quarter_and_never_passed(name):
    network, images, truth, smallest = _problem(labels=2, seed=2, maximum=DEEP, dual=2)
    levels = float(np.median(smallest))
    ball = L2Ball(levels=Fraction(levels), maximum=DEEP)
    found = search(_attack(name, ball, 2000), network, images, truth, ball, count=2, queries=2000)
    assert {row for row in range(30) if smallest[row] * 1.25 <= levels} <= set(found.hits)
    assert not set(found.hits) & {row for row in range(30) if smallest[row] > levels}


class Plane(torch.nn.Module):
    """Two labels, of which the second is read above a plane."""

    def __init__(self, weight: torch.Tensor, level: float) -> None:
        super().__init__()
        self.weight, self.level = torch.nn.Parameter(weight), level

    def forward(self, image):
        excess = image.flatten(1) @ self.weight - self.level
        return torch.stack([-excess, excess], dim=1)

    def below(self, _sample, _attempt):
        """Black where weights are above 0, white elsewhere."""
        return (self.weight < 0).float().view(1, 6, 6)


def _bright(levels, *, count=20):
    """A plane, and bright images (N, 1, 6, 6) of 16 bits that about so many levels bring below it, in L∞."""
    weight = torch.randn(36, generator=torch.Generator().manual_seed(2))
    images = np.random.default_rng(2).integers(40_000, 60_000, (count, 36))
    network = Plane(weight, 50_000 / 65535 * float(weight.sum()))
    excess = (images - 50_000) @ weight.double().numpy() / float(weight.abs().sum()) - levels
    moved = (images - excess[:, None] * weight.sign().numpy()).round().astype(np.uint16)
    return network, moved.reshape(count, 1, 6, 6), torch.ones(count, dtype=torch.int64)


SMALL = LinfBall(levels=130, maximum=65535)  # a bright float32 pixel is off this by more than 1e-5 of it


@pytest.mark.parametrize("name", ASKING)
def test_in_a_ball_of_few_levels_of_many_what_is_found_is_judged_at_once(name):
    network, images, truth = _bright(13)
    attack = _attack(name, SMALL, 600)
    found = search(attack, network, images, truth, SMALL, count=2, queries=600, elsewhere=network.below)
    assert len(found.hits) >= 15
    assert max(hit.queries for hit in found.hits.values()) < 600
    assert found.done[-1] == len(images), "as far as progress is told"


class Wrong(torch.nn.Module):
    """Reads any image as the first of two labels."""

    def forward(self, image):
        return torch.tensor([[1.0, 0.0]]).expand(len(image), 2)


def test_of_large_images_what_was_asked_about_at_the_border_is_judged():
    """Squares of three million pixels do not add up in float32."""
    images, truth = np.full((1, 3, 1024, 1024), 100, np.uint8), torch.ones(1, dtype=torch.int64)
    ball = L2Ball(levels=Fraction(255, 2), maximum=255)
    found = search(_attack("noise", ball, 3), Wrong(), images, truth, ball, count=2, queries=3)
    assert found.hits[0].queries == 1


class Overflowing(torch.nn.Module):
    """Has no answer to images that are brighter than half the range."""

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = score

    def forward(self, image):
        scores = torch.tensor([1.0, 0.0]).repeat(len(image), 1)
        scores[image.mean(dim=(1, 2, 3)) > 0.5, 1] = self.score
        return scores


@pytest.mark.parametrize(("name", "stored"), [("square", True), ("nes", False)])
def test_it_is_counted_what_a_twin_alone_reads_as_wanted_and_what_of_that_can_be_stored(name, stored, monkeypatch):
    """Of two samples out of four it reads what the artefact reads; of the others all, or what lies between levels."""

    def with_twin(network, **more):
        asked = candidate(network, **more)

        def twin(image):
            between = (image * 65535 - (image * 65535).round()).abs().amax(dim=(1, 2, 3)) > 0.1
            other = (image.mean(dim=(1, 2, 3)) < 0.25) & (between | stored)
            return torch.where(other[:, None], network(image).flip(1), network(image))

        return replace(asked, network=replace(asked.network, twin=twin))

    monkeypatch.setattr("searching.candidate", with_twin)
    images, truth = np.full((4, 1, 6, 6), 30_000, np.uint16), torch.zeros(4, dtype=torch.int64)
    images[2:] = 10_000
    found = search(_attack(name, SMALL, 60), Wrong(), images, truth, SMALL, count=2)
    assert not found.hits
    refuted = found.engine.task.trace.refuted
    assert refuted == 2 * 60 if stored else refuted > 0
    assert found.engine.task.trace.disagreed == (refuted if stored else 0)


def test_what_held_is_searched_again_with_the_queries_that_its_first_search_left():
    network, images, truth = _bright(400)  # more than the ball has, so that all hold
    found = search(_attack("square", SMALL, 60, restarts=2), network, images, truth, SMALL, count=2, queries=60)
    assert not found.hits
    assert found.engine.oracle.counts.tolist() == [60] * 20


@pytest.mark.parametrize("name", ["square", "nes"])
def test_scores_are_followed_that_change(name):
    network, images, truth = _bright(400)  # more than the ball has, so that all hold
    found = search(_attack(name, SMALL, 60), network, images, truth, SMALL, count=2, queries=60)
    assert found.engine.task.trace.followable == set(range(20))
    same = torch.zeros_like(truth)
    found = search(_attack(name, SMALL, 60), Wrong(), images, same, SMALL, count=2, queries=60)
    assert not found.engine.task.trace.followable


@pytest.mark.parametrize("score", [np.nan, -np.inf])
def test_of_a_turn_s_images_one_without_an_answer_is_judged_before_those_that_are_read_rightly(score):
    images, truth = np.full((4, 1, 6, 6), 32767, np.uint16), torch.zeros(4, dtype=torch.int64)
    found = search(_attack("nes", SMALL, 60), Overflowing(score), images, truth, SMALL, count=2, queries=60)
    assert {sample: hit.queries for sample, hit in found.hits.items()} == dict.fromkeys(range(4), 51)  # a turn


@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize(("name", "norm"), [("hopskipjump", "l2"), ("label_only", "l2"), ("label_only", "linf")])
def test_what_a_stored_oracle_reads_as_wanted_is_what_is_judged(name, norm, white, monkeypatch):
    network, images, truth, smallest = _problem(labels=2, seed=2, dual=2 if norm == "l2" else 1)
    if white:  # in every other column, from where attacks ask beyond the range
        images[..., ::2] = 255
        truth = network(torch.from_numpy(images.astype(np.float32)) / 255).argmax(dim=1)
    levels = int((2 if white else 1.2) * np.median(smallest))
    ball = L2Ball(levels=Fraction(levels), maximum=255) if norm == "l2" else LinfBall(levels=levels, maximum=255)
    clean, done, seen = torch.from_numpy(images.astype(np.int32)), set(), []
    labels = LabelOracle.labels

    def watched(oracle, samples, asked):
        read = labels(oracle, samples, asked)
        assert not done & set(samples.tolist())  # a counterexample that was asked about ends its search
        there = ball.contains((asked.clamp(0, 1) * 255).round().int(), clean[samples]) & (read != truth[samples])
        done.update(samples[there].tolist())
        seen.append(int(there.sum()))
        return read

    monkeypatch.setattr(LabelOracle, "labels", watched)
    attack = _attack(name, ball, 1000, stored=True)
    found = search(attack, network, images, truth, ball, count=2, queries=1000, stored=True)
    assert len(done) >= 10
    assert done <= set(found.hits)


@pytest.mark.parametrize("stored", [False, True])
def test_in_l2_a_change_below_half_a_level_grows_to_be_judged_unless_files_were_asked_about(stored):
    """Of .4 level a pixel nothing is left when it is rounded; in the ball, five pixels may change by one."""
    weight = 1 + 0.1 * torch.randn(36, generator=torch.Generator().manual_seed(2))
    network = Plane(weight, (128 * float(weight.sum()) - 3) / 255)
    images, truth = np.full((1, 1, 6, 6), 128, np.uint8), torch.ones(1, dtype=torch.int64)
    ball = L2Ball(levels=Fraction(13, 5), maximum=255)
    found = search(_attack("noise", ball, 8), network, images, truth, ball, count=2, queries=8, stored=stored)
    clean = torch.full((1, 1, 6, 6), 128 / 255)
    judged = found.engine._stored(clean - 0.4 / 255 * weight.view(1, 1, 6, 6), clean)
    changed = ((judged - clean) * 255).round()
    assert changed.abs().sum() == (0 if stored else 5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("better", [True, False])
def test_square_asks_about_no_image_that_it_knows(channels, better):
    """Near a search's end half of the grey pixels that are tried have the drawn colour already."""
    clean, queries = torch.full((8, channels, 5, 5), 0.5), 400
    attack, draws = _attack("square", SMALL, queries), Draws.of(list(range(8)), torch.device("cpu"))
    state = attack.start(clean, clean, SMALL, draws)
    for turn in range(queries):
        known, asked = state["best"], attack.ask(state, clean, SMALL, draws)
        assert (known != asked.images).flatten(1).any(dim=1).all(), turn
        rising = torch.full((8,), float(turn)) if better or not turn else torch.full((8,), -1.0)
        answers = Answers(loss=rising, fooled=rising < -1, shown=rising < -1)
        state = attack.learn(state, asked, answers, clean, SMALL, draws)


@pytest.mark.parametrize("k", [1, 2])
def test_tries_of_a_ball_of_few_levels_arrive_and_estimates_follow(k, monkeypatch):
    network, images, truth = _bright(400)  # more than the ball has, so that searches go on
    estimates, estimated = [], PartialInformation._estimated
    monkeypatch.setattr(
        PartialInformation, "_estimated", lambda *given: estimates.append(len(given[2])) or estimated(*given)
    )
    attack, start = _attack("partial_information", SMALL, 600, k=k), network.below
    assert not search(attack, network, images, truth, SMALL, count=2, queries=600, k=k, elsewhere=start).hits
    assert sum(estimates) >= 20 * 3


@pytest.mark.parametrize("name", ["partial_information", "label_only"])
def test_estimates_ask_about_files_that_are_others(name):
    """A quarter of a level, which is a quarter of the ball, changes nearly no pixel of a file."""
    ball = LinfBall(levels=1, maximum=255)
    attack, draws = _attack(name, ball, 600, stored=True), Draws.of(list(range(8)), torch.device("cpu"))
    clean = torch.full((8, 1, 6, 6), 128 / 255)
    state = attack.start(clean, clean, ball, draws) | {"trying": torch.zeros(8, dtype=torch.bool)}
    asked = attack.ask(state, clean, ball, draws)
    assert ((asked.images * 255).round() != 128).float().mean() > 0.25


def test_noisy_copies_lie_on_all_sides_of_the_point_that_they_are_about():
    """A share of copies that lie to one side would be the score of another point."""
    attack, draws = _attack("label_only", SMALL, 600, copies=20), Draws.of(list(range(8)), torch.device("cpu"))
    clean = torch.full((8, 1, 6, 6), 0.5)
    state = attack.start(clean, clean, SMALL, draws)
    asked = attack.ask(state | {"trying": torch.zeros(8, dtype=torch.bool)}, clean, SMALL, draws)
    offset = asked.images - 0.5  # pairs, whose own cancel, each with its copies
    assert len(offset) == 8 * 2 * 20
    assert offset.mean().abs() < SMALL.radius / 100
    assert offset.std() > SMALL.radius / 10


def test_a_point_s_score_is_the_share_of_all_its_copies_that_are_read_as_wanted():
    """All but the first copy are so on one side, and none on the other: that is where the slope leads."""
    attack, draws = (
        _attack("label_only", SMALL, 600, copies=20, samples=2),
        Draws.of(list(range(8)), torch.device("cpu")),
    )
    clean = torch.full((8, 1, 6, 6), 0.5)
    state = attack.start(clean, clean, SMALL, draws) | {"trying": torch.zeros(8, dtype=torch.bool)}
    asked = attack.ask(state, clean, SMALL, draws)
    wanted = torch.zeros(8, 2, attack.copies, dtype=torch.bool)
    wanted[:, 0, 1:] = True
    answers = Answers(loss=torch.where(wanted, 1.0, -1.0).flatten(), fooled=wanted.flatten(), shown=wanted.flatten())
    state = attack.learn(state, asked, answers, clean, SMALL, draws)
    assert ((state["mean"] * asked.noise[:, 0]).flatten(1).sum(dim=1) > 0).all()


@pytest.mark.parametrize("name", ["partial_information", "label_only"])
def test_an_estimate_that_tells_nothing_leaves_a_part_of_those_before(name):
    attack = _attack(name, SMALL, 600, samples=2, momentum=0.75)
    clean, draws = torch.full((8, 1, 6, 6), 0.5), Draws.of(list(range(8)), torch.device("cpu"))
    known = {"trying": torch.zeros(8, dtype=torch.bool), "mean": torch.ones_like(clean)}
    state = attack.start(clean, clean, SMALL, draws) | known
    asked, same = attack.ask(state, clean, SMALL, draws), torch.zeros(16)
    answers = Answers(loss=same, fooled=same > 0, shown=same > 0)
    assert (attack.learn(state, asked, answers, clean, SMALL, draws)["mean"] == 0.75).all()


@pytest.mark.parametrize("name", SEARCHING)
def test_three_labels_are_turned_within_half_the_optimum(name):
    network, images, truth, smallest = _problem(labels=3, seed=3, count=40)
    ball = LinfBall(levels=16, maximum=255)
    attack = _attack(name, ball, 2000, goal=Goal(labels=3))
    found = search(attack, network, images, truth, ball, count=3, queries=2000)
    required = {row for row in range(40) if smallest[row] * 1.5 <= 16}
    assert len(required) >= 20
    assert required <= set(found.hits)
    assert not set(found.hits) & {row for row in range(40) if smallest[row] > 16}


@pytest.mark.parametrize(
    ("ball", "given", "stored", "sigma"),
    [
        (LinfBall(levels=8, maximum=255), {}, False, 4 / 255),
        (LinfBall(levels=8, maximum=255), {"sigma": "0.001"}, False, 0.001),
        (LinfBall(levels=1, maximum=255), {}, True, 1 / 255),  # half a level would change nothing
        (SMALL, {}, False, 0.001),
        (L2Ball(levels=Fraction(255), maximum=255), {}, False, 0.001),
    ],
)
def test_nes_asks_at_half_of_epsilon_in_linf_and_at_a_thousandth_at_least(ball, given, stored, sigma):
    assert _attack("nes", ball, 600, stored=stored, **given).sigma == pytest.approx(sigma)


class Stepped(torch.nn.Module):
    """Two labels, whose scores change in steps, as those that are rounded or a tree's."""

    def forward(self, image):
        excess = 200 * (image.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-excess, excess], dim=1).round()


def test_nes_sees_scores_change_that_are_rounded():
    """A quarter of a grey level changes none of them."""
    images = np.linspace(110, 126, 20).round().astype(np.uint8)[:, None, None, None].repeat(6, 2).repeat(6, 3)
    truth, ball = torch.zeros(20, dtype=torch.int64), LinfBall(levels=16, maximum=255)
    found = search(_attack("nes", ball, 600, blur=0.25), Stepped(), images, truth, ball, count=2, queries=600)
    assert {row for row in range(20) if images[row].max() >= 116} <= set(found.hits)


class Bands(torch.nn.Module):
    """Three labels along one direction: the third is read from 0 on, and the second farther away than any ball."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(36, generator=torch.Generator().manual_seed(2)))

    def forward(self, image):
        along = 4 * (image.flatten(1) - 0.5) @ self.weight
        return torch.stack([torch.zeros_like(along), 2 * along - 12, along], dim=1)

    def start(self, _sample, _attempt):
        """Of the second label; in the ball, the nearest point to it is not the one farthest along the direction."""
        weight = self.weight.detach()
        return ((weight > 0) ^ (weight.abs() < weight.abs().median())).float().view(1, 6, 6)


@pytest.mark.parametrize("kind", ["untargeted", "missed_finding"])
def test_who_passes_through_another_wrong_label_aims_at_that_one(kind):
    """The label that the start was read as, of which nothing is told near the sample, leads nowhere."""
    network, ball = Bands(), LinfBall(levels=12, maximum=255)
    weight, least = network.weight.detach().double().numpy(), np.linspace(2, 14, 20)
    images = np.random.default_rng(0).integers(90, 166, (20, 36)) / 255
    excess = (images - 0.5) @ weight + least / 255 * np.abs(weight).sum()
    images = images - excess[:, None] * weight / (weight @ weight)
    images = (255 * images).round().astype(np.uint8).reshape(20, 1, 6, 6)
    truth, goal = torch.zeros(20, dtype=torch.int64), Goal(labels=3, kind=kind, positive=0)
    attack = _attack("partial_information", ball, 500, goal=goal)
    given = {"count": 3, "goal": goal, "queries": 500, "elsewhere": network.start}
    found = search(attack, network, images, truth, ball, **given)
    assert {row for row in range(20) if least[row] * 1.25 <= 12} <= set(found.hits)
    assert {hit.decision for hit in found.hits.values()} == {2}


def test_only_a_try_that_is_read_as_another_label_turns_an_aim(monkeypatch):
    """What an estimate asks about moves nothing, and no answer is no label."""
    tries, aims, odds = iter([1, 2, 0, NO_ANSWER]), list[int](), query_loop._odds_of_aim

    def top(_oracle, _samples, images):
        reading = next(tries, 0) if len(images) == 1 else 1
        told = torch.full((len(images), 1), reading)
        return torch.full((len(images), 1), -0.5), told, told[:, 0]

    def noted(values, labels, aim):
        aims.append(int(aim[0]))
        return odds(values, labels, aim)

    monkeypatch.setattr(TopKOracle, "top", top)
    monkeypatch.setattr(query_loop, "_odds_of_aim", noted)
    network, attack = Bands(), _attack("partial_information", SMALL, 200, goal=Goal(labels=3))
    images = np.where(network.weight.detach().numpy() < 0, 60_000, 5_000).astype(np.uint16).reshape(1, 1, 6, 6)
    truth = torch.zeros(1, dtype=torch.int64)  # as the artefact itself reads the whole ball
    search(attack, network, images, truth, SMALL, count=3, queries=200, elsewhere=network.start)
    assert aims[0] == 1
    assert set(aims[1:]) == {2}
    assert next(tries, None) is None


class Reads(TorchDispatchMode):
    """Operators whose answers, or their shapes, Python reads: a GPU is waited for."""

    def __init__(self):
        super().__init__()
        self.found = list[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put_") and any(
            place is not None and place.dtype == torch.bool for place in args[1]
        )
        if masked or name in ("_local_scalar_dense", "nonzero", "equal"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_square_waits_for_no_gpu_between_two_questions():
    attack, draws = _attack("square", SMALL, 50), Draws.of(list(range(8)), torch.device("cpu"))
    clean = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with Reads() as reads:
        state = attack.start(clean, clean, SMALL, draws)
        for _ in range(3):
            queries = attack.ask(state, clean, SMALL, draws)
            loss = state["images"].sum(dim=(1, 2, 3))
            answers = Answers(loss=loss, fooled=loss < -1, shown=loss < -1)
            state = attack.learn(state, queries, answers, clean, SMALL, draws)
    assert reads.found == []


@pytest.mark.parametrize("name", ["nes", "square", "label_only", "hopskipjump", "partial_information"])
def test_a_target_is_reached_and_no_other_label_will_do(name):
    network, images, truth, _ = _problem(labels=3, seed=3, count=40)
    ball, goal = LinfBall(levels=30, maximum=255), Goal(labels=3, kind="targeted", target=1)
    others = [row for row in range(40) if int(truth[row]) != 1]
    wanted = [row for row in range(40) if int(truth[row]) == 1]
    found = search(
        _attack(name, ball, 3000, goal=goal), network, images, truth, ball, count=3, queries=3000, goal=goal,
        order=others, elsewhere=lambda _sample, attempt: torch.from_numpy(images[wanted[attempt]]).float() / 255,
    )  # fmt: skip
    assert len(found.hits) > 5
    assert {hit.decision for hit in found.hits.values()} == {1}


@pytest.mark.parametrize("name", SEARCHING)
def test_queries_that_are_rounded_to_grey_levels_turn_samples_too(name):
    network, images, truth, smallest = _problem(labels=2, seed=2, count=40)
    ball = LinfBall(levels=12, maximum=255)
    attack = _attack(name, ball, 2000, stored=True)
    found = search(attack, network, images, truth, ball, count=2, queries=2000, stored=True)
    easy = {row for row in range(40) if smallest[row] * 2 <= 12}
    assert easy
    assert easy <= set(found.hits)
    assert found.engine.task.trace.refuted == 0, "what was asked about is what was judged"


@pytest.mark.parametrize("name", ASKING)
def test_counterexamples_lie_in_the_ball_and_no_sample_costs_more_than_its_limit(name):
    hits = 0

    @settings(max_examples=8)
    @given(seed=st.integers(0, 1000), levels=st.integers(1, 20), queries=st.integers(130, 500))
    @example(seed=2, levels=20, queries=500)
    def holds(seed, levels, queries):
        nonlocal hits
        network, images, truth, _ = _problem(labels=2, seed=seed, count=6)
        assume(len(truth.unique()) == 2)  # else there is nothing to start from
        ball = LinfBall(levels=levels, maximum=255)
        found = search(_attack(name, ball, queries), network, images, truth, ball, count=2, queries=queries)
        counts = found.engine.oracle.counts
        assert (counts <= queries).all()
        hits += len(found.hits)
        for sample, hit in found.hits.items():
            assert np.abs(hit.stored.astype(int) - images[sample].astype(int)).max() <= levels
            assert 1 <= hit.queries <= counts[sample]
            assert hit.queries == counts[sample] or name == "noise", "which asks no less in a turn that found something"
            assert hit.decision != truth[sample]

    holds()
    assert hits


@pytest.mark.parametrize("name", ["nes", "partial_information", "label_only", "hopskipjump"])
def test_directions_that_are_smooth_at_this_size_turn_samples_whatever_the_batch(name):
    """A blur of .2 is 1.2 of these 6 pixels; networks drawn at random are not smooth."""
    network, images, truth, smallest = _problem(labels=2, seed=2, count=20)
    ball = LinfBall(levels=12, maximum=255)

    def run(batch):
        attack = _attack(name, ball, 1000, blur=0.2)
        found = search(attack, network, images, truth, ball, count=2, queries=1000, batch=batch)
        return found.found, found.engine.oracle.counts.tolist()

    expected = run(32)
    assert {row for row in range(20) if smallest[row] * 2 <= 12} <= set(expected[0])
    assert run(3) == expected


@cache
def _found_of_twelve(name, batch, *, backwards=False):
    """What is found of twelve samples, and after how many queries each."""
    network, images, truth, _ = _problem(labels=2, seed=5, count=12)
    ball, order = LinfBall(levels=14, maximum=255), range(11, -1, -1) if backwards else None
    attack = _attack(name, ball, 600)
    found = search(attack, network, images, truth, ball, count=2, queries=600, batch=batch, order=order)
    return found.found, found.engine.oracle.counts.tolist()


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize("name", ASKING)
def test_neither_batch_nor_order_nor_a_second_run_changes_a_counterexample(name, batch):
    expected = _found_of_twelve(name, 16)
    assert expected[0] or name == "noise"
    assert _found_of_twelve(name, batch) == expected
    assert _found_of_twelve(name, 16, backwards=True) == expected


@pytest.mark.parametrize("name", SEARCHING)
def test_no_attack_breaks_fewer_than_noise_does(name):
    network, images, truth, _ = _problem(labels=2, seed=7, count=40)
    ball = LinfBall(levels=20, maximum=255)
    broken = {
        kind: len(search(_attack(kind, ball, 500), network, images, truth, ball, count=2, queries=500).hits)
        for kind in ("noise", name)
    }
    assert 0 < broken["noise"] <= broken[name]


# --- what a limit buys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [51, 80, 100])
def test_nes_goes_to_the_border_with_its_last_step_and_beats_noise_at_the_smallest_limits(queries):
    network, images, truth, smallest = _problem(labels=2, seed=2, count=40)
    ball = LinfBall(levels=12, maximum=255)
    nes, noise = (
        search(_attack(name, ball, queries), network, images, truth, ball, count=2, queries=queries)
        for name in ("nes", "noise")
    )
    assert {row for row in range(40) if smallest[row] * 3 <= 12} <= set(nes.hits)
    assert len(nes.hits) > len(noise.hits)


@pytest.mark.parametrize(
    ("queries", "samples"), [(51, 50), (53, 50), (54, 50), (55, 50), (100, 50), (301, 200), (9, 2)]
)
def test_nes_leaves_no_query_unused_that_pays_a_pair(queries, samples):
    network, images, truth, _ = _problem(labels=2, seed=2, count=10)
    ball = LinfBall(levels=1, maximum=255)
    attack = _attack("nes", ball, queries, samples=samples)
    found = search(attack, network, images, truth, ball, count=2, queries=queries)
    counts = found.engine.oracle.counts
    held = [row for row in range(10) if row not in found.hits]
    assert len(held) >= 5
    assert (counts[held] >= queries - 2).all()


@pytest.mark.parametrize(("queries", "last"), [(3, True), (4, True), (5, True), (6, False)])
def test_a_step_of_nes_is_the_last_where_no_more_than_a_pair_is_left(queries, last):
    """A step asks about its point and a pair: what is left of five queries does not pay another one."""
    clean, ball = torch.full((4, 1, 6, 6), 0.5), LinfBall(levels=12, maximum=255)
    attack, draws = _attack("nes", ball, queries, samples=2), Draws(keys=torch.arange(4))
    state = attack.start(clean, clean, ball, draws)
    asked = attack.ask(state, clean, ball, draws)
    loss = asked.images.flatten(1).sum(dim=1)
    fooled = torch.zeros(len(loss), dtype=torch.bool)
    state = attack.learn(state, asked, Answers(loss=loss, fooled=fooled, shown=fooled), clean, ball, draws)
    assert asked.counts.tolist() == [3] * 4
    reached = (state["images"] - clean).flatten(1).abs().amax(dim=1) / ball.radius
    assert ((reached > 0.999) == last).all()


@pytest.mark.parametrize("norm", [LinfBall, L2Ball])
def test_what_noise_turns_within_a_smaller_limit_is_what_a_search_with_that_limit_turns(norm):
    network, images, truth, smallest = _problem(labels=2, seed=7, count=40, dual=1 if norm is LinfBall else 2)
    ball = norm(levels=int(2 * np.median(smallest)), maximum=255)

    def run(queries):
        return search(_attack("noise", ball, queries), network, images, truth, ball, count=2, queries=queries).hits

    whole = run(300)
    after = {hit.queries for hit in whole.values()}
    assert after - {64, 128, 192, 256, 300}, "places in a turn, not its end"
    for limit in (1, 10, 64, 100):
        expected = {sample: hit.stored.tobytes() for sample, hit in whole.items() if hit.queries <= limit}
        assert {sample: hit.stored.tobytes() for sample, hit in run(limit).items()} == expected


@pytest.mark.parametrize("name", ["partial_information", "label_only"])
def test_the_least_limit_pays_a_first_estimate_and_a_try_along_it_where_no_smaller_ball_does(name, monkeypatch):
    """Starts lie beside the border: all tries of a smaller ball fail."""
    network, images, truth = _bright(400)
    clean = torch.from_numpy(images.astype(np.float32)) / 65535
    weight = network.weight.detach()
    excess = (clean.flatten(1) @ weight - network.level) / weight.abs().sum()
    starts = clean - (1.001 * excess)[:, None, None, None] * weight.sign().view(1, 1, 6, 6)
    along, tried = [], PartialInformation._tried
    monkeypatch.setattr(
        PartialInformation,
        "_tried",
        lambda self, state, *more: (
            along.append(int(state["mean"].flatten(1).any(dim=1).sum())) or tried(self, state, *more)
        ),
    )
    least = ATTACKS[name](name=name).least_queries
    for queries, expected in ((least - 1, 0), (least, len(images))):
        along.clear()
        search(
            _attack(name, SMALL, queries), network, images, truth, SMALL, count=2, queries=queries,
            elsewhere=lambda sample, _attempt: starts[sample],
        )  # fmt: skip
        assert sum(along) == expected


# --- where searches start --------------------------------------------------------------------------------------------

ELSEWHERE = ["partial_information", "label_only", "hopskipjump"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_image_to_start_from_that_lies_within_the_ball_is_a_counterexample(name):
    network, images, truth = _bright(13)
    clean = torch.from_numpy(images.astype(np.float32)) / 65535
    inside = clean - SMALL.radius * network.weight.detach().sign().view(1, 1, 6, 6)
    found = search(
        _attack(name, SMALL, 100), network, images, truth, SMALL, count=2, queries=100,
        elsewhere=lambda sample, attempt: inside[sample] if attempt == 2 else clean[sample],
    )  # fmt: skip
    assert len(found.hits) == len(images)
    assert {hit.queries for hit in found.hits.values()} == {3}
    assert found.done[-1] == len(images)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_the_last_query_finds_to_start_from_is_no_start(name):
    network, images, truth = _bright(400)
    clean = torch.from_numpy(images.astype(np.float32)) / 65535
    for queries, expected in ((70, len(images)), (71, 0)):
        found = search(
            _attack(name, SMALL, queries), network, images, truth, SMALL, count=2, queries=queries,
            elsewhere=lambda sample, attempt: network.below(sample, 0) if attempt == 69 else clean[sample],
        )  # fmt: skip
        assert not found.hits
        assert len(found.engine.task.trace.unstarted) == expected
        assert len(found.engine.task.trace.followable) == len(images) - expected


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hopskipjump", "rays"])
def test_in_linf_no_stored_image_is_asked_about_twice_in_a_row(name, monkeypatch):
    network, images, truth, _ = _problem(labels=2, seed=2, count=20)
    ball = LinfBall(levels=3, maximum=255)
    asked = {sample: [] for sample in range(20)}
    labels = LabelOracle.labels

    def watched(oracle, samples, points):
        for sample in samples.unique().tolist():
            own = (points[samples == sample].clamp(0, 1) * 255).round()
            if len(own) == 1:  # no estimate
                asked[sample].append(own.numpy().tobytes())
        return labels(oracle, samples, points)

    monkeypatch.setattr(LabelOracle, "labels", watched)
    attack = _attack(name, ball, 400, stored=True)
    search(attack, network, images, truth, ball, count=2, queries=400, stored=True)
    assert sum(map(len, asked.values())) > 500
    assert not sum(one == two for own in asked.values() for one, two in pairwise(own))
