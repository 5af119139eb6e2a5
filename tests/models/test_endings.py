"""The softmax or sigmoid that a network ends in is left off, so that searches see gradients where it is sure."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import drawn, model_of
from onnx import helper
from torch import nn

from robustcheck.models.fast.endings import leave_off

IMAGES = tiny.pictures(7).shares()


class Ending(nn.Module):
    """A linear network of K logits, sure of most images, and what becomes of them."""

    def __init__(self, end, outputs=2, gain=60.0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layer = nn.Linear(tiny.HEIGHT * tiny.WIDTH, outputs)
            self.other = nn.Linear(tiny.HEIGHT * tiny.WIDTH, 1)
        self.end, self.gain = end, gain

    def logits(self, image):
        return self.gain * self.layer(image.flatten(1))

    def forward(self, image):
        return self.end(self.logits(image))


class Heads(Ending):
    """A sigmoid for each finding, by a layer of its own."""

    def forward(self, image):
        flat = image.flatten(1)
        return torch.cat([torch.sigmoid(self.layer(flat)), self.other(flat).sigmoid()], dim=1)


def _two_sides(z):
    p = torch.sigmoid(z)
    return torch.cat([1 - p, p], dim=1)


def _stacked(z):
    p = torch.sigmoid(z).squeeze(1)
    return torch.stack((p, 1.0 - p), 1)


def _cut_and_divided(z):
    p = z.softmax(dim=1).clamp(1e-7, 1 - 1e-7)
    return p / p.sum(dim=1, keepdim=True)


ENDS = {
    "softmax": (lambda z: z.softmax(dim=1), 2, "softmax"),
    "by keyword": (lambda z: torch.softmax(input=z, dim=1), 2, "softmax"),
    "of logarithms": (lambda z: torch.exp(z.log_softmax(dim=1)), 2, "softmax"),
    "of logarithms, written out": (lambda z: (z - z.logsumexp(dim=1, keepdim=True)).exp(), 2, "softmax"),
    "cut and divided by its sum": (_cut_and_divided, 2, "softmax"),
    "cut": (lambda z: z.softmax(dim=1).clamp(1e-3, 1 - 1e-3), 2, "softmax"),
    "cut otherwise": (lambda z: torch.clip(z.softmax(dim=1), 0.0, 1.0), 2, "softmax"),
    "of maps": (lambda z: z[:, :, None, None].softmax(dim=1).flatten(1), 3, "softmax"),
    "layers": (nn.Sequential(nn.Softmax(dim=1), nn.Identity(), nn.Flatten()), 2, "softmax"),
    "sigmoid": (torch.sigmoid, 1, "sigmoid"),
    "squeezed": (lambda z: torch.sigmoid(z).squeeze(1), 1, "sigmoid"),
    "viewed": (lambda z: z.sigmoid().view(-1), 1, "sigmoid"),
    "flattened": (nn.Sequential(nn.Sigmoid(), nn.Flatten(0)), 1, "sigmoid"),
    "two sides": (_two_sides, 1, "softmax"),
    "two sides, stacked": (_stacked, 1, "softmax"),
    "of both signs": (lambda z: torch.cat([(-z).sigmoid(), z.sigmoid()], dim=1), 1, "softmax"),
    "two sides, cut": (lambda z: _two_sides(z).clamp(1e-6, 1 - 1e-6), 1, "softmax"),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_a_network_ends_in_is_left_off(name):
    end, outputs, ending = ENDS[name]
    network = Ending(end, outputs).eval()
    without = leave_off(network, ending)
    expected = network.logits(IMAGES)
    logits = without(IMAGES.clone())
    if ending == "softmax" and outputs == 1:
        first, second = (1, 0) if "stacked" in name else (0, 1)
        torch.testing.assert_close((logits[:, second] - logits[:, first])[:, None], expected)
    else:
        if "logarithms" in name:
            expected = expected.log_softmax(dim=1)
        torch.testing.assert_close(logits.reshape(expected.shape), expected)
        assert logits.shape == network(IMAGES).shape
    assert not {"softmax", "sigmoid", "clamp", "exp", torch.clip, torch.exp, torch.softmax, torch.sigmoid} & {
        node.target for node in without.graph.nodes
    }


def test_sigmoids_of_several_layers_are_left_off():
    network = Heads(None).eval()
    torch.testing.assert_close(leave_off(network, "sigmoid")(IMAGES).sigmoid(), network(IMAGES))


class Chain(Ending):
    """The second finding's layer is shown the probability of the first."""

    def forward(self, image):
        first = torch.sigmoid(self.gain * self.layer(image.flatten(1)))
        return torch.cat([first, torch.sigmoid(self.other(image.flatten(1)) + 5 * first)], dim=1)


@pytest.mark.parametrize("gain", [1.0, 60.0])
def test_what_a_network_uses_itself_stays_a_probability(gain):
    network = Chain(None, outputs=1, gain=gain).eval()
    logits = leave_off(network, "sigmoid")(IMAGES)
    torch.testing.assert_close(logits.sigmoid(), network(IMAGES))
    flat = IMAGES.flatten(1)
    second = network.other(flat) + 5 * torch.sigmoid(gain * network.layer(flat))
    torch.testing.assert_close(logits[:, 1:], second)


def _shares(parts, *, rounding=None):
    return torch.div(parts, parts.sum(dim=1, keepdim=True), rounding_mode=rounding)


@pytest.mark.parametrize(
    ("end", "outputs", "ending"),
    [
        (lambda z: z.softmax(dim=1), 2, "sigmoid"),
        (lambda z: z.sigmoid(), 2, "softmax"),
        (lambda z: 1 - z.sigmoid(), 2, "sigmoid"),
        (lambda z: z.softmax(dim=1) * 0.5, 2, "softmax"),
        (lambda z: (z.softmax(dim=1) + (2 * z).softmax(dim=1)) / 2, 2, "softmax"),
        (lambda z: torch.cat([z[:, :1].softmax(dim=1), z[:, 1:].softmax(dim=1)], dim=1), 2, "softmax"),
        (lambda z: torch.cat([1 - z[:, :1].sigmoid(), z[:, 1:].sigmoid()], dim=1), 2, "softmax"),
        (lambda z: z, 2, "softmax"),
        (lambda z: z.exp() / z.sum(dim=1, keepdim=True), 2, "softmax"),
        (lambda z: z.softmax(dim=1) / 2, 2, "softmax"),
        (lambda z: z.sigmoid() / z.sigmoid().sum(dim=1, keepdim=True), 2, "softmax"),
        (lambda z: _shares(z.sigmoid()), 2, "sigmoid"),
        (lambda z: _shares(torch.cat([z[:, :1].sigmoid(), z[:, 1:].sigmoid()], dim=1)), 2, "softmax"),
        (lambda z: _shares(z.exp(), rounding="floor"), 2, "softmax"),
    ],
    ids=[
        *("softmax", "sigmoids", "complement", "scaled", "mean", "two softmaxes", "two sigmoids", "logits"),
        *("another's sum", "halved", "shares", "shares of findings", "shares of two sigmoids", "floor"),
    ],
)
def test_a_network_that_ends_otherwise_is_left_as_it_is(end, outputs, ending):
    assert leave_off(Ending(end, outputs).eval(), ending) is None


@pytest.mark.parametrize("divide", [torch.div, lambda e, total: e / total], ids=["div", "/"])
@pytest.mark.parametrize("largest", [True, False])
def test_a_softmax_that_is_written_out_is_left_off(largest, divide):
    def end(z):
        e = torch.exp(z - z.max(1, keepdim=True).values if largest else z)
        return divide(e, e.sum(1, keepdim=True))

    network = Ending(end).eval()
    without = leave_off(network, "softmax")
    expected = network.logits(IMAGES)
    torch.testing.assert_close(without(IMAGES).log_softmax(dim=1), expected.log_softmax(dim=1))
    assert not {"sum", torch.exp} & {node.target for node in without.graph.nodes}


IN_PARTS = {
    "written out": [
        helper.make_node("ReduceMax", ["logits"], ["most"], axes=[1]),
        helper.make_node("Sub", ["logits", "most"], ["below"]),
        helper.make_node("Exp", ["below"], ["parts"]),
    ],
    "cut and divided by its sum": [
        helper.make_node("Softmax", ["logits"], ["p"], axis=1),
        helper.make_node("Clip", ["p", "least"], ["parts"]),
    ],
}


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", IN_PARTS)
def test_a_softmax_in_several_steps_of_onnx(name, kept, tmp_path):
    """As of scikit-learn's discriminants, and as networks are exported that cut their probabilities."""
    weights = drawn(tiny.HEIGHT * tiny.WIDTH, 2)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
        *IN_PARTS[name],
        helper.make_node("ReduceSum", ["parts", "axes"], ["total" if kept else "row"], keepdims=int(kept)),
        *([] if kept else [helper.make_node("Unsqueeze", ["row", "axes"], ["total"])]),
        helper.make_node("Div", ["parts", "total"], ["scores"]),
    ]
    held = [("w", weights), ("b", np.float32([0, 150])), ("axes", np.int64([1])), ("least", np.float32(1e-7))]
    onnx.save(model_of(nodes, held=held), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", tiny.pictures(7))
    assert any("searches use the input of its last softmax" in note for note in candidate.info.notes)
    labels = torch.zeros(7, dtype=torch.int64)
    gradient = candidate.gradient(IMAGES, labels, labels, lambda logits, *_: logits[:, 1] - logits[:, 0])[2]
    expected = torch.from_numpy(weights[:, 1] - weights[:, 0]).reshape(1, 1, tiny.HEIGHT, tiny.WIDTH)
    torch.testing.assert_close(gradient, expected.expand(7, -1, -1, -1))


@pytest.mark.parametrize("bias", [11, 40])
def test_two_sides_of_a_sigmoid_in_onnx(bias, tmp_path):
    """As scikit-learn's networks are exported; ONNX Runtime's sigmoid is 1 from 17 on."""
    weights = drawn(tiny.HEIGHT * tiny.WIDTH, 1)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["p"]),
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["scores"], axis=1),
    ]
    held = [("w", weights), ("b", np.float32([bias])), ("one", np.float32(1))]
    onnx.save(model_of(nodes, held=held), tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", tiny.pictures(7))
    assert any("searches use the input of its last softmax" in note for note in candidate.info.notes)
    labels = torch.zeros(7, dtype=torch.int64)
    gradient = candidate.gradient(IMAGES, labels, labels, lambda logits, *_: logits[:, 1] - logits[:, 0])[2]
    expected = torch.from_numpy(weights).reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1)
    torch.testing.assert_close(gradient, expected)
