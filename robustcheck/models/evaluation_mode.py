"""Whether a candidate is in evaluation mode: in training mode other images of the batch, or chance, affect the scores.

Chance also does if a candidate draws by design; then it is reported how far its answers differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.memory import Chunks

Ask = Callable[[torch.Tensor, Chunks], torch.Tensor]
"""Raw scores (N, K) of images (N, C, H, W), in batches that fit."""

_TOLERANCE = 1e-3  # of the largest score, or of 1
_ROUNDINGS = 4  # steps of the type that scores are in, or were computed in, where those are larger
# Small scores decide as large ones do. So no more is allowed than a share of how far images are apart, unless rounding
# alone may do more: in nine untrained networks of torchvision's it did up to 24 steps of the largest score in float32.
# In a small probability the roundings of its logit count for more: seven times at .001.
_OF_SPREAD = 0.01
_MOST_ROUNDINGS = 80  # steps of float32, of the largest score
_COARSE_ROUNDINGS = 30  # the same of coarser types: of 80 steps of bfloat16, training mode is seldom more
_SMALL = 1e-3  # scores below this are rounded as this is
_MORE_CALLS = 3  # about images alone, before their company is blamed: of two answers each may come up by chance
_CALLS = 20  # about the same images, of a candidate that draws
_ERRORS = 6.0  # standard errors between means of such calls; for candidates that draw by design up to 4
_FAR = 1e30  # stands for NaN and infinity
_UNTESTED = "whether its scores on one image depend on others, as in training mode, could not be tested: "
_TOO_LARGE, _ONE = "two at once do not fit in memory", "it takes one at a time"
_TOGETHER = (
    "its scores on one image depend on the other images in the batch, as when values are quantised by the range of a "
    "whole batch: images are given to it one by one, as model.batch_size says"
)
_EXPORT = "export it after model.eval()"
_REACH = (
    "robustcheck calls eval() on it, which reaches no layers in a plain list, tuple or dictionary, nor any that its "
    "own code sets to training mode: hold them in a torch.nn.ModuleList, call eval() on them where they are built, or "
    "take out what sets them to training mode"
)
_CHANCE_MEANT = "; for dropout by design, call torch.nn.functional.dropout"
_MEANT = (
    "; if that is intended (values quantised by the range of a batch, statistics of the batch, a fixed seed), set "
    "model.batch_size: 1"
)

_DYNAMIC = (
    "the candidate's scores on one image depend on the other images in the batch (they differ by {:.3g}), because its "
    "dynamically quantised layers take the range of their values over the whole batch; set model.batch_size: 1"
)


def check_evaluation_mode(
    ask: Ask,
    images: torch.Tensor,
    limit: int,
    in_training: str | None,
    precision: torch.dtype = torch.float32,
    *,
    has_mode: bool = True,
    quantised_by_batch: bool = False,
) -> tuple[float | None, tuple[str, ...]]:
    """Ask about the same images together, and one by one, each twice: no other image may affect the scores.

    Args:
        ask: raw scores (N, K) of images, in batches that fit.
        images: (N, C, H, W).
        limit: how many images the gates' batches have; here it is two at least, or nothing would show.
        in_training: what is known to be in training mode.
        precision: in which scores were computed, whatever type they have now.
        has_mode: whether its file says what mode it is in; else it was set to evaluation mode after it was built.
        quantised_by_batch: it has layers that quantise values by their range in the batch.

    Returns:
        How far two identical calls differ, or None if they do not; and notes.

    Raises:
        CandidateError: scores depend on other images, or on what is in training mode.
    """
    probe = _Probe(ask, images, Chunks(max(2, limit)), _EXPORT if has_mode else _REACH)
    try:
        every = probe.with_others()
    except CandidateError:
        if limit > 1:
            raise
        probe.chunks = Chunks(1)  # some networks take one image at a time, and are given no more
        every = probe.with_others()
    once = every[: len(images)]
    again, alone, alone_again = probe.together(), probe.one_by_one(), probe.one_by_one()
    notes = () if probe.chunks.limit > 1 else (_UNTESTED + (_TOO_LARGE if probe.chunks.halved_to == 1 else _ONE),)
    which = ""
    if in_training is not None:
        notes, which = (*notes, f"{in_training} is in training mode"), f" ({in_training} is in training mode)"
    allowed = _allowed(every, precision)
    chance, by_company = max(_apart(once, again), _apart(alone, alone_again)), _apart(once, alone)
    if chance <= allowed < by_company:  # one that draws among a few answers may give the same one several times
        chance = max(_apart(alone, probe.one_by_one()) for _ in range(_MORE_CALLS))
    draws = chance > allowed
    if draws and which:
        cure = probe.cure if has_mode else probe.cure + _CHANCE_MEANT
        raise CandidateError(_refusal("on chance", f"they differ by {chance:.3g}", which, cure))
    if draws:
        by_company = _beyond_chance(probe)
    if by_company > allowed:
        if limit > 1 and quantised_by_batch and not (which or draws):
            raise CandidateError(_DYNAMIC.format(by_company))
        if limit > 1 or which:
            far = f"they differ by {by_company:.3g}" + (f", and by {chance:.3g} by chance" if draws else "")
            cure = probe.cure if which else probe.cure + _MEANT
            raise CandidateError(_refusal("on the other images in the batch", far, which, cure))
        notes = (*notes, _TOGETHER)
    return chance if draws else None, notes


@dataclass
class _Probe:
    """Images (N, C, H, W) that a candidate is asked about in company, and alone."""

    ask: Ask
    images: torch.Tensor
    chunks: Chunks
    cure: str  # of training mode

    def with_others(self) -> torch.Tensor:
        """Raw scores (2N, K), asked in batches: even a single image is joined by one that does not resemble it."""
        return self.ask(torch.cat([self.images, 1 - self.images]), self.chunks)

    def together(self) -> torch.Tensor:
        """Raw scores (N, K) of the images in such company."""
        return self.with_others()[: len(self.images)]

    def one_by_one(self) -> torch.Tensor:
        """Raw scores (N, K), asked about one at a time."""
        try:
            return torch.cat([self.ask(image[None], self.chunks) for image in self.images])
        except CandidateError as error:
            raise CandidateError(
                "the candidate fails on one image alone, as a model in training mode does (batch normalisation); "
                f"{self.cure}: {error}"
            ) from error


def _allowed(scores: torch.Tensor, precision: torch.dtype) -> float:
    """How far scores of the same images may differ, by those (N, K) of several, computed in this precision.

    Labels whose score is always the same, such as masked ones, tell nothing about how large the others are.
    """
    step = max(torch.finfo(kind).eps for kind in (scores.dtype, precision))
    spreads = scores.amax(dim=0) - scores.amin(dim=0)
    told = scores[:, spreads > 0] if bool((spreads > 0).any()) else scores
    largest = float(told.abs().max())
    at_most = max(_TOLERANCE, _ROUNDINGS * step) * max(1.0, largest)
    rounding = max(_MOST_ROUNDINGS * torch.finfo(torch.float32).eps, _COARSE_ROUNDINGS * step)
    return min(at_most, max(_OF_SPREAD * float(spreads.max()), rounding * max(_SMALL, largest)))


def _refusal(what: str, far: str, which: str, cure: str) -> str:
    """Why a candidate is not judged."""
    return (
        f"the candidate's scores on one image depend {what} ({far}), as those of a model left in training mode do "
        f"(dropout, batch normalisation){which}; {cure}"
    )


def _beyond_chance(probe: _Probe) -> float:
    """How far apart means of calls about images together and alone are at most, if chance does not explain it.

    A candidate that draws by design draws alike in any company.
    """
    pairs = [(probe.together(), probe.one_by_one()) for _ in range(_CALLS)]  # in turn: answers may drift
    some, others = (
        torch.stack(calls).double().nan_to_num(nan=_FAR, posinf=_FAR, neginf=-_FAR)
        for calls in zip(*pairs, strict=True)
    )
    apart = (some.mean(dim=0) - others.mean(dim=0)).abs()
    error = ((some.var(dim=0) + others.var(dim=0)) / _CALLS).sqrt()
    return float(apart.where(apart > _ERRORS * error, 0.0).max())


def _apart(scores: torch.Tensor, others: torch.Tensor) -> float:
    """How far scores are from others at most; infinitely far where one of two is not a number."""
    neither = scores.isnan() & others.isnan()
    return float((scores.float() - others.float()).abs().masked_fill(neither, 0).nan_to_num(nan=inf).max())
