"""Candidates and samples whose robustness is known in closed form."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from robustcheck import load_policy, run
from robustcheck.evaluation.evaluation import Evaluation
from robustcheck.models import Candidate
from robustcheck.models.head import Head
from robustcheck.models.memory import Chunks
from robustcheck.models.network import Network, freeze
from robustcheck.models.preprocess import Preprocess
from robustcheck.policy import PreprocessSpec
from robustcheck.results import GateResult, ModelInfo

CPU = torch.device("cpu")

# Reads an image as bright if its mean is above the middle of the range, and the more surely the farther it is. The
# smallest perturbation that turns a flat image of level g is |g - 127.5| levels, in every pixel.
ARCHITECTURE = """
import torch

class Brightness(torch.nn.Module):
    def __init__(self, sharpness=20.0):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(0.0))
        self.sharpness = sharpness

    def forward(self, image):
        excess = (image.flatten(1).mean(dim=1) - self.threshold) * self.sharpness
        return torch.stack([-excess, excess], dim=1)
"""

LEVELS = (100, 120, 124, 126, 127, 128, 129, 131, 135, 155)  # flat images; dark, then bright


def candidate(
    module: torch.nn.Module, *, labels: Sequence[str] = ("dark", "bright"), binary: bool = False, batch: int = 64
) -> Candidate:
    """A candidate around a module of logits that takes shares of the full range."""
    module.eval()
    freeze(module)
    return Candidate(
        network=Network(forward=module, device=CPU),
        preprocess=Preprocess(PreprocessSpec(), CPU, maximum=255),
        head=Head(
            labels=tuple(labels),
            binary=binary,
            outputs_probabilities=False,
            positive=len(labels) - 1,
            operating_point=None,
            found="logits (as the test says)",
        ),
        info=ModelInfo(
            path="test", format="test", sha256="", task="multiclass", labels=tuple(labels), positive=labels[-1],
            operating_point=None,
        ),
        chunks=Chunks(batch),
    )  # fmt: skip


def brightness_project(folder: Path, *, levels: Sequence[int] = LEVELS, threshold: float = 0.5) -> None:
    """Write an architecture, its weights and an archive of flat images; `brightness_policy` is a policy about them."""
    (folder / "brightness.py").write_text(ARCHITECTURE)
    save_file({"threshold": torch.tensor(threshold)}, folder / "brightness.safetensors")
    flat_images(folder, levels, [int(level > 127.5) for level in levels])


def flat_images(folder: Path, levels: Sequence[int], labels: Sequence[int]) -> None:
    """Write the archive anew, with a flat image of each level."""
    images = np.stack([np.full((8, 8), level, dtype=np.uint8) for level in levels])
    np.savez(folder / "flat.npz", test_images=images, test_labels=np.array(labels)[:, None])


def brightness_gates(folder: Path, gates: str, *, model: str = "", extra: str = "") -> tuple[GateResult, ...]:
    """The results of `brightness_policy`'s gates."""
    (folder / "policy.yaml").write_text(brightness_policy(gates, model=model, extra=extra))
    return run(load_policy(folder / "policy.yaml"), folder=folder / "out").gates


def brightness_report(folder: Path) -> dict[str, Any]:
    """What pytest, run in this folder, has written in `report.json`."""
    report: dict[str, Any] = json.loads((folder / "robustcheck-report" / "report.json").read_text())
    return report


def evaluation_of(policy: Path, folder: Path, changed: Callable[[Candidate], Candidate]) -> Evaluation:
    """An evaluation of a policy whose candidate is another than its file says."""
    evaluation = Evaluation(load_policy(policy), folder=folder)
    setting = evaluation.setting
    evaluation._opening.__dict__["setting"] = replace(setting, candidate=changed(setting.candidate))
    return evaluation


def brightness_manifest(folder: Path, rows: Sequence[tuple[int, str, str]], *, images: int = 1) -> None:
    """Write so many flat images of a level, a patient and a sex each row, and `patients.csv` about them."""
    lines = ["path,label,patient,sex"]
    for level, patient, sex in rows:
        for index in range(images):
            name = f"{patient}-{index}.png"
            Image.fromarray(np.full((8, 8), level, np.uint8)).save(folder / name)
            lines.append(f"{name},{'bright' if level > 127 else 'dark'},{patient},{sex}")
    (folder / "patients.csv").write_text("\n".join(lines))


def brightness_policy(gates: str, *, model: str = "", data: str = "source: flat.npz", extra: str = "") -> str:
    """A policy on `brightness_project`'s files; `gates` is the text below `gates:`."""
    return f"""
robustcheck: 1
name: Brightness
model:
  path: brightness.safetensors
  architecture: brightness:Brightness
  task: multiclass
  labels: [dark, bright]
  positive: bright
  device: cpu
  {model}
data: {{{data}}}
gates:
{gates}
{extra}
"""


def accuracy_at(levels: int) -> float:
    """What is left of `brightness_project`'s accuracy when every pixel may move by so many grey levels."""
    return sum(abs(level - 127.5) > levels for level in LEVELS) / len(LEVELS)


_THREE = """
import torch

class Brightness(torch.nn.Module):  # dark up to 80, dim up to 160, bright beyond
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, image):
        dim, bright = ((image.flatten(1).mean(dim=1) - level / 255) * self.slope for level in (80, 160))
        return torch.stack([torch.zeros_like(dim), dim, dim + bright], dim=1)
"""


def three_levels(folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Write a candidate of dark, dim and bright, and flat images; returns their levels and labels.

    The two of 158 are two levels from bright, and read as dim; one of them is labelled dark, as is one of 100.
    """
    (folder / "brightness.py").write_text(_THREE)
    save_file({"slope": torch.tensor(20.0)}, folder / "brightness.safetensors")
    levels, labels = (158, 158, 100, 100, 200), (0, 1, 0, 1, 2)
    flat_images(folder, levels, labels)
    return levels, labels


def three_levels_policy(gates: str) -> str:
    """A policy on `three_levels`' files; `gates` is the text below `gates:`."""
    return brightness_policy(gates).replace("[dark, bright]", "[dark, dim, bright]")
