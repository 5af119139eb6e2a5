"""Python 3.14 evaluates annotations when they are asked for, and they may name what only type checkers import."""

from __future__ import annotations

import functools
import sys

import tiny_models as tiny
import torch
from torch import nn

from robustcheck.models.fast.fused import fuse
from robustcheck.models.fast.nodes import traced_copy

NETS = """
from typing import TYPE_CHECKING

import tiny_models

if TYPE_CHECKING:
    from collections.abc import Sequence


def build(widths: Sequence[int] | None = None, act: "str" = "relu"):
    return tiny_models.TinyNet()
"""


def test_arguments_are_compared_without_them(tmp_path, net):
    future = "" if sys.version_info >= (3, 14) else "from __future__ import annotations\n"
    (tmp_path / "later_nets.py").write_text(future + NETS)
    saved = {"state_dict": net.state_dict(), "hyper_parameters": {"act": "relu", "width": 3}}
    torch.save(saved, tmp_path / "net.ckpt")
    candidate, _ = tiny.load(tmp_path / "net.ckpt", architecture="later_nets:build")
    assert candidate.info.notes[-1].endswith("not compared with what later_nets:build is built with: width")


class Unready(dict):
    """What Python raises, on every version."""

    def _raise(self, *_: object) -> object:
        raise NameError("name 'Tensor' is not defined")

    __bool__ = __len__ = __iter__ = get = _raise


class Annotated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, image, scale=2.0):
        return self.norm(self.conv(image)) * scale


class Wrapping(Annotated):
    @functools.wraps(Annotated.forward)
    def forward(self, *images):
        return 3 * Annotated.forward(self, *images)


Annotated.forward.__annotations__ = Wrapping.forward.__annotations__ = Unready()


def test_networks_are_followed_without_them():
    image = torch.rand(2, 1, 6, 5)
    for kind in (Annotated, Wrapping):
        network = kind().eval().requires_grad_(False)
        traced = traced_copy(network)
        assert traced is not None
        assert torch.equal(traced(image), network(image))
        assert len(fuse(network)) == 2
