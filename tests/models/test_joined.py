"""Convolutions that do the sum and the ReLU behind them: the same answer and gradient as the network's own layers."""

from __future__ import annotations

import copy

import pytest
import tiny_models as tiny
import torch
from torch import fx, nn

from robustcheck.models.fast import fast_form, packed
from robustcheck.models.fast.fast_form import faster
from robustcheck.models.fast.joined import Joined, join
from robustcheck.models.fast.packed import Packed
from robustcheck.models.fast.two_parts import InTwoParts

IMAGES = torch.rand(3, 4, 9, 9, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.skipif(not packed.can_pack(), reason="this torch has no oneDNN")


class Bottleneck(nn.Module):
    """A block of a ResNet-50: what it is given goes through three convolutions, and past them."""

    def __init__(self, stride: int = 1, *, in_place: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 1)
        self.first, self.second, self.third = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, stride, 1), nn.Conv2d(4, 8, 1)
        self.shortcut = nn.Conv2d(8, 8, 1, stride) if stride > 1 else None
        self.relu = nn.ReLU(inplace=in_place)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        given = self.relu(self.stem(image))
        out = self.relu(self.first(given))
        out = self.third(self.relu(self.second(out)))
        out = out + (given if self.shortcut is None else self.shortcut(given))
        return self.relu(out)


class Basic(nn.Module):
    """A block of a ResNet-18, written with functions, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        given = image * 2
        out = torch.relu(self.first(given))
        return torch.relu_(self.second(out).add_(given))


class Alone(nn.Module):
    """One convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)


class Between(Alone):
    """What is added is written over after the convolution and before the sum."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        other = image - 0.5
        answer = self.conv(image)
        other = torch.relu_(other)
        return torch.relu(answer + other)


class Kept(Alone):
    """The answer is used before the ReLU, too."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        answer = self.conv(image)
        return torch.relu(answer) - answer * 0.5


class Spread(nn.Module):
    """What is added is one number a channel, or of another type."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv2d(4, 4, 3, padding=1), kind

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        other = image.mean((2, 3), keepdim=True) if self.kind == "spread" else image.double()
        return torch.relu(self.conv(image) + other).to(image.dtype)


class Upwards(nn.Module):
    """The answer is one number a channel, and what is added is a map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(image[:, :, :5, :5]) + image)


class Itself(Alone):
    """What the convolution is given is added to its answer."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        given = image * 2
        return torch.relu(given + self.conv(given))


class Before(nn.Module):
    """The shortcut comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut, self.conv = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        given = image * 2
        past = self.shortcut(given)
        return self.conv(given) * past


class Sooner(Before):
    """Something else is made of what the convolution is given, before."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        given = image * 2
        past = given + 1
        return self.conv(given) * past


class Over(Basic):
    """What convolutions answer is written over by layers that are not joined."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        given = nn.functional.leaky_relu(self.first(image), inplace=True)
        return nn.functional.silu(self.second(given), inplace=True) + given


class Sized(Alone):
    """A number is added, which the graph has from elsewhere."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        size = image.size(1)
        return torch.relu(self.conv(image) + size)


class Named(nn.Module):
    """Its layers have the names that joined ones would get, and those of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.add = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.conv_joined_0 = nn.Sigmoid()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.add(self.conv_joined_0(self.conv(image)))


class Into(Alone):
    """The answer is added to something else in place, which is used once more."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        other = image * 2
        answer = self.conv(image)
        total = other.add_(answer)
        return torch.sin(total) * 2 + other


class Expanded(Alone):
    """What is added has the size of the answer, and the memory of a channel's mean."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(image) + image.mean((2, 3), keepdim=True).expand_as(image))


class Tied(Alone):
    """One convolution in two places, a ReLU behind one of them."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.relu(self.conv(image)))


class Unused(nn.Module):
    """Nothing comes of the convolution's answer but what is the same for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        given = image * 2
        answer = self.conv(given)
        return given + answer.detach()


def _row(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def _joined(module: nn.Module, *, unfold: bool = False) -> fx.GraphModule:
    traced = fx.symbolic_trace(copy.deepcopy(module).to(memory_format=torch.channels_last))
    join(traced, unfold=unfold)
    return traced


def _answer(module: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What it answers, and the gradient of a sum that weighs each number otherwise."""
    given = images.clone().to(memory_format=torch.channels_last).requires_grad_()
    answer = module(given)
    weights = torch.linspace(-1, 1, answer.numel()).view(answer.shape)
    return answer.detach(), torch.autograd.grad((answer * weights).sum(), given)[0]


MODULES = {
    "three, and a shortcut": Bottleneck(),
    "strides": Bottleneck(stride=2, in_place=False),
    "two, in place": Basic(),
    "no ReLU": _row(nn.Conv2d(4, 6, 3), nn.Sigmoid()),
    "surroundings": _row(nn.Conv2d(4, 6, (3, 2), padding=(0, 1), dilation=(2, 1), bias=False), nn.ReLU()),
    "more surroundings than kernel": _row(nn.Conv2d(4, 6, 1, padding=2), nn.ReLU()),
    "pixels left out": _row(nn.Conv2d(4, 6, 1, stride=(3, 2)), nn.ReLU(), nn.Conv2d(6, 4, 1, stride=2, bias=False)),
    "surroundings, and pixels left out": _row(nn.Conv2d(4, 6, 1, stride=2, padding=1), nn.ReLU()),
    "groups": _row(nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=3, groups=2)),
    "written over between": Between(),
    "used twice": Kept(),
    "spread out": Spread("spread"),
    "another type": Spread("double"),
    "expanded": Expanded(),
    "upwards": Upwards(),
    "itself": Itself(),
    "before": Before(),
    "sooner": Sooner(),
    "into": Into(),
    "over": Over(),
    "sized": Sized(),
    "named": Named(),
    "tied": Tied(),
    "no gradient": Unused(),
}


@pytest.mark.parametrize("unfold", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_the_same_answers_and_gradients(name, unfold):
    torch.manual_seed(0)
    module = MODULES[name].eval().requires_grad_(False)
    for images in (IMAGES, IMAGES[:1], IMAGES[:, :, :5, :5], IMAGES):  # maps of 5×5 are products
        expected = _answer(module, images)
        joined = _joined(module, unfold=unfold)
        torch.testing.assert_close(_answer(joined, images), expected, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(joined(images), expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "joined", "left"),
    [
        # In the order of the graph: whether a ReLU, a sum and a gradient of what is given are done as well.
        ("three, and a shortcut", ["relu", "relu+fork", "relu", "relu+sum"], 0),
        ("strides", ["relu", "relu+fork", "relu", "", "relu+sum"], 0),  # the sum is the shortcut's, which comes last
        ("two, in place", ["relu+fork", "relu+sum"], 1),
        ("no ReLU", [""], 1),
        ("groups", ["relu", ""], 0),
        ("written over between", [""], 4),
        ("used twice", [""], 3),
        ("tied", [], 3),
        ("itself", ["relu+sum"], 1),
        ("before", ["fork", ""], 2),
        ("sooner", [""], 3),
        ("into", [""], 5),
    ],
)
def test_what_is_joined(name, joined, left):
    traced = _joined(MODULES[name].eval().requires_grad_(False))
    found = []
    for node in traced.graph.nodes:
        layer = traced.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, Joined):
            does = {"relu": layer.rectifies, "sum": len(node.args) > 1, "fork": layer.forks}
            found.append("+".join(word for word, done in does.items() if done))
    assert found == joined
    rest = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output")]
    getting = 2 * sum("fork" in each for each in joined)
    assert len(rest) - len(joined) - getting == left


@pytest.mark.parametrize("name", ["three, and a shortcut", "two, in place"])
def test_what_is_no_number_stays_none(name):
    images = IMAGES.clone()
    images[1] = torch.nan
    answer = _joined(MODULES[name].eval().requires_grad_(False))(images)
    assert answer[1].isnan().all()
    assert answer[[0, 2]].isfinite().all()


@pytest.mark.parametrize("name", ["three, and a shortcut", "strides", "two, in place"])
def test_in_bfloat16(name):
    module = copy.deepcopy(MODULES[name]).eval().requires_grad_(False).to(torch.bfloat16)
    expected, wanted = _answer(module, IMAGES.to(torch.bfloat16))
    joined = _joined(module)
    answer, gradient = _answer(joined, IMAGES.to(torch.bfloat16))
    assert answer.dtype == gradient.dtype == torch.bfloat16
    torch.testing.assert_close(answer, expected, rtol=0.05, atol=0.05)
    assert torch.nn.functional.cosine_similarity(gradient.flatten().float(), wanted.flatten().float(), dim=0) > 0.99
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as searches ask, whose images are float32
        answer, gradient = _answer(joined, IMAGES)
    assert gradient.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), wanted.flatten().float(), dim=0) > 0.99


class First(nn.Module):
    """The first layer's answer is added to what it is given, which is used once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        given = image - 0.25
        answer = torch.relu(self.first(given))
        return torch.relu(self.second(answer) + given)


class Added(First):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        given = image - 0.25
        return self.second(torch.relu(self.first(given) + given))


def test_what_goes_past_keeps_its_type():
    """In float32, as the network has it."""
    torch.manual_seed(0)
    module = First().requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, wanted = _answer(module, IMAGES)
    joined = _joined(copy.deepcopy(module).to(torch.bfloat16))
    assert any(isinstance(layer, Joined) and layer.forks for layer in joined.modules())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer, gradient = _answer(joined, IMAGES)
    assert answer.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(answer, expected, rtol=0.02, atol=0.01)
    torch.testing.assert_close(gradient, wanted, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("make", "rectifies"), [(First, True), (Added, False)])
def test_a_first_layer_in_two_parts(make, rectifies):
    torch.manual_seed(0)
    module = make().requires_grad_(False)
    joined = fx.symbolic_trace(copy.deepcopy(module))
    joined.add_module("first", InTwoParts(joined.first))
    joined.second.to(torch.bfloat16)
    join(joined, unfold=False)
    (first,) = (layer for layer in joined.modules() if isinstance(layer, InTwoParts))
    assert isinstance(first.layer, Joined)
    assert first.layer.rectifies is rectifies
    expected, wanted = _answer(module, IMAGES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer, gradient = _answer(joined, IMAGES)
    torch.testing.assert_close(answer.float(), expected, rtol=0.05, atol=0.05)
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0) > 0.99


def test_a_relu_whose_answer_others_change_stays():
    module = _row(nn.Conv2d(4, 4, 1), nn.ReLU()).requires_grad_(False)
    module[1].register_forward_hook(lambda _layer, _given, answer: answer * 2)
    expected = _answer(module, IMAGES)
    torch.testing.assert_close(_answer(_joined(module), IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_layers_that_others_change_stay_the_network_s_own():
    module = _row(
        nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding="same"), nn.ConvTranspose2d(4, 4, 3),
    )  # fmt: skip
    module[2].register_forward_hook(lambda _layer, _given, answer: answer * 2)
    traced = _joined(module.requires_grad_(False))
    assert sum(isinstance(layer, Joined) for layer in traced.modules()) == 1


def test_weights_are_laid_out_once_for_all_sizes_that_want_them_so(monkeypatch):
    """Whatever the number of images, and right for each."""
    layer = nn.Conv2d(128, 96, 1).requires_grad_(False)
    weights, counted = Packed.of(layer, layer.weight, layer.bias), []
    lay_out = torch.ops.mkldnn._reorder_convolution_weight
    monkeypatch.setattr(
        torch.ops.mkldnn, "_reorder_convolution_weight", lambda *given: counted.append(given) or lay_out(*given)
    )
    for count in (1, 2, 5, 1, 2, 5):
        images = torch.rand(count, 128, 6, 7)
        torch.testing.assert_close(weights(images), layer(images), rtol=1e-4, atol=1e-5)
    assert len(counted) == 3
    assert len(weights._by_layout) < 3


class Large(nn.Module):
    """As many weights as a core's cache does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 256, 3), nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, 456, 3), nn.ReLU()
        )
        self.head = nn.Linear(456, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image).mean((2, 3)))


class Small(Large):
    def __init__(self) -> None:
        super().__init__()
        self.features[3], self.head = nn.Conv2d(256, 400, 3), nn.Linear(400, 2)


class Branching(Large):
    """Cannot be traced."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores = super().forward(image)
        return scores if float(scores.sum().detach()) > -1e9 else -scores


@pytest.mark.parametrize(("make", "asked"), [(Large, 2), (Small, 0), (Branching, 0)])
def test_searches_in_bfloat16_ask_large_networks_so(monkeypatch, make, asked):
    """Machines without bfloat16 make the same form here, slowly: whether they would choose it is not asked."""
    monkeypatch.setattr(fast_form, "_multiplies_bfloat16", lambda _device: True)
    torch.manual_seed(0)
    network = make().eval().requires_grad_(False)
    form = faster(network, [torch.rand(2, 1, 9, 9)], tiny.HEAD)
    assert "bfloat16" in form.words
    forward, layers = Joined.forward, []
    monkeypatch.setattr(Joined, "forward", lambda self, *given: layers.append(self) or forward(self, *given))
    form.forward(torch.rand(2, 1, 9, 9))
    assert len(layers) == asked
    assert all(layer.rectifies for layer in layers)


def test_without_onednn_layers_stay(monkeypatch):
    monkeypatch.setattr(fast_form, "_multiplies_bfloat16", lambda _device: True)
    monkeypatch.setattr(fast_form, "can_pack", lambda: False)
    monkeypatch.setattr(Joined, "__init__", None)
    torch.manual_seed(0)
    assert faster(Large().eval().requires_grad_(False), [torch.rand(2, 1, 9, 9)], tiny.HEAD) is not None
