"""The loss that is raised, and the random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from robustcheck.attacks import log_odds
from robustcheck.attacks.draws import stream


@given(st.integers(2, 6), st.integers(0, 2**31))
def test_log_odds_rise_in_the_direction_of_cross_entropy(labels, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(4, labels, generator=generator, dtype=torch.float64)).requires_grad_()
    truth = torch.randint(0, labels, (4,), generator=generator)
    ours = torch.autograd.grad(log_odds(logits, truth).sum(), logits)[0]
    theirs = torch.autograd.grad(cross_entropy(logits, truth, reduction="sum"), logits)[0]
    scale = (ours.norm(dim=1) / theirs.norm(dim=1))[:, None]
    assert (scale > 0).all()
    torch.testing.assert_close(ours, theirs * scale)


def test_log_odds_of_two_labels_are_the_margin_between_them():
    logits = torch.tensor([[2.0, -1.0], [0.0, 50.0]])
    torch.testing.assert_close(log_odds(logits, torch.tensor([0, 1])), torch.tensor([-3.0, -50.0]))


def test_a_draw_depends_on_seed_gate_sample_and_restart_and_on_each():
    def first(*key):
        return stream(*key).random(4, dtype=np.float32).tolist()

    base = first(0, "pgd", "test/1", 0)
    assert first(0, "pgd", "test/1", 0) == base
    others = [
        first(1, "pgd", "test/1", 0),
        first(0, "fgsm", "test/1", 0),
        first(0, "pgd", "test/2", 0),
        first(0, "pgd", "test/1", 1),
    ]
    assert all(other != base for other in others)
    assert len({tuple(draw) for draw in others}) == len(others)


def test_a_draw_is_the_same_on_every_platform_and_in_every_version():
    expected = [0.5124642, 0.39127088, 0.27136415]
    assert stream(0, "pgd[2/255]", "test/17", 0).random(3, dtype=np.float32) == pytest.approx(expected)
