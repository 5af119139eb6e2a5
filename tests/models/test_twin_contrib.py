"""Operators that ONNX Runtime makes of several: its own answers are the standard."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models as tiny
import torch
from graphs import IMAGES, agrees_with_runtime, gradient_of, one_node
from onnx import TensorProto, helper, numpy_helper

from robustcheck.errors import CandidateError
from robustcheck.models.onnx.file import onnx_files
from robustcheck.models.twin import NoTwinError, converted


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _whole(*shape, kind=np.uint8):
    return np.random.default_rng(0).integers(0, 120, shape, dtype=kind)


CONV = {"x": _normal(2, 3, 6, 5), "w": _normal(4, 3, 3, 3, seed=1), "b": _normal(4, seed=2)}
WINDOWS = {"kernel_shape": [3, 3], "pads": [1, 1, 0, 1], "strides": [2, 1]}
GEMM = {"x": _normal(2, 6), "w": _normal(6, 4, seed=1), "c": _normal(4, seed=2)}
ROWS = {"x": _normal(2, 5, 8), "skip": _normal(2, 5, 8, seed=1), "scale": _normal(8, seed=2)}
PACKED = {"x": _normal(2, 5, 8), "w": _normal(8, 24, seed=1), "b": _normal(24, seed=2)}
THREE = {"q": _normal(2, 5, 8), "k": _normal(2, 6, 8, seed=1), "v": _normal(2, 6, 8, seed=2)}
DYNAMIC = {"x": _normal(1, 6), "w": _whole(6, 4), "s": np.float32(0.02), "z": np.uint8(60), "b": _normal(4)}
INTEGERS = {"a": _whole(2, 6), "b": _whole(6, 4, kind=np.int8), "as": np.float32(0.1), "bs": np.float32(0.02)}

FUSED = [
    ("FusedConv", CONV, WINDOWS | {"activation": "Relu"}),
    ("FusedConv", CONV, WINDOWS | {"activation": "Sigmoid"}),
    ("FusedConv", CONV, WINDOWS | {"activation": "Tanh"}),
    ("FusedConv", CONV, WINDOWS | {"activation": "LeakyRelu", "activation_params": [0.2]}),
    ("FusedConv", CONV, WINDOWS | {"activation": "Clip", "activation_params": [-0.5, 1.0]}),
    ("FusedConv", CONV, WINDOWS | {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]}),
    ("FusedConv", CONV | {"z": _normal(2, 4, 3, 5)}, WINDOWS | {"activation": "Relu"}),
    ("FusedGemm", GEMM, {"activation": "Relu", "alpha": 0.5, "beta": 2.0}),
    ("FusedGemm", GEMM, {"activation": "Elu", "activation_alpha": 0.7}),
    ("FusedGemm", GEMM, {"activation": "Softplus"}),
    ("FusedGemm", GEMM, {"activation": "Softsign"}),
    ("FusedGemm", GEMM, {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.4}),
    ("FusedGemm", GEMM | {"w": _normal(4, 6)}, {"activation": "LeakyRelu", "activation_alpha": 0.2, "transB": 1}),
    ("FusedMatMul", {"a": _normal(2, 3, 4, 5), "b": _normal(2, 3, 4, 6, seed=1)}, {"alpha": 0.3, "transA": 1}),
    ("FusedMatMul", {"a": _normal(2, 4, 5), "b": _normal(6, 5, seed=1)}, {"alpha": 0.3, "transB": 1}),
    ("FusedMatMul", {"a": _normal(2, 4, 5), "b": _normal(5, 6, seed=1)}, {"alpha": 0.3}),
    ("FusedMatMul", {"a": _normal(3, 4, 5), "b": _normal(4, 5, 6)}, {"transBatchA": 1}),
    ("FusedMatMul", {"a": _normal(5, 4, 3), "b": _normal(4, 5, 6)}, {"transBatchA": 1, "transA": 1}),
    ("FusedMatMul", {"a": _normal(4, 3, 5), "b": _normal(5, 4, 6)}, {"transBatchB": 1}),
    ("Gelu", {"x": _normal(2, 5)}, {}),
    ("QuickGelu", {"x": _normal(2, 5)}, {}),
    ("QuickGelu", {"x": _normal(2, 5)}, {"alpha": 1.2}),
    ("FastGelu", {"x": _normal(2, 5)}, {}),
    ("FastGelu", {"x": _normal(2, 5), "b": _normal(5, seed=1)}, {}),
    ("BiasGelu", {"x": _normal(2, 5), "b": _normal(5, seed=1)}, {}),
    ("SkipLayerNormalization", ROWS | {"shift": _normal(8, seed=3)}, {"epsilon": 1e-3}),
    ("SkipLayerNormalization", ROWS | {"shift": _normal(8, seed=3), "bias": _normal(8, seed=4)}, {"epsilon": 1e-5}),
    ("SkipLayerNormalization", {key: 1e-6 * value for key, value in ROWS.items()} | {"shift": _normal(8)}, {}),
    ("SkipSimplifiedLayerNormalization", ROWS | {"bias": _normal(8, seed=3)}, {"epsilon": 1e-3}),
    ("Attention", PACKED, {"num_heads": 2}),
    ("Attention", PACKED, {"num_heads": 4, "scale": 0.4, "unidirectional": 1}),
    ("Attention", PACKED | {"w": _normal(8, 22), "b": _normal(22)}, {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 6]}),
    ("MultiHeadAttention", THREE, {"num_heads": 2}),
    ("MultiHeadAttention", THREE | {"v": _normal(2, 6, 10), "b": _normal(26)}, {"num_heads": 2}),
    ("MultiHeadAttention", THREE | {"b": _normal(24), "": None, "added": _normal(2, 2, 5, 6)}, {"num_heads": 2}),
    ("MultiHeadAttention", THREE | {"b": _normal(24)}, {"num_heads": 4, "scale": 0.4}),
    ("DynamicQuantizeMatMul", DYNAMIC, {}),
    ("MatMulIntegerToFloat", INTEGERS | {"az": np.uint8(60), "bz": np.int8(3), "c": _normal(4)}, {}),
]
# Weights are constants in files; the twin takes computed ones too, but those of Attention.
CASES = [(*case, held) for case in FUSED for held in (True, False) if held or case[0] != "Attention"]


@pytest.mark.parametrize(("name", "inputs", "attributes", "held"), CASES)
def test_an_operator_is_onnx_runtimes(name, inputs, attributes, held):
    node = helper.make_node(name, list(inputs), ["y"], domain="com.microsoft", **attributes)
    inputs = {key: array for key, array in inputs.items() if key}  # those that are not left out
    model = one_node(node, inputs, {"y": TensorProto.FLOAT})
    if held:
        asked = 3 if name == "MultiHeadAttention" else 1  # all others are weights
        tensors = dict(list(inputs.items())[asked:])
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array), key) for key, array in tensors.items()
        )
        del model.graph.input[asked:]
        inputs = dict(list(inputs.items())[:asked])
    agrees_with_runtime(model, inputs, atol=1e-4)


@pytest.mark.parametrize("name", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_normalisation_that_is_written_into_an_older_standard(name, tmp_path):
    """The file is accepted, and its operator is ONNX Runtime's."""
    inputs = {"x": _normal(2, 5, 8), "scale": _normal(8, seed=1)}
    node = helper.make_node(name, list(inputs), ["y"], epsilon=1e-3, axis=-1)
    model = one_node(node, inputs, {"y": TensorProto.FLOAT}, opset=14)
    agrees_with_runtime(model, inputs, atol=1e-4)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 5, 8)))
    onnx.save(model, tmp_path / "net.onnx")
    assert onnx_files(tmp_path / "net.onnx") == [tmp_path / "net.onnx"]
    model.graph.node[0].op_type = "LayerNormalisation"
    onnx.save(model, tmp_path / "misspelt.onnx")
    with pytest.raises(CandidateError, match="LayerNormalisation is no operator of ONNX"):
        onnx_files(tmp_path / "misspelt.onnx")


def test_all_answers_of_an_operator_are_there():
    node = helper.make_node("SkipLayerNormalization", list(ROWS), ["y", "", "", "sum"], domain="com.microsoft")
    model = one_node(node, ROWS, {"y": TensorProto.FLOAT, "sum": TensorProto.FLOAT})
    agrees_with_runtime(model, ROWS, atol=1e-4)  # compares the last one
    assert len(converted(model).forward(*map(torch.from_numpy, ROWS.values()))) == 2


@pytest.mark.parametrize(
    ("name", "names", "attributes", "words"),
    [
        ("FusedConv", "x w", {"activation": "Cosine"}, "with Cosine"),
        ("Attention", "x w b mask", {"num_heads": 2}, "with mask index"),
        ("Attention", "x w b", {"num_heads": 2}, "computed"),
        ("Attention", "x w b", {"num_heads": 2, "do_rotary": 1}, "rotary"),
        ("MultiHeadAttention", "q", {"num_heads": 2}, "packed"),
        ("QLinearConv", "x w", {"channels_last": 1}, "is laid out .*; save the graph with at most ORT_ENABLE_EXTENDED"),
        ("nchwc.Conv", "x w", {}, "one kind of processor; save the graph with at most ORT_ENABLE_EXTENDED"),
    ],
)
def test_what_has_no_differentiable_form_is_named(name, names, attributes, words):
    *inner, operator = name.split(".")
    node = helper.make_node(operator, names.split(), ["y"], domain=".".join(["com.microsoft", *inner]), **attributes)
    inputs = {each: np.zeros((2, 2, 2, 2), np.float32) for each in names.split()}
    with pytest.raises(NoTwinError, match=f"com.microsoft.{name} .*{words}"):
        converted(one_node(node, inputs, {"y": TensorProto.FLOAT}))


def test_a_graph_that_onnx_runtime_has_optimised_is_attacked_as_the_network_is(tmp_path, net):
    tiny.save_onnx_old(net, tmp_path / "net.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    assert "FusedConv" in {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    candidate, _ = tiny.load(tmp_path / "optimised.onnx", IMAGES)
    wanted = IMAGES.shares().requires_grad_()
    (expected,) = torch.autograd.grad(net(wanted)[:, 0].sum(), wanted)
    torch.testing.assert_close(gradient_of(candidate), expected, rtol=1e-3, atol=1e-4)
