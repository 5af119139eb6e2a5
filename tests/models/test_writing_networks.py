"""Networks that write into what they are given, as preprocessing in place does."""

from __future__ import annotations

import pytest
import tiny_models as tiny
import torch
from torch import nn

IMAGES = tiny.pictures().shares()
ZEROS = torch.zeros(6, dtype=torch.int64)


class Writing(nn.Module):
    """Normalises its image in place."""

    def __init__(self, channels: int = 1, softmax: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 3)
        self.ending = nn.Softmax(dim=1) if softmax else nn.Identity()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.ending(self.conv(image.sub_(0.5).div_(0.25)).relu().mean((2, 3)))


def _writing(channels):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Writing(channels).eval()


SAVERS = {"net.safetensors": tiny.save_safetensors, "net.ts": tiny.save_script, "trace.ts": tiny.save_trace}


@pytest.mark.parametrize("window", [None, [0, 255]])
@pytest.mark.parametrize("precision", ["auto", "full"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SAVERS)
def test_they_are_asked_as_any_other(name, channels, precision, window, tmp_path):
    net = _writing(channels)
    SAVERS[name](net, tmp_path / name)
    candidate, logits = tiny.load(
        tmp_path / name, architecture="test_writing_networks:Writing", architecture_args={"channels": channels},
        preprocess={"channels": channels, "window": window}, precision=precision,
    )  # fmt: skip
    assert candidate.randomness is None
    wanted = IMAGES.clone().requires_grad_()
    expected = net(wanted.expand(-1, channels, -1, -1).clone())
    (gradient,) = torch.autograd.grad(expected[:, 0].sum(), wanted)
    images = IMAGES.clone()
    torch.testing.assert_close(logits, expected.detach())
    torch.testing.assert_close(candidate.logits(images), logits)
    torch.testing.assert_close(candidate.search_logits(images), logits, rtol=0.02, atol=0.02)
    found = candidate.gradient(images, ZEROS, ZEROS, lambda scores, *_: scores[:, 0], exact=True)[2]
    torch.testing.assert_close(found, gradient)
    assert torch.equal(images, IMAGES)


def test_they_have_faster_forms(tmp_path):
    tiny.save_safetensors(_writing(1), tmp_path / "net.safetensors")
    options = {"architecture": "test_writing_networks:Writing", "architecture_args": {"softmax": True}}
    notes = " ".join(tiny.load(tmp_path / "net.safetensors", precision="auto", **options)[0].info.notes)
    assert "the input of its last softmax" in notes
    assert "faster form" in notes
