"""Whether two functions are found to be twins, whatever hides that they are not."""

from __future__ import annotations

import pytest
import torch

from robustcheck.models.onnx import agreement


def _straightened(function, slope):
    """A function whose gradient is another's."""
    return lambda x: slope(x) + (function(x) - slope(x)).detach()


def test_where_probabilities_are_at_an_end_their_logarithms_are_compared():
    weights = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([60.0, 0.0, 0.0])

    def ask(x):
        return (x.flatten(1) @ weights + shift).softmax(dim=1)

    images = [torch.rand(4, 1, 3, 4)]
    assert agreement.compare(ask, ask, images, agreement.FLOAT) == agreement.Agreement(wrong=None)
    other = _straightened(ask, lambda x: (-(x.flatten(1) @ weights) + shift).softmax(dim=1))
    assert "its gradient differs" in agreement.compare(ask, other, images, agreement.FLOAT).wrong


@pytest.mark.parametrize("margin", [82.88, 87.32, 87.34, 87.36, 88.0, 100.0])
def test_a_probability_that_float32_hardly_holds_is_no_witness_against_the_twin(margin):
    """Its logarithm stops to move in the twin and moves on at a step, or the other way round."""
    weights = 4 * torch.randn(12, 2, generator=_seeded())
    margins = torch.tensor([margin, margin, margin, 2.0])
    images = torch.full((4, 1, 3, 4), 0.5)
    images[3, 0, 0, :2] = torch.tensor([0.0, 1.0])  # which the range is taken from

    def logits(x, sign=1):
        shift = torch.stack([margins[: len(x)], torch.zeros(len(x))], dim=1)
        return sign * ((x - 0.5).flatten(1) @ weights) + shift

    def ask(x):
        return logits(x).softmax(dim=1)

    assert agreement.compare(ask, ask, [images], agreement.FLOAT) == agreement.Agreement(wrong=None)
    turned = _straightened(ask, lambda x: logits(x, sign=-1).softmax(dim=1))
    assert "its gradient differs" in agreement.compare(ask, turned, [images], agreement.FLOAT).wrong


def test_a_probability_that_vanishes_in_the_twin_alone_is_a_witness():
    weights = torch.randn(12, 2, generator=_seeded())

    def ask(x):
        return ((x.flatten(1) @ weights) + torch.tensor([9.0, 0.0])).softmax(dim=1)

    def cut(x):
        probabilities = ask(x)
        return torch.where(probabilities < 1e-3, 0.0, probabilities)

    found = agreement.compare(ask, cut, [torch.rand(4, 1, 3, 4, generator=_seeded())], agreement.FLOAT)
    assert "its gradient differs" in found.wrong


@pytest.mark.parametrize("logit", [-20.0, -18.2, -17.9, -17.0, -16.0, -14.0])
def test_a_sigmoid_that_is_rounded_to_steps_from_1_is_no_witness_against_the_twin(logit):
    """ONNX Runtime's is 0 from -18 down, and a few steps high before."""
    shift = torch.tensor([logit, 0.0, 1.0, -1.0]).view(-1, 1)
    weights = torch.rand(12, 1, generator=_seeded()) * 4
    images = torch.full((4, 1, 3, 4), 0.5)

    def twin(x):
        return (((x - 0.5).flatten(1) @ weights) + shift[: len(x)]).sigmoid()

    def artefact(x):
        return (twin(x) / 2**-24).floor() * 2**-24

    assert agreement.compare(artefact, twin, [images], agreement.FLOAT).wrong is None
    other = _straightened(twin, lambda x: (((x - 0.5).flatten(1) @ weights.flip(0)) + shift[: len(x)]).sigmoid())
    assert "its gradient differs" in agreement.compare(artefact, other, [images], agreement.FLOAT).wrong


@pytest.mark.parametrize("logit", [-20.0, -17.0, -14.0])
def test_a_sigmoid_that_is_lost_in_rounding_hides_no_other(logit):
    weights = torch.rand(12, 4, generator=_seeded()) * 4
    shift = torch.tensor([0.0, 1.0, -1.0, logit])

    def twin(x):
        return (((x - 0.5).flatten(1) @ weights) + shift).sigmoid()

    def artefact(x):
        return (twin(x) / 2**-24).floor() * 2**-24

    images = [torch.full((4, 1, 3, 4), 0.5)]
    assert agreement.compare(artefact, twin, images, agreement.FLOAT) == agreement.Agreement(wrong=None)
    other = _straightened(twin, lambda x: (((x - 0.5).flatten(1) @ -weights) + shift).sigmoid())
    assert "its gradient differs" in agreement.compare(artefact, other, images, agreement.FLOAT).wrong


def _sigmoid(logits):
    """ONNX Runtime's: right to a step from 1, and 0 from -18 down."""
    return (logits.sigmoid() * 2**24).round() / 2**24


def _two_sides(probabilities):
    return torch.cat([1 - probabilities, probabilities], dim=1)


def _sure(shape=(12, 1), gain=400.0):
    """Logits that are far from 0 on all images but those between two of them."""
    weights = torch.randn(shape, generator=_seeded())
    return lambda x, sign=1: sign * gain * (x.flatten(1) - 0.5) @ weights


SIGMOIDS = {
    "one": lambda probabilities: probabilities,
    "two sides": _two_sides,
    "of both signs": lambda probabilities: torch.cat([probabilities, 1 - probabilities], dim=1),
}


@pytest.mark.parametrize("gain", [1.0, 5.0, 30.0, 300.0])
@pytest.mark.parametrize("name", SIGMOIDS)
def test_where_sigmoids_are_sure_of_every_image_gradients_are_compared_between_images(name, gain):
    logits, end = _sure(shape=(784, 1), gain=gain), SIGMOIDS[name]
    images = [torch.rand(4, 1, 28, 28, generator=_seeded()).round()]

    def artefact(x):
        return end(_sigmoid(logits(x)))

    def twin(x):
        return end(logits(x).sigmoid())

    assert agreement.compare(artefact, twin, images, agreement.FLOAT) == agreement.Agreement(wrong=None)
    other = _sure(gain=gain, shape=(784, 2))
    for wrong in (
        lambda x: end(logits(x, sign=-1).sigmoid()),
        lambda x: end(other(x)[:, 1:].sigmoid()),
        lambda x: end((logits(x) / 2).sigmoid()),
    ):
        found = agreement.compare(artefact, _straightened(twin, wrong), images, agreement.FLOAT)
        assert "its gradient differs" in found.wrong


def test_where_one_label_is_sure_of_every_image_others_are_compared():
    weights = torch.randn(12, 3, generator=_seeded())
    images = [torch.rand(4, 1, 3, 4, generator=_seeded())]

    def logits(x):
        return (x.flatten(1) - 0.5) @ weights + torch.tensor([40.0, 0.0, -40.0])

    def artefact(x):
        return _sigmoid(logits(x))

    def twin(x):
        return logits(x).sigmoid()

    assert agreement.compare(artefact, twin, images, agreement.FLOAT) == agreement.Agreement(wrong=None)
    turned = _straightened(twin, lambda x: (-logits(x)).sigmoid())
    assert "its gradient differs" in agreement.compare(artefact, turned, images, agreement.FLOAT).wrong


def test_a_sigmoid_that_is_sure_of_all_that_it_is_asked_is_not_compared():
    weights = torch.randn(12, 1, generator=_seeded())

    def ask(x):
        return _sigmoid(40 + x.flatten(1) @ weights)

    found = agreement.compare(ask, lambda x: ask(x) + 0 * x.sum(), [torch.rand(4, 1, 3, 4)], agreement.FLOAT)
    assert found == agreement.Agreement(wrong=None, told=False)


def test_log_odds_that_are_rounded_on_the_way_are_not_compared():
    """As those of naive Bayes, which are small differences of large sums."""
    logits = _sure(gain=4000.0)

    def ask(x):
        large = logits(x) * torch.tensor([[1.0, -1.0]]) / 2 - 1e6 * x.flatten(1).sum(dim=1, keepdim=True)
        return (large - large.logsumexp(dim=1, keepdim=True)).exp()

    images = [torch.rand(4, 1, 3, 4, generator=_seeded()).round()]
    found = agreement.compare(ask, ask, images, agreement.FLOAT)
    assert found == agreement.Agreement(wrong=None, told=False)


@pytest.mark.parametrize("margin", [0.0, 3.0, 6.0])
def test_probabilities_in_half_precision_are_compared_where_they_are_right(margin):
    weights = torch.randn(12, 2, generator=_seeded())
    images = [0.5 + 0.1 * torch.rand(4, 1, 3, 4, generator=_seeded())]

    def twin(x):
        return (x.flatten(1) @ weights + torch.tensor([margin, 0.0])).softmax(dim=1)

    def artefact(x):
        return twin(x).half()

    assert agreement.compare(artefact, twin, images, agreement.HALF) == agreement.Agreement(wrong=None)
    turned = _straightened(twin, lambda x: 2 * twin(x).detach() - twin(x))
    assert "its gradient differs" in agreement.compare(artefact, turned, images, agreement.HALF).wrong


def test_a_quantised_softmax_that_is_sure_of_an_image_has_a_gradient():
    logits = _sure(gain=60.0)

    def smooth(x):
        return (logits(x) * torch.tensor([[1.0, -1.0]])).softmax(dim=1)

    def ask(x):
        return (smooth(x) * 255).round() / 255

    images = [torch.rand(4, 1, 3, 4, generator=_seeded()).round()]
    found = agreement.compare(ask, _straightened(ask, smooth), images, agreement.QUANTISED)
    assert found == agreement.Agreement(wrong=None)
    turned = _straightened(ask, lambda x: -smooth(x))
    assert "fall along" in agreement.compare(ask, turned, images, agreement.QUANTISED).wrong


def test_scores_that_do_not_move_tell_nothing():
    found = agreement.compare(_constant, _constant, [torch.rand(4, 1, 3, 4)], agreement.FLOAT)
    assert found == agreement.Agreement(wrong=None, told=False)


def test_an_image_where_both_are_flat_is_no_witness_against_the_twin():
    """Clipped scores do not move there, and a step that leaves the plateau is no slope of it."""
    images = torch.cat([torch.full((1, 1, 3, 4), 0.995), torch.rand(3, 1, 3, 4, generator=_seeded()) * 0.5])
    weights = torch.rand(12, 2, generator=_seeded())

    def ask(x):
        return (1 - 1000 * (0.99 - x).clamp_min(0) ** 2).flatten(1) @ weights

    assert agreement.compare(ask, ask, [images], agreement.FLOAT) == agreement.Agreement(wrong=None)
    turned = torch.tensor([1.0, -1.0, 1.0, 1.0]).view(-1, 1)
    for wrong in (lambda x: turned[: len(x)] * ask(x), lambda x: 0 * ask(x)):
        other = _straightened(ask, wrong)
        assert "its gradient differs" in agreement.compare(ask, other, [images], agreement.FLOAT).wrong


def test_a_step_that_the_input_rounds_away_shows_nothing():
    """Bytes do not move by a thousandth of their range."""
    weights = torch.randn(12, 2, generator=_seeded())
    images = [torch.randint(0, 256, (4, 1, 3, 4), generator=_seeded()).float()]

    def ask(x):
        return x.flatten(1) @ weights

    assert agreement.compare(ask, ask, images, agreement.FLOAT, torch.round) == agreement.Agreement(wrong=None)
    turned = _straightened(ask, lambda x: -ask(x))
    assert "its gradient differs" in agreement.compare(ask, turned, images, agreement.FLOAT, torch.round).wrong


def test_an_image_whose_gradient_is_missing_is_a_witness():
    weights = torch.randn(12, 2, generator=_seeded())
    there = torch.tensor([0.0, 1.0, 1.0, 1.0]).view(-1, 1)

    def ask(x):
        return 10_000 + x.flatten(1) @ weights  # of which float32 rounds small changes away

    missing = _straightened(ask, lambda x: there[: len(x)] * ask(x))
    images = [torch.rand(4, 1, 3, 4, generator=_seeded())]
    assert "its gradient differs" in agreement.compare(ask, missing, images, agreement.FLOAT).wrong


def _seeded():
    return torch.Generator().manual_seed(0)


def _constant(x):
    return torch.tensor([[3.0, 1.0]]) + 0 * x.flatten(1)[:, :2]


@pytest.mark.parametrize("read", [lambda z: z, lambda z: (z / 400).softmax(dim=1)], ids=["logits", "softmax"])
def test_a_gradient_that_every_second_pixel_lacks_is_seen(read):
    """Along the gradient itself scores rise as it says; random signs show the rest, and move scores much less."""
    weights = torch.randn(12_544, 2, generator=_seeded())
    there = torch.arange(12_544).view(1, 112, 112) % 2 == 0
    images = [torch.rand(4, 1, 112, 112, generator=_seeded())]

    def ask(x):
        return read(x.flatten(1) @ weights)

    lacking = _straightened(ask, lambda x: ask(torch.where(there, x, x.detach())))
    assert agreement.compare(ask, ask, images, agreement.FLOAT) == agreement.Agreement(wrong=None)
    assert "its gradient differs" in agreement.compare(ask, lacking, images, agreement.FLOAT).wrong


def test_each_image_is_judged_for_itself():
    """The steepest image does not hide three whose gradients point the wrong way."""
    weights = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    steep = torch.tensor([1.0, 0.02, 0.02, 0.02]).view(-1, 1)
    turned = torch.tensor([1.0, -1.0, -1.0, -1.0]).view(-1, 1)

    def ask(x):
        return steep[: len(x)] * (x.flatten(1) @ weights) * 100

    other = _straightened(ask, lambda x: turned[: len(x)] * ask(x))
    assert "its gradient differs" in agreement.compare(ask, other, [torch.rand(4, 1, 3, 4)], agreement.FLOAT).wrong


@pytest.mark.parametrize("levels", [4, 20, 500])
@pytest.mark.parametrize(("factor", "words"), [(torch.nan, "not finite"), (0.0, "is zero"), (-1.0, "fall along")])
def test_gradients_through_rounding_are_there_and_lead_upwards(factor, words, levels):
    weights = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))

    def ask(x):
        return ((x.flatten(1) @ weights) * levels).round() / levels

    def followed(by):
        return _straightened(ask, lambda x: by * (x.flatten(1) @ weights))

    images = [torch.rand(4, 1, 3, 4)]
    assert agreement.compare(ask, followed(1.0), images, agreement.QUANTISED).wrong is None
    wrong = followed(factor) if factor == factor else lambda x: ask(x) + _NoSlope.apply(x)
    assert words in agreement.compare(ask, wrong, images, agreement.QUANTISED).wrong


def test_scores_that_rise_at_first_and_then_fall_are_no_sign_of_a_wrong_gradient():
    weights = torch.randn(12, generator=_seeded())
    turns = 28 * torch.pi / weights.abs().sum()  # a twentieth of the range along the gradient is 1.4 π

    def smooth(x):
        return (turns * ((x.flatten(1) - 0.5) @ weights)).sin()[:, None].expand(-1, 2)

    def ask(x):
        return (smooth(x) * 50).round() / 50

    images = 0.5 + 0.001 * torch.randn(4, 1, 3, 4, generator=_seeded())
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])  # which the range is taken from
    assert agreement.compare(ask, _straightened(ask, smooth), [images], agreement.QUANTISED).wrong is None


class _NoSlope(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, x):
        return x.new_zeros(len(x), 2)

    @staticmethod
    def backward(_ctx, gradient):
        return gradient.new_full((len(gradient), 1, 3, 4), torch.nan)


def test_an_infinite_score_hides_no_other():
    def ask(x):
        return torch.cat([x.flatten(1)[:, :2], x.new_full((len(x), 1), torch.inf)], dim=1)

    assert agreement.compare(ask, lambda x: 50 * ask(x), [torch.rand(4, 1, 3, 4)], agreement.FLOAT).wrong
