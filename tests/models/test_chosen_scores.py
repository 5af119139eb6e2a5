"""Networks with more scores than labels: those that the policy names are read, whatever the format and whoever asks."""

from __future__ import annotations

import pytest
import tiny_models as tiny
import torch
from torch import nn

from robustcheck.errors import CandidateError
from robustcheck.models import LabelOracle, ScoreOracle
from robustcheck.models.fast.endings import leave_off

PLACES = (3, 0)
ZEROS = torch.zeros(6, dtype=torch.int64)


@pytest.fixture(params=tiny.SAVERS)
def artefact(request, tmp_path):
    net = tiny.tiny_net(labels=4)
    tiny.SAVERS[request.param](net, tmp_path / request.param)
    return net, tmp_path / request.param


@pytest.mark.parametrize("precision", ["full", "auto"])
def test_scores_gradients_and_oracles(precision, artefact):
    net, path = artefact
    samples = tiny.pictures()
    candidate, logits = tiny.load(
        path, samples, scores=PLACES, architecture_args={"labels": 4}, precision=precision, labels=("first", "second")
    )
    images = samples.shares().requires_grad_()
    scores = net(images)[:, list(PLACES)]
    torch.testing.assert_close(logits, scores.detach(), rtol=1e-5, atol=1e-6)
    assert candidate.info.scores == PLACES
    (expected,) = torch.autograd.grad(scores[:, 0].sum(), images)
    _, _, gradient = candidate.gradient(images.detach(), ZEROS, ZEROS, lambda logits, *_: logits[:, 0], exact=True)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    oracle = ScoreOracle(candidate, samples=6, limit=1)
    told = oracle.scores(torch.arange(6), images.detach())
    torch.testing.assert_close(told, scores.detach().log_softmax(dim=1), rtol=1e-4, atol=1e-5)
    labels = LabelOracle(candidate, samples=6, limit=1).labels(torch.arange(6), images.detach())
    assert torch.equal(labels, scores.argmax(dim=1))


class Findings(nn.Module):
    """Sigmoids of four findings; of the second nothing is known, and it is told as .5 or as no number."""

    def __init__(self, unknown: float = 0.5) -> None:
        super().__init__()
        self.net, self.unknown = tiny.tiny_net(labels=4), unknown

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        told = self.net(image).sigmoid()
        return torch.cat([told[:, :1], torch.full_like(told[:, :1], self.unknown), told[:, 2:]], dim=1)


@pytest.mark.parametrize("unknown", [0.5, torch.nan])
def test_what_is_not_chosen_does_not_matter(unknown, tmp_path):
    net = Findings(unknown).eval()
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    options = {"architecture": "test_chosen_scores:Findings", "architecture_args": {"unknown": unknown}}
    options |= {"task": "multilabel", "labels": ("effusion", "mass", "nodule"), "output": "probabilities"}
    match = r"gives 4 scores per sample, .* names 3 .*; give the places of the labels' scores, .* put the head on"
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.safetensors", **options)
    _, logits = tiny.load(tmp_path / "net.safetensors", scores=(3, 2, 0), **options)
    told = net.net(tiny.pictures().shares()).detach()
    torch.testing.assert_close(logits, told[:, [3, 2, 0]], rtol=1e-3, atol=1e-4)


def test_a_last_sigmoid_is_left_off_all_the_same(tmp_path):
    net = nn.Sequential(tiny.tiny_net(labels=4), nn.Sigmoid())
    torch.save(net, tmp_path / "net.pt")
    assert leave_off(net, "sigmoid") is not None
    options = {"trust": "pickle", "architecture": None, "task": "multilabel", "output": "probabilities"}
    candidate, logits = tiny.load(tmp_path / "net.pt", scores=PLACES, **options)
    assert any("the input of its last sigmoid" in note for note in candidate.info.notes)
    images = tiny.pictures().shares()
    torch.testing.assert_close(candidate.search_logits(images), logits, rtol=1e-3, atol=1e-4)


def test_one_logit_of_several(tmp_path):
    net = tiny.tiny_net(labels=4)
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    options = {"architecture_args": {"labels": 4}, "task": "binary"}
    match = r"one score per sample; the candidate gives 4; give .* model\.scores, or, if .* features, put the head on"
    with pytest.raises(CandidateError, match=match):
        tiny.load(tmp_path / "net.safetensors", **options)
    _, logits = tiny.load(tmp_path / "net.safetensors", scores=(1,), **options)
    torch.testing.assert_close(logits[:, 1], net(tiny.pictures().shares())[:, 1].detach())
    assert not logits[:, 0].any()


def test_probabilities_of_some_labels_are_divided_by_their_sum(tmp_path):
    torch.save(nn.Sequential(tiny.tiny_net(labels=4), nn.Softmax(dim=1)), tmp_path / "net.pt")
    candidate, logits = tiny.load(
        tmp_path / "net.pt", trust="pickle", architecture=None, scores=PLACES, output="probabilities"
    )
    told = tiny.tiny_net(labels=4)(tiny.pictures().shares()).detach()
    torch.testing.assert_close(logits.softmax(dim=1), told[:, list(PLACES)].softmax(dim=1), rtol=1e-4, atol=1e-5)
    assert "divided by their sum" in candidate.info.output


@pytest.mark.parametrize("chosen", [PLACES, (2, 3, 0)])
def test_a_softmax_is_told_by_all_of_its_scores(chosen, tmp_path):
    net = tiny.tiny_net(labels=4)
    torch.save(nn.Sequential(net, nn.Softmax(dim=1)), tmp_path / "net.pt")
    options = {"trust": "pickle", "architecture": None, "labels": ("first", "second", "third")[: len(chosen)]}
    candidate, logits = tiny.load(tmp_path / "net.pt", scores=chosen, **options)
    assert candidate.info.output.startswith("probabilities")
    assert "the input of its last softmax" in " ".join(candidate.info.notes)
    images = tiny.pictures().shares()
    torch.testing.assert_close(
        logits.softmax(1), net(images)[:, list(chosen)].softmax(1).detach(), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(CandidateError, match=r"model\.output says logits, .* sum to 1"):
        tiny.load(tmp_path / "net.pt", scores=chosen, output="logits", **options)


def test_others_that_are_no_numbers_tell_nothing(tmp_path):
    net = Probable().eval()
    torch.save(net, tmp_path / "net.pt")
    candidate, _ = tiny.load(tmp_path / "net.pt", trust="pickle", architecture=None, scores=(0, 1))
    assert candidate.info.output.startswith("probabilities")


class Probable(nn.Module):
    """A softmax, and beside it a score that is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny.tiny_net()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        told = self.net(image).softmax(dim=1)
        return torch.cat([told, torch.full_like(told[:, :1], torch.nan)], dim=1)


@pytest.mark.parametrize(
    ("labels", "positive", "noted"),
    [
        (
            ("none", "mild", "moderate", "severe"),
            "moderate",
            ["all labels but moderate are negatives: none, mild, severe"],
        ),
        (("none", "mild", "moderate", "severe"), None, []),
        (("healthy", "ill"), "ill", []),
    ],
)
def test_what_is_negative_among_grades_is_noted(labels, positive, noted, tmp_path):
    tiny.save_safetensors(tiny.tiny_net(labels=len(labels)), tmp_path / "net.safetensors")
    options = {"architecture_args": {"labels": len(labels)}, "labels": labels, "positive": positive}
    notes = tiny.load(tmp_path / "net.safetensors", **options)[0].info.notes
    assert [note for note in notes if "negatives" in note] == noted
