"""Small model files whose code is nested, or calls itself, until a process ends or hangs."""

from __future__ import annotations

import pytest
import tiny_models as tiny
import torch

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
