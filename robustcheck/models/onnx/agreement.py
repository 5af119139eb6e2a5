"""Whether an ONNX graph's twin is its twin: the same scores, and the gradient of what ONNX Runtime computes.

The scores are compared on the gate's own samples and on noise, the twin being asked as searches ask it. The gradient is
compared with differences of ONNX Runtime's own output: along it, along halves of it, and along random signs, so that
neither a wrong part nor a missing one goes unseen. Each image is judged for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from robustcheck.models.network import Forward, rows

_SLOPES = 4  # images whose gradients are compared
_STEPS = (1e-3, 1e-2, 3e-3, 2e-3, 1e-4, 3e-4, 3e-2)  # of the inputs' range: kinks spoil large ones, rounding small ones
_ROUNDED_STEPS = (2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 2e-1)  # small ones are lost in rounding, large ones lead past the rise
_WORST = 5.0  # times what is allowed in the mean over images is allowed in one of them
_SEEN = 1e-3  # of the range: a step at which what moves a score shows, and is not lost in the score's rounding
_SMALL = 0.1  # a score this small is rounded like the larger numbers that it is the sum of
_FLOAT32 = 1.2e-7  # the smallest step from 1
_VANISHING = 1e-36  # a probability: not far below is what float32 cannot hold, and no logarithm moves
_DROWNED = 0.1  # of a sigmoid: if rounding is a larger share than this, it says nothing


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What may differ."""

    scores: float  # as a share of the largest score on these images, or of 0.1
    slopes: float | None  # as a share of the slopes, in the mean over images; None: they cannot be compared


FLOAT = Tolerance(scores=1e-3, slopes=0.1)
HALF = Tolerance(scores=2e-2, slopes=0.2)
ROUNDED = Tolerance(scores=1e-1, slopes=None)  # what rounds is flat with steps: it has no slope to compare with


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a comparison showed."""

    wrong: str | None  # what differs, by how much; None if nothing does
    told: bool = True  # whether the gradient could be compared: scores that hardly move tell nothing
    differentiable: bool = True  # whether there is a gradient at all


@dataclass(frozen=True, kw_only=True)
class _Slope:
    """The slope of a twin at some images."""

    gradient: torch.Tensor  # (N, …) of the sum of the scores, as they are read, with the weights
    weights: torch.Tensor  # (N, K)


def compare(
    artefact: Forward,
    twin: Forward,
    images: Sequence[torch.Tensor],
    allowed: Tolerance,
    holds: Callable[[torch.Tensor], torch.Tensor] = lambda values: values,
) -> Agreement:
    """Compare a twin with its original.

    Args:
        artefact: what is judged.
        twin: what is searched; differentiable.
        images: batches of inputs (N, …) to the network, those of the first one also for gradients.
        allowed: how far the two may be apart.
        holds: inputs as the artefact holds them, such as whole numbers.
    """
    artefact, twin = _in_rows(artefact), _in_rows(twin)
    generator = torch.Generator().manual_seed(0)
    first = images[0]
    low, high = float(first.min()), float(first.max())
    noise = holds(torch.rand(first.shape, generator=generator).to(first) * (high - low) + low)
    batches = [*((some, "the samples") for some in images), (noise, "noise")]
    differ = (_scores_differ(artefact, twin, batch, what, allowed.scores) for batch, what in batches)
    if (wrong := next(filter(None, differ), None)) is not None:
        return Agreement(wrong=wrong)
    some, span = first[:_SLOPES], (high - low) or 1.0
    slope = _slope(artefact, twin, some)
    if slope is None:
        return Agreement(wrong=None, told=False, differentiable=False)
    if not bool(slope.gradient.isfinite().all()):
        return Agreement(wrong="its gradient is not finite")
    if allowed.slopes is None:
        return Agreement(wrong=_leads_astray(artefact, slope, some, span, holds))
    best = torch.full((len(some),), torch.inf)  # each image at the step that suits it
    flat = torch.zeros(len(some), dtype=torch.bool)  # as both say: what lies farther away is not a slope here
    for step in _STEPS:
        apart, unmoved = _apart(artefact, slope, some, step * span, holds)
        best = torch.minimum(best, apart.nan_to_num(nan=torch.inf))
        if step >= _SEEN and slope.gradient.any():  # a gradient that is missing everywhere says nothing
            flat |= unmoved
        told = best[best.isfinite() & ~flat]
        if len(told) == int((~flat).sum()) and _close(told, allowed.slopes):
            return Agreement(wrong=None)
    if not len(told):
        return Agreement(wrong=None, told=False)
    if _close(told, allowed.slopes):
        return Agreement(wrong=None)
    return Agreement(
        wrong=f"its gradient differs from differences of ONNX Runtime's output by {float(told.mean()):.0%} on average "
        f"and {float(told.max()):.0%} at most (allowed: {allowed.slopes:.0%} and {_WORST * allowed.slopes:.0%})"
    )


def _in_rows(forward: Forward) -> Forward:
    """A network whose scores may be (N,), as one that answers with a row for each image."""
    return lambda inputs: rows(forward(inputs), len(inputs))


def _close(apart: torch.Tensor, allowed: float) -> bool:
    return float(apart.mean()) <= allowed and float(apart.max()) <= _WORST * allowed


def _scores_differ(artefact: Forward, twin: Forward, images: torch.Tensor, what: str, allowed: float) -> str | None:
    with torch.no_grad():
        theirs = artefact(images).float().flatten(1).cpu()
    with torch.enable_grad():  # whole numbers are kept as floats only where a gradient is asked for
        ours = twin(images.detach().requires_grad_()).detach().float().flatten(1).cpu()
    if ours.shape != theirs.shape:
        return f"its scores have shape {tuple(ours.shape)}, not {tuple(theirs.shape)}"
    finite = theirs.isfinite()
    if not torch.equal(ours.isfinite(), finite):
        return f"its scores are not finite on {what} where others are"
    if not finite.any():
        return None
    apart = torch.where(finite, ours - theirs, 0.0).abs()
    bound = allowed * max(_SMALL, float(theirs[finite].abs().max()))
    if float(apart.max()) <= bound:
        return None
    label = int(apart.amax(dim=0).argmax())
    return (
        f"its score {label + 1} of {theirs.shape[1]} differs by {float(apart.max()):.3g} on {what} "
        f"(at most {bound:.3g} is allowed)"
    )


def _read(scores: torch.Tensor) -> torch.Tensor:
    """Scores (N, K) whose slopes are compared: of probabilities the logarithm, which moves where they are at an end."""
    scores = scores.float().flatten(1)
    return scores.clamp_min(torch.finfo(torch.float32).tiny).log() if _are_probabilities(scores) else scores


def _are_probabilities(scores: torch.Tensor) -> bool:
    return bool(((scores >= 0) & (scores <= 1)).all())


def _vanish(raw: torch.Tensor) -> torch.Tensor:
    """Which probabilities (N, K) of raw scores (N, …) are so small that their logarithms stop moving; none of others.

    A place where the artefact's vanishes says nothing about its twin, whose own logarithm may stop a little earlier.
    """
    raw = raw.float().flatten(1)
    return (raw < _VANISHING) & _are_probabilities(raw)


def _sum_to_one(scores: torch.Tensor) -> bool:
    return scores.shape[1] > 1 and bool(((scores.sum(dim=1) - 1).abs() < _SMALL).all())


def _apart(
    artefact: Forward,
    slope: _Slope,
    images: torch.Tensor,
    step: float,
    holds: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """How far (N,) slopes along a few directions are apart, as a share of them; NaN where they drown in rounding.

    And for which images (N,) bool neither score nor twin moves at all, though the image does.
    """
    gradient, weights = slope.gradient, slope.weights
    seen, told, rounding = [], [], []
    moved = torch.ones(len(images), dtype=torch.bool)
    for direction in _directions(gradient):
        ahead, behind = holds(images + step * direction), holds(images - step * direction)
        moved &= (ahead != behind).flatten(1).any(dim=1).cpu() | ~direction.flatten(1).any(dim=1).cpu()
        with torch.no_grad():
            answers = [artefact(moved).cpu() for moved in (ahead, behind)]
        above, below = ((_read(raw) * weights).sum(dim=1) for raw in answers)
        seen.append(above - below)
        rounding += [_rounding(raw, weights) for raw in answers]
        told.append((gradient * (ahead - behind)).flatten(1).sum(dim=1).cpu())
    rises, expected = torch.stack(seen), torch.stack(told)
    size = torch.maximum(rises.norm(dim=0), expected.norm(dim=0))
    noise = torch.stack(rounding).amax(dim=0) * len(rises) ** 0.5
    return torch.where(size > noise, (rises - expected).norm(dim=0) / size, torch.nan), moved & (size == 0)


def _leads_astray(
    artefact: Forward,
    slope: _Slope,
    images: torch.Tensor,
    span: float,
    holds: Callable[[torch.Tensor], torch.Tensor],
) -> str | None:
    """Why the gradient of a twin that rounds is not one: it is zero, or scores rise along it at no distance."""
    gradient, weights = slope.gradient, slope.weights
    if not bool(gradient.flatten(1).any(dim=1).float().mean() >= 0.5):
        return "its gradient is zero"
    rises = []
    for step in (share * span for share in _ROUNDED_STEPS):
        with torch.no_grad():
            ahead, behind = (
                (_read(artefact(holds(images + sign * step * gradient.sign())).cpu()) * weights).sum(dim=1)
                for sign in (1, -1)
            )
        rises.append(float((ahead - behind).sum()))
    seen = [rise for rise in rises if rise]  # the others are lost in rounding
    return "ONNX Runtime's scores fall along its gradient" if seen and max(seen) < 0 else None


def _slope(artefact: Forward, twin: Forward, images: torch.Tensor) -> _Slope | None:
    """The slope at some images (N, …); None if no gradient passes from them to the scores."""
    with torch.no_grad():
        lost = _vanish(artefact(images))
    inputs = images.detach().requires_grad_()
    with torch.enable_grad():
        raw = twin(inputs)
        if not raw.requires_grad:
            return None
        scores = _read(raw)
        weights = torch.randn(scores.shape[1], generator=torch.Generator().manual_seed(1)).to(scores)
        weights = weights * (_steps_from_one(raw.detach()) < _DROWNED) * ~lost.to(raw.device)
        (gradient,) = torch.autograd.grad((scores * weights).sum(), inputs)
    return _Slope(gradient=gradient, weights=weights.cpu())


def _rounding(raw: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """How far off (N,) the weighted sum of the scores that ONNX Runtime's raw ones (N, …) give may be."""
    relative: torch.Tensor = 16 * _FLOAT32 * _read(raw).abs().amax(dim=1).clamp_min(_SMALL) * weights.norm(dim=1)
    absolute: torch.Tensor = torch.where(weights == 0, 0.0, weights * _steps_from_one(raw)).norm(dim=1)
    return relative + absolute


def _steps_from_one(raw: torch.Tensor) -> torch.Tensor:
    """How large (N, K) a step from 1 is beside sigmoids (N, …), which are right to that; 0 for all else.

    ONNX Runtime's sigmoid is 0 from -18 down. A softmax is right to a share of itself.
    """
    raw = raw.float().flatten(1)
    if _are_probabilities(raw) and not _sum_to_one(raw):
        return _FLOAT32 / raw
    return torch.zeros_like(raw)


def _directions(gradient: torch.Tensor) -> list[torch.Tensor]:
    """Changes (N, …) whose largest pixel is 1."""
    generator = torch.Generator().manual_seed(2)
    halves = [torch.rand(gradient.shape, generator=generator).to(gradient) < 0.5 for _ in range(2)]
    signs = (torch.randint(0, 2, gradient.shape, generator=generator) * 2.0 - 1).to(gradient)
    return [_unit(change) for change in (gradient, *(gradient * half for half in halves), signs)]


def _unit(change: torch.Tensor) -> torch.Tensor:
    return functional.normalize(change.flatten(1), p=torch.inf, eps=torch.finfo(torch.float32).tiny).view_as(change)
