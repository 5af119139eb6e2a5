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
from torch.nn import functional

from robustcheck.models.network import Forward, rows
from robustcheck.models.onnx import score_readings as readings
from robustcheck.models.onnx.borders import border

_SLOPES = 4  # images whose gradients are compared
_STEPS = (1e-3, 1e-2, 3e-3, 2e-3, 1e-4, 3e-4, 3e-2)  # of the inputs' range: kinks spoil large ones, rounding small ones
_JITTER = 1e-7  # of it: a change that scores follow only by how a network rounds on its way to them
_JITTERS = 8
_ROUNDED_STEPS = (2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 2e-1)  # small ones are lost in rounding, large ones lead past the rise
_SIGNS = 4  # random directions, which show what a gradient lacks, however little they move scores
_ACROSS = 0.2  # of how far slopes along them are apart: they are small, and kinks spoil them sooner
_WORST = 5.0  # times what is allowed in the mean over images is allowed in one of them
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


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """What is compared, and how."""

    artefact: Forward
    twin: Forward
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
    batches = [*images, noise]
    with torch.no_grad():
        answers = [artefact(batch).float().flatten(1).cpu() for batch in batches]
    for batch, theirs, what in zip(batches, answers, [*["the samples"] * len(images), "noise"], strict=True):
        if (wrong := _scores_differ(theirs, twin, batch, what, allowed.scores)) is not None:
            return Agreement(wrong=wrong)
    odds = all(map(readings.are_probabilities, answers))
    pair = _Pair(artefact=artefact, twin=twin, holds=holds, span=(high - low) or 1.0, odds=odds, slopes=allowed.slopes)
    gradients = partial(_where_there_are_slopes if allowed.stepped else _of_gradients, pair)
    found = gradients(first[:_SLOPES])
    if odds and not found.told and found.differentiable:
        alike = [batch for batch in batches if batch.shape[1:] == first.shape[1:]]
        if (unsure := border(artefact, alike, holds, most=min(_SLOPES, len(first)))) is not None:
            return gradients(unsure)
    return found


def _where_there_are_slopes(pair: _Pair, images: torch.Tensor) -> Agreement:
    """Compare gradients at some images (N, …), of a graph that rounds: it may do so where it moves no score.

    Otherwise a Floor without influence would excuse a gradient of any kind.
    """
    found = _of_gradients(pair, images)
    if found.wrong and _is_stepped(pair, images):
        return _of_gradients(replace(pair, slopes=None), images)
    return found


def _is_stepped(pair: _Pair, images: torch.Tensor) -> bool:
    """Whether the artefact's scores change in steps: slopes over small distances are not those over smaller ones."""
    generator = torch.Generator().manual_seed(4)
    margin = max(larger for larger, _ in _DISTANCES) * pair.span
    images = images.clamp(float(images.min()) + margin, float(images.max()) - margin)  # beyond, anything may be rounded
    directions = [_signs(images, generator) for _ in range(_SIGNS)]

    def slopes(share: float) -> torch.Tensor:
        step, every = share * pair.span, []
        for direction in directions:
            ahead, behind = (pair.read(pair.answers(images + sign * step * direction)) for sign in (1, -1))
            every.append((ahead - behind) / step)
        return torch.stack(every, dim=1).flatten(1)

    with torch.no_grad():
        pairs = [(slopes(larger), slopes(smaller)) for larger, smaller in _DISTANCES]
    apart = [(one - other).norm(dim=1) / torch.maximum(one.norm(dim=1), other.norm(dim=1)) for one, other in pairs]
    # Flat at both distances, as the broadest steps are, is 0 of 0.
    least = torch.stack(apart).nan_to_num(nan=1.0).amin(dim=0)
    return float(least.mean()) > _SMOOTH


def _of_gradients(pair: _Pair, images: torch.Tensor) -> Agreement:
    """Compare gradients at some images (N, …)."""
    allowed = pair.slopes
    slope = _slope(pair, images)
    if slope is None:
        return Agreement(wrong=None, told=False, differentiable=False)
    if not bool(slope.gradient.isfinite().all()):
        return Agreement(wrong="its gradient is not finite")
    if allowed is None:
        return _leads_upwards(pair, slope, images)
    best = torch.full((len(images),), torch.inf)  # each image at the step that suits it
    flat = torch.zeros(len(images), dtype=torch.bool)  # as both say: what lies farther away is not a slope here
    for step in _STEPS:
        apart, unmoved = _apart(pair, slope, images, step * pair.span)
        best = torch.minimum(best, apart.nan_to_num(nan=torch.inf))
        if step >= _SEEN and slope.gradient.any():  # a gradient that is missing everywhere says nothing
            flat |= unmoved
        told = best[best.isfinite() & ~flat]
        if len(told) == int((~flat).sum()) and _close(told, allowed):
            return Agreement(wrong=None)
    if not len(told):
        return Agreement(wrong=None, told=False)
    if _close(told, allowed):
        return Agreement(wrong=None)
    return Agreement(
        wrong=f"its gradient differs from differences of ONNX Runtime's output by {float(told.mean()):.0%} on average "
        f"and {float(told.max()):.0%} at most (allowed: {allowed:.0%} and {_WORST * allowed:.0%})"
    )


def _in_rows(forward: Forward) -> Forward:
    """A network whose scores may be (N,), as one that answers with a row for each image."""
    return lambda inputs: rows(forward(inputs), len(inputs))


def _close(apart: torch.Tensor, allowed: float) -> bool:
    return float(apart.mean()) <= allowed and float(apart.max()) <= _WORST * allowed


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


def _apart(pair: _Pair, slope: _Slope, images: torch.Tensor, step: float) -> tuple[torch.Tensor, torch.Tensor]:
    """How far (N,) slopes along a few directions are apart, as a share of them; NaN where they drown in rounding.

    And for which images (N,) bool neither score nor twin moves at all, though the image does.
    """
    gradient, weights = slope.gradient, slope.weights
    seen, told, rounding = [], [], []
    moved = torch.ones(len(images), dtype=torch.bool)
    for direction in _directions(gradient):
        ahead, behind = pair.holds(images + step * direction), pair.holds(images - step * direction)
        moved &= (ahead != behind).flatten(1).any(dim=1).cpu() | ~direction.flatten(1).any(dim=1).cpu()
        with torch.no_grad():
            answers = [pair.artefact(some).cpu() for some in (ahead, behind)]
        above, below = ((pair.read(raw) * weights).sum(dim=1) for raw in answers)
        seen.append(above - below)
        rounding += [readings.rounding(raw, weights, odds=pair.odds) for raw in answers]
        told.append((gradient * (ahead - behind)).flatten(1).sum(dim=1).cpu())
    rises, expected, noise = torch.stack(seen), torch.stack(told), torch.stack(rounding).amax(dim=0)
    few = len(rises) - _SIGNS + 1  # and one of them, which shows a gradient that is missing everywhere
    along = _share(rises[:few], expected[:few], noise)
    across = _share(rises[-_SIGNS:], expected[-_SIGNS:], noise)
    apart = torch.where(along.isnan(), along, torch.fmax(along, _ACROSS * across))
    return apart, moved & ((rises == 0) & (expected == 0)).all(dim=0)


def _share(rises: torch.Tensor, expected: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """How far (N,) rises (M, N) are from expected ones, as a share of them; NaN where they drown in noise (N,)."""
    size = torch.maximum(rises.norm(dim=0), expected.norm(dim=0))
    return torch.where(size > noise * len(rises) ** 0.5, (rises - expected).norm(dim=0) / size, torch.nan)


def _leads_upwards(pair: _Pair, slope: _Slope, images: torch.Tensor) -> Agreement:
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


def _slope(pair: _Pair, images: torch.Tensor) -> _Slope | None:
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
    return _Slope(gradient=gradient, weights=weights.cpu())


def _told(pair: _Pair, images: torch.Tensor) -> torch.Tensor:
    """Of which scores (N, K) rounding leaves enough to be compared: of the score itself, and on the way to it."""
    with torch.no_grad():
        raw = pair.artefact(images).cpu()
        if not pair.odds:
            return torch.ones_like(raw.flatten(1), dtype=torch.bool)
        generator = torch.Generator().manual_seed(3)
        tries = 0 if pair.slopes is None else _JITTERS
        changes = (_JITTER * pair.span * _signs(images, generator) for _ in range(tries))
        moved = [pair.answers(images + change) for change in changes]
    return readings.told(raw, moved)


def _directions(gradient: torch.Tensor) -> list[torch.Tensor]:
    """Changes (N, …) whose largest pixel is 1: along the gradient, and, last, random ones across it."""
    generator = torch.Generator().manual_seed(2)
    halves = [torch.rand(gradient.shape, generator=generator).to(gradient) < 0.5 for _ in range(2)]
    signs = [_signs(gradient, generator) for _ in range(_SIGNS)]
    return [_unit(change) for change in (gradient, *(gradient * half for half in halves), *signs)]


def _signs(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2.0 - 1).to(like)


def _unit(change: torch.Tensor) -> torch.Tensor:
    return functional.normalize(change.flatten(1), p=torch.inf, eps=torch.finfo(torch.float32).tiny).view_as(change)
