"""Convolutions of small maps as products: the same answer and the same gradient as the convolution's own."""

import pytest
import torch
from torch import nn

from robustcheck.models.fast_form import ScoreScale, faster
from robustcheck.models.unfolded import Unfolded, can_unfold


def both(layer: nn.Conv2d, inputs: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Answers, then gradients of a sum of their squares, of a convolution and of the product."""
    answers, gradients = [], []
    for asked in (layer, Unfolded(layer)):
        given = inputs.clone().to(memory_format=torch.channels_last).requires_grad_()
        answers.append(asked(given))
        gradients.append(torch.autograd.grad(answers[-1].square().sum(), given)[0])
    return answers, gradients


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
def test_small_maps(monkeypatch, kernel, padding, shape):
    monkeypatch.setattr(nn.Conv2d, "forward", _guarded(limit=1))
    layer, inputs = convolution(3, 5, kernel, padding), torch.randn(4, 3, *shape, dtype=torch.double)
    (answer, product), (gradient, its) = both(layer, inputs)
    torch.testing.assert_close(product, answer)
    torch.testing.assert_close(its, gradient)


def _guarded(*, limit: int):
    """A convolution that may be asked so often only: a product that hands over to it would always agree."""
    forward, asked = nn.Conv2d.forward, []

    def counted(self, inputs):
        asked.append(self)
        assert len(asked) <= limit, "the convolution itself was asked"
        return forward(self, inputs)

    return counted


def test_large_maps_are_the_convolution_s_own():
    layer, inputs = convolution(2, 3, 3, 1), torch.randn(2, 2, 6, 5, dtype=torch.double)
    (answer, product), (gradient, its) = both(layer, inputs)
    assert torch.equal(answer, product)
    assert torch.equal(gradient, its)


def test_without_a_bias_in_bfloat16_and_written_over():
    layer = convolution(8, 8, 3, 1, bias=False).to(torch.bfloat16)
    inputs = torch.randn(2, 8, 4, 4)
    asked = Unfolded(layer)
    given = inputs.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = asked(given)
        torch.testing.assert_close(answer, layer(inputs.to(torch.bfloat16)), rtol=0.02, atol=0.02)
        answer.relu_()  # as the layer after it does
    (gradient,) = torch.autograd.grad(answer.float().sum(), given)
    assert gradient.dtype == torch.float32
    assert gradient.any()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=3),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Linear(4, 4),
    ],
    ids=str,
)
def test_what_stays_as_it_is(layer):
    assert not can_unfold(layer)


def test_searches_ask_them_where_tiles_are_multiplied(monkeypatch):
    """Machines without AMX make the same form here, slowly: whether they would choose it is not asked."""
    for name in ("_multiplies_bfloat16", "_multiplies_tiles"):
        monkeypatch.setattr(f"robustcheck.models.fast_form.{name}", lambda _device: True)
    asked = []
    monkeypatch.setattr(Unfolded, "forward", lambda self, inputs: asked.append(inputs.shape) or self.layer(inputs))
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(7), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, 2),
    ).eval()  # fmt: skip
    scale = ScoreScale(
        probabilities=lambda scores: scores.softmax(dim=1), margins=lambda scores: scores[:, :1] - scores[:, 1:]
    )
    found = faster(network, [torch.rand(4, 1, 28, 28)], scale)
    assert found is not None
    assert "bfloat16" in found.words
    assert {tuple(shape[1:]) for shape in asked} == {(8, 4, 4)}
