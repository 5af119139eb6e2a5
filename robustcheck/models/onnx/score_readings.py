"""How scores are read to look at their slopes, and what rounding leaves of that.

Of probabilities these are the log-odds, which move where probabilities are at an end. A softmax is right to a share of
itself, however small it is. A sigmoid of ONNX Runtime, and what is left of one, is right to a step from 1, and none is
right to more where it is near 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_FLOAT32 = 1.2e-7  # the smallest step from 1
_FLOAT64 = 2.3e-16
_FLOAT16 = 2**-10
_WHOLE = 2.0**25  # parts of 1: what is a whole number of them was 1 less something, or added to a half
_BEYOND = 1e-6  # of 1: probabilities may sum up to more, or be divided by a little less
_VANISHING = 1e-36  # a probability: not far below is what float32 cannot hold, and no log-odds move
_DROWNED = 0.01  # of log-odds: what may be further off than this says nothing; a few steps are all that may be wrong
_SMALL = 0.1  # a score, whose rounding is that of what it is the sum of


def are_probabilities(raw: torch.Tensor) -> bool:
    """Whether all scores lie between 0 and 1."""
    return bool(((raw >= 0) & (raw <= 1 + _BEYOND)).all())


def read(raw: torch.Tensor, *, odds: bool) -> torch.Tensor:
    """Raw scores (N, …) as (N, K), or their log-odds."""
    scores = _scores(raw)
    return _logarithm(scores) - _logarithm(1 - scores) if odds else scores


def told(raw: torch.Tensor, moved: Sequence[torch.Tensor] = ()) -> torch.Tensor:
    """Of which of the artefact's probabilities (N, …) rounding leaves enough to be compared, as (N, K).

    One that vanishes says nothing about the twin's, which may do so a little earlier; none of an image of which one
    moves for nothing says anything.

    Args:
        raw: of some images.
        moved: of images that are hardly others.
    """
    scores = _scores(raw)
    left = (scores >= _VANISHING) & (_off(scores) < _DROWNED)
    there = read(raw, odds=True)
    for other in moved:
        left &= (~left | ((read(other, odds=True) - there).abs() < _DROWNED)).all(dim=1, keepdim=True)
    return left


def rounding(raw: torch.Tensor, weights: torch.Tensor, *, odds: bool) -> torch.Tensor:
    """How far off (N,) the sum of the artefact's scores may be, read and with weights (N, K)."""
    scores = _scores(raw)
    largest = read(raw, odds=odds).abs().amax(dim=1).clamp_min(_SMALL)
    relative: torch.Tensor = 16 * _step(scores) * largest * weights.norm(dim=1)
    if not odds:
        return relative
    absolute: torch.Tensor = torch.where(weights == 0, 0.0, weights * _off(scores)).norm(dim=1)
    return relative + absolute


def _scores(raw: torch.Tensor) -> torch.Tensor:
    return (raw if raw.dtype is torch.float64 else raw.float()).flatten(1)


def _step(scores: torch.Tensor) -> float:
    return _FLOAT64 if scores.dtype is torch.float64 else _FLOAT32


def _off(scores: torch.Tensor) -> torch.Tensor:
    """How far off the log-odds of probabilities (N, K) may be; infinite where one is 1, or a sigmoid is 0."""
    scores = scores.clamp(0, 1)
    step = _FLOAT16 if bool((scores.half().to(scores) == scores).all()) else _step(scores)
    whole = scores * _WHOLE % 1 == 0
    return step / (1 - scores) + torch.where(whole, _step(scores) / scores, 0.0)


def _logarithm(shares: torch.Tensor) -> torch.Tensor:
    return shares.clamp_min(torch.finfo(torch.float32).tiny).log()
