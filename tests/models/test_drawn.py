"""Values that a network draws when it is built: its file holds them, or there is nothing to judge."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tiny_models as tiny
import torch
from torch import nn

from robustcheck.errors import CandidateError
from robustcheck.models.pytorch.drawn import first_drawn, unsaved


class Drawing(tiny.TinyNet):
    """Adds to its image what `kind` says."""

    def __init__(self, kind="attribute"):
        super().__init__()
        self.kind = kind
        if kind == "attribute":
            self.proj = torch.randn(6, 5)
        elif kind in ("buffer", "saved"):
            self.register_buffer("proj", torch.randn(6, 5), persistent=kind == "saved")
        elif kind == "list":
            self.held = {"all": [torch.randn(6, 5)]}
        elif kind == "weights":
            self.nets = [nn.Linear(5, 5)]
        elif kind == "order":
            self.proj = torch.randperm(6)[:, None]
        elif kind == "array":
            self.proj = np.random.default_rng(random.randrange(99)).normal(size=(6, 5)).astype("float32")
        elif kind == "computed":
            self.register_buffer("proj", torch.arange(30.0).log().view(6, 5) - torch.nan, persistent=False)
            self.register_buffer("other", torch.arange(30.0).view(6, 5), persistent=False)
        elif kind == "unused":
            self.example_input_array = torch.rand(1, 1, 6, 5)
        elif kind == "same memory":
            self.proj = self.fc.weight.detach()

    def forward(self, image):
        if self.kind in ("attribute", "buffer", "saved", "order"):
            image = image + self.proj
        elif self.kind == "list":
            image = image + self.held["all"][0]
        elif self.kind == "weights":
            image = self.nets[0](image)
        elif self.kind == "array":
            image = image + torch.from_numpy(self.proj)
        elif self.kind == "computed":
            image = image + self.other
        elif self.kind == "same memory":
            image = image * self.proj.mean()
        return super().forward(image)


def normed():
    net = tiny.TinyNet()
    nn.utils.weight_norm(net.conv)
    nn.utils.spectral_norm(net.fc)
    return net


def once(made=[]):  # noqa: B006 (it is meant to last)
    """Fails when it is called again."""
    if made:
        raise ValueError("it is there already")
    made.append(Drawing("computed"))
    return made[0]


def _load(folder, **options):
    return tiny.load(folder / "net.pt", architecture="test_drawn:Drawing", **options)


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("attribute", "proj"),
        ("buffer", "proj"),
        ("list", r"held\['all'\]\[0\]"),
        ("weights", r"nets\[0\]\.\w+"),
        ("order", "proj"),
        ("array", "proj"),
    ],
)
def test_what_is_drawn_and_not_saved_cannot_be_judged(kind, where, tmp_path):
    torch.save(Drawing(kind).state_dict(), tmp_path / "net.pt")
    match = rf"^{where} of test_drawn:Drawing is drawn when .*not in net\.pt: register it as a buffer .* save the w"
    with pytest.raises(CandidateError, match=match):
        _load(tmp_path, architecture_args={"kind": kind})


@pytest.mark.parametrize("kind", ["saved", "computed", "unused", "same memory"])
def test_what_is_saved_or_computed_or_not_used_is_no_trouble(kind, tmp_path):
    net = Drawing(kind).eval()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    _, logits = _load(tmp_path, architecture_args={"kind": kind})
    torch.testing.assert_close(logits, net(tiny.pictures().shares()).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_weights_that_are_norms_and_directions_are_no_draw(tmp_path):
    """What torch makes of them before each call is a plain attribute."""
    torch.save(normed().state_dict(), tmp_path / "net.pt")
    tiny.load(tmp_path / "net.pt", architecture="test_drawn:normed")


def test_a_function_that_can_be_called_once(tmp_path):
    torch.save(Drawing("computed").state_dict(), tmp_path / "net.pt")
    tiny.load(tmp_path / "net.pt", architecture="test_drawn:once")


def test_networks_are_built_under_the_seed_and_nothing_else_is_moved(tmp_path, monkeypatch):
    torch.save(Drawing().state_dict(), tmp_path / "net.pt")
    monkeypatch.setattr("robustcheck.models.pytorch.state_dict.unsaved", lambda _: None)
    answers = []
    for state in (1, 2):
        torch.manual_seed(state)
        answers.append(_load(tmp_path)[1])
        drawn = torch.rand(3)
        torch.manual_seed(state)
        assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(*answers)


def test_values_that_cannot_be_compared_are_passed_over():
    net, other = Drawing("computed"), Drawing("computed")
    for one in (net, other):
        one.sparse, one.meta = torch.randn(3, 3).to_sparse(), torch.empty(2, device="meta")
        one.objects, one.own = np.array([object()]), one.fc.weight
    assert first_drawn(net, other) is None
    assert set(unsaved(net)) == {"proj", "other", "sparse", "meta", "objects"}
