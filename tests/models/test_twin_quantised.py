"""Quantised ONNX files: gradients go straight through their rounding."""

from __future__ import annotations

from functools import partial

import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, gradient_of
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
    static(folder / "operators.onnx", _Calibration(), quant_format=formats.QOperator, activation_type=kinds.QUInt8)
    quantization.quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", weight_type=kinds.QUInt8)
    return folder


@pytest.mark.parametrize("name", ["qdq", "qdq-channels", "qdq-signed", "operators", "dynamic"])
def test_quantised_graphs_are_followed_through_their_rounding(name, whole_numbers, net):
    candidate, _ = tiny.load(whole_numbers / f"{name}.onnx", IMAGES)
    assert any("straight through its rounding" in note for note in candidate.info.notes)
    gradient = gradient_of(candidate)
    wanted = IMAGES.shares().requires_grad_()
    (expected,) = torch.autograd.grad(net(wanted)[:, 0].sum(), wanted)
    cosine = nn.functional.cosine_similarity(gradient.flatten(1), expected.flatten(1))
    assert (cosine > 0.7).all()
    assert cosine.mean() > 0.8


def test_ranges_of_a_batch_are_ranges_of_an_image(whole_numbers):
    candidate, logits = tiny.load(whole_numbers / "dynamic.onnx", IMAGES)
    assert any("one by one" in note for note in candidate.info.notes)
    torch.testing.assert_close(candidate.search_logits(IMAGES.shares()), logits, rtol=1e-3, atol=1e-3)
