"""ONNX files whose loops never end, or run more operators than anybody waits for."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tiny_models as tiny
import torch
from onnx import TensorProto, helper, numpy_helper

from robustcheck.errors import CandidateError
from robustcheck.models.onnx import clock
from robustcheck.models.onnx.file import onnx_files
from robustcheck.models.onnx.session import Session

WEIGHTS = np.random.default_rng(0).normal(size=(tiny.HEIGHT * tiny.WIDTH, 2)).astype(np.float32)
ENDLESS = r"net\.onnx has a Loop that never ends: nothing says how often it goes round, and its condition never changes"
MANY = r"net\.onnx runs {} operators for one batch, as often as its loops go round; at most 1\.0e\+07 are run"
CAST = helper.make_node("Cast", ["one"], ["on-scores"], to=TensorProto.BOOL)
UNTIL_TEN = helper.make_node("Less", ["step-scores", "ten"], ["on-scores"])


def _constant(value, name):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value), "held"))


def _loop(rounds="", begins="", ending=None, inside=(), scores="scores"):
    """A loop that turns the sign of two numbers twice, round after round. Its values' names end in its answer's."""
    step, go, before, turned, then, on = (
        f"{name}-{scores}" for name in ("step", "go", "before", "turned", "then", "on")
    )
    body = helper.make_graph(
        [
            ending or helper.make_node("Identity", [go], [on]),
            *inside,
            helper.make_node("Neg", [before], [turned]),
            helper.make_node("Neg", [turned], [then]),
        ],
        "body",
        [
            helper.make_tensor_value_info(step, TensorProto.INT64, []),
            helper.make_tensor_value_info(go, TensorProto.BOOL, []),
            helper.make_tensor_value_info(before, TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info(on, TensorProto.BOOL, []),
            helper.make_tensor_value_info(then, TensorProto.FLOAT, None),
        ],
    )
    return helper.make_node("Loop", [rounds, begins, "two"], [scores], body=body)


@pytest.fixture
def store(tmp_path):
    """Writes a linear network whose scores go through some nodes, from `two` to `scores`."""

    def save(*nodes, functions=(), **held):
        model = tiny.save_linear_onnx(tmp_path / "net.onnx", WEIGHTS)
        model.graph.node[-1].output[0] = "two"
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in held.items())
        model.functions.extend(functions)
        model.opset_import.extend(helper.make_opsetid(function.domain, 1) for function in functions)
        (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
        return tmp_path / "net.onnx"

    return save


@pytest.fixture
def unrun(refused, monkeypatch):
    """Asserts that a file is refused before a session begins."""
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("a session was started"))
    return refused


@pytest.mark.parametrize(
    ("loop", "held"),
    [
        (_loop(), {}),
        (_loop(begins="yes"), {"yes": True}),
        (_loop(rounds="many", begins="yes"), {"yes": True, "many": 2**63 - 1}),
        (_loop(ending=_constant(True, "on-scores")), {}),
        (_loop(ending=helper.make_node("Identity", ["yes"], ["on-scores"])), {"yes": True}),
        (_loop(rounds="many", ending=CAST), {"one": 1, "many": 2**63 - 1}),
    ],
)
def test_a_loop_without_an_end(loop, held, store, unrun):
    unrun(store(loop, **held), ENDLESS)


def test_one_that_may_never_begin(store, unrun):
    """Then it is of no use, either."""
    least = helper.make_node("ReduceMin", ["two"], ["least"], keepdims=0)
    low = helper.make_node("Less", ["least", "zero"], ["low"])
    unrun(store(least, low, _loop(begins="low"), zero=np.float32(0)), ENDLESS)


def test_one_in_a_branch_in_a_loop_and_in_a_function(store, unrun):
    inner = _loop(scores="chosen")
    answers = [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)]
    other = helper.make_graph([helper.make_node("Identity", ["two"], ["chosen"])], "other", [], answers)
    branch = helper.make_graph([inner], "one", [], answers)
    high = (
        helper.make_node("ReduceMax", ["two"], ["most"], keepdims=0),
        helper.make_node("Less", ["zero", "most"], ["high"]),
    )
    choice = helper.make_node("If", ["high"], ["scores"], then_branch=branch, else_branch=other)
    unrun(store(*high, choice, zero=np.float32(0)), ENDLESS)

    outer = _loop(rounds="two_times", inside=[_loop(scores="unused")])
    unrun(store(outer, two_times=2), ENDLESS)

    opsets = [helper.make_opsetid("", 17)]
    deep = helper.make_function("local", "Deep", ["two"], ["scores"], [_loop()], opsets)
    call = helper.make_node("Deep", ["two"], ["scores"], domain="local")
    shallow = helper.make_function(
        "local", "Shallow", ["two"], ["scores"], [call], [*opsets, helper.make_opsetid("local", 1)]
    )
    outermost = helper.make_node("Shallow", ["two"], ["scores"], domain="local")
    unrun(store(outermost, functions=[shallow, deep]), ENDLESS)


def test_loops_of_too_many_rounds(store, unrun):
    unrun(store(_loop(rounds="many"), many=10**9), MANY.format(r"4\.0e\+09"))
    unrun(store(_constant(10**9, "many"), _loop(rounds="many")), MANY.format(r"4\.0e\+09"))
    nested = _loop(rounds="many", inside=[_loop(rounds="many", scores="unused")])
    unrun(store(nested, many=10**4), MANY.format(r"4\.0e\+08"))


def test_a_scan_of_too_many_rounds(store, unrun):
    body = helper.make_graph(
        [helper.make_node("Neg", ["before"], ["turned"]), helper.make_node("Neg", ["turned"], ["then"])],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("before", "row")],
        [helper.make_tensor_value_info("then", TensorProto.FLOAT, None)],
    )
    rows = helper.make_node("ConstantOfShape", ["length"], ["rows"])
    scan = helper.make_node("Scan", ["two", "rows"], ["scores"], body=body, num_scan_inputs=1)
    unrun(store(rows, scan, length=[10**7]), MANY.format(r"3\.0e\+07"))


@pytest.mark.parametrize(
    ("loop", "held"),
    [
        (_loop(rounds="few"), {"few": 100}),
        (_loop(rounds="many", ending=_constant(False, "on-scores")), {"many": 2**63 - 1}),
        (_loop(begins="no"), {"no": False}),
        (_loop(rounds="none"), {"none": 0}),
        (_loop(rounds="many", ending=UNTIL_TEN), {"many": 2**63 - 1, "ten": 10}),
    ],
)
def test_loops_that_end_are_run(loop, held, store):
    _, logits = tiny.load(store(loop, **held))
    expected = tiny.pictures().shares().flatten(1) @ torch.from_numpy(WEIGHTS)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def endless(store):
    """A file whose loop ends if the image is dark, which nobody can tell from the file."""
    high = helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0)
    dark = helper.make_node("Greater", ["most", "half"], ["on-scores"])
    return store(high, _loop(ending=dark), half=np.float32(0.5))


def test_a_loop_that_is_found_to_be_endless_is_stopped(endless, monkeypatch):
    monkeypatch.setattr(clock, "LONGEST_SECONDS", 0.6)
    onnx_files(endless)
    began = time.monotonic()
    with pytest.raises(
        CandidateError, match=r"^net\.onnx was stopped after 0\.01 minutes, .*; does it have a loop that never"
    ):
        tiny.load(endless)
    assert time.monotonic() - began < 20


def test_so_is_one_that_later_images_make_endless(endless, monkeypatch):
    """Its answers come through memory that is shared by then."""
    monkeypatch.setattr(clock, "LONGEST_SECONDS", 0.6)
    session, dark = Session(endless, tiny.CPU, loops=True), torch.zeros(2, 1, tiny.HEIGHT, tiny.WIDTH)
    assert session(dark).shape == session(dark).shape == (2, 2)
    monkeypatch.setattr(session, "_first", lambda _values: pytest.fail("it asked again, through the host"))
    with pytest.raises(CandidateError, match="was stopped"):
        session(dark + 1)
    assert session(dark).shape == (2, 2)


def test_what_fails_in_time_is_not_said_to_have_been_stopped(store):
    path = store(helper.make_node("Reshape", ["two", "shape"], ["scores"]), shape=[-1, 7])
    with pytest.raises(CandidateError, match=r"requested shape:\{-1,7\}"):
        tiny.load(path)
