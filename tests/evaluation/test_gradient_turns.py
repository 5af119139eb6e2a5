"""What a search that follows gradients makes of one turn, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from searching import search

from robustcheck.attacks import FMN, PGD, Told, objective
from robustcheck.evaluation.search.rows import GradientRows, Rows
from robustcheck.threats import Goal, LinfBall

GOAL = Goal(labels=2)
ROWS = 3
PLACES = np.arange(ROWS)


class Brightness(torch.nn.Module):
    """Bright images have the second label."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        excess = image.flatten(1).mean(dim=1) - 0.5
        return torch.stack([-excess, excess], dim=1)


def _pgd(**given):
    known = {"steps": 4, "restarts": 1, "step_share": 0.5, "random_start": True}
    return PGD(objective=objective("cross_entropy", GOAL), **(known | given))


def _search(attack, network=None, *, levels=(60, 60, 60), **given):
    """A search of flat images that have the first label."""
    images = np.stack([np.full((1, 6, 6), level, np.uint8) for level in levels])
    labels = torch.zeros(len(images), dtype=torch.int64)
    ball = LinfBall(levels=5, maximum=255)
    return search(attack, network or Brightness(), images, labels, ball, count=2, **given)


def _rows(images):
    """Rows of black images at these points (N, 1, 6, 6), after seven steps."""
    rows = Rows(
        sample=PLACES,
        restart=np.zeros(ROWS, dtype=np.int64),
        label=torch.zeros(ROWS, dtype=torch.int64),
        aim=torch.zeros(ROWS, dtype=torch.int64),
        step=torch.full((ROWS,), 7),
        keys=torch.zeros(ROWS, dtype=torch.int64),
        clean=torch.zeros(ROWS, 1, 6, 6),
        state={"images": images},
        followable=torch.ones(ROWS, dtype=torch.bool),
    )
    return GradientRows.entering(rows, last_turn=9)


def _told(images):
    """Each of them is read as the adversary wants."""
    fooled = torch.ones(ROWS, dtype=torch.bool)
    return Told(step=torch.full((ROWS,), 7), loss=torch.zeros(ROWS), fooled=fooled, gradient=torch.zeros_like(images))


def _flat(*shares):
    return torch.stack([torch.full((1, 6, 6), share) for share in shares])


def test_what_the_artefact_refutes_is_no_end_of_a_search_for_the_nearest():
    """It would go on from there towards the image, as from a counterexample."""
    engine = _search(FMN(objective=objective("margin", GOAL), steps=2)).engine
    images = _flat(0.3, 0.2, 0.1)
    rows, told = _rows(images), _told(images)
    learnt = engine._learn(rows, images, told, np.array([0, 2]), np.array([True, False]))
    assert learnt.fooled.tolist() == [True, True, False]
    assert told.fooled.all(), "what was told stays as it was"
    assert rows.proposed.tolist() == [pytest.approx(0.3), np.inf, np.inf]


@pytest.mark.parametrize(("eot", "step"), [(None, 7), ("looks", 8)])
def test_the_last_point_is_looked_at_afresh(eot, step, monkeypatch):
    """Where looks are drawn, it has others than the best point had; it is asked about where that one held."""
    engine, asked = _search(_pgd()).engine, []
    engine.eot = eot

    def propose(rows, images):
        asked.append((rows.sample.tolist(), rows.step.tolist(), images))
        return np.array([True])

    monkeypatch.setattr(engine, "_propose", propose)
    rows = _rows(_flat(0.01, 0.01, 0.01))
    broken = engine._judge_last(rows, _flat(0.01, 0.0, 0.0), np.array([False, False, True]))
    assert broken.tolist() == [False, True, True]
    ((samples, steps, images),) = asked
    assert (samples, steps) == ([1], [step])
    assert (images * 255).round().unique().tolist() == [3]
    assert rows.step.tolist() == [7] * ROWS


def test_proposals_that_lapse_on_fresh_looks_are_counted(monkeypatch):
    engine = _search(_pgd()).engine
    engine.eot = "looks"
    monkeypatch.setattr(engine, "_propose", lambda *_: np.array([True, False, False]))
    images = _flat(0.01, 0.01, 0.01)
    rows, told = _rows(images), _told(images)
    assert engine._judge(rows, images, told, PLACES, fooled=True).tolist() == [True, False, False]
    assert engine.task.trace.lapsed == 2
    engine._judge(rows, images, told, PLACES, fooled=False)
    assert engine.task.trace.lapsed == 2, "nobody had claimed that these fool it"


def test_changes_that_are_known_are_scaled_to_the_budget():
    """The largest pixel's is all of it, and another's keeps its share."""
    change = torch.full((1, 1, 6, 6), 0.4)
    change[..., 0] = -1.0
    run = _search(
        _pgd(steps=1, step_share=0.0),
        known_starts=lambda starts: (np.arange(len(starts)), change.repeat(len(starts), 1, 1, 1)),
    )
    for sample in range(ROWS):
        assert torch.allclose(run.held[sample] * 255, 60 + 5 * change[0], atol=1e-4)


def test_of_several_restarts_the_one_is_told_whose_loss_rose_highest():
    logits = Brightness()(_flat(60 / 255, 60 / 255, 60 / 255))
    staying = _pgd(steps=1, step_share=0.0)  # where it begins: at random
    rises = [
        {sample: courses["pgd"].highest for sample, courses in run.engine.task.trace.rises.items()}
        for run in (_search(replace(staying, restarts=count), clean_logits=logits) for count in (1, 4))
    ]
    assert rises[0].keys() == rises[1].keys() == set(range(ROWS))
    assert all(rises[1][sample] >= rises[0][sample] for sample in range(ROWS))
    assert any(rises[1][sample] > rises[0][sample] for sample in range(ROWS))


class PartlyFinite(Brightness):
    """So many of a gradient's entries are no numbers."""

    def __init__(self, amiss: int) -> None:
        super().__init__()
        self.amiss = amiss

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.requires_grad:
            spoilt = (torch.arange(36) < self.amiss).view(1, 6, 6)
            image.register_hook(lambda gradient: gradient.masked_fill(spoilt, torch.nan))
        return super().forward(image)


@pytest.mark.parametrize(("amiss", "followed"), [(18, True), (19, False)])
def test_a_gradient_half_of_which_are_numbers_is_followed(amiss, followed):
    trace = _search(_pgd(), PartlyFinite(amiss)).engine.task.trace
    assert trace.not_finite == set(range(ROWS))
    assert trace.followable == (set(range(ROWS)) if followed else set())


def test_probabilities_of_findings_count_only_where_an_image_is_admissible():
    """The first image has the one finding, the second has not; the third is outside the threat model."""
    engine = _search(_pgd()).engine
    engine.task = replace(engine.task, labels=torch.tensor([1, 0, 1]))
    told = np.array([[0.9], [0.2], [0.1]])
    engine._remember_finding_probabilities([0, 1, 2], told, np.array([True, True, False]))
    engine._remember_finding_probabilities([0, 1, 2], 1 - told, np.array([True, True, False]))
    assert {sample: one.tolist() for sample, one in engine.task.trace.finding_probabilities.items()} == {
        0: [pytest.approx(0.1)], 1: [pytest.approx(0.8)],
    }  # fmt: skip
