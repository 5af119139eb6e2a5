"""Batch norms that libraries write as functions are folded as layers are."""

from __future__ import annotations

import copy

import pytest
import tiny_models as tiny
import torch
from torch import fx, nn
from torch.nn import functional

from robustcheck.models.fast.fast_form import faster
from robustcheck.models.fast.tidying import tidy


class NormAndAct(nn.BatchNorm2d):
    """As timm's: it asserts, calls the function, and passes by dropout that is off."""

    def __init__(self, channels, **options):
        super().__init__(channels, **options)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, inputs):
        torch._assert(inputs.ndim == 4, f"expected 4D input (got {inputs.ndim}D input)")
        maps = functional.batch_norm(
            inputs,
            self.running_mean,
            self.running_var,
            weight=self.weight,
            bias=self.bias,
            training=False,
            eps=self.eps,
        )
        return self.act(self.drop(maps))


class Network(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3), NormAndAct(4, **options)
        self.last = nn.Linear(4, 2)

    def forward(self, inputs):
        return self.last(functional.dropout(self.norm(self.first(inputs)).mean(dim=(2, 3)), training=False))


class ByThemselves(Network):
    """The statistics are those of the batch, which no layer in evaluation mode has."""

    def forward(self, inputs):
        maps = self.first(inputs)
        return self.last(functional.batch_norm(maps, None, None, training=True).mean(dim=(2, 3)))


class OfFeatures(Network):
    """The norm is of features, not of maps."""

    def forward(self, inputs):
        features = self.first(inputs).mean(dim=(2, 3))
        return self.last(functional.batch_norm(features, self.norm.running_mean, self.norm.running_var))


def made(network):
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, NormAndAct):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            if layer.affine:
                layer.weight.data.normal_()
                layer.bias.data.normal_()
    return network.eval().requires_grad_(False)


def norms(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}])
def test_a_norm_that_is_called_is_a_layer_and_is_folded(options):
    network, images = made(Network(**options)), torch.rand(2, 1, 6, 6)
    tidied = fx.symbolic_trace(copy.deepcopy(network))
    tidy(tidied, images[:1])
    assert [type(tidied.get_submodule(node.target)) for node in tidied.graph.nodes if node.op == "call_module"] == [
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.ReLU,
        nn.Linear,
    ]
    torch.testing.assert_close(tidied(images), network(images))
    form = faster(network, [images], tiny.HEAD)
    assert "batch norm folded" in form.words


@pytest.mark.parametrize("kind", [ByThemselves, OfFeatures])
def test_other_calls_stay_calls(kind):
    network, images = made(kind()), torch.rand(2, 1, 6, 6)
    tidied = fx.symbolic_trace(copy.deepcopy(network))
    tidy(tidied, images)
    assert any(node.target is functional.batch_norm for node in tidied.graph.nodes)
    torch.testing.assert_close(tidied(images), network(images))


class InPlace(Network):
    """Statements that write into their input, and whose answers nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, inputs):
        inputs.sub_(0.25)
        maps = self.norm(self.first(inputs)) - 0.5
        self.act(maps)
        maps = -maps + 0.5
        functional.relu(maps, inplace=True)
        return self.last(maps.mean(dim=(2, 3)))


def test_what_writes_into_its_input_is_kept_though_nobody_takes_its_answer():
    network, images = made(InPlace()), torch.rand(2, 1, 6, 6)
    expected = network(images.clone())
    tidied = fx.symbolic_trace(copy.deepcopy(network))
    tidy(tidied, images[:1].clone())
    torch.testing.assert_close(tidied(images.clone()), expected)
    assert norms(tidied)
    assert "batch norm folded" in faster(network, [images], tiny.HEAD).words


def test_what_only_looks_is_left_out():
    class Looking(Network):
        def forward(self, inputs):
            maps = self.first(inputs)
            _batch, _channels, _height, _width = maps.shape[0], *(maps.size(axis) for axis in (1, 2, 3))
            return self.last(self.norm(maps).mean(dim=(2, 3)))

    network, images = made(Looking()), torch.rand(2, 1, 6, 6)
    tidied = fx.symbolic_trace(copy.deepcopy(network))
    tidy(tidied, images[:1])
    (first,) = (node for node in tidied.graph.nodes if node.target == "first")
    assert len(first.users) == 1


def test_layers_may_be_given_their_input_by_name():
    class Named(Network):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout()

        def forward(self, inputs):
            return self.last(self.drop(input=self.norm(self.first(input=inputs)).mean(dim=(2, 3))))

    network, images = made(Named()), torch.rand(2, 1, 6, 6)
    tidied = fx.symbolic_trace(copy.deepcopy(network))
    tidy(tidied, images[:1])
    assert "drop" not in [node.target for node in tidied.graph.nodes]
    torch.testing.assert_close(tidied(images), network(images))
