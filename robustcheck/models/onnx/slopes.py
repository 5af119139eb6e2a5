"""Slopes of a twin beside differences of what it is the twin of, along it, along halves of it and along random signs.

So neither a wrong part goes unseen nor a missing one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from robustcheck.models.network import Forward, rows
from robustcheck.models.onnx import score_readings as readings

STEPS = (1e-3, 1e-2, 3e-3, 2e-3, 1e-4, 3e-4, 3e-2)  # of the inputs' range: kinks spoil large ones, rounding small ones
_JITTER = 1e-7  # of the range: a change that scores follow only by how a network rounds on its way to them
_JITTERS = 8
_SIGNS = 4  # random directions, which show what a gradient lacks, however little they move scores
WORST = 5.0  # times what is allowed in the mean over images is allowed in one of them


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is compared, and how."""

    artefact: Forward
    twin: Forward
    fine: Callable[[], Forward] | None  # makes the twin that takes inputs in double precision as they are, if it can be
    holds: Callable[[torch.Tensor], torch.Tensor]
    span: float  # the inputs' range
    odds: bool  # whether scores are probabilities, which are read as log-odds
    slopes: float | None  # as `Tolerance` has them

    def answers(self, images: torch.Tensor) -> torch.Tensor:
        """The artefact's raw scores of images as it holds them."""
        return self.artefact(self.holds(images)).cpu()

    def read(self, raw: torch.Tensor) -> torch.Tensor:
        """Raw scores as (N, K), or their log-odds."""
        return readings.read(raw, odds=self.odds)

    def close(self, shares: torch.Tensor) -> bool:
        """Whether slopes that are so far apart (N,) are the same."""
        assert self.slopes is not None
        return float(shares.mean()) <= self.slopes and float(shares.max()) <= WORST * self.slopes


@dataclass(frozen=True, kw_only=True)
class Slope:
    """The slope of a twin at some images."""

    gradient: torch.Tensor  # (N, …) of the sum of the scores, as they are read, with the weights
    weights: torch.Tensor  # (N, K)

    def tells(self, ahead: torch.Tensor, behind: torch.Tensor) -> torch.Tensor:
        """By how much (N,) the sum rises between images."""
        return (self.gradient * (ahead - behind)).flatten(1).sum(dim=1).cpu()


def in_rows(forward: Forward) -> Forward:
    """A network whose scores may be (N,), as one that answers with a row for each image."""
    return lambda inputs: rows(forward(inputs), len(inputs))


Tells = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Says by how much (N,) the sum of scores rises to some images (N, …) from others."""


def apart(
    pair: Pair, slope: Slope, images: torch.Tensor, step: float, tells: Tells, across: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """How far (N,) rises along a few directions are from what is told of them, as a share; NaN where they drown.

    What they drown in is rounding. `across` is how much shares along random signs count. And for which images (N,) bool
    neither moves at all, though the image does.
    """
    seen, told, rounding = [], [], []
    moved = torch.ones(len(images), dtype=torch.bool)
    for direction in directions(slope.gradient):
        ahead, behind = pair.holds(images + step * direction), pair.holds(images - step * direction)
        moved &= (ahead != behind).flatten(1).any(dim=1).cpu() | ~direction.flatten(1).any(dim=1).cpu()
        rise, noise = rises(pair, slope.weights, ahead, behind)
        seen.append(rise)
        rounding.append(noise)
        told.append(tells(ahead, behind))
    by_it, expected, noise = torch.stack(seen), torch.stack(told), torch.stack(rounding).amax(dim=0)
    return shares(by_it, expected, noise, across), moved & ((by_it == 0) & (expected == 0)).all(dim=0)


def shares(seen: torch.Tensor, expected: torch.Tensor, noise: torch.Tensor, across: float) -> torch.Tensor:
    """How far (N,) rises (M, N) along `directions` are from expected ones; NaN where they drown in noise (N,)."""
    few = len(seen) - _SIGNS + 1  # and one of them, which shows a gradient that is missing everywhere
    along = _share(seen[:few], expected[:few], noise)
    beside = _share(seen[-_SIGNS:], expected[-_SIGNS:], noise)
    return torch.where(along.isnan(), along, torch.fmax(along, across * beside))


def rises(
    pair: Pair, weights: torch.Tensor, ahead: torch.Tensor, behind: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """By how much (N,) the artefact's scores with weights (N, K) rise between images as it holds them.

    And how far off (N,) rounding may put that.
    """
    with torch.no_grad():
        answers = [pair.artefact(images).cpu() for images in (ahead, behind)]
    above, below = ((pair.read(raw) * weights).sum(dim=1) for raw in answers)
    noise = torch.stack([readings.rounding(raw, weights, odds=pair.odds) for raw in answers]).amax(dim=0)
    return above - below, noise


def _share(seen: torch.Tensor, expected: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """How far (N,) rises (M, N) are from expected ones, as a share of them; NaN where they drown in noise (N,)."""
    size = torch.maximum(seen.norm(dim=0), expected.norm(dim=0))
    return torch.where(size > noise * len(seen) ** 0.5, (seen - expected).norm(dim=0) / size, torch.nan)


def slope_of(pair: Pair, images: torch.Tensor) -> Slope | None:
    """The slope at some images (N, …); None if no gradient passes from them to the scores."""
    told = _told(pair, images)
    inputs = images.detach().requires_grad_()
    with torch.enable_grad():
        raw = pair.twin(inputs)
        if not raw.requires_grad:
            return None
        scores = pair.read(raw)
        weights = torch.randn(scores.shape[1], generator=torch.Generator().manual_seed(1)).to(scores)
        weights = weights * told.to(raw.device)
        (gradient,) = torch.autograd.grad((scores * weights).sum(), inputs)
    return Slope(gradient=gradient, weights=weights.cpu())


def _told(pair: Pair, images: torch.Tensor) -> torch.Tensor:
    """Of which scores (N, K) rounding leaves enough to be compared: of the score itself, and on the way to it."""
    with torch.no_grad():
        raw = pair.artefact(images).cpu()
        if not pair.odds:
            return torch.ones_like(raw.flatten(1), dtype=torch.bool)
        generator = torch.Generator().manual_seed(3)
        tries = 0 if pair.slopes is None else _JITTERS
        changes = (_JITTER * pair.span * signs(images, generator) for _ in range(tries))
        moved = [pair.answers(images + change) for change in changes]
    return readings.told(raw, moved)


def directions(gradient: torch.Tensor) -> list[torch.Tensor]:
    """Changes (N, …) whose largest pixel is 1: along the gradient, and, last, random ones across it."""
    generator = torch.Generator().manual_seed(2)
    halves = [torch.rand(gradient.shape, generator=generator).to(gradient) < 0.5 for _ in range(2)]
    across = [signs(gradient, generator) for _ in range(_SIGNS)]
    return [_unit(change) for change in (gradient, *(gradient * half for half in halves), *across)]


def signs(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random change by 1 in each pixel."""
    return (torch.randint(0, 2, like.shape, generator=generator) * 2.0 - 1).to(like)


def _unit(change: torch.Tensor) -> torch.Tensor:
    return functional.normalize(change.flatten(1), p=torch.inf, eps=torch.finfo(torch.float32).tiny).view_as(change)
