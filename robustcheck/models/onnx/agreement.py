"""Whether an ONNX graph's twin is its twin: the same scores, and the gradient of what ONNX Runtime computes.

The scores are compared on the gate's own samples and on noise, the twin being asked as searches ask it. The gradient is
compared with differences of ONNX Runtime's own output: along it, along halves of it, and along random signs, so that
neither a wrong part nor a missing one goes unseen. Each image is judged for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from robustcheck.models.network import Forward
from robustcheck.models.onnx import score_readings as readings
from robustcheck.models.onnx import second_look
from robustcheck.models.onnx.borders import border
from robustcheck.models.onnx.slopes import STEPS, WORST, Pair, Slope, apart, in_rows, signs, slope_of

_SLOPES = 4  # images whose gradients are compared
_ACROSS = 0.2  # of how far slopes along random signs are apart: they are small, and kinks spoil them sooner
_ROUNDED_STEPS = (2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 2e-1)  # small ones are lost in rounding, large ones lead past the rise
_SIGNS = 4  # directions in which scores may change in steps
_DISTANCES = ((1e-3, 3e-4), (3e-3, 1e-3))  # of the range: between which steps of 255 grey levels show, or finer ones
_SMOOTH = 0.08  # of slopes: what they may be apart without steps; the coarse rounding of honest graphs has .35 or more
_SEEN = 1e-3  # of the range: a step at which what moves a score shows, and is not lost in the score's rounding
_SMALL = 0.1  # a score this small is rounded like the larger numbers that it is the sum of


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What may differ."""

    scores: float  # as a share of the largest score on these images, or of 0.1
    slopes: float | None  # as a share of the slopes, in the mean over images; None: they cannot be compared
    stepped: bool = False  # where the artefact's own are none, because something on the way is rounded, they are not


FLOAT = Tolerance(scores=1e-3, slopes=0.1)
HALF = Tolerance(scores=2e-2, slopes=0.2)
QUANTISED = Tolerance(scores=1e-1, slopes=None)  # what rounds is flat with steps: it has no slope to compare with


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a comparison showed."""

    wrong: str | None  # what differs, by how much; None if nothing does
    told: bool = True  # whether the gradient could be compared: scores that hardly move tell nothing
    differentiable: bool = True  # whether there is a gradient at all


def compare(
    artefact: Forward,
    twin: Forward,
    images: Sequence[torch.Tensor],
    allowed: Tolerance,
    holds: Callable[[torch.Tensor], torch.Tensor] = lambda values: values,
    fine: Callable[[], Forward] | None = None,
) -> Agreement:
    """Compare a twin with its original.

    Args:
        artefact: what is judged.
        twin: what is searched; differentiable.
        images: batches of inputs (N, …) to the network, those of the first one also for gradients.
        allowed: how far the two may be apart.
        holds: inputs as the artefact holds them, such as whole numbers.
        fine: makes the twin that takes inputs in double precision as they are, for a second look; None: there is none.
    """
    artefact, twin = in_rows(artefact), in_rows(twin)
    generator = torch.Generator().manual_seed(0)
    first = images[0]
    low, high = float(first.min()), float(first.max())
    noise = holds(torch.rand(first.shape, generator=generator).to(first) * (high - low) + low)
    batches = [*images, noise]
    with torch.no_grad():
        answers = [artefact(batch).float().flatten(1).cpu() for batch in batches]
    for batch, theirs, what in zip(batches, answers, [*["the samples"] * len(images), "noise"], strict=True):
        if (wrong := _scores_differ(theirs, twin, batch, what, allowed.scores)) is not None:
            return Agreement(wrong=wrong)
    odds = all(map(readings.are_probabilities, answers))
    span, slopes = (high - low) or 1.0, allowed.slopes
    pair = Pair(artefact=artefact, twin=twin, fine=fine, holds=holds, span=span, odds=odds, slopes=slopes)
    gradients = partial(_where_there_are_slopes if allowed.stepped else _of_gradients, pair)
    found = gradients(first[:_SLOPES])
    if odds and not found.told and found.differentiable:
        alike = [batch for batch in batches if batch.shape[1:] == first.shape[1:]]
        if (unsure := border(artefact, alike, holds, most=min(_SLOPES, len(first)))) is not None:
            return gradients(unsure)
    return found


def _where_there_are_slopes(pair: Pair, images: torch.Tensor) -> Agreement:
    """Compare gradients at some images (N, …), of a graph that rounds: it may do so where it moves no score.

    Otherwise a Floor without influence would excuse a gradient of any kind.
    """
    found = _of_gradients(pair, images)
    if found.wrong and _is_stepped(pair, images):
        return _of_gradients(replace(pair, slopes=None), images)
    return found


def _is_stepped(pair: Pair, images: torch.Tensor) -> bool:
    """Whether the artefact's scores change in steps: slopes over small distances are not those over smaller ones."""
    generator = torch.Generator().manual_seed(4)
    margin = max(larger for larger, _ in _DISTANCES) * pair.span
    images = images.clamp(float(images.min()) + margin, float(images.max()) - margin)  # beyond, anything may be rounded
    directions = [signs(images, generator) for _ in range(_SIGNS)]

    def slopes(share: float) -> torch.Tensor:
        step, every = share * pair.span, []
        for direction in directions:
            ahead, behind = (pair.read(pair.answers(images + sign * step * direction)) for sign in (1, -1))
            every.append((ahead - behind) / step)
        return torch.stack(every, dim=1).flatten(1)

    with torch.no_grad():
        pairs = [(slopes(larger), slopes(smaller)) for larger, smaller in _DISTANCES]
    differ = [(one - other).norm(dim=1) / torch.maximum(one.norm(dim=1), other.norm(dim=1)) for one, other in pairs]
    # Flat at both distances, as the broadest steps are, is 0 of 0.
    least = torch.stack(differ).nan_to_num(nan=1.0).amin(dim=0)
    return float(least.mean()) > _SMOOTH


def _of_gradients(pair: Pair, images: torch.Tensor) -> Agreement:
    """Compare gradients at some images (N, …)."""
    allowed = pair.slopes
    slope = slope_of(pair, images)
    if slope is None:
        return Agreement(wrong=None, told=False, differentiable=False)
    if not bool(slope.gradient.isfinite().all()):
        return Agreement(wrong="its gradient is not finite")
    if allowed is None:
        return _leads_upwards(pair, slope, images)
    best = torch.full((len(images),), torch.inf)  # each image at the step that suits it
    flat = torch.zeros(len(images), dtype=torch.bool)  # as both say: what lies farther away is not a slope here
    for step in STEPS:
        shares, unmoved = apart(pair, slope, images, step * pair.span, slope.tells, _ACROSS)
        best = torch.minimum(best, shares.nan_to_num(nan=torch.inf))
        if step >= _SEEN and slope.gradient.any():  # a gradient that is missing everywhere says nothing
            flat |= unmoved
        told = best[best.isfinite() & ~flat]
        if len(told) == int((~flat).sum()) and pair.close(told):
            return Agreement(wrong=None)
    if not len(told):
        return Agreement(wrong=None, told=False)
    if pair.close(told) or second_look.agrees(pair, images, flat):
        return Agreement(wrong=None)
    return Agreement(
        wrong=f"its gradient differs from differences of ONNX Runtime's output by {float(told.mean()):.0%} on average "
        f"and {float(told.max()):.0%} at most (allowed: {allowed:.0%} and {WORST * allowed:.0%})"
    )


def _scores_differ(theirs: torch.Tensor, twin: Forward, images: torch.Tensor, what: str, allowed: float) -> str | None:
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


def _leads_upwards(pair: Pair, slope: Slope, images: torch.Tensor) -> Agreement:
    """Whether the gradient of a twin that rounds is one: not zero, and scores rise along it at some distance."""
    gradient, weights = slope.gradient, slope.weights
    told = weights.any(dim=1)
    if not told.any():
        return Agreement(wrong=None, told=False)
    if not bool(gradient.flatten(1).any(dim=1).cpu()[told].float().mean() >= 0.5):
        return Agreement(wrong="its gradient is zero")
    rises = []
    for share in _ROUNDED_STEPS:
        change = share * pair.span * gradient.sign()
        with torch.no_grad():
            ahead, behind = ((pair.read(pair.answers(images + sign * change)) * weights).sum(dim=1) for sign in (1, -1))
        rises.append(float((ahead - behind).sum()))
    seen = [rise for rise in rises if rise]  # the others are lost in rounding
    falls = bool(seen) and max(seen) < 0
    return Agreement(wrong="ONNX Runtime's scores fall along its gradient" if falls else None)
