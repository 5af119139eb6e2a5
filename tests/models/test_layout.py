"""Those who ask hand the artefact images with their channels last in memory, where it reads them alike."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models as tiny
import torch
from torch import nn

from robustcheck.models import ScoreOracle
from robustcheck.models.layout import channels_last, takes_channels_last


class Spying(nn.Module):
    """A convolution that remembers how its inputs lay in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Conv2d(1, 2, 3), list[bool]()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.layer(image)
        self.last.append(features.is_contiguous(memory_format=torch.channels_last))
        return features.mean((2, 3))


class Viewing(Spying):
    """Does not run in another layout than the one it was written for."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image).view(len(image), -1)[:, :2]


class ViewingLarge(Viewing):
    """The same, of images of more than six rows only."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) if image.shape[2] > 6 else Spying.forward(self, image)


class Striding(Spying):
    """Reads memory as it lies: another layout is another image."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.layer(image)
        return features.as_strided((len(features), 2), (features.stride(0), 7))


def _candidate(tmp_path, module, *others, **options):
    torch.save(module.eval().state_dict(), tmp_path / "net.pt")
    options = {"architecture": f"test_layout:{type(module).__name__}", "precision": "auto", **options}
    images = [tiny.pictures(5).image(index) for index in range(5)]
    return tiny.load(tmp_path / "net.pt", tiny.Pictures([*images, *others]), **options)[0]


def _asked(candidate):
    """Whether an oracle's question reached the first convolution so, and the scores that it told."""
    oracle = ScoreOracle(candidate, samples=5, limit=9)
    spy = candidate.network.module
    spy.last.clear()
    scores = oracle.scores(torch.arange(5), tiny.pictures(5).shares())
    return spy.last, scores


def test_questions_reach_the_artefact_so_and_verdicts_as_ever(tmp_path):
    candidate = _candidate(tmp_path, Spying())
    last, scores = _asked(candidate)
    assert last == [True]
    logits = candidate.logits(tiny.pictures(5).shares())
    assert last == [True, False]
    torch.testing.assert_close(scores, logits.log_softmax(dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("module", [Viewing(), Striding()])
def test_a_network_that_relies_on_its_layout_is_asked_as_it_is(tmp_path, module):
    candidate = _candidate(tmp_path, module)
    assert not candidate.asked_channels_last
    images = tiny.pictures(5).shares()
    _, scores = _asked(candidate)
    assert torch.equal(scores, candidate.logits(images).log_softmax(dim=1))


def test_every_shape_is_tried(tmp_path):
    large = np.zeros((1, 9, 8), dtype=np.uint8)
    assert _candidate(tmp_path, ViewingLarge()).asked_channels_last
    assert not _candidate(tmp_path, ViewingLarge(), large).asked_channels_last


@pytest.mark.parametrize(
    ("name", "save", "so"),
    [("net.ts", tiny.save_script, True), ("net.pt2", tiny.save_exported, True), ("net.onnx", tiny.save_onnx, False)],
)
def test_whatever_runs_in_torch_is_asked_so(tmp_path, net, name, save, so):
    save(net, tmp_path / name)
    assert tiny.load(tmp_path / name, precision="auto")[0].asked_channels_last == so


def test_precision_full_asks_as_it_is(tmp_path):
    candidate = _candidate(tmp_path, Spying(), precision="full")
    assert _asked(candidate)[0] == [False]


def test_scores_that_are_no_numbers_are_not_alike():
    assert not takes_channels_last(
        lambda inputs: inputs.new_full((len(inputs), 2), torch.nan), [torch.rand(2, 1, 4, 4)]
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_layout_changes_no_number(channels):
    images = torch.rand(2, channels, 5, 4)
    laid_out = channels_last(images)
    assert torch.equal(laid_out, images)
    assert laid_out.stride() == (20 * channels, 1, 4 * channels, channels)


@pytest.mark.parametrize("shape", [(2, 4), (2, 1, 4)])
def test_inputs_that_are_no_images_stay_as_they_are(shape):
    assert not takes_channels_last(lambda inputs: inputs.flatten(1)[:, :2], [torch.rand(shape)])
