"""Weights of four bits: their twin is ONNX Runtime's answer, and the gradient that of the weights they stand for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny_models as tiny
from graphs import IMAGES, gradient_of
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, matmul_nbits_quantizer
from torch import nn

WEIGHTS = np.random.default_rng(0).normal(size=(tiny.HEIGHT * tiny.WIDTH, 2)).astype(np.float32)


def _quantised(path, *, block=16, **options):
    model = tiny.save_linear_onnx(path, WEIGHTS)
    if options.get("quant_format") is QuantFormat.QDQ:
        model = onnx.version_converter.convert_version(model, 21)
    settings = matmul_nbits_quantizer.DefaultWeightOnlyQuantConfig(block_size=block, **options)
    quantiser = matmul_nbits_quantizer.MatMulNBitsQuantizer(model, algo_config=settings)
    quantiser.process()
    path.write_bytes(quantiser.model.model.SerializeToString())
    return path


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4},
        {"bits": 4, "accuracy_level": 4},
        {"bits": 4, "block": 32},
        {"bits": 8},
        {"bits": 4, "quant_format": QuantFormat.QDQ},
    ],
    ids=["4", "4, rounded", "4, one block a row", "8", "dequantised"],
)
def test_packed_weights_have_a_twin(options, symmetric, tmp_path):
    path = _quantised(tmp_path / "packed.onnx", is_symmetric=symmetric, **options)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert kinds & {"MatMulNBits", "DequantizeLinear"}
    candidate, logits = tiny.load(path, IMAGES)
    assert candidate.network.no_gradients is None
    apart = (candidate.search_logits(IMAGES.shares()) - logits).abs().max()
    rounded = "accuracy_level" in options or "quant_format" in options
    assert apart <= (0.05 if rounded else 1e-5) * logits.abs().max()
    gradient = gradient_of(candidate).flatten(1).numpy()
    assert np.abs(gradient - WEIGHTS[:, 0]).max() <= 0.6 * np.abs(WEIGHTS).max() / (
        7 if options.get("bits") == 4 else 127
    )


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("kind", "form"), [("INT4", "all"), ("INT4", "axis"), ("INT4", "blocks"), ("INT8", "blocks")])
def test_constants_are_dequantised_as_the_runtime_does(form, axis, kind, tmp_path):
    levels = np.random.default_rng(1).integers(-8, 8, WEIGHTS.shape).astype(np.float32)
    blocks = [*levels.shape]
    blocks[axis] = -(-blocks[axis] // 2)
    shape = {"all": (), "axis": (levels.shape[axis],), "blocks": tuple(blocks)}[form]
    scale = np.random.default_rng(2).uniform(0.01, 0.1, shape).astype(np.float32)
    zero = np.random.default_rng(3).integers(-8, 8, shape).astype(np.float32)
    options = {"axis": axis, **({"block_size": 2} if form == "blocks" else {})}
    held = [
        helper.make_tensor(name, TensorProto.DataType.Value(kind), values.shape, values.astype(int).flatten().tolist())
        for name, values in (("levels", levels), ("zero", zero))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["w"], **options),
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["scores"]),
        ],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, tiny.HEIGHT, tiny.WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [*held, numpy_helper.from_array(scale, "scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "four.onnx").write_bytes(model.SerializeToString())
    candidate, logits = tiny.load(tmp_path / "four.onnx", IMAGES)
    assert candidate.network.no_gradients is None
    assert any(isinstance(layer, nn.Linear) for layer in candidate.network.module.modules())
    apart = (candidate.search_logits(IMAGES.shares()) - logits).abs().max()
    assert apart <= 0.05 * logits.abs().max()


def test_what_the_converter_cannot_hold_is_said(tmp_path):
    """Packed rows in an order of their own, say."""
    path = _quantised(tmp_path / "packed.onnx", is_symmetric=True, bits=4)
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.op_type == "MatMulNBits")
    node.input.extend(["", "order"])
    model.graph.initializer.append(numpy_helper.from_array(np.arange(32, dtype=np.int32) // 16, "order"))
    path.write_bytes(model.SerializeToString())
    candidate, _ = tiny.load(path, IMAGES)
    assert "com.microsoft.MatMulNBits (opset 1) has no differentiable form here" in candidate.network.no_gradients
