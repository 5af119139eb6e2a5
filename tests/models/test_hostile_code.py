"""Small model files whose code is nested, or calls itself, until a process ends or hangs."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models as tiny
import torch
from onnx import helper

from robustcheck.models.call_graph import is_endless
from robustcheck.models.pytorch.torchscript_depth import MOST_NESTED, is_nested_too_deeply

MORE = MOST_NESTED + 1


@pytest.fixture
def script_with(scripted, tmp_path):
    """Write the tiny network, which runs some lines before anything else, and has other methods behind its own."""

    def save(lines, methods=""):
        name = tiny.code_of(scripted)
        head, arrow, rest = tiny.member(scripted, name).decode().partition("-> Tensor:\n")
        code = f"{head}{arrow}    {lines}\n{rest}{methods}".encode()
        tiny.rezip(scripted, tmp_path / "net.ts", {name: code, ".debug_pkl": None})
        return tmp_path / "net.ts"

    return save


NESTED = {
    "brackets": f"_x = {'(' * MORE}1{')' * MORE}",
    "signs": f"_x = {'-' * MORE}1",
    "a sum": f"_x = {'+'.join(['1'] * (MORE + 1))}",
    "signs and brackets": f"_x = {'-(' * (MORE // 2 + 1)}1{')' * (MORE // 2 + 1)}",
    "words": f"_x = {'not ' * MORE}True",
    "choices": f"_x = {'1 if True else ' * MORE}1",
    "calls": f"_x = image{'.abs()' * MORE}",
    "places": f"_x = [1]{'[0]' * MORE}",
    "lines": f"_x = {'(' * MORE}\n1{')' * MORE}",
    "lines that go on": f"_x = 1{' + 1' * 600}\\\n{' + 1' * 600}",
    "a comment": "_x = " + "(  # )\n" * MORE + "1" + ")" * MORE,
    "branches": "if False:\n      pass\n" + "    elif False:\n      pass\n" * MORE,
    "blocks": f"if True:\n{' ' * (2 * MORE)}pass",
}


@pytest.mark.parametrize("what", NESTED)
def test_code_that_is_nested_deeper_than_a_stack(what, script_with, refused):
    refused(
        script_with(NESTED[what]),
        r"net\.ts nests code in '.*' more deeply than any network needs; it is not loaded",
    )


def test_long_code_is_not_nested(script_with, net):
    path = script_with(
        f"_x = [{'-1, ' * MORE}]\n" + f"    _y = torch.add({'(' * 20}1{')' * 20}, 1)\n" * MORE,
        "  def other(self,\n    image: Tensor) -> Tensor:\n    return image\n",
    )
    torch.testing.assert_close(tiny.load(path)[1], net(tiny.pictures().shares()).detach())


def test_brackets_that_close_nothing_are_torch_s_to_refuse():
    assert not is_nested_too_deeply(")" * MORE)


# --- functions that call each other ----------------------------------------------------------------------------

ENDLESS = r"net\.{} has functions whose calls add up to more than 1,000,000 operators; it is not loaded"


@pytest.fixture
def few(monkeypatch):
    """So that what is not refused would be written out at once."""
    monkeypatch.setattr("robustcheck.models.call_graph.MOST_INLINED", 1_000)


def _methods(count, times=2):
    """Methods that each call the one before."""
    line = "  def m{}(self,\n    image: Tensor) -> Tensor:\n    return {}image{}\n"
    calls = (line.format(i, f"(self).m{i - 1}(" * times, ", )" * times) for i in range(1, count))
    return line.format(0, "torch.abs(", ")") + "".join(calls)


def test_methods_that_call_each_other_twice(few, script_with, refused):
    refused(script_with("_x = (self).m10(image, )", _methods(11)), ENDLESS.format("ts"))


def test_functions_of_a_script_that_call_each_other_twice(few, tmp_path, refused):
    tiny.save_script(_Twice().eval(), tmp_path / "net.ts")
    refused(tmp_path / "net.ts", ENDLESS.format("ts"))


class _Twice(tiny.TinyNet):
    def forward(self, image):
        image = _often(_often(_often(_often(_often(_often(_often(_often(_often(_often(_often(image)))))))))))
        return self.fc(self.bn(self.conv(image)).mean((2, 3)))


def _often(image: torch.Tensor) -> torch.Tensor:
    return _seldom(_seldom(_seldom(_seldom(_seldom(_seldom(image))))))


def _seldom(image: torch.Tensor) -> torch.Tensor:
    return image.abs().abs().abs().abs().abs().abs().abs().abs().abs().abs().abs().abs().abs().abs().abs().abs()


def test_methods_that_call_each_other_once(few, script_with, net):
    path = script_with("_x = (self).m10(image, )", _methods(11, times=1))
    torch.testing.assert_close(tiny.load(path)[1], net(tiny.pictures().shares()).detach())


OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def _store(path, nodes_of, count=11):
    """A linear network and functions, each of which calls those that `nodes_of` says of its number."""
    model = tiny.save_linear_onnx(path, np.ones((tiny.HEIGHT * tiny.WIDTH, 2), np.float32))
    for i in range(count):
        model.functions.append(helper.make_function("local", f"F{i}", ["x"], ["y"], nodes_of(i), OPSETS))
    model.opset_import.append(OPSETS[1])
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node(f"F{count - 1}", ["before"], ["scores"], domain="local"))
    path.write_bytes(model.SerializeToString())
    return path


def _call(number, given, made):
    if number < 0:
        return helper.make_node("Abs", [given], [made])
    return helper.make_node(f"F{number}", [given], [made], domain="local")


def test_functions_of_an_onnx_file_that_call_each_other_twice(few, tmp_path, refused):
    path = _store(tmp_path / "net.onnx", lambda i: [_call(i - 1, "x", "z"), _call(i - 1, "z", "y")])
    refused(path, ENDLESS.format("onnx"))


def test_a_function_of_an_onnx_file_that_calls_itself(tmp_path, refused):
    refused(_store(tmp_path / "net.onnx", lambda i: [_call(i, "x", "y")], count=1), ENDLESS.format("onnx"))


def test_functions_of_an_onnx_file_that_call_each_other_once(few, tmp_path):
    path = _store(tmp_path / "net.onnx", lambda i: [_call(i - 1, "x", "y")])
    flat = tiny.pictures().shares().flatten(1).sum(1, keepdim=True)
    torch.testing.assert_close(tiny.load(path)[1], flat.expand(-1, 2))


def test_forty_functions_are_counted_without_being_written_out():
    assert is_endless(40, lambda i: (1, [i - 1] * 2 if i else []))
    assert not is_endless(18, lambda i: (1, [i - 1] * 2 if i else []))  # half a million
