"""Estimated gradients: those of each sample, whatever the batch, and as right as theory says."""

from __future__ import annotations

from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from building import candidate
from safetensors.torch import load_file

from robustcheck.attacks import objective
from robustcheck.attacks.draws import Draws, key
from robustcheck.attacks.estimate import Estimate, around
from robustcheck.importing import import_callable
from robustcheck.threats import Goal

POLICIES = Path(__file__).parents[2] / "policies"
GOAL = Goal(labels=2)
MARGIN = objective("margin", GOAL)


def _draws(rows, sample=str):
    return Draws.of([key(0, "gate", sample(row), 0) for row in rows], torch.device("cpu"))


def _estimated(function, images, pairs, *, rows=None, sigma=1e-3, blur=0.0, at_once=32):
    """Estimates (N, C, H, W) of the gradient of a function from images to values (N,)."""
    estimate = Estimate(pairs=pairs, sigma=sigma, blur=blur, at_once=at_once)
    rows = range(len(images)) if rows is None else rows
    state, draws, ready = estimate.start(images), _draws(rows), torch.zeros(len(images), dtype=torch.bool)
    while not ready.all():
        noise = estimate.noise(state, draws)
        queries = around(images, noise, sigma, centre=ready, pairs=estimate.asked(state))
        plus, minus = queries.table(function(queries.images, queries.rows))[:, 1:].chunk(2, dim=1)
        state, ready = estimate.add(state, noise, plus - minus)
    return state["sum"]


def _cosines(one, other):
    return torch.nn.functional.cosine_similarity(one.flatten(1).double(), other.flatten(1).double()).numpy()


@pytest.mark.parametrize("pairs", [5, 25, 100, 400])
def test_the_cosine_to_a_linear_functions_gradient_is_what_theory_says(pairs):
    """Of g = Σ (w·uᵢ) uᵢ / n the squared cosine to w is about n / (n + d + 1)."""
    pixels = 196
    weight = torch.randn(1, 14, 14, generator=torch.Generator().manual_seed(1))
    images = torch.full((40, 1, 14, 14), 0.5)
    estimates = _estimated(lambda x, _rows: (x.double() * weight).flatten(1).sum(dim=1).float(), images, pairs)
    cosine = _cosines(estimates, weight.expand(40, 1, 14, 14)).mean()
    assert cosine == pytest.approx(sqrt(pairs / (pairs + pixels + 1)), abs=0.03)


def test_of_a_smooth_gradient_smooth_directions_tell_more_and_of_a_rough_one_half():
    places = torch.arange(28.0)
    smooth = ((places[:, None] - 9).square() + (places - 15).square()).div(-2 * 4**2).exp()[None]
    rough = (1 - 2 * ((places[:, None] + places) % 2))[None]  # a checkerboard has no smooth part
    images = torch.full((20, 1, 28, 28), 0.5)

    def cosine(weight, blur):
        found = _estimated(lambda x, _rows: (x.double() * weight).flatten(1).sum(dim=1).float(), images, 25, blur=blur)
        return _cosines(found, weight.expand(20, 1, 28, 28)).mean()

    assert cosine(smooth, 0.025) > 1.5 * cosine(smooth, 0)
    assert 0.6 < cosine(rough, 0.025) / cosine(rough, 0) < 0.85, "half as many questions: the root of a half"
    independent = torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(1))  # has a smooth part
    assert cosine(independent, 0.025) > 0.7 * cosine(independent, 0)


def test_an_estimate_has_the_gradients_length():
    weight = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1))
    estimates = _estimated(lambda x, _rows: (x * weight).flatten(1).sum(dim=1), torch.full((9, 1, 4, 4), 0.5), 4000)
    torch.testing.assert_close(estimates.mean(dim=0), weight, atol=0.1, rtol=0)


@pytest.mark.parametrize("pairs", [7, 33, 100])
def test_every_pair_is_asked_about_once_however_many_go_at_once(pairs):
    asked = []

    def count(images, rows):
        asked.extend(rows.tolist())
        return images.flatten(1).sum(dim=1)

    _estimated(count, torch.rand(3, 1, 4, 4), pairs, at_once=8)
    assert [asked.count(row) for row in range(3)] == [2 * pairs] * 3


@pytest.mark.parametrize("blur", [0, 0.2])
def test_no_estimate_depends_on_others_in_the_batch_or_on_how_many_pairs_go_at_once(blur):
    weight = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    images = torch.rand(5, 1, 6, 6)
    together = _estimated(lambda x, rows: (x * weight[rows]).flatten(1).sum(dim=1), images, 20, blur=blur)
    for row in range(5):
        own = weight[row]
        alone = _estimated(
            lambda x, _, w=own: (x * w).flatten(1).sum(dim=1), images[row : row + 1], 20, rows=[row], blur=blur
        )
        torch.testing.assert_close(alone[0], together[row], atol=2e-2, rtol=1e-3)


def test_answers_that_are_not_finite_count_for_nothing():
    def sometimes(images, _rows):
        values = images.flatten(1).sum(dim=1)
        return torch.where(torch.arange(len(values)) % 7 == 0, torch.nan, values)

    estimates = _estimated(sometimes, torch.rand(4, 1, 4, 4), 50)
    assert estimates.isfinite().all()
    assert (_cosines(estimates, torch.ones(4, 1, 4, 4)) > 0.5).all()


@pytest.mark.xrays
def test_on_xrays_the_cosine_is_the_same_in_any_batch_and_grows_with_the_samples(xrays):
    """A batch-summed estimate falls from .55 to .07 between batches of 1 and 64 (Foolbox 3.3.4)."""
    network = import_callable("networks:chest_cnn", folder=POLICIES)()
    network.load_state_dict(load_file(POLICIES / "candidates" / "pneumonia_standard.safetensors"))
    asked = candidate(torch.nn.Sequential(_Normalise(), network), labels=["normal", "pneumonia"])
    with np.load(xrays) as archive:
        stored, labels = archive["test_images"][:32, None], torch.tensor(archive["test_labels"][:32, 0].astype(int))
    images = torch.from_numpy(stored).float() / 255
    gradient = asked.gradient(images, labels, labels, MARGIN)[2]

    def margins(points, rows, of=labels):
        return MARGIN(asked.logits(points), of[rows], of[rows])

    def cosine(pairs, batch):
        parts = []
        for start in range(0, 32, batch):
            chosen = range(start, start + batch)
            own = partial(margins, of=labels[start : start + batch])
            parts.append(_estimated(own, images[start : start + batch], pairs, rows=chosen))
        return float(_cosines(torch.cat(parts), gradient).mean())

    alone, together = cosine(25, 1), cosine(25, 32)
    assert abs(alone - together) < 0.03
    found = [cosine(pairs, 32) for pairs in (10, 40, 160)]
    expected = [sqrt(pairs / (pairs + 785)) for pairs in (10, 40, 160)]
    assert found == pytest.approx(expected, abs=0.05)  # the noise of float32 answers costs a little


class _Normalise(torch.nn.Module):
    def forward(self, images):
        return (images - 0.5) / 0.25


def test_of_an_estimate_no_more_pairs_are_asked_about_than_are_left_of_it_or_can_be_paid():
    estimate = Estimate(pairs=33, sigma=1.0)
    state = estimate.start(torch.rand(2, 1, 4, 4)) | {"pairs": torch.tensor([0, 17])}
    assert estimate.asked(state).sum(dim=1).tolist() == [17, 16]
    assert estimate.asked(state, affordable=torch.tensor([100, 100])).sum(dim=1).tolist() == [17, 16]
    assert estimate.asked(state, affordable=torch.tensor([3, 0])).sum(dim=1).tolist() == [3, 0]


def test_the_next_estimate_has_other_directions():
    estimate, draws = Estimate(pairs=2, sigma=1.0), _draws(range(3))
    state = estimate.start(torch.rand(3, 1, 4, 4))
    first = estimate.noise(state, draws)
    state, ready = estimate.add(state, first, torch.ones(3, 2))
    assert ready.all()
    state = estimate.restarted(state, ready)
    assert not state["sum"].any()
    assert not torch.isclose(estimate.noise(state, draws), first).flatten(1).all(dim=1).any()
