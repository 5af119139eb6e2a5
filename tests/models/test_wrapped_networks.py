"""Steps and answers that no key of a policy says: functions that build a network with a hook, as docs/policy.md has."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import tiny_models as tiny
import torch
from torch.nn.functional import interpolate, pad

DOCS = Path(__file__).parents[2] / "docs" / "policy.md"
ZEROS = torch.zeros(6, dtype=torch.int64)
TINY = "import tiny_models\n\ndef resnet18(num_classes):\n    return tiny_models.TinyNet(labels=num_classes)\n"


AGED = """
import tiny_models


class ImageAndAge(tiny_models.TinyNet):
    def forward(self, image, age):
        return super().forward(image) * age
"""
EMBEDDING = """import torch


class Embedding(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(30, 64)

    def forward(self, image):
        return self.layer(image.flatten(1))
"""


def _shown(function: str) -> str:
    """The program of the documentation that has a function, around a tiny network."""
    programs = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    networks = {
        "from torchvision.models import resnet18\n": TINY,
        "from ours import ImageAndAge\n": AGED,
        "from ours import Embedding\n": EMBEDDING,
    }
    ((program, named),) = (
        (text, named) for text in programs for named in networks if f"def {function}(" in text and named in text
    )
    return program.replace(named, networks[named])


def _load(function, folder, scores, **options):
    (folder / "networks.py").write_text(_shown(function))
    net = tiny.tiny_net(labels=scores)
    torch.save(net.state_dict(), folder / "net.pt")
    candidate, logits = tiny.load(folder / "net.pt", architecture=f"networks:{function}", **options)
    assert [file.path for file in candidate.info.files] == ["net.pt", "networks.py"]
    return net, candidate, logits


@pytest.mark.parametrize("precision", ["full", "auto"])
def test_steps_before_a_network(precision, tmp_path):
    samples = tiny.pictures(height=6, width=5)
    net, candidate, logits = _load("network", tmp_path, 2, precision=precision)

    def expected(images):
        turned = images.transpose(2, 3)
        low, high = turned.amin((1, 2, 3), keepdim=True), turned.amax((1, 2, 3), keepdim=True)
        square = pad((turned - low) / (high - low), (0, 0, 0, 1))  # 5×6 to 6×6
        return net(interpolate(square, (224, 224), mode="bilinear", antialias=True))

    images = samples.shares().requires_grad_()
    scores = expected(images)
    torch.testing.assert_close(logits, scores.detach(), rtol=1e-4, atol=1e-5)
    (wanted,) = torch.autograd.grad(scores[:, 0].sum(), images)
    _, _, gradient = candidate.gradient(images.detach(), ZEROS, ZEROS, lambda logits, *_: logits[:, 0], exact=True)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-6)
    assert gradient.flatten(1).any(dim=1).all()
    searched = candidate.search_logits(images.detach())
    torch.testing.assert_close(searched, scores.detach(), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("precision", ["full", "auto"])
def test_an_age_that_is_filled_in(precision, tmp_path):
    net, candidate, logits = _load("at_sixty", tmp_path, 2, precision=precision)
    images = tiny.pictures().shares().requires_grad_()
    scores = net(images) * 60
    torch.testing.assert_close(logits, scores.detach())
    (wanted,) = torch.autograd.grad(scores[:, 0].sum(), images)
    _, _, gradient = candidate.gradient(images.detach(), ZEROS, ZEROS, lambda logits, *_: logits[:, 0], exact=True)
    torch.testing.assert_close(gradient, wanted)
    torch.testing.assert_close(candidate.search_logits(images.detach()), scores.detach(), rtol=0.05, atol=0.05)


def test_grades_that_are_joined(tmp_path):
    net, candidate, logits = _load("referable", tmp_path, 5, labels=("healthy", "referable"), positive="referable")
    images = tiny.pictures().shares()
    probabilities = net(images).softmax(dim=1)
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1], probabilities[:, 2:].sum(dim=1).detach())
    _, _, gradient = candidate.gradient(images, ZEROS, ZEROS, lambda logits, *_: logits[:, 1] - logits[:, 0])
    assert gradient.flatten(1).any(dim=1).all()


def test_one_number_that_grows_with_the_grade(tmp_path):
    net, _, logits = _load("more_than_one_and_a_half", tmp_path, 1, task="binary")
    torch.testing.assert_close(logits[:, 1], net(tiny.pictures().shares())[:, 0].detach() - 1.5)
    net, candidate, logits = _load("nearest_grade", tmp_path, 1, labels=tuple("01234"))
    grades = net(tiny.pictures().shares())[:, 0].detach()
    assert torch.equal(candidate.head.decide(logits), grades.round().clamp(0, 4).long())


def test_ordinal_logits(tmp_path):
    (tmp_path / "networks.py").write_text(_shown("ordinal"))
    net = tiny.tiny_net(labels=4)
    with torch.no_grad():
        net.fc.weight.copy_(net.fc.weight[:1].expand(4, -1))  # CORAL's share their weights
        net.fc.bias.copy_(torch.tensor([2.0, 0.5, -0.5, -2.0]))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    candidate, logits = tiny.load(tmp_path / "net.pt", architecture="networks:ordinal", labels=tuple("01234"))
    more = net(tiny.pictures().shares()).sigmoid().detach()
    probabilities = candidate.head.probabilities(logits).float()
    torch.testing.assert_close(probabilities.flip(1).cumsum(1)[:, :4].flip(1), more, rtol=1e-3, atol=1e-4)


def test_a_head_of_scikit_learn(tmp_path, monkeypatch):
    (tmp_path / "networks.py").write_text(_shown("with_head"))
    monkeypatch.chdir(tmp_path)
    head = SimpleNamespace(coef_=np.random.default_rng(0).normal(size=(1, 64)), intercept_=np.array([0.25]))
    joblib = ModuleType("joblib")
    joblib.__dict__["load"] = {"head.joblib": head}.__getitem__
    monkeypatch.setitem(sys.modules, "joblib", joblib)
    embedding = runpy.run_path("networks.py")["Embedding"]()
    torch.save(embedding.state_dict(), "embedding.pt")
    runpy.run_path("networks.py", run_name="__main__")
    _, logits = tiny.load(tmp_path / "net.safetensors", architecture="networks:with_head", task="binary")
    with torch.no_grad():
        features = embedding(tiny.pictures().shares()).double()
    expected = features @ torch.tensor(head.coef_[0]) + 0.25
    torch.testing.assert_close(logits[:, 1], expected.float(), rtol=1e-4, atol=1e-5)
