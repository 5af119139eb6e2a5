"""Oracles hand the artefact images with their channels last in memory, where it reads them alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_models as tiny
import torch
from test_fast_form import Shallow
from torch import nn

from robustcheck.errors import CandidateError
from robustcheck.models import ScoreOracle
from robustcheck.models.fast.layout import NOTE, alike, as_oracles_ask, channels_last

IMAGES = tiny.pictures(5).shares()
LARGE = np.zeros((1, 9, 8), dtype=np.uint8)


class Plain(nn.Module):
    """A convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image).mean((2, 3))


class Viewing(Plain):
    """Does not run in another layout than the one it was written for."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image).view(len(image), -1)[:, :2]


class ViewingLarge(Viewing):
    """The same, of images of more than six rows only."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) if image.shape[2] > 6 else Plain.forward(self, image)


class Striding(Plain):
    """Reads memory as it lies: another layout is another image."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.layer(image)
        return features.as_strided((len(features), 2), (features.stride(0), 7))


class Rows(Plain):
    """Takes images with their channels last, as axes."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image.permute(0, 3, 1, 2))


class Drawing(Plain):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image + 0.1 * torch.randn_like(image))


class Half(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.half()


def _candidate(tmp_path, module, *others, **options):
    torch.save(module.eval().state_dict(), tmp_path / "net.pt")
    options = {"architecture": f"{type(module).__module__}:{type(module).__name__}", "precision": "auto", **options}
    images = [tiny.pictures(5).image(index) for index in range(5)]
    return tiny.load(tmp_path / "net.pt", tiny.Pictures([*images, *others]), **options)[0]


def _reaching(monkeypatch, candidate, ask):
    """Whether images that `ask` asks about reach the network with their channels last in memory."""
    seen, forward = list[bool](), candidate.network.forward

    def spy(inputs):
        batch, channels, height, width = inputs.shape
        assert batch == len(IMAGES)
        seen.append(inputs.stride() == (channels * height * width, 1, width * channels, channels))
        return forward(inputs)

    with monkeypatch.context() as patch:
        patch.setitem(candidate.network.__dict__, "forward", spy)
        told = ask(IMAGES)
    (so,) = seen
    return so, told


def _asking(candidate):
    """Of an oracle that has told nothing yet."""
    oracle = ScoreOracle(candidate, samples=5, limit=9)
    return lambda images: oracle.scores(torch.arange(5), images)


def test_questions_reach_the_artefact_so_and_verdicts_as_ever(monkeypatch, tmp_path):
    candidate = _candidate(tmp_path, Plain())
    before = candidate.meter.forward
    so, told = _reaching(monkeypatch, candidate, _asking(candidate))
    assert so
    assert candidate.meter.forward == before + 5
    so, logits = _reaching(monkeypatch, candidate, candidate.logits)
    assert not so
    torch.testing.assert_close(told, logits.log_softmax(dim=1), rtol=1e-5, atol=1e-6)
    assert NOTE in candidate.info.notes


@pytest.mark.parametrize(
    ("name", "save", "so"),
    [("net.ts", tiny.save_script, True), ("net.pt2", tiny.save_exported, True), ("net.onnx", tiny.save_onnx, False)],
)
def test_whatever_runs_in_torch_is_asked_so(monkeypatch, tmp_path, net, name, save, so):
    save(net, tmp_path / name)
    candidate = tiny.load(tmp_path / name, precision="auto")[0]
    assert _reaching(monkeypatch, candidate, _asking(candidate))[0] == so


def _as_it_is(monkeypatch, candidate):
    assert NOTE not in candidate.info.notes
    so, told = _reaching(monkeypatch, candidate, _asking(candidate))
    assert not so
    return told


def test_a_network_that_does_not_run_so_is_asked_as_it_is(monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match="view"):
        Viewing()(channels_last(IMAGES))
    candidate = _candidate(tmp_path, Viewing())
    assert torch.equal(_as_it_is(monkeypatch, candidate), candidate.logits(IMAGES).log_softmax(dim=1))


def test_a_network_that_reads_otherwise_is_asked_as_it_is(monkeypatch, tmp_path):
    module = Striding()
    assert (module(IMAGES) - module(channels_last(IMAGES))).abs().max() > 1e-3
    candidate = _candidate(tmp_path, module)
    assert torch.equal(_as_it_is(monkeypatch, candidate), candidate.logits(IMAGES).log_softmax(dim=1))


def test_a_gpu_asks_as_ever(tmp_path):
    candidate = _candidate(tmp_path, Plain(), precision="full")
    assert as_oracles_ask(candidate, [IMAGES]).asked_channels_last
    elsewhere = replace(candidate, network=replace(candidate.network, device=torch.device("cuda")))
    assert as_oracles_ask(elsewhere, [IMAGES]) is elsewhere


def test_many_shapes_are_not_tried(tmp_path):
    shapes = [np.zeros((1, 9, width), dtype=np.uint8) for width in range(6, 14)]
    assert _candidate(tmp_path, Plain(), *shapes[:7]).asked_channels_last
    assert not _candidate(tmp_path, Plain(), *shapes).asked_channels_last


def test_every_shape_is_tried(tmp_path):
    assert _candidate(tmp_path, ViewingLarge()).asked_channels_last
    assert not _candidate(tmp_path, ViewingLarge(), LARGE).asked_channels_last
    assert _candidate(tmp_path, Plain(), LARGE).asked_channels_last


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Plain(), {"precision": "full"}),
        (Rows(), {"preprocess": {"layout": "NHWC"}}),
        (Half(), {}),
        (Drawing(), {}),
        (Shallow(), {}),
    ],
    ids=["precision-full", "nhwc", "half", "draws", "no-convolution"],
)
def test_others_are_asked_as_they_are(monkeypatch, tmp_path, module, options):
    _as_it_is(monkeypatch, _candidate(tmp_path, module, **options))


def test_a_fixed_batch_is_asked_as_it_is(tmp_path, net):
    tiny.save_exported(net, tmp_path / "net.pt2", batch=None)
    assert not tiny.load(tmp_path / "net.pt2", precision="auto")[0].asked_channels_last


@pytest.mark.parametrize(
    ("apart", "same"),
    [(0.0, True), (0.9e-5, True), (-0.9e-5, True), (1.2e-5, False), (-1.2e-5, False), (torch.nan, False)],
)
def test_alike_is_to_the_last_bits(apart, same):
    logits = torch.tensor([[4.0, -1.0], [0.5, 0.25]])
    far = logits + torch.tensor([[0.0, 0.0], [0.0, 4 * apart]])
    assert alike(lambda images: logits[: len(images)], lambda images: far[: len(images)], IMAGES[:2]) == same


def test_other_shapes_are_not_alike():
    assert not alike(lambda images: images.flatten(1)[:, :2], lambda images: images.flatten(1)[:, :1], IMAGES)


def test_the_first_image_alone_is_tried_too():
    def other(images):
        return images.new_ones(len(images), 2) * (1 if len(images) > 1 else 2)

    assert not alike(lambda images: images.new_ones(len(images), 2), other, IMAGES)


def test_an_error_is_not_alike():
    def fails(_images):
        raise CandidateError("no")

    assert not alike(lambda images: images.flatten(1), fails, IMAGES)
    with pytest.raises(CandidateError):
        alike(fails, lambda images: images.flatten(1), IMAGES)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_layout_changes_no_number(channels):
    images = torch.rand(2, channels, 5, 4)
    laid_out = channels_last(images)
    assert torch.equal(laid_out, images)
    assert laid_out.stride() == (20 * channels, 1, 4 * channels, channels)
