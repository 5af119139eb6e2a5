"""The candidates that are attacked: two that the project ships, and three of the size that hospitals would ship."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

POLICIES = Path(__file__).parents[1] / "policies"


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From stored pixels to a network's input, as a policy's `model.preprocess` says it."""

    mean: float = 0.5
    std: float = 0.25
    channels: int | None = None
    side: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to the input; differentiable."""
        if self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        if self.side:
            images = interpolate(images, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        return images * (1 / self.std) - self.mean / self.std

    def policy(self) -> dict[str, Any]:
        """The same, as the policy says it."""
        said: dict[str, Any] = {"mean": self.mean, "std": self.std}
        if self.channels:
            said["channels"] = self.channels
        if self.side:
            said["resize"] = [self.side, self.side]
        return said


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Some steps of training at one resolution."""

    side: int | None  # None: that of the stored images
    steps: int
    batch: int
    rate: float  # the highest learning rate


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a candidate is trained: cheap stages at low resolution first, then the one that it will see."""

    stages: tuple[Stage, ...]
    settle: int  # training images for the final BatchNorm statistics, at the candidate's own resolution


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network, its weights and its preprocessing."""

    name: str  # on the command line
    title: str
    architecture: str  # module:callable, as a policy names it
    arguments: dict[str, Any] = field(default_factory=dict)
    module: Path | None = None  # the file of the architecture's module; None: an installed one
    preprocess: Preprocess
    images: int | None = None  # how many are attacked unless the command line says otherwise; None: all
    shipped: Path | None = None  # the project's weights; None: they are trained here
    recipe: Recipe | None = None

    @property
    def weights(self) -> Path:
        """Where the weights lie, or will after training; another recipe is another file."""
        if self.shipped:
            return self.shipped
        digest = hashlib.sha256(repr((self.recipe, self.preprocess)).encode()).hexdigest()[:8]
        return cache() / f"{self.name}-{digest}.safetensors"

    def network(self) -> nn.Module:
        """The network without its weights."""
        module, _, function = self.architecture.partition(":")
        if self.module and str(self.module.parent) not in sys.path:
            sys.path.append(str(self.module.parent))
        network: nn.Module = getattr(importlib.import_module(module), function)(**self.arguments)
        return network

    def load(self) -> nn.Module:
        """The network as peers get it: weights frozen, in evaluation mode, preprocessing within."""
        network = self.network()
        network.load_state_dict(load_file(self.weights))
        return WithPreprocess(network, self.preprocess).eval().requires_grad_(False)


@torch.no_grad()
def read_by(network: nn.Module, images: Tensor, batch: int) -> Tensor:
    """The labels (N,) that a network gives images (N, C, H, W)."""
    return torch.cat([network(some).argmax(dim=1) for some in images.split(batch)])


class WithPreprocess(nn.Module):
    """Preprocessing and network as one module of images in [0, 1]: attack libraries know no policy."""

    def __init__(self, network: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.network(self.preprocess(images))
        return logits


def cache() -> Path:
    """Where trained weights are kept: they are too large for the project."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "robustcheck" / "benchmarks"


def _chest_cnn(kind: str) -> Candidate:
    return Candidate(
        name=f"cnn-{kind}",
        title=f"the shipped CNN, {kind} (102k parameters, 28×28)",
        architecture="networks:chest_cnn",
        module=POLICIES / "networks.py",
        preprocess=Preprocess(),
        shipped=POLICIES / "candidates" / f"pneumonia_{kind}.safetensors",
    )


_AT_224 = Preprocess(channels=3, side=224)
_TO_224 = Recipe(
    stages=(
        Stage(side=64, steps=140, batch=64, rate=1e-3),
        Stage(side=128, steps=60, batch=32, rate=5e-4),
        Stage(side=224, steps=80, batch=16, rate=5e-4),
    ),
    settle=192,
)

CANDIDATES = {
    candidate.name: candidate
    for candidate in (
        _chest_cnn("standard"),
        _chest_cnn("hardened"),
        Candidate(
            name="resnet18",
            title="ResNet-18 (11.2M parameters, 28×28)",
            architecture="architectures:small_image_resnet18",
            module=Path(__file__).parent / "architectures.py",
            preprocess=Preprocess(),
            recipe=Recipe(stages=(Stage(side=None, steps=150, batch=64, rate=1e-3),), settle=1024),
        ),
        Candidate(
            name="resnet50",
            title="ResNet-50 (23.5M parameters, 224×224)",
            architecture="torchvision.models:resnet50",
            arguments={"num_classes": 2},
            preprocess=_AT_224,
            images=32,
            recipe=_TO_224,
        ),
        Candidate(
            name="densenet121",
            title="DenseNet-121 (7.0M parameters, 224×224)",
            architecture="torchvision.models:densenet121",
            arguments={"num_classes": 2},
            preprocess=_AT_224,
            images=32,
            recipe=_TO_224,
        ),
    )
}
