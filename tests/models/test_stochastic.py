"""ONNX graphs that draw numbers of their own derive them from the policy's seed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, drawn, model_of
from onnx import helper

from robustcheck.models import load_candidate
from robustcheck.models.head import Head
from robustcheck.models.stochastic import usual


@pytest.fixture
def noisy(tmp_path):
    """A linear network that adds noise to its image, by an operator without a seed."""
    nodes = [
        helper.make_node("RandomNormalLike", ["image"], ["noise"]),
        helper.make_node("Add", ["image", "noise"], ["seen"]),
        helper.make_node("Flatten", ["seen"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    onnx.save(model_of(nodes, held=[("w", drawn(tiny.HEIGHT * tiny.WIDTH, 2))]), tmp_path / "net.onnx")
    return tmp_path


def _answers(folder, seed):
    spec = tiny.spec("net.onnx", precision="full")
    candidate, logits = load_candidate(spec, folder=folder, samples=IMAGES, seed=seed)
    return torch.cat([logits, candidate.logits(IMAGES.shares())])


def test_the_seed_decides_what_is_drawn(noisy):
    first = _answers(noisy, 3)
    assert torch.equal(first, _answers(noisy, 3))
    assert not torch.equal(first, _answers(noisy, 4))
    assert not torch.equal(first[:7], first[7:])


def test_they_begin_anew_where_torch_is_seeded_anew(noisy):
    """As for each gate, which does not depend on what others have asked."""
    candidate, _ = tiny.load(noisy / "net.onnx", IMAGES)
    images = IMAGES.shares()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first = [candidate.logits(images) for _ in range(2)]
        torch.manual_seed(2**64 - 1)
        other = candidate.logits(images)
        torch.manual_seed(5)
        again = [candidate.logits(images) for _ in range(2)]
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other)


def test_a_graph_that_draws_nothing_leaves_the_runtime_s_seed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxruntime.set_seed", lambda _seed: pytest.fail("it was set"))
    tiny.save_linear_onnx(tmp_path / "net.onnx", np.ones((tiny.HEIGHT * tiny.WIDTH, 2), np.float32))
    tiny.load(tmp_path / "net.onnx")


def test_what_is_usual_is_the_mean_of_the_calls_that_read_a_sample_as_most_do():
    head = Head(
        labels=("dark", "bright"), binary=False, outputs_probabilities=False, positive=1, operating_point=None, found=""
    )
    calls = torch.tensor([[[2.0, 0], [1, 3]], [[4, 0], [9, 0]], [[0, 9], [1, 5]]])  # (calls, samples, labels)
    assert usual(head, calls).tolist() == [[3, 0], [1, 4]]
