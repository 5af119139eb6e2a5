"""A policy's candidate and data, and the surrogates of an attack on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robustcheck.data import Samples, load_samples
from robustcheck.evaluation.surrogates.lessons import FOR_SURROGATES, train_split
from robustcheck.evaluation.surrogates.loading import LoadedSurrogate, load_surrogates
from robustcheck.models import Candidate, load_candidate
from robustcheck.policy import DataSpec, ModelSpec, TransferSpec

NETS = """
import torch

class Halves(torch.nn.Module):
    '''Reads an image by which half is brighter.'''
    def __init__(self, sharpness=20.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.sharpness = sharpness

    def forward(self, image):
        left, right = image.flatten(2).mean(dim=(1, 2)), image[..., image.shape[-1] // 2 :].mean(dim=(1, 2, 3))
        excess = (right - left) * self.sharpness * self.weight
        return torch.stack([-excess, excess], dim=1)

def small(scores=2, channels=1, softmax=False):
    layers = [torch.nn.Conv2d(channels, 6, 3, padding=1), torch.nn.BatchNorm2d(6), torch.nn.ReLU()]
    layers += [torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(24, scores)]
    return torch.nn.Sequential(*layers, *([torch.nn.Softmax(dim=1)] if softmax else []))
"""
LABELS = ("left", "right")
SMALL = {"architecture": "nets:small", "epochs": 8, "learning_rate": 0.02}


def halves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images (N, 8, 8) whose left or right half is brighter, in turn."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(90, 150, (count, 8, 8)), np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 40
    return images.astype(np.uint8), labels[:, None]


@dataclass
class Project:
    """What `load_surrogates` is told, beside the attack."""

    folder: Path
    model: ModelSpec
    data: DataSpec
    samples: Samples
    candidate: Candidate
    answers: dict[int, int] = field(default_factory=dict)  # of the candidate about the train split

    def load(self, **attack: Any) -> list[LoadedSurrogate]:
        """The surrogates of an attack with these parameters."""
        progress, data = attack.pop("progress", None), attack.pop("data", self.data)
        return load_surrogates(
            TransferSpec(name="transfer", **attack),
            model=self.model,
            split=lambda: self.train_split(data),
            candidate=self.candidate,
            answers=self.answers,
            samples=self.samples,
            folder=self.folder,
            progress=progress,
        )

    @property
    def split(self) -> Samples:
        """The train split of its data."""
        return self.train_split(self.data)

    def train_split(self, data: DataSpec) -> Samples:
        """That of other data, beside its own samples."""
        return train_split(data, self.model, self.folder, FOR_SURROGATES, self.samples)

    @property
    def files(self) -> list[Path]:
        """The weights that are kept."""
        return sorted((self.folder / "cache" / "robustcheck" / "surrogates").glob("*.safetensors"))


def project_in(folder: Path, model: ModelSpec, data: DataSpec, candidate: Candidate | None = None) -> Project:
    """A project of a model and data in a folder."""
    samples = load_samples(data, model, folder=folder)
    if candidate is None:
        candidate, _ = load_candidate(model, folder=folder, samples=samples)
    return Project(folder=folder, model=model, data=data, samples=samples, candidate=candidate)


def halves_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A candidate that tells left from right, other weights of it, and data with a train split; all is kept here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "nets.py").write_text(NETS)
    save_file({"weight": torch.ones(1)}, tmp_path / "candidate.safetensors")
    save_file({"weight": torch.full((1,), 2.0)}, tmp_path / "other.safetensors")
    splits = {"train": halves(120, 0), "test": halves(20, 1)}
    arrays = {
        f"{name}_{kind}": part
        for name, pair in splits.items()
        for kind, part in zip(("images", "labels"), pair, strict=True)
    }
    np.savez(tmp_path / "halves.npz", **arrays)
    model = ModelSpec(
        path="candidate.safetensors", architecture="nets:Halves", task="multiclass", labels=LABELS, device="cpu"
    )
    return project_in(tmp_path, model, DataSpec(source="halves.npz"))


def agreement(surrogate: LoadedSurrogate, project: Project) -> float:
    """Share of the gate's samples that it reads as their labels say."""
    decisions = surrogate.candidate.head.decide(surrogate.logits)
    return float((decisions == torch.tensor(project.samples.labels)).float().mean())
