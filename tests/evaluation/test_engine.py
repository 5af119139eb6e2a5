"""The search loop: exact work, full batches, the same answers however samples are batched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from building import candidate

from robustcheck.attacks import PGD
from robustcheck.attacks.draws import stream
from robustcheck.errors import OutOfMemory
from robustcheck.evaluation.adjudication import adjudicate
from robustcheck.evaluation.engine import Engine, Hit
from robustcheck.threats import LinfBall


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


@dataclass
class Run:
    hits: dict[int, Hit]
    engine: Engine
    network: Counting
    order: list[int]

    @property
    def found(self) -> dict[int, tuple]:
        return {
            sample: (hit.stored.tobytes(), hit.decision, hit.restart, hit.step) for sample, hit in self.hits.items()
        }


def _run(*, batch=16, steps=6, restarts=2, levels=3, count=50, order=None, network=None, attack=None) -> Run:
    network = network or Counting()
    rng = np.random.default_rng(0)
    images = rng.integers(60, 196, (count, 1, 6, 6)).astype(np.uint8)
    labels = (
        torch.cat([network(torch.from_numpy(images[i : i + 1]).float() / 255) for i in range(count)]).argmax(1).detach()
    )
    network.seen.clear()
    hits: dict[int, Hit] = {}
    done: list[int] = []
    engine = Engine(
        attack=attack or PGD(steps=steps, restarts=restarts, step_share=2.5 * levels / 255 / steps, random_start=True),
        candidate=candidate(network, labels=["a", "b", "c"], batch=batch),
        ball=LinfBall(levels=levels, maximum=255),
        labels=labels,
        positive=2,
        load=lambda numbers: torch.from_numpy(images[numbers]).float() / 255,
        stream=lambda sample, restart: stream(0, "gate", str(sample), restart),
        found=lambda hit: hits.setdefault(hit.sample, hit),
        progress=done.append,
    )
    engine.run(list(range(count)) if order is None else order)
    return Run(hits=hits, engine=engine, network=network, order=done)


def test_some_samples_are_broken_and_some_hold():
    run = _run()
    assert 5 < len(run.hits) < 45
    assert run.order[-1] == 50
    assert run.order == sorted(run.order)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_changes_no_counterexample(batch):
    assert _run(batch=batch).found == _run(batch=16).found


def test_the_order_of_the_samples_changes_no_counterexample():
    order = np.random.default_rng(1).permutation(50).tolist()
    assert _run(order=order).found == _run().found


def test_running_out_of_memory_changes_no_counterexample():
    run = _run(batch=16, network=Counting(most=3))
    assert run.found == _run().found
    assert run.engine.candidate.chunks.halved_to == 2


def test_a_network_that_takes_not_even_one_image_ends_in_a_sentence():
    network = Counting()
    run = _run(network=network)
    network.most = 0
    with pytest.raises(OutOfMemory, match="batch of one image"):
        run.engine.run([0])


def test_the_meter_counts_what_really_reached_the_network():
    run = _run()
    meter = run.engine.candidate.meter
    assert sum(run.network.seen) == meter.forward
    assert 0 < meter.gradient < meter.forward


def test_nothing_is_computed_for_a_sample_once_it_is_broken():
    run = _run(batch=1, restarts=1, steps=6)
    looks = 50 + run.engine.trace.unstorable  # each at the image, and at its neighbour if that holds
    gradients = 0
    for sample in range(50):
        hit = run.hits.get(sample)
        # Broken at step s: gradients at 0 … s, of which the last one showed it; at the last image: all steps.
        gradients += 6 if hit is None else min(hit.step + 1, 6)
    assert run.engine.candidate.meter.gradient == gradients
    held = 50 - len(run.hits)
    assert gradients + looks + held <= run.engine.candidate.meter.forward <= gradients + 2 * looks


def test_a_sample_that_holds_costs_its_steps_and_two_looks_a_restart():
    run = _run(levels=1, count=8, restarts=3, steps=4, batch=1)
    held = [sample for sample in range(8) if sample not in run.hits]
    assert len(held) >= 4
    alone = _run(levels=1, count=8, restarts=3, steps=4, order=held)
    assert alone.engine.candidate.meter.gradient == len(held) * 3 * 4
    looks = alone.engine.candidate.meter.forward - alone.engine.candidate.meter.gradient
    assert looks == len(held) * 3 * 2 + 2 * alone.engine.trace.unstorable


def test_the_batch_is_full_until_the_last_samples():
    run = _run(batch=16, restarts=1)
    calls = [seen for seen in run.network.seen if seen > 1]
    assert max(calls) == 16
    total = run.engine.candidate.meter.gradient
    assert sum(seen == 16 for seen in run.network.seen) >= total / 16 * 0.6


def test_every_counterexample_is_stored_admissible_and_read_wrongly_by_the_artefact():
    run = _run()
    for hit in run.hits.values():
        assert hit.stored.dtype == np.uint8
        logits = run.network(torch.from_numpy(hit.stored[None]).float() / 255)
        assert int(logits.argmax()) == hit.decision != int(run.engine.labels[hit.sample])
        assert hit.distance <= 3


class Fine(torch.nn.Module):
    """Is turned by half a grey level, and by that only: nothing that can be stored turns it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        off_grid = ((image * 255 - (image * 255).round()).abs() > 0.2).float()
        wrong = off_grid.mean((1, 2, 3)) * 100 + image.mean((1, 2, 3))
        return torch.stack([torch.ones_like(wrong) * 5, wrong], dim=1)


def test_a_proposal_that_rounding_undoes_is_searched_on_and_not_counted():
    hits: list[Hit] = []
    engine = Engine(
        attack=PGD(steps=4, restarts=1, step_share=0.3 / 255, random_start=True),
        candidate=candidate(Fine()),
        ball=LinfBall(levels=2, maximum=255),
        labels=torch.zeros(4, dtype=torch.int64),
        positive=1,
        load=lambda numbers: torch.full((len(numbers), 1, 6, 6), 100 / 255),
        stream=lambda sample, restart: stream(0, "gate", str(sample), restart),
        found=hits.append,
        progress=lambda _done: None,
    )
    engine.run(range(4))
    assert hits == []
    assert engine.trace.unstorable > 0
    assert engine.candidate.meter.gradient == 16


class Cheating:
    """Proposes images outside the ball: a defective attack."""

    steps, restarts = 3, 1

    def start(self, clean, ball, uniform):
        return {"images": clean}

    def step(self, state, gradient, clean, ball):
        return {"images": 1 - clean}


def test_no_attack_is_believed_that_leaves_the_ball():
    network = Counting()
    run = _run(attack=Cheating(), network=network)
    assert run.hits == {}


class NotANumber(Counting):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = super().forward(image)
        return logits + torch.sqrt(torch.zeros_like(image).flatten(1).sum(1, keepdim=True) * image.mean())


def test_gradients_that_are_nan_are_noted_and_not_followed():
    run = _run(network=NotANumber(), restarts=1)
    assert run.engine.trace.not_finite == set(range(50))
    assert run.engine.trace.moved == set()


def test_proposals_of_many_are_judged_as_those_of_one():
    run = _run()
    clean = torch.full((5, 1, 6, 6), 100 / 255)
    proposals = clean + torch.tensor([0.0, 1.4, 1.6, 3.4, 3.6]).view(-1, 1, 1, 1) / 255
    labels = torch.zeros(5, dtype=torch.int64)
    judged = adjudicate(run.engine.candidate, run.engine.ball, proposals, clean, labels)
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
