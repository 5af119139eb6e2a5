"""Networks that bend within a grey level, or where pixels are equal: twins of them are right, or wrong."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny_models as tiny
import torch
from graphs import refused_by, with_scaled_gradient
from torch import nn

from robustcheck.models.onnx import agreement
from robustcheck.models.twin import in_double, make_twin
from robustcheck.models.twin.rounding import straight_through

BLACK = 9  # of 16 rows


class _Net(nn.Module):
    """Two branches of windows and ReLUs; `waves` makes scores go up and down as often over the range."""

    def __init__(self, scale=1.0, waves=0.0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.one, self.other = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 12, 5, padding=2)
            self.deep = nn.Conv2d(12, 16, 3, padding=1)
            self.scores = nn.Linear(16 * 16, 2)
        self.scale, self.waves, self.bends = scale, waves, True

    def forward(self, image, detached=False):
        x = image / self.scale * 4 - 2
        one, other = self.one(x), self.other(x)
        x = self._turn(one + (other.detach() if detached else other))
        scores = self.scores(self._turn(self.deep(x)).flatten(1))
        return (scores * self.waves).sin() if self.waves else scores

    def _turn(self, x):
        return nn.functional.max_pool2d(x.relu(), 2) if self.bends else nn.functional.avg_pool2d(x, 2)


def _seeded():
    return torch.Generator().manual_seed(0)


def _as_they_are(x):
    return x


def _bytes(x):
    return straight_through(x, x.round().clamp(0, 255))


def _images(*, black):
    images = torch.rand(4, 3, 16, 16, generator=_seeded())
    images[:, :, : BLACK if black else 0] = 0
    return images


CASES = {
    "bytes": (_Net(scale=255.0, waves=200.0), _bytes(255 * _images(black=False)), _bytes),
    "black": (_Net(), _images(black=True), _as_they_are),
    "black bytes": (_Net(scale=255.0), _bytes(255 * _images(black=True)), _bytes),
    "steep": (_Net(waves=30_000.0), _images(black=False), _as_they_are),
    "steep bytes": (_Net(scale=255.0, waves=3000.0), _bytes(255 * _images(black=False)), _bytes),
}


def _straight(net):
    """The network as if gradients went straight through its ReLUs and windows."""
    other = copy.copy(net)
    other.bends = False
    return other


WRONG = {
    "scaled": lambda net: lambda x: 1.3 * net(x),
    "a factor is missing": lambda net: lambda x: net(x) / 2,
    "turned": lambda net: lambda x: -net(x),
    "a channel is missing": lambda net: lambda x: net(torch.cat([x[:, :1].detach(), x[:, 1:]], dim=1)),
    "a branch is detached": lambda net: lambda x: net(x, detached=True),
    "straight through": _straight,
    "missing": lambda net: lambda x: 0 * net(x),
}


def _compared(net, images, holds, slope=None, *, twice=True):
    """What is found of a network on inputs as it holds them, and a twin that may have the slope of another function."""

    def twin(x):
        x = holds(x)
        return net(x) if slope is None else slope(x) + (net(x) - slope(x)).detach()

    def fine():
        return copy.deepcopy(net).double()

    def artefact(x):
        return net(x).detach()

    return agreement.compare(artefact, twin, [images], agreement.FLOAT, holds, fine if twice else None)


@pytest.mark.parametrize("case", CASES)
def test_a_twin_is_right_where_differences_are_no_slopes(case):
    assert "its gradient differs" in _compared(*CASES[case], twice=False).wrong
    assert _compared(*CASES[case]) == agreement.Agreement(wrong=None)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("case", CASES)
def test_a_wrong_twin_is_refused_there_too(case, wrong):
    net, images, holds = CASES[case]
    assert "its gradient differs" in _compared(net, images, holds, WRONG[wrong](net)).wrong


@pytest.mark.parametrize("case", CASES)
def test_a_twin_of_another_function_is_refused_though_its_gradient_is_that_functions(case):
    """It has the same scores on the samples, and rises otherwise beside them."""
    net, images, holds = CASES[case]

    def other(x):
        here = net(images.to(x)[: len(x)])
        return here + (net(x) - here) * 1.3

    def twin(x):
        held = holds(x)
        return other(held) if torch.equal(held.detach(), images) else net(held)

    def fine():
        double = copy.deepcopy(net).double()
        here = images.double()
        return lambda x: double(here) + (double(x) - double(here)) * 1.3

    found = agreement.compare(lambda x: net(x).detach(), twin, [images], agreement.FLOAT, holds, fine)
    assert "its gradient differs" in found.wrong


@pytest.mark.parametrize("rounds", [False, True])
def test_a_gradient_that_is_missing_at_black_pixels_is_excused_by_nothing(rounds):
    """Where no ReLU turns, slopes to both sides are the same, and an image beside says nothing for it.

    Nor does what looks like a bend over the shortest steps because something on the way rounds.
    """
    weights = torch.randn(768, 2, generator=_seeded())
    images = _images(black=True)

    def ask(x):
        lost = x - (x * 2**20).round() / 2**20
        return (x - lost.detach() * rounds).flatten(1) @ weights.to(x)

    def lacking(x):
        return ask(torch.where(x == 0, x.detach(), x))

    found = agreement.compare(lambda x: ask(x).detach(), lacking, [images], agreement.FLOAT, fine=lambda: ask)
    assert "its gradient differs" in found.wrong


def test_a_second_look_that_fails_is_none():
    net, images, holds = CASES["black"]

    def fails():
        raise TypeError("mixed")

    found = agreement.compare(lambda x: net(x).detach(), net, [images], agreement.FLOAT, holds, fails)
    assert "its gradient differs" in found.wrong


def test_a_twin_that_agrees_at_once_is_not_looked_at_twice():
    def ask(x):
        return x.flatten(1)[:, :2].exp()

    found = agreement.compare(ask, ask, [_images(black=False)], agreement.FLOAT, fine=lambda: pytest.fail("looked"))
    assert found == agreement.Agreement(wrong=None)


def _exported(path):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = CASES["bytes"][0]

        def forward(self, image):
            return self.net(image.float())

    tiny.quietly(
        torch.onnx.export, Whole().eval(), (torch.zeros(2, 3, 16, 16, dtype=torch.uint8),), str(path), dynamo=False,
        input_names=["image"], output_names=["scores"], dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
    )  # fmt: skip
    images = CASES["bytes"][1].numpy().astype(np.uint8)
    return tiny.Pictures(list(images)), {"preprocess": {"range": [0, 255], "channels": 3}}


def test_a_file_of_bytes_that_bends_within_a_level_is_followed(tmp_path):
    images, settings = _exported(tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", images, **settings)
    assert candidate.network.no_gradients is None
    assert not any("could not be compared" in note for note in candidate.info.notes)


@pytest.mark.parametrize("part", [1.3, 0.5])
def test_a_wrong_twin_of_such_a_file_is_refused(part, tmp_path, monkeypatch):
    images, settings = _exported(tmp_path / "net.onnx")
    with_scaled_gradient(monkeypatch, part)
    refused_by(tiny.load(tmp_path / "net.onnx", images, **settings)[0], "its gradient differs from differences")


def test_in_double_precision_inputs_are_not_rounded(tmp_path):
    _exported(tmp_path / "net.onnx")
    module = make_twin(tmp_path / "net.onnx", "scores", tiny.CPU).module
    inputs = CASES["bytes"][1] + 0.3
    scores = in_double(module)(inputs.double().requires_grad_())
    torch.testing.assert_close(scores, copy.deepcopy(CASES["bytes"][0]).double()(inputs.double()), rtol=1e-5, atol=1e-5)
    assert module(inputs.requires_grad_()).dtype is torch.float32
