"""DenseNets written into less memory: the same function and the same gradient, whoever wrote the network."""

from __future__ import annotations

import copy

import onnx
import pytest
import tiny_models as tiny
import torch
from torch import fx, nn
from torchvision.models.densenet import DenseNet

from robustcheck.models.fast import fast_form, growing
from robustcheck.models.fast.fast_form import faster
from robustcheck.models.fast.growing import grown, let_grow, room
from robustcheck.models.fast.nodes import traced_copy
from robustcheck.models.fast.pre_activation import Shifted, shift_pre_activations
from robustcheck.models.twin import converted


class Layer(nn.Module):
    """Batch norm, ReLU and a convolution with a border of zeros, as pre-activation ResNets have them."""

    def __init__(self, inside: int, outside: int, *, groups: int = 1) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(inside), nn.ReLU()
        self.convolution = nn.Conv2d(inside, outside, 3, padding=1, groups=groups)

    def forward(self, inputs):
        return self.convolution(self.relu(self.norm(inputs)))


class Nested(nn.Module):
    """Each concatenation is made of the one before it and what is new, as MONAI and torchxrayvision do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(2 + 3 * number, 3) for number in range(4)])

    def forward(self, inputs):
        maps = torch.cat([inputs, inputs * 2], dim=1)
        for layer in self.layers:
            maps = torch.cat([maps, layer(maps)], dim=1)
        return maps.mean(dim=(2, 3))


class Kept(Nested):
    """One of the concatenations is kept for later by someone else."""

    def forward(self, inputs):
        maps = torch.cat([inputs, inputs * 2], dim=1)
        kept = maps
        for layer in self.layers:
            maps = torch.cat([maps, layer(maps)], dim=1)
        return torch.cat([maps, kept.sin()], dim=1).mean(dim=(2, 3))


class Branched(nn.Module):
    """Two convolutions are behind one norm, as in pre-activation ResNets that change their size."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.long, self.short = nn.Conv2d(6, 3, 3, padding=1), nn.Conv2d(6, 3, 1)

    def forward(self, inputs):
        maps = self.relu(self.norm(torch.cat([inputs, -inputs] * 3, dim=1)))
        return (self.long(maps) + self.short(maps)).mean(dim=(2, 3))


class Twice(nn.Module):
    """Two concatenations begin with the same maps."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(2, 3), Layer(2, 3)])

    def forward(self, inputs):
        both = torch.cat([inputs, inputs * 2], dim=1)
        first, second = (torch.cat([both, layer(both)], dim=1) for layer in self.layers)
        return (first * second).mean(dim=(2, 3))


class Inside(nn.Module):
    """What one block puts together is among what another one adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.last = nn.Conv2d(1, 2, 1), Nested(), Layer(17, 3)

    def forward(self, inputs):
        maps = torch.cat([inputs, inputs * 2], dim=1)
        for layer in self.block.layers:
            maps = torch.cat([maps, layer(maps)], dim=1)
        outer = torch.cat([self.stem(inputs), inputs], dim=1)
        outer = torch.cat([outer, maps], dim=1)
        return torch.cat([outer, self.last(outer)], dim=1).mean(dim=(2, 3))


class ByName(Layer):
    """Its norm is given its input by name."""

    def __init__(self) -> None:
        super().__init__(6, 2)

    def forward(self, inputs):
        maps = torch.cat([inputs, -inputs] * 3, dim=1)
        return self.convolution(self.relu(self.norm(input=maps))).mean(dim=(2, 3))


def torchvision_densenet():
    return DenseNet(growth_rate=3, block_config=(3, 2), num_init_features=4, bn_size=2, num_classes=2)


def settled(network, *, seed=0):
    """In double precision, with norms that are not those of a fresh network: of either sign, and zero."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean):
                values.copy_(torch.randn(values.shape, generator=generator))
            layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.1)
            layer.weight.data[0] = 0
    return network.double().eval().requires_grad_(False)


def rewritten(network, image):
    traced = fx.symbolic_trace(copy.deepcopy(network))
    shift_pre_activations(traced)
    let_grow(traced, image)
    return traced


def answer(network, images):
    inputs = images.clone().requires_grad_()
    scores = network(inputs)
    weights = torch.linspace(-1, 1, scores[0].numel(), dtype=scores.dtype).view(scores[0].shape)
    return scores.detach(), torch.autograd.grad((scores * weights).sum(), inputs)[0]


def layers(network, kind):
    return [layer for layer in network.modules() if type(layer) is kind]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("make", "channels", "side"),
    [
        pytest.param(torchvision_densenet, 3, 32, id="torchvision"),
        pytest.param(Nested, 1, 6, id="nested"),
        pytest.param(Kept, 1, 6, id="kept"),
        pytest.param(Twice, 1, 6, id="twice"),
        pytest.param(Branched, 1, 6, id="branched"),
        pytest.param(Inside, 1, 6, id="inside"),
        pytest.param(ByName, 1, 6, id="by name"),
    ],
)
def test_the_same_scores_and_gradients(make, channels, side, layout):
    torch.manual_seed(0)
    images = torch.rand(3, channels, side, side, dtype=torch.float64).contiguous(memory_format=layout)
    network = settled(make())
    scores, gradient = answer(network, images)
    assert bool(gradient.flatten(1).any(dim=1).all())
    other = rewritten(network, images[:1])
    for some in (images, images[:1], images):  # of whatever number, again and again
        expected = scores[: len(some)], gradient[: len(some)]
        torch.testing.assert_close(answer(other, some), expected)
        with torch.no_grad():
            torch.testing.assert_close(other(some), expected[0])


@pytest.mark.parametrize(
    ("make", "rooms", "growths", "shifted"),
    [
        # Each block has a room for what it begins with, all that its layers add, and the transition behind it.
        pytest.param(torchvision_densenet, [4 + 3 * 3, 6 + 2 * 3], 3 + 2, 2 * 3 + 1 + 2 * 2, id="torchvision"),
        pytest.param(Nested, [2 + 4 * 3], 4, 4, id="nested"),
        pytest.param(Kept, [2 + 4 * 3 + 2], 4, 4, id="kept"),  # the one that is kept shares with nobody
        pytest.param(Twice, [], 0, 2, id="twice"),
        pytest.param(Branched, [], 0, 1, id="branched"),
        pytest.param(Inside, [2 + 4 * 3, 3 + 14 + 3], 4 + 2, 4 + 1, id="inside"),
        pytest.param(ByName, [], 0, 1, id="by name"),
    ],
)
def test_what_is_rewritten(make, rooms, growths, shifted):
    network = settled(make())
    image = torch.rand(1, 3 if make is torchvision_densenet else 1, 32, 32, dtype=torch.float64)
    other = rewritten(network, image)
    assert [node.args[0] for node in calls(other, room)] == rooms
    assert len(calls(other, grown)) == growths
    assert len(layers(other, Shifted)) == shifted


def calls(traced, step):
    return [node for node in traced.graph.nodes if node.target is step]


class Shared(Layer):
    """The convolution is asked about something else, too."""

    def forward(self, inputs):
        return super().forward(inputs) + self.convolution(inputs)


class Looked(Layer):
    """What the norm makes is looked at by others than the ReLU."""

    def forward(self, inputs):
        maps = self.norm(inputs)
        return self.convolution(self.relu(maps)) * maps.mean()


@pytest.mark.parametrize("make", [lambda: Shared(4, 4), lambda: Looked(4, 4), lambda: Layer(4, 4, groups=2)])
def test_norms_whose_scale_others_would_see_stay_as_they_are(make):
    network = settled(make())
    traced = fx.symbolic_trace(network)
    shift_pre_activations(traced)
    assert not layers(traced, Shifted)
    assert layers(traced, nn.BatchNorm2d)


def test_a_norm_that_is_in_training_stays_as_it_is():
    """Its statistics are those of the batch."""
    network = settled(Layer(4, 4))
    network.norm.train()
    traced = fx.symbolic_trace(network)
    shift_pre_activations(traced)
    assert not layers(traced, Shifted)


def test_no_sign_is_multiplied_where_all_scales_are_positive():
    network = settled(Layer(4, 4))
    network.norm.weight.data.abs_().add_(0.1)
    images = torch.rand(2, 4, 5, 5, dtype=torch.float64)
    other = fx.symbolic_trace(copy.deepcopy(network))
    shift_pre_activations(other)
    (layer,) = layers(other, Shifted)
    assert layer.sign is None
    torch.testing.assert_close(answer(other, images)[1], answer(network, images)[1])


def test_the_network_itself_is_left_as_it_is():
    network = settled(torchvision_densenet())
    before = copy.deepcopy(network.state_dict())
    rewritten(network, torch.rand(1, 3, 32, 32, dtype=torch.float64))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def written(monkeypatch):
    """Where each concatenation that is made from now on lies in memory, which nothing else takes then."""
    write, places, kept = growing._write, list[int](), list[torch.Tensor]()

    def noted(maps, *what):
        kept.append(maps)
        places.append(maps.untyped_storage().data_ptr())
        return write(maps, *what)

    monkeypatch.setattr(growing, "_write", noted)
    return places


def test_each_map_of_a_block_is_kept_once(monkeypatch):
    """The memory that a room takes is that of its last concatenation, not of all of them."""
    network, images = settled(Nested()), torch.rand(2, 1, 16, 16, dtype=torch.float64)
    other, places = rewritten(network, images[:1]), written(monkeypatch)
    other(images)
    assert len(places) == 1 + 4
    assert len(set(places)) == 1


@pytest.mark.parametrize("native", [False, True])
def test_a_densenet_is_searched_so(native, monkeypatch):
    """On a CPU, with or without bfloat16; the norms of its layers that convolutions lie before are folded as ever."""
    monkeypatch.setattr(fast_form, "_multiplies_bfloat16", lambda _device: native)
    asked, forward, places = list[nn.Module](), Shifted.forward, written(monkeypatch)
    monkeypatch.setattr(Shifted, "forward", lambda self, maps: asked.append(self) or forward(self, maps))
    network = torchvision_densenet().eval().requires_grad_(False)
    form = faster(network, [torch.rand(2, 3, 32, 32)], tiny.HEAD)
    assert ("bfloat16" in form.words) is native
    asked.clear()
    places.clear()
    form.forward(torch.rand(2, 3, 32, 32))
    assert len(asked) == 3 + 1 + 2
    assert len(set(places)) == 2  # a block each


@pytest.mark.parametrize(("save", "growths"), [(tiny.save_onnx, 2 + 1), (tiny.save_onnx_old, 3 + 2)])
def test_the_twin_of_a_densenet_is_written_so_as_well(save, growths, tmp_path):
    """The newer exporter leaves out concatenations of one map."""
    torch.manual_seed(0)
    network, images = settled(torchvision_densenet()).float(), torch.rand(2, 3, 32, 32)
    save(network, tmp_path / "dense.onnx")
    twin = converted(onnx.load(tmp_path / "dense.onnx"))
    folded = fast_form._folded(traced_copy(twin), images[:1])
    assert len(layers(folded, Shifted)) == 3 + 1 + 2
    assert len(calls(folded, grown)) == growths
    torch.testing.assert_close(answer(folded, images), answer(network, images), rtol=1e-3, atol=1e-4)
