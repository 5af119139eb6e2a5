"""Whether an ONNX graph's twin is its twin: the same scores, and the gradient of what ONNX Runtime computes.

The scores are compared on the gate's own samples and on noise. The gradient is compared with finite differences of ONNX
Runtime's own output: along it, along halves of it, and along random directions, so that neither a part that is wrong
nor one that is missing goes unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from robustcheck.models.network import Forward, first_line

_SLOPES = 4  # images whose gradients are compared
_STEPS = (1e-2, 1e-3, 1e-4, 5e-2)  # of the inputs' range, from the likeliest on
_FLOAT32 = 1.2e-7  # the smallest step from 1


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What may differ."""

    scores: float  # as a share of the largest score on these images, or of 1
    slopes: float | None  # as a share of the slopes, in the root of mean squares; None: they cannot be compared


FLOAT = Tolerance(scores=1e-3, slopes=0.1)
HALF = Tolerance(scores=2e-2, slopes=0.2)
ROUNDED = Tolerance(scores=1e-1, slopes=None)  # what rounds is flat with steps: it has no slope to compare with


def difference(artefact: Forward, twin: Forward, images: Sequence[torch.Tensor], allowed: Tolerance) -> str | None:
    """What differs, by how much, in words; None if nothing does.

    Args:
        artefact: what is judged.
        twin: what is searched; differentiable.
        images: batches of inputs (N, …) to the network.
        allowed: how far the two may be apart.
    """
    generator = torch.Generator().manual_seed(0)
    first = images[0]
    low, high = float(first.min()), float(first.max())
    noise = torch.rand(first.shape, generator=generator).to(first) * (high - low) + low
    for batch, what in (*((some, "the samples") for some in images), (noise, "noise")):
        with torch.no_grad():
            theirs = _scores(artefact, batch)
            try:
                ours = _scores(twin, batch)
            except Exception as error:  # noqa: BLE001 (converted code may fail in any way)
                return f"it fails: {first_line(error)}"
        if ours.shape != theirs.shape:
            return f"its scores have shape {tuple(ours.shape)}, not {tuple(theirs.shape)}"
        apart, largest = (ours - theirs).abs(), max(1.0, float(theirs.abs().max()))
        if not float(apart.max()) <= allowed.scores * largest:  # a NaN is no agreement
            label = int(apart.amax(dim=0).argmax())
            return (
                f"its score {label + 1} of {theirs.shape[1]} differs by {float(apart.max()):.3g} on {what} "
                f"(at most {allowed.scores * largest:.3g} is allowed)"
            )
    some = first[:_SLOPES]
    if allowed.slopes is None:
        return None if bool(_gradient(twin, some, generator)[2].any()) else "its gradient is zero"
    measured: list[float] = []
    for step in _STEPS:  # until one will do: kinks spoil large ones, rounding small ones
        apart_slopes = _apart(artefact, twin, some, step * ((high - low) or 1.0), generator)
        if apart_slopes is not None and apart_slopes <= allowed.slopes:
            return None
        measured += [] if apart_slopes is None else [apart_slopes]
    if not measured:
        return None  # the scores hardly move with the image, by either
    return (
        f"its gradient differs from finite differences of ONNX Runtime's output by {min(measured):.0%} "
        f"(at most {allowed.slopes:.0%} is allowed)"
    )


def _scores(forward: Forward, images: torch.Tensor) -> torch.Tensor:
    return forward(images).float().flatten(1).cpu()


def _apart(artefact: Forward, twin: Forward, images: torch.Tensor, step: float, generator: torch.Generator) -> float | None:
    """How far slopes along a few directions are apart, as a share of them; None where they drown in rounding."""
    scores, weights, gradient = _gradient(twin, images, generator)
    seen, told = [], []
    for direction in _directions(gradient, generator):
        with torch.no_grad():
            above, below = (_scores(artefact, images + sign * step * direction) @ weights for sign in (1, -1))
        seen.append((above - below) / (2 * step))
        told.append((gradient * direction).flatten(1).sum(dim=1).cpu())
    slopes, expected = torch.cat(seen), torch.cat(told)
    noise = 8 * _FLOAT32 * max(1.0, float(scores.abs().max())) * float(weights.norm()) / step
    size = max(float(slopes.norm()), float(expected.norm()))
    if size <= noise * len(slopes) ** 0.5:
        return None
    return float((slopes - expected).norm()) / size


def _gradient(
    twin: Forward, images: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores (N, K), weights (K,) drawn for them, and the gradient (N, …) of the scores so weighted."""
    inputs = images.detach().requires_grad_()
    with torch.enable_grad():
        scores = twin(inputs).float().flatten(1)
        weights = torch.randn(scores.shape[1], generator=generator)
        (gradient,) = torch.autograd.grad((scores @ weights.to(scores)).sum(), inputs)
    return scores.detach(), weights, gradient


def _directions(gradient: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
    """Changes (N, …) whose largest pixel is 1."""
    halves = [torch.rand(gradient.shape, generator=generator).to(gradient) < 0.5 for _ in range(2)]
    signs = (torch.randint(0, 2, gradient.shape, generator=generator) * 2.0 - 1).to(gradient)
    return [_unit(change) for change in (gradient, *(gradient * half for half in halves), signs)]


def _unit(change: torch.Tensor) -> torch.Tensor:
    largest = change.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return change / largest.view(-1, *[1] * (change.ndim - 1))
