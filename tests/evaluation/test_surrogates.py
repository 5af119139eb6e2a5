"""The models that a transfer attack follows, as the policy names them."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from halves import LABELS, SMALL, Project, agreement, halves_project
from safetensors.torch import save_file

from robustcheck.errors import CandidateError
from robustcheck.models import Surrogates, load_candidate


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    return halves_project(tmp_path, monkeypatch)


def test_what_is_left_out_is_as_with_the_candidate(project):
    (own,) = project.load(surrogate="other.safetensors")
    assert (own.path, own.trained) == ("other.safetensors", None)
    assert own.candidate.info.labels == LABELS
    assert own.candidate.info.sha256 != project.candidate.info.sha256
    assert own.logits.shape == (20, 2)
    assert agreement(own, project) == 1


def test_the_operating_point_is_the_candidate_s_but_for_what_is_trained_here(project):
    project.model = project.model.model_copy(update={"positive": "right", "operating_point": (0.9,)})
    stolen = {**SMALL, "labels": "candidate", "queries": 60}
    given, taught, thief = project.load(surrogate="other.safetensors", train=[SMALL, stolen])
    assert given.candidate.head.positive == 1
    assert given.candidate.head.operating_point == 0.9
    assert taught.candidate.head.operating_point is thief.candidate.head.operating_point is None


def test_together_each_is_read_at_its_own_operating_point(project):
    """Two models that are sure by as much: at .9 one of them needs more than the other."""
    (loaded,) = project.load(surrogate="candidate.safetensors")
    plain = loaded.candidate
    images = torch.full((13, 1, 8, 8), 0.4)
    excess = torch.linspace(0, 0.12, 13)  # of the right half; log-odds of 40 times as much
    images[..., 4:] += excess[:, None, None, None]
    strict = replace(plain, head=replace(plain.head, positive=1, operating_point=0.9))
    odds = plain.logits(images) @ torch.tensor([-1.0, 1.0])
    expected = (odds >= log(9) / 2).int().tolist()
    assert 0 < sum(expected) < (odds > 0).sum()
    for order in ((plain, strict), (strict, plain)):
        assert Surrogates(order).decide(images).tolist() == expected


def test_several_in_the_policy_s_order(project):
    other = {"path": "other.safetensors", "architecture": "nets:Halves", "architecture_args": {"sharpness": 1.0}}
    named = project.load(surrogate=[other, "candidate.safetensors"], train=SMALL)
    assert [own.path for own in named] == ["other.safetensors", "candidate.safetensors", "nets:small"]
    torch.testing.assert_close(named[0].logits * 10, named[1].logits)


NAMED = {
    "missing": ({"path": "absent.onnx"}, r"there is no file .*absent\.onnx"),
    "weights": (
        {"path": "other.safetensors", "architecture": "nets:small"},
        r"the weights in other.safetensors are not those of nets:small .* check surrogate\.architecture and",
    ),
    "import": ({"path": "other.safetensors", "architecture": "nets:Halfs"}, r"did you mean 'Halves'\?"),
    "shape": (
        {"path": "three.safetensors", "architecture": "nets:small", "architecture_args": {"channels": 3}},
        r"the surrogate does not take inputs of 1×8×8 .*set surrogate\.preprocess\.channels: 3",
    ),
    "scores": (
        {"path": "other.safetensors", "task": "binary"},
        r"a binary task has one score per sample; the surrogate gives 2",
    ),
    "several": (
        {"path": "both.pt"},
        r"holds weights under 'model', 'ema'; name the one to judge in surrogate\.weights",
    ),
    "places": (
        {"path": "other.safetensors", "scores": [0, 2]},
        r"surrogate\.scores names place 2, but the surrogate gives 2 scores",
    ),
}


def _save_both(path):
    torch.save({"model": {"weight": torch.ones(1)}, "ema": {"weight": torch.full((1,), 2.0)}}, path)


def test_which_weights_and_scores_are_its_own(project):
    """What the policy says of the candidate's file is not about the surrogate's."""
    _save_both(project.folder / "both.pt")
    project.model = project.model.model_copy(update={"weights": "model", "scores": (0, 1)})
    entries = ["other.safetensors", {"path": "both.pt", "weights": "ema"}, {"path": "both.pt", "weights": "model"}]
    first, second, third = project.load(surrogate=entries)
    torch.testing.assert_close(second.logits, first.logits)
    torch.testing.assert_close(third.logits * 2, first.logits)
    (turned,) = project.load(surrogate={"path": "other.safetensors", "scores": [1, 0]})
    torch.testing.assert_close(turned.logits, first.logits.flip(1))


@pytest.mark.parametrize("name", NAMED)
def test_a_surrogate_that_cannot_be_used(name, project):
    entry, sentence = NAMED[name]
    convolution = {"0.weight": (6, 3, 3, 3), "0.bias": (6,), "5.weight": (2, 24), "5.bias": (2,)}
    normalisation = {f"1.{name}": (6,) for name in ("weight", "bias", "running_mean", "running_var")}
    shapes = convolution | normalisation
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, project.folder / "three.safetensors")
    _save_both(project.folder / "both.pt")
    with pytest.raises(CandidateError, match=rf"^surrogate {entry['path']}: .*{sentence}") as caught:
        project.load(surrogate=entry)
    assert "\n" not in str(caught.value)


@pytest.fixture
def without_gradient(project):
    """Networks of the project that a gradient does not pass, or passes as zero."""
    save_file({"weight": torch.ones(1)}, project.folder / "stopped.safetensors")
    (project.folder / "stopped.py").write_text("""
import nets

class Detached(nets.Halves):
    def forward(self, image):
        return super().forward(image.detach())

class Rounding(nets.Halves):
    def forward(self, image):
        return super().forward((image * 255).round() / 255)
""")
    return lambda name: {"path": "stopped.safetensors", "architecture": f"stopped:{name}"}


def test_a_surrogate_that_no_gradient_passes_is_seen_before_it_is_followed(project, without_gradient):
    match = "^surrogate stopped.safetensors: the surrogate's scores do not depend differentiably on its input"
    with pytest.raises(CandidateError, match=match):
        project.load(surrogate=without_gradient("Detached"))


def test_among_others_a_surrogate_whose_gradient_is_zero_would_go_unnoticed(project, without_gradient):
    entry = without_gradient("Rounding")
    assert len(project.load(surrogate=entry)) == 1  # alone, the checks of health see that nothing is followed
    with pytest.raises(CandidateError, match=r"^surrogate stopped.safetensors: its gradient is zero on .* samples, "):
        project.load(surrogate=["other.safetensors", entry])


def test_a_surrogate_without_gradients(project, monkeypatch):
    whole = load_candidate

    def without(*arguments, **options):
        own, logits = whole(*arguments, **options)
        object.__setattr__(own.network, "no_gradients", "this ONNX candidate gives predictions and no gradients: why")
        return own, logits

    monkeypatch.setattr("robustcheck.evaluation.surrogates.loading.load_candidate", without)
    match = "^surrogate other.safetensors: this ONNX surrogate gives predictions and no gradients: why$"
    with pytest.raises(CandidateError, match=match):
        project.load(surrogate="other.safetensors")
