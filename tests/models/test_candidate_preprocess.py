"""From stored pixels to the network's input: by hand, and its gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models as tiny
import torch
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode, v2

from robustcheck.errors import CandidateError
from robustcheck.models.preprocess import Preprocess
from robustcheck.policy import PreprocessSpec


def _preprocess(**options):
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    return Preprocess(PreprocessSpec(**given), tiny.CPU, maximum=255)


def test_by_default_nothing_happens():
    images = torch.rand(2, 3, 4, 5)
    assert torch.equal(_preprocess()(images), images)


def test_the_order_of_the_steps_by_hand():
    """A 1×2 grey image to 2×2, then to [-1, 1], then its own mean and deviation a channel, then channels last."""
    preprocess = _preprocess(
        channels=3, resize=(2, 2), range=(-1, 1), mean=(0.0, 0.5, -1.0), std=(1.0, 0.5, 2.0), layout="NHWC"
    )
    images = torch.tensor([[[[0.25, 1.0]]]])
    # grey g -> 2g - 1 -> (· - mean) / std; the row is doubled by the resize.
    dark, bright = [-0.5, (-0.5 - 0.5) / 0.5, (-0.5 + 1) / 2], [1.0, (1 - 0.5) / 0.5, (1 + 1) / 2]
    expected = torch.tensor([[[dark, bright], [dark, bright]]])
    torch.testing.assert_close(preprocess(images), expected)
    assert preprocess.shape((1, 1, 2)) == (3, 2, 2)


def test_a_window_in_hounsfield_units():
    """12 bits from -1024: -1000 HU and below are black, 400 and above white, and far from there gradients end."""
    preprocess = Preprocess(
        PreprocessSpec(window=(-1000, 400), range=(-1, 1)), tiny.CPU, maximum=4095, hounsfield=-1024
    )
    levels = torch.tensor([0.0, 24, 724, 1424, 4095]).view(1, 1, 1, 5)
    shares = (levels / 4095).requires_grad_()
    shown = preprocess(shares)
    torch.testing.assert_close(shown.detach().flatten(), torch.tensor([-1.0, -1, 0, 1, 1]), rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(shown.sum(), shares)
    slope = 2 * 4095 / 1400
    torch.testing.assert_close(gradient.flatten(), torch.tensor([slope, slope, slope, slope, 0]))


def test_a_gradient_reaches_a_tenth_beyond_a_window_and_leads_into_it():
    """From 100 to 200: what is darker by up to 10 may become brighter, and the reverse; the rest stays as it is."""
    preprocess = Preprocess(PreprocessSpec(window=(100, 200)), tiny.CPU, maximum=255)
    levels = torch.tensor([89.0, 91, 101, 150, 199, 209, 211]).view(1, 1, 1, 7)
    for sign, leads in ((1, [0, 1, 1, 1, 1, 0, 0]), (-1, [0, 0, 1, 1, 1, 1, 0])):
        shares = (levels / 255).double().requires_grad_()
        (gradient,) = torch.autograd.grad(sign * preprocess(shares).sum(), shares)
        assert (gradient.flatten() * sign > 0).int().tolist() == leads
        assert (gradient == 0).sum() == leads.count(0)


def test_a_window_of_signed_files_is_in_the_values_that_they_store():
    preprocess = Preprocess(PreprocessSpec(window=(0, 1000)), tiny.CPU, maximum=65535, zero=-32768)
    stored = torch.tensor([-500, 0, 250, 1000, 2000])
    shares = ((stored + 32768) / 65535).view(1, 1, 1, 5)
    assert preprocess(shares).flatten().tolist() == pytest.approx([0, 0, 0.25, 1, 1], abs=1e-4)


def test_a_window_is_cut_before_it_is_resized():
    preprocess = _preprocess(window=(100, 200), resize=(1, 1))
    assert preprocess(torch.tensor([[[[0.0, 1.0]]]])).item() == pytest.approx(0.5)
    assert preprocess(torch.tensor([[[[150 / 255, 1.0]]]])).item() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("window", "space", "fits"),
    [
        ((0, 255), {}, True),
        ((-1, 255), {}, False),
        ((0, 256), {}, False),
        ((-1350, 150), {"maximum": 4095, "hounsfield": -1024}, True),
        ((-2000, -1024), {"maximum": 4095, "hounsfield": -1024}, False),
        ((3071, 4000), {"maximum": 4095, "hounsfield": -1024}, False),
        ((-100, 1000), {"maximum": 65535, "zero": -32768}, True),
        ((-100, 40000), {"maximum": 65535, "zero": -32768}, False),
    ],
)
def test_a_window_on_what_can_be_stored(window, space, fits):
    preprocess = Preprocess(PreprocessSpec(window=window), tiny.CPU, **{"maximum": 255, **space})
    if fits:
        preprocess.check((1, 8, 8))
    else:
        with pytest.raises(CandidateError, match=r"model\.preprocess\.window is .*, but the images store "):
            preprocess.check((1, 8, 8))


@pytest.mark.parametrize(
    "options",
    [{}, {"channels": 3}, {"layout": "NHWC"}, {"resize": (6, 5)}, {"resize": 5}, {"crop": (4, 5)}, {"crop": (6, 5)}],
)
def test_what_the_network_is_given_is_its_own(options):
    """Some networks write into it."""
    images = torch.rand(2, 1, 6, 5)
    kept = images.clone()
    _preprocess(**options)(images).sub_(0.5)
    assert torch.equal(images, kept)


def test_range_before_mean():
    images = torch.tensor([[[[0.5]]]])
    assert _preprocess(range=(0, 255), mean=(127.5,), std=(2,))(images).item() == 0
    assert _preprocess(range=(1, 0))(torch.tensor([[[[0.25]]]])).item() == 0.75  # inverted: MONOCHROME1


def test_shrinking_is_antialiased():
    """Every stored pixel has a say: stripes shrink to grey, where looking at the nearest pixels would see none."""
    stripes = torch.tensor([1.0, 0.0, 0.0, 1.0]).repeat(4).expand(1, 1, 16, 16)
    assert (_preprocess(resize=(4, 4))(stripes) - 0.5).abs().max() < 0.1
    assert interpolate(stripes, (4, 4), mode="bilinear").max() == 0


# --- against torchvision --------------------------------------------------------------------------------------------

SIZES = [(13, 29), (40, 17), (16, 16), (31, 32)]


@pytest.mark.parametrize("stored", SIZES)
@pytest.mark.parametrize("resize", [7, 16, 31, 50, (9, 41)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("antialias", [True, False])
def test_resize_is_that_of_torchvision(stored, resize, interpolation, antialias):
    images = torch.rand(2, 3, *stored, generator=torch.Generator().manual_seed(0))
    preprocess = _preprocess(resize=resize, interpolation=interpolation, antialias=antialias)
    theirs = v2.Resize(resize, InterpolationMode(interpolation), antialias=antialias)
    resized = preprocess(images)
    assert torch.equal(resized, theirs(images).clamp(0, 1))
    assert preprocess.shape((3, *stored)) == tuple(resized.shape[1:])
    levels = (images * 255).byte()  # on these torchvision is off by a level, and a cubic is cut off twice
    assert interpolation == "bicubic" or (preprocess(levels / 255) * 255 - theirs(levels)).abs().max() < 1.1


@pytest.mark.parametrize("stored", SIZES)
@pytest.mark.parametrize("crop", [(13, 16), (12, 15), (1, 2), (10, 5)])
def test_crop_is_that_of_torchvision(stored, crop):
    images = torch.rand(2, 3, *stored)
    preprocess = _preprocess(crop=crop)
    preprocess.check((3, *stored))
    assert torch.equal(preprocess(images), v2.CenterCrop(crop)(images))
    assert preprocess(images).is_contiguous()
    assert preprocess.shape((3, *stored)) == (3, *crop)


def test_the_usual_steps_together():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.rand(2, 3, 50, 41, generator=torch.Generator().manual_seed(0)) / 2 + 0.25
    usual = v2.Compose([v2.Resize(32, InterpolationMode.BICUBIC), v2.CenterCrop([28, 30]), v2.Normalize(mean, std)])
    preprocess = _preprocess(resize=32, interpolation="bicubic", crop=(28, 30), mean=mean, std=std)
    torch.testing.assert_close(preprocess(images), usual(images), rtol=1e-5, atol=1e-5)


def test_bicubic_ends_where_stored_images_end_and_its_gradient_leads_back():
    """Beside an edge a cubic overshoots: what is whiter than white is cut off, and may become darker all the same."""
    edge = torch.cat([torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)], dim=3).requires_grad_()
    resized = _preprocess(resize=(16, 32), interpolation="bicubic")(edge)
    assert v2.functional.resize(edge, [16, 32], interpolation=InterpolationMode.BICUBIC).max() > 1.01
    assert resized.max() == 1
    (gradient,) = torch.autograd.grad(-resized.sum(), edge)
    assert (gradient[..., 8:] < 0).all()


def test_blue_first_and_its_own_mean():
    """As Keras' `caffe` mode: the mean is subtracted of channels that were turned."""
    images = torch.rand(2, 3, 4, 5)
    preprocess = _preprocess(order="BGR", range=(0, 255), mean=(103.939, 116.779, 123.68))
    theirs = images[:, [2, 1, 0]] * 255 - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    torch.testing.assert_close(preprocess(images), theirs)


def test_a_size_that_fits_is_not_touched():
    images = torch.rand(1, 1, 6, 5)
    assert torch.equal(_preprocess(resize=(6, 5))(images), images)


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {}),
        (1, {"channels": 3, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 2.0)}),
        (3, {"range": (-1, 1), "layout": "NHWC"}),
        (1, {"resize": (9, 8), "channels": 3, "range": (0, 255), "mean": 120.0, "std": 60.0}),
        (3, {"resize": (3, 2), "std": (0.1, 0.2, 0.3)}),
        (1, {"resize": (2, 9), "layout": "NHWC"}),
        (3, {"resize": 3, "antialias": False, "order": "BGR", "mean": (0.1, 0.2, 0.3)}),
        (1, {"resize": 6, "interpolation": "nearest", "crop": (5, 3)}),
        (3, {"crop": (2, 3), "layout": "NHWC"}),
    ],
)
def test_the_gradient_against_finite_differences(channels, options):
    """The loss is linear in the input, so a difference quotient of any step is the gradient, but for rounding."""
    preprocess = _preprocess(**options)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, channels, 5, 4, generator=generator).requires_grad_()
    weights = torch.rand(preprocess(images).shape, generator=generator) - 0.5

    def loss(some):
        return float((preprocess(some).double() * weights).sum())

    (gradient,) = torch.autograd.grad((preprocess(images) * weights).sum(), images)
    with torch.no_grad():
        quotients = torch.zeros_like(gradient)
        for place in np.ndindex(*images.shape):
            above, below = images.clone(), images.clone()
            above[place] += 0.5
            below[place] -= 0.5
            quotients[place] = loss(above) - loss(below)
    torch.testing.assert_close(gradient, quotients, rtol=1e-3, atol=1e-4 * float(quotients.abs().max()))


def test_the_gradient_of_a_repeated_channel_is_the_sum():
    images = torch.rand(1, 1, 2, 2).requires_grad_()
    weights = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    (gradient,) = torch.autograd.grad((_preprocess(channels=3)(images) * weights).sum(), images)
    assert torch.equal(gradient, torch.full((1, 1, 2, 2), 111.0))


def test_rows_are_independent():
    preprocess = _preprocess(resize=(7, 3), channels=3, mean=(0.1, 0.2, 0.3))
    images = torch.rand(4, 1, 5, 6)
    alone = torch.cat([preprocess(image[None]) for image in images])
    torch.testing.assert_close(preprocess(images), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "stored", "match"),
    [
        ({"channels": 1}, (3, 8, 8), r"images have 3 channels, but model\.preprocess\.channels is 1; only grey images"),
        ({"mean": (0.1, 0.2, 0.3)}, (1, 8, 8), r"model\.preprocess\.mean has 3 numbers for 1 channel$"),
        ({"std": (0.1, 0.2)}, (3, 8, 8), r"model\.preprocess\.std has 2 numbers for 3 channels$"),
        ({"channels": 3, "mean": (0.1, 0.2)}, (1, 8, 8), r"model\.preprocess\.mean has 2 numbers for 3 channels"),
        ({"order": "BGR"}, (1, 8, 8), r"model\.preprocess\.order is BGR, but the network is given 1 channels"),
        (
            {"resize": 6, "crop": (6, 8)},
            (1, 9, 8),
            r"crop is 6×8 \(height × width\), but images of 9×8 are 6×6 before it; nothing is padded: crop less, or",
        ),
    ],
)
def test_what_cannot_be_mapped_is_refused(options, stored, match):
    with pytest.raises(CandidateError, match=match):
        _preprocess(**options).check(stored)


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({}, (3, 8, 8)),
        ({"channels": 3}, (1, 8, 8)),
        ({"channels": 3, "std": (1, 2, 3)}, (1, 8, 8)),
        ({"mean": 1}, (3, 8, 8)),
    ],
)
def test_what_can_is_not(options, stored):
    preprocess = _preprocess(**options)
    preprocess.check(stored)
    assert tuple(preprocess(torch.rand(2, *stored)).shape[1:]) == preprocess.shape(stored)


_BOTH = "set model.preprocess.channels: 3 and model.preprocess.resize: [8, 9]"


@pytest.mark.parametrize(
    ("options", "takes", "shape", "advice"),
    [
        ({}, None, (1, 6, 5), "set model.preprocess"),
        ({}, (None, 30), (1, 6, 5), "set model.preprocess"),
        ({}, (None, 3, None, None), (1, 6, 5), "set model.preprocess.channels: 3"),
        ({}, (None, 3, 8, 9), (3, 6, 5), "set model.preprocess.resize: [8, 9]"),
        ({}, (4, 3, 8, 9), (1, 6, 5), _BOTH),
        ({}, (None, 3, 6, 5), (3, 6, 5), None),
        ({}, (None, 3, None, None), (3, 6, 5), "set model.preprocess"),
        ({}, (None, 1, None, 7), (1, 6, 5), "set model.preprocess.resize: [6, 7]"),
        ({}, (None, 1, 6, 5), (3, 6, 5), "it takes grey images"),
        ({}, (None, 6, 5, 3), (3, 6, 5), "set model.preprocess.layout: NHWC"),
        ({"layout": "NHWC"}, (None, 3, None, None), (3, 6, 5), "set model.preprocess.layout: NCHW"),
        ({"resize": 9}, (None, 3, 8, 8), (3, 9, 11), "set model.preprocess.crop: [8, 8]"),
        ({"resize": 9, "crop": (6, 5)}, (None, 3, 8, 8), (3, 6, 5), "set model.preprocess.crop: [8, 8]"),
        (
            {"layout": "NHWC"},
            (None, 8, 9, 3),
            (1, 6, 5),
            "set model.preprocess.channels: 3 and model.preprocess.resize: [8, 9]",
        ),
    ],
)
def test_advice(options, takes, shape, advice):
    assert _preprocess(**options).advice(takes, shape) == advice


def test_images_of_several_sizes(tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    sizes = [(6, 5), (9, 4), (6, 5), (12, 20), (9, 4)]
    samples = tiny.Pictures([np.full((1, *size), 10 * index, dtype=np.uint8) for index, size in enumerate(sizes)])
    _, logits = tiny.load(tmp_path / "net.safetensors", samples, preprocess={"resize": [6, 5]})
    expected = torch.cat([net(torch.full((1, 1, 6, 5), 10 * index / 255)) for index in range(5)])
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-5, atol=1e-6)


class ChannelsLast(tiny.TinyNet):
    def forward(self, image):
        return super().forward(image.permute(0, 3, 1, 2) / 255 - 0.5)


@pytest.mark.parametrize(
    ("net", "options", "advice"),
    [
        (tiny.TinyNet(3), {}, r"set model\.preprocess\.channels: 3"),
        (ChannelsLast(3), {"channels": 3}, r"set model\.preprocess\.layout: NHWC"),
        (ChannelsLast(3), {"layout": "NHWC"}, r"set model\.preprocess\.channels: 3"),
    ],
)
def test_a_graph_that_leaves_its_channels_open_tells_them_by_its_first_convolution(net, options, advice, tmp_path):
    image = torch.rand(2, 6, 5, 3) if isinstance(net, ChannelsLast) else torch.rand(2, 3, 6, 5)
    axes = {"image": dict(enumerate("nabc")), "scores": {0: "n"}}
    names = {"input_names": ["image"], "output_names": ["scores"], "dynamic_axes": axes}
    tiny.quietly(torch.onnx.export, net.eval(), (image,), str(tmp_path / "net.onnx"), dynamo=False, **names)
    with pytest.raises(CandidateError, match=f"does not take inputs of .*; {advice} "):
        tiny.load(tmp_path / "net.onnx", preprocess=options)


@pytest.mark.parametrize("name", ["net.safetensors", "net.onnx"])
def test_candidates_behind_every_step(name, tmp_path):
    """Images of several sizes become one: scores and gradients are those of torchvision's steps before the network."""
    net = tiny.tiny_net(3)
    {"net.safetensors": tiny.save_safetensors, "net.onnx": tiny.save_onnx_old}[name](net, tmp_path / name)
    random = np.random.default_rng(0)
    samples = tiny.Pictures(
        [random.integers(0, 256, (3, *size), dtype=np.uint8) for size in ((9, 12), (14, 10), (9, 12))]
    )
    steps = {"resize": 8, "interpolation": "bicubic", "crop": [6, 5], "order": "BGR", "mean": [0.1, 0.2, 0.3]}
    candidate, logits = tiny.load(
        tmp_path / name, samples, preprocess=steps, architecture_args={"channels": 3}, precision="auto"
    )

    def expected(images):
        images = v2.Resize(8, InterpolationMode.BICUBIC)(images.flip(1)).clamp(0, 1)
        return net(v2.CenterCrop([6, 5])(images) - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))

    for index in range(len(samples)):
        image = torch.from_numpy(samples.image(index))[None].float() / 255
        torch.testing.assert_close(logits[index], expected(image)[0].detach(), rtol=1e-4, atol=1e-5)
        image.requires_grad_()
        (wanted,) = torch.autograd.grad(expected(image)[:, 0].sum(), image)
        zero = torch.zeros(1, dtype=torch.int64)
        _, _, gradient = candidate.gradient(image.detach(), zero, zero, lambda scores, *_: scores[:, 0], exact=True)
        assert torch.nn.functional.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0) > 0.99


def test_sixteen_bits(tmp_path, net):
    tiny.save_safetensors(net, tmp_path / "net.safetensors")
    stored = [np.full((1, 6, 5), value, dtype=np.uint16) for value in (0, 1000, 4095)]
    _, logits = tiny.load(tmp_path / "net.safetensors", tiny.Pictures(stored, maximum=4095))
    expected = torch.cat([net(torch.full((1, 1, 6, 5), value / 4095)) for value in (0, 1000, 4095)])
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-5, atol=1e-6)
