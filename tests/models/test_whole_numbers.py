"""Sums of 8-bit products do not overflow in sessions, on whatever processor.

Where an x86 processor has no VNNI, ONNX Runtime by default adds pairs of them in 16 bits, which these sums overflow.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models as tiny
import torch
from graphs import one_node
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from simulated_gpu import simulated_gpu

from robustcheck.errors import CandidateError
from robustcheck.models.onnx import load as onnx_candidates
from robustcheck.models.onnx.session import Session

WIDTH = 20
GEMM = {"domain": "com.microsoft", "transB": 1, "alpha": 1.0}
KINDS = {"u8s8": (np.uint8, np.int8), "s8s8": (np.int8, np.int8), "u8u8": (np.uint8, np.uint8)}


def _sums(operator, image_kind, weight_kind):
    """Rows of ones, times weights of one: the largest numbers that both kinds have."""
    largest = np.iinfo(weight_kind).max
    weight = np.full((2, WIDTH), largest, weight_kind)
    held = {
        "s": np.float32(1 / np.iinfo(image_kind).max),
        "z": image_kind(0),
        "ws": np.float32(1 / largest),
        "wz": weight_kind(0),
        "ys": np.float32(WIDTH / 100),
        "b": np.zeros(2, np.int32),
        "bs": np.float32(1 / np.iinfo(image_kind).max / largest),
        "bz": np.int32(0),
        "w": {"QLinearConv": weight[..., None, None], "QLinearMatMul": weight.T.copy()}.get(operator, weight),
    }
    node = helper.make_node
    product = {
        "QLinearConv": [node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "ys", "z", "b"], ["a"])],
        "QLinearMatMul": [node("QLinearMatMul", ["q", "s", "z", "w", "ws", "wz", "ys", "z"], ["a"])],
        "QGemm": [node("QGemm", ["q", "s", "z", "w", "ws", "wz", "b", "ys", "z"], ["a"], **GEMM)],
        "QDQ": [
            node("DequantizeLinear", ["q", "s", "z"], ["fx"]),
            node("DequantizeLinear", ["w", "ws", "wz"], ["fw"]),
            node("DequantizeLinear", ["b", "bs", "bz"], ["fb"]),
            node("Gemm", ["fx", "fw", "fb"], ["y"], transB=1),
            node("QuantizeLinear", ["y", "ys", "z"], ["a"]),
        ],
    }[operator]
    nodes = [
        node("QuantizeLinear", ["row", "s", "z"], ["q"]),
        *product,
        node("DequantizeLinear", ["a", "ys", "z"], ["f"]),
        node("Flatten", ["f"], ["scores"]),
    ]
    asked = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", WIDTH, *[1, 1] * (operator == "QLinearConv")])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items() if name in asked],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("operator", ["QDQ", "QLinearConv", "QLinearMatMul", "QGemm"])
def test_sums_do_not_overflow(operator, kinds, tmp_path):
    onnx.save(_sums(operator, *KINDS[kinds]), tmp_path / "sums.onnx")
    session = Session(tmp_path / "sums.onnx", tiny.CPU)
    rows = torch.ones((3, WIDTH, *[1, 1] * (operator == "QLinearConv")))
    torch.testing.assert_close(session(rows), torch.full((3, 2), float(WIDTH)))


def test_a_comparison_that_fails_is_a_note_and_no_error(tmp_path, monkeypatch):
    class Failing(Session):
        def __init__(self, *settings, exact=True, **others):
            if not exact:
                raise CandidateError("there is no memory for a second one")
            super().__init__(*settings, **others)

    monkeypatch.setattr(onnx_candidates, "Session", Failing)
    onnx.save(_sums("QLinearConv", *KINDS["u8u8"]), tmp_path / "bytes.onnx")
    network = onnx_candidates.load_onnx(tmp_path / "bytes.onnx", tiny.spec("bytes.onnx"), libraries=(), device=tiny.CPU)
    notes = network.settle_on([torch.rand(3, WIDTH, 1, 1)]).notes
    assert any("could not be compared" in note and "no memory for a second one" in note for note in notes)


def test_what_does_not_load_as_it_is_deployed_is_refused(tmp_path):
    """A convolution whose activation ONNX Runtime does not know fails with any settings."""
    node = helper.make_node("FusedConv", ["x", "w"], ["scores"], domain="com.microsoft", activation="Cosine")
    inputs = {"x": np.zeros((1, 1, 1, 1), np.float32), "w": np.zeros((1, 1, 1, 1), np.float32)}
    onnx.save(one_node(node, inputs, {"scores": TensorProto.FLOAT}), tmp_path / "net.onnx")
    with pytest.raises(CandidateError, match=r"cannot load net\.onnx: .*[Aa]ctivation"):
        Session(tmp_path / "net.onnx", tiny.CPU)


@pytest.mark.parametrize("exact", [True, False])
def test_what_loads_only_unfused_is_not_what_is_deployed(exact, tmp_path, monkeypatch):
    begin, basic = onnxruntime.InferenceSession, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC

    def failing(path, options, **others):
        if options.graph_optimization_level != basic:
            raise RuntimeError("a fused operator has no kernel")
        return begin(path, options, **others)

    tiny.save_linear_onnx(tmp_path / "net.onnx", np.ones((tiny.HEIGHT * tiny.WIDTH, 2), np.float32))
    monkeypatch.setattr(onnxruntime, "InferenceSession", failing)
    with pytest.raises(CandidateError, match=r"cannot load net\.onnx: a fused operator has no kernel"):
        Session(tmp_path / "net.onnx", tiny.CPU, exact=exact)


def test_sessions_are_told_to_be_exact(tmp_path):
    """Also where a processor would be so by itself, and no sum shows it."""
    tiny.save_linear_onnx(tmp_path / "net.onnx", np.ones((tiny.HEIGHT * tiny.WIDTH, 2), np.float32))
    session = Session(tmp_path / "net.onnx", tiny.CPU)._session
    assert session.get_session_options().get_session_config_entry("session.x64quantprecision") == "1"


def test_scores_that_would_overflow_elsewhere_are_said(tmp_path, monkeypatch):
    """A processor that lets sums overflow is played by a session that halves them unless it is told to be exact."""

    class Overflowing(Session):
        def __init__(self, *settings, exact=True, **others):
            super().__init__(*settings, **others)
            self.share = 1.0 if exact else 0.5

        def __call__(self, inputs):
            return self.share * super().__call__(inputs)

    tiny.save_linear_onnx(tmp_path / "float.onnx", np.ones((tiny.HEIGHT * tiny.WIDTH, 2), np.float32))
    unsigned = quantization.QuantType.QUInt8
    quantization.quantize_dynamic(tmp_path / "float.onnx", tmp_path / "bytes.onnx", weight_type=unsigned)
    for name, session, count in (("float", Overflowing, 0), ("bytes", Session, 0), ("bytes", Overflowing, 1)):
        monkeypatch.setattr(onnx_candidates, "Session", session)
        candidate, _ = tiny.load(tmp_path / f"{name}.onnx", tiny.pictures(3))
        assert sum("8-bit numbers overflow" in note for note in candidate.info.notes) == count, name
    with simulated_gpu():  # where ONNX Runtime is one for CPUs
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
        candidate, _ = tiny.load(tmp_path / "bytes.onnx", tiny.pictures(3), device="cuda")
        assert candidate.device.type == "cuda"
        assert any("8-bit numbers overflow" in note for note in candidate.info.notes)
