"""Convolutions that do the batch norm and the ReLU after them stand in for a network's own layers."""

from __future__ import annotations

import pytest
import tiny_models as tiny
import torch
from torch import nn

from robustcheck.models import ScoreOracle
from robustcheck.models.fast import fused
from robustcheck.models.fast.fused import fuse
from robustcheck.models.fast.layout import FUSED, NOTE

IMAGES = torch.rand(3, 4, 9, 9, generator=torch.Generator().manual_seed(0))


def _drawn(module: nn.Module) -> nn.Module:
    """With statistics and weights that are not those of a new layer."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats:
            layer.running_mean.copy_(torch.randn(layer.num_features, generator=generator))
            layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.1)
            if layer.affine:
                nn.init.normal_(layer.weight, generator=generator)
                nn.init.normal_(layer.bias, generator=generator)
    return module.eval().requires_grad_(False)


class Block(nn.Module):
    """A ResNet's: one ReLU for two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(image)))
        return self.relu(self.bn2(self.conv2(out)) + image)


class Twice(nn.Module):
    """What the convolution answers is wanted with the norm and without it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        answer = self.conv(image)
        return self.relu(self.norm(answer)) + answer


class Tied(nn.Module):
    """One convolution and one norm in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.other(self.conv(self.norm(self.conv(image)))))


class Reading(nn.Module):
    """Looks at the norm's numbers beside calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(image)) * self.norm.weight[:, None, None]


class Two(nn.Module):
    """A norm of two inputs' sum, which is no convolution's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(image) + image)


def _row(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def _alias() -> nn.Module:
    """A convolution under two names."""
    row = _row(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    row.again = row[0]
    row.forward = lambda image: row[1](row[0](image))
    return row


def _hooked() -> nn.Module:
    """A norm whose answer somebody changes."""
    row = _row(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    row[1].register_forward_hook(lambda _layer, _given, answer: answer * 2)
    return row


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    ("module", "replaced"),
    [
        (_row(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()), 3),
        (_row(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)), 2),
        (_row(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False)), 2),
        (_row(nn.Conv2d(4, 8, 3, stride=2, padding=(0, 2), dilation=2, groups=4), nn.BatchNorm2d(8)), 2),
        (_row(nn.Conv2d(4, 6, 3, bias=False), nn.ReLU6()), 1),
        (_row(nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6)), 0),
        (_row(nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(6)), 0),
        (_row(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU()), 1),
        (_row(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()), 0),
        (Block(), 4),
        (Twice(), 1),
        (Tied(), 1),
        (Reading(), 1),
        (Two(), 1),
        (_alias(), 0),
        (_hooked(), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_they_answer_as_the_networks_own(monkeypatch, module, replaced, packs):
    if not packs:
        monkeypatch.setattr(fused, "can_pack", lambda: False)
    _drawn(module)
    before, layers = module(IMAGES), list(module.modules())
    stand_ins = fuse(module)
    assert len(stand_ins) == replaced
    with stand_ins:
        torch.testing.assert_close(module(IMAGES), before, rtol=1e-5, atol=1e-5)
        assert (list(module.modules()) == layers) == (not replaced)
    assert list(module.modules()) == layers
    assert torch.equal(module(IMAGES), before)


def test_a_norm_of_what_is_asked_about_together_stays():
    module = _drawn(_row(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    assert len(fuse(module)) == 2
    module[1].train()
    assert len(fuse(module)) == 1


def test_a_network_that_cannot_be_followed_keeps_its_layers():
    class Branching(nn.Sequential):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image) if image.sum() > 0 else image

    assert not fuse(Branching(nn.Conv2d(4, 4, 1)).eval())


@pytest.mark.parametrize("packs", [True, False])
def test_what_is_no_number_stays_none(monkeypatch, packs):
    monkeypatch.setattr(fused, "can_pack", lambda: packs)
    module, images = _drawn(_row(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())), IMAGES.clone()
    images[1] = torch.nan
    with fuse(module):
        answer = module(images)
    assert answer[1].isnan().all()
    assert answer[[0, 2]].isfinite().all()


def test_its_own_layers_are_back_whatever_happens():
    module = _drawn(_row(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()))
    layers, stand_ins = list(module), fuse(module)
    with stand_ins:
        assert list(module) != layers
    assert list(module) == layers
    with pytest.raises(RuntimeError, match="channels"), stand_ins:
        module(IMAGES[:, :3])
    assert list(module) == layers


class Counting(nn.Module):
    """Counts the images that it is asked about."""

    seen = 0

    def __init__(self) -> None:
        super().__init__()
        self.layers = _row(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen += image.shape[0]
        return self.layers(image).mean((2, 3))


class Strict(Counting):
    """Runs with its own layers only."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert not isinstance(self.layers[1], nn.Identity)
        return super().forward(image)


def _candidate(tmp_path, module: nn.Module, **options: str):
    torch.save(_drawn(module).state_dict(), tmp_path / "net.pt")
    options = {"architecture": f"{type(module).__module__}:{type(module).__name__}", "precision": "auto", **options}
    return tiny.load(tmp_path / "net.pt", tiny.pictures(5), **options)[0]


def test_oracles_ask_the_artefact_itself_and_verdicts_its_own_layers(tmp_path):
    candidate = _candidate(tmp_path, Counting())
    assert {NOTE, FUSED} <= set(candidate.info.notes)
    assert len(candidate.fused) == 4
    images, (module,) = tiny.pictures(5).shares(), candidate.network.module.children()
    before = module.seen
    told = ScoreOracle(candidate, samples=5, limit=9).scores(torch.arange(5), images)
    assert module.seen == before + 5
    logits = candidate.logits(images)
    assert torch.equal(logits, module(images))
    torch.testing.assert_close(told, logits.log_softmax(dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("module", "options"), [(Strict(), {}), (Counting(), {"precision": "full"})])
def test_others_are_asked_as_they_are(tmp_path, module, options):
    candidate = _candidate(tmp_path, module, **options)
    assert not candidate.fused
    assert FUSED not in candidate.info.notes
    assert (NOTE in candidate.info.notes) == (not options)
