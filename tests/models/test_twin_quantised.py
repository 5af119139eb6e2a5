"""Quantised ONNX files: gradients go straight through their rounding."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, drawn, gradient_of, model_of
from onnx import helper
from onnxruntime import quantization
from torch import nn


class _Calibration(quantization.CalibrationDataReader):
    def __init__(self):
        self._images = iter([{"image": image[None].numpy()} for image in IMAGES.shares()])

    def get_next(self):
        return next(self._images, None)


@pytest.fixture(scope="module")
def whole_numbers(tmp_path_factory, net):
    """The tiny network, quantised in each of ONNX Runtime's ways."""
    folder = tmp_path_factory.mktemp("quantised")
    tiny.save_onnx_old(net, folder / "float.onnx")
    formats = quantization.QuantFormat
    kinds = quantization.QuantType
    static = partial(quantization.quantize_static, folder / "float.onnx")
    static(folder / "qdq.onnx", _Calibration(), quant_format=formats.QDQ)
    static(folder / "qdq-channels.onnx", _Calibration(), quant_format=formats.QDQ, per_channel=True)
    signed = {"activation_type": kinds.QInt8, "weight_type": kinds.QInt8}
    static(folder / "qdq-signed.onnx", _Calibration(), **signed, extra_options={"ActivationSymmetric": True})
    static(folder / "qdq-runtime.onnx", _Calibration(), extra_options={"UseQDQContribOps": True})
    static(folder / "qdq-four-bits.onnx", _Calibration(), weight_type=kinds.QInt4)  # to operators of the runtime's own
    static(folder / "operators.onnx", _Calibration(), quant_format=formats.QOperator, activation_type=kinds.QUInt8)
    quantization.quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", weight_type=kinds.QUInt8)
    return folder


@pytest.mark.parametrize(
    "name", ["qdq", "qdq-channels", "qdq-signed", "qdq-runtime", "qdq-four-bits", "operators", "dynamic"]
)
def test_quantised_graphs_are_followed_through_their_rounding(name, whole_numbers, net):
    candidate, _ = tiny.load(whole_numbers / f"{name}.onnx", IMAGES)
    assert any("straight through its rounding" in note for note in candidate.info.notes)
    gradient = gradient_of(candidate)
    wanted = IMAGES.shares().requires_grad_()
    (expected,) = torch.autograd.grad(net(wanted)[:, 0].sum(), wanted)
    cosine = nn.functional.cosine_similarity(gradient.flatten(1), expected.flatten(1))
    assert (cosine > 0.7).all()
    assert cosine.mean() > 0.8


@pytest.mark.parametrize("name", ["qdq", "qdq-channels", "qdq-signed"])
def test_weights_between_quantisers_are_layers(name, whole_numbers, net):
    """No step computes them again, and faster forms are made of layers."""
    candidate, _ = tiny.load(whole_numbers / f"{name}.onnx", IMAGES)
    layers = (nn.Conv2d, nn.Linear)
    wanted = sorted(layer.weight.shape for layer in net.modules() if isinstance(layer, layers))
    found = [layer for layer in candidate.network.module.modules() if isinstance(layer, layers)]
    assert sorted(layer.weight.shape for layer in found) == wanted
    assert not any(
        values.dtype in (torch.int8, torch.int32) for values in candidate.network.module.buffers() if values.ndim
    )


def test_ranges_of_a_batch_are_ranges_of_an_image(whole_numbers):
    candidate, logits = tiny.load(whole_numbers / "dynamic.onnx", IMAGES)
    assert any("one by one" in note for note in candidate.info.notes)
    torch.testing.assert_close(candidate.search_logits(IMAGES.shares()), logits, rtol=1e-3, atol=1e-3)


def test_a_range_is_an_image_s_own_where_the_batch_is_fixed(tmp_path):
    """Blank images beside it would be part of the range, and here by far the brightest."""
    nodes = [
        helper.make_node("Add", ["image", "fifty"], ["bright"]),
        helper.make_node("DynamicQuantizeLinear", ["bright"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["rounded"]),
        helper.make_node("Flatten", ["rounded"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    held = [("fifty", np.float32(50)), ("w", drawn(tiny.HEIGHT * tiny.WIDTH, 2))]
    answers = []
    for batch in ("n", 4):
        onnx.save(model_of(nodes, inputs=(batch, 1, tiny.HEIGHT, tiny.WIDTH), held=held), tmp_path / "net.onnx")
        candidate, logits = tiny.load(tmp_path / "net.onnx", IMAGES, preprocess={"range": [-49, -48]})
        answers.append(logits)
        assert candidate.logits(IMAGES.shares()[:0]).shape == (0, 2)
    assert torch.equal(*answers)


def test_a_softmax_of_bytes_gives_probabilities(tmp_path):
    """They do not sum to 1: the largest byte stands for 255/256."""
    weights = 3 * drawn(tiny.HEIGHT * tiny.WIDTH, 2)
    weights -= weights.mean(axis=0)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node("QuantizeLinear", ["logits", "tenth", "middle"], ["q"]),
        helper.make_node(
            "QLinearSoftmax", ["q", "tenth", "middle", "step", "zero"], ["p"], domain="com.microsoft", axis=1, opset=13
        ),
        helper.make_node("DequantizeLinear", ["p", "step", "zero"], ["scores"]),
    ]
    held = [
        ("w", weights), ("tenth", np.float32(0.1)), ("middle", np.uint8(128)), ("step", np.float32(1 / 256)),
        ("zero", np.uint8(0)),
    ]  # fmt: skip
    onnx.save(model_of(nodes, held=held, domains=["com.microsoft"]), tmp_path / "bytes.onnx")
    candidate, logits = tiny.load(tmp_path / "bytes.onnx", IMAGES, positive="ill", operating_point=0.25)
    assert candidate.info.output == "probabilities (inferred from 7 samples)"
    probabilities = (IMAGES.shares().flatten(1) @ torch.from_numpy(weights)).softmax(dim=1)[:, 1]
    assert ((probabilities - 0.25).abs() > 0.02).all()
    assert 0 < (probabilities > 0.25).sum() < 7
    assert candidate.head.decide(logits).tolist() == (probabilities > 0.25).int().tolist()


_QUANTISED = {
    "QuantizeLinear": [
        helper.make_node("Softmax", ["logits"], ["soft"], axis=1),
        helper.make_node("QuantizeLinear", ["soft", "step", "zero"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "step", "zero"], ["scores"]),
    ],
    "QLinearSoftmax": [
        helper.make_node("QuantizeLinear", ["logits", "tenth", "middle"], ["q"]),
        helper.make_node(
            "QLinearSoftmax", ["q", "tenth", "middle", "step", "zero"], ["p"], domain="com.microsoft", axis=1, opset=13
        ),
        helper.make_node("DequantizeLinear", ["p", "step", "zero"], ["scores"]),
    ],
    "Clip": [
        helper.make_node("Softmax", ["logits"], ["soft"], axis=1),
        helper.make_node("Clip", ["soft", "least", "most"], ["scores"]),
    ],
    "Squeeze": [
        helper.make_node("Unsqueeze", ["logits", "last"], ["columns"]),
        helper.make_node("Softmax", ["columns"], ["soft"], axis=1),
        helper.make_node("Squeeze", ["soft", "last"], ["scores"]),
    ],
}


@pytest.mark.parametrize("ending", _QUANTISED)
def test_a_softmax_that_is_rounded_cut_or_reshaped_is_left_off(ending, tmp_path):
    """The network is sure of each image: what is rounded or cut does not move."""
    weights = drawn(tiny.HEIGHT * tiny.WIDTH, 2)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
        *_QUANTISED[ending],
    ]
    held = [
        ("w", weights), ("b", np.float32([11, 0])), ("tenth", np.float32(0.15)), ("middle", np.uint8(128)),
        ("step", np.float32(1 / 256)), ("zero", np.uint8(0)), ("least", np.float32(0.01)), ("most", np.float32(0.99)),
        ("last", np.int64([2])),
    ]  # fmt: skip
    model = model_of(nodes, held=held, domains=["com.microsoft"])
    onnx.save(model, tmp_path / "net.onnx")
    candidate, _ = tiny.load(tmp_path / "net.onnx", IMAGES)
    assert any("searches use the input of its last softmax" in note for note in candidate.info.notes)
    expected = torch.from_numpy(weights)[:, 0].reshape(1, 1, tiny.HEIGHT, tiny.WIDTH).expand(7, -1, -1, -1)
    torch.testing.assert_close(gradient_of(candidate), expected)
