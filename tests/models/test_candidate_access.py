"""What an attack is handed: oracles count what reaches the network, and refuse before anything is asked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny_models as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcheck.errors import AccessError, CandidateError, QueryLimitError
from robustcheck.models import LabelOracle, ScoreOracle, Surrogates, TopKOracle, WhiteBox

SAMPLES = 4


@pytest.fixture(scope="module")
def candidate(tmp_path_factory, net):
    path = tmp_path_factory.mktemp("access") / "net.safetensors"
    tiny.save_safetensors(net, path)
    return tiny.load(path, batch_size=3, positive="ill", operating_point=0.4)[0]


class Tap:
    """Counts the images that reach the network."""

    def __init__(self, candidate):
        self.images, self._candidate, self._forward = 0, candidate, candidate.network.forward

    def __enter__(self):
        object.__setattr__(self._candidate.network, "forward", self._count)
        return self

    def __exit__(self, *_):
        object.__setattr__(self._candidate.network, "forward", self._forward)

    def _count(self, inputs):
        self.images += len(inputs)
        return self._forward(inputs)


def _images(number):
    return tiny.pictures(max(1, number)).shares()[:number]


ORACLES = {
    "scores": lambda candidate, limit: ScoreOracle(candidate, samples=SAMPLES, limit=limit).scores,
    "top": lambda candidate, limit: TopKOracle(candidate, samples=SAMPLES, limit=limit, k=1).top,
    "labels": lambda candidate, limit: LabelOracle(candidate, samples=SAMPLES, limit=limit).labels,
}


@pytest.mark.parametrize("kind", ORACLES)
@settings(max_examples=15, deadline=None)
@given(
    limit=st.integers(0, 6),
    batches=st.lists(st.lists(st.integers(0, SAMPLES - 1), max_size=6), max_size=6),
)
def test_counts_are_what_reached_the_network(kind, candidate, limit, batches):
    with Tap(candidate) as tap:
        ask = ORACLES[kind](candidate, limit)
        oracle = ask.__self__
        expected = torch.zeros(SAMPLES, dtype=torch.int64)
        for batch in batches:
            samples = torch.tensor(batch, dtype=torch.int64)
            after = expected + torch.bincount(samples, minlength=SAMPLES)
            before = tap.images
            if (after > limit).any():
                with pytest.raises(QueryLimitError):
                    ask(samples, _images(len(batch)))
                assert tap.images == before  # refused before anything was asked, the rest of the batch too
            else:
                ask(samples, _images(len(batch)))
                expected = after
                assert tap.images == before + len(batch)
            assert torch.equal(oracle.counts, expected)
            assert (oracle.counts <= limit).all()
        assert tap.images == int(oracle.counts.sum())


def test_the_refusal_says_whom_and_how_often(candidate):
    oracle = LabelOracle(candidate, samples=SAMPLES, limit=2)
    oracle.labels(torch.tensor([2, 2]), _images(2))
    with pytest.raises(QueryLimitError, match="sample 2 would have been asked 3 times; the limit is 2"):
        oracle.labels(torch.tensor([1, 2]), _images(2))
    assert oracle.counts.tolist() == [0, 0, 2, 0]
    oracle.labels(torch.tensor([1, 1]), _images(2))


def test_a_query_that_fails_is_counted(candidate, monkeypatch):
    """It was asked: whoever makes the network fail does not get queries for nothing."""
    oracle = LabelOracle(candidate, samples=SAMPLES, limit=1)

    def fail(_inputs):
        raise ValueError("no")

    with monkeypatch.context() as patch:
        patch.setitem(candidate.network.__dict__, "forward", fail)
        with pytest.raises(CandidateError, match="fails on inputs"):
            oracle.labels(torch.tensor([0]), _images(1))
    assert oracle.counts.tolist() == [1, 0, 0, 0]
    with pytest.raises(QueryLimitError):
        oracle.labels(torch.tensor([0]), _images(1))


def test_the_candidates_meter_counts_the_queries(candidate):
    before = candidate.meter.forward
    ScoreOracle(candidate, samples=SAMPLES, limit=9).scores(torch.tensor([0, 1, 1, 3]), _images(4))
    assert candidate.meter.forward == before + 4


def test_retired_samples_are_not_asked_about(candidate):
    oracle = ScoreOracle(candidate, samples=SAMPLES, limit=9)
    oracle.scores(torch.tensor([0, 1]), _images(2))
    oracle.retire(torch.tensor([1]))
    with Tap(candidate) as tap, pytest.raises(AccessError, match="a sample that is done was asked about again"):
        oracle.scores(torch.tensor([0, 1]), _images(2))
    assert tap.images == 0
    oracle.scores(torch.tensor([0, 2]), _images(2))
    assert oracle.counts.tolist() == [2, 1, 1, 0]


def test_limits_and_counts_cannot_be_moved(candidate):
    oracle = LabelOracle(candidate, samples=SAMPLES, limit=1)
    oracle.limit = 100  # which nobody reads
    with pytest.raises(AttributeError):
        oracle.counts = torch.zeros(SAMPLES)
    oracle.labels(torch.tensor([0]), _images(1))
    oracle.counts.zero_()
    with pytest.raises(QueryLimitError):
        oracle.labels(torch.tensor([0]), _images(1))


@pytest.mark.parametrize("samples", [[-1], [SAMPLES], [0, 99]])
def test_samples_that_are_not_there(samples, candidate):
    oracle = LabelOracle(candidate, samples=SAMPLES, limit=9)
    with Tap(candidate) as tap, pytest.raises(AccessError, match="samples are numbered from 0 to 3"):
        oracle.labels(torch.tensor(samples), _images(len(samples)))
    assert tap.images == 0
    assert not oracle.counts.any()


def test_as_many_images_as_samples(candidate):
    oracle = LabelOracle(candidate, samples=SAMPLES, limit=9)
    with pytest.raises(AccessError, match="3 images were asked about for 2 samples"):
        oracle.labels(torch.tensor([0, 1]), _images(3))
    assert not oracle.counts.any()


# --- what they answer ------------------------------------------------------------------------------------------------


def test_scores_are_log_probabilities(candidate):
    oracle = ScoreOracle(candidate, samples=SAMPLES, limit=9)
    scores = oracle.scores(torch.arange(4), _images(4))
    torch.testing.assert_close(scores, candidate.logits(_images(4)).log_softmax(dim=1))


def test_labels_are_those_of_the_operating_point(candidate):
    oracle = LabelOracle(candidate, samples=SAMPLES, limit=9)
    labels = oracle.labels(torch.arange(4), _images(4))
    assert torch.equal(labels, candidate.head.decide(candidate.logits(_images(4))))
    assert labels.dtype == torch.int64


def test_the_most_probable_come_first(tmp_path):
    tiny.save_safetensors(tiny.tiny_net(labels=4), tmp_path / "net.safetensors")
    options = {"labels": tuple("abcd"), "architecture_args": {"labels": 4}}
    candidate, logits = tiny.load(tmp_path / "net.safetensors", **options)
    values, labels, decisions = TopKOracle(candidate, samples=6, limit=1, k=2).top(torch.arange(6), _images(6))
    order = logits.argsort(dim=1, descending=True)[:, :2]
    assert torch.equal(labels, order)
    torch.testing.assert_close(values, logits.log_softmax(dim=1).gather(1, order))
    assert torch.equal(decisions, candidate.head.decide(logits))


@pytest.mark.parametrize("k", [-1, 0, 3])
def test_a_top_k_of_more_labels_than_there_are(k, candidate):
    with pytest.raises(AccessError, match=f"top-{k} of a head with 2 labels"):
        TopKOracle(candidate, samples=SAMPLES, limit=9, k=k)


@pytest.mark.parametrize("kind", ORACLES)
def test_there_is_no_way_from_an_oracle_to_a_gradient(kind, candidate):
    ask = ORACLES[kind](candidate, 9)
    images = _images(2).requires_grad_()
    with torch.enable_grad():
        answers = ask(torch.tensor([0, 1]), images)
    for answer in answers if isinstance(answers, tuple) else (answers,):
        assert not answer.requires_grad
    public = {name for name in dir(ask.__self__) if not name.startswith("_")}
    assert public == {kind, "counts", "retire"}
    held = [getattr(ask.__self__, name) for name in vars(ask.__self__)]
    assert not any(isinstance(value, (type(candidate), WhiteBox, torch.nn.Module)) for value in held)


def test_a_white_box_gives_gradients_and_no_limit(candidate):
    before = candidate.meter.forward, candidate.meter.gradient
    zeros = torch.zeros(4, dtype=torch.int64)
    logits, _, gradient = WhiteBox(candidate).gradient(_images(4), zeros, zeros, _first)
    torch.testing.assert_close(logits, candidate.logits(_images(4)))
    assert gradient.shape == (4, 1, 6, 5)
    assert (candidate.meter.forward, candidate.meter.gradient) == (before[0] + 8, before[1] + 4)


def test_surrogates_see_what_any_of_them_sees():
    seen = [SimpleNamespace(preprocess=SimpleNamespace(visible=visible)) for visible in ((0.1, 0.8), (0.0, 0.6))]
    assert Surrogates(seen).visible == (0.0, 0.8)


def _first(logits, _labels, _aims):
    return logits[:, 0]


def test_oracles_ask_the_onnx_file_itself(tmp_path, net):
    tiny.save_onnx_old(net, tmp_path / "net.onnx", batch=4)
    candidate, logits = tiny.load(tmp_path / "net.onnx")
    oracle = ScoreOracle(candidate, samples=6, limit=2)
    scores = oracle.scores(torch.arange(6), _images(6))
    torch.testing.assert_close(scores, logits.log_softmax(dim=1))
    assert oracle.counts.tolist() == [1] * 6  # not of the blank images that fill its batch
