"""Convolutions of small maps as products: the same answer and the same gradient as the convolution's own."""

import pytest
import tiny_models as tiny
import torch
from torch import nn

from robustcheck.models.fast.fast_form import faster
from robustcheck.models.fast.unfolded import Unfolded, can_unfold


def both(layer: nn.Conv2d, inputs: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Answers, then gradients of a sum of their squares, of a convolution and of the product."""
    given = inputs.clone().to(memory_format=torch.channels_last).requires_grad_()
    answer = layer(given)
    (gradient,) = torch.autograd.grad(answer.square().sum(), given)
    product = Unfolded(layer)
    answers = [answer.detach(), product(given.detach())]
    return answers, [gradient, product.gradient(2 * answers[1], given.detach())]


def convolution(channels: int, filters: int, kernel, padding, *, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(3)
    return nn.Conv2d(channels, filters, kernel, padding=padding, bias=bias).double().requires_grad_(False)


@pytest.mark.parametrize(
    ("kernel", "padding", "shape"),
    [
        (3, 1, (4, 4)),
        (3, 0, (4, 6)),
        ((3, 5), (2, 1), (2, 4)),
        ((1, 3), (0, 1), (3, 5)),
        ((2, 4), (1, 3), (3, 3)),
    ],
)
def test_small_maps(kernel, padding, shape):
    layer, inputs = convolution(3, 5, kernel, padding), torch.randn(4, 3, *shape, dtype=torch.double)
    (answer, product), (gradient, its) = both(layer, inputs)
    torch.testing.assert_close(product, answer)
    torch.testing.assert_close(its, gradient)


@pytest.mark.parametrize(("shape", "suits"), [((5, 5), True), ((4, 6), True), ((5, 6), False)])
def test_maps_that_are_small(shape, suits):
    layer = convolution(2, 3, 3, 1)
    assert Unfolded(layer).suits(torch.zeros(7, 2, *shape)) is suits
    assert Unfolded(convolution(2, 3, 3, 0)).suits(torch.zeros(7, 2, shape[0] + 2, shape[1] + 2)) is suits


def test_without_a_bias_in_bfloat16():
    layer = convolution(8, 8, 3, 1, bias=False).to(torch.bfloat16)
    (answer, product), (gradient, its) = both(layer, torch.randn(2, 8, 4, 4).to(torch.bfloat16))
    torch.testing.assert_close(product, answer, rtol=0.02, atol=0.02)
    torch.testing.assert_close(its, gradient, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=3),
    ],
    ids=str,
)
def test_what_stays_as_it_is(layer):
    assert not can_unfold(layer)


def test_searches_ask_them_where_tiles_are_multiplied(monkeypatch):
    """Machines without AMX make the same form here, slowly: whether they would choose it is not asked."""
    for name in ("_multiplies_bfloat16", "_multiplies_tiles"):
        monkeypatch.setattr(f"robustcheck.models.fast.fast_form.{name}", lambda _device: True)
    monkeypatch.setattr("robustcheck.models.fast.fast_form._MANY_WEIGHTS", 0)
    asked, answer = [], Unfolded.__call__
    monkeypatch.setattr(Unfolded, "__call__", lambda self, inputs: asked.append(inputs.shape) or answer(self, inputs))
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(7), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, 2),
    ).eval()  # fmt: skip
    found = faster(network, [torch.rand(4, 1, 28, 28)], tiny.HEAD)
    assert found is not None
    assert "bfloat16" in found.words
    assert {tuple(shape[1:]) for shape in asked} == {(8, 4, 4)}
