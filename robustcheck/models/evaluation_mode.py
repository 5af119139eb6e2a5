"""Whether a candidate is in evaluation mode: in training mode other images of the batch decide the scores, or chance.

So does chance where a candidate draws by design; how far its answers differ is said then.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.memory import Chunks

Ask = Callable[[torch.Tensor, Chunks], torch.Tensor]
"""Raw scores (N, K) of images (N, C, H, W), in batches that fit."""

_TOLERANCE = 1e-3  # of the largest score, or of 1
_ROUNDINGS = 4  # steps of the type that scores are in, or were computed in, where those are larger
_UNTESTED = "whether its scores on one image depend on others, as in training mode, could not be tried: "
_TOO_LARGE, _ONE = "two at once do not fit in memory", "it takes one at a time"
_TOGETHER = (
    "its scores on one image depend on the other images in the batch, as where values are quantised by the range of a "
    "whole batch: images are given to it one by one, as model.batch_size says"
)


def check_evaluation_mode(
    ask: Ask,
    images: torch.Tensor,
    limit: int,
    in_training: str | None,
    precision: torch.dtype = torch.float32,
) -> tuple[float | None, tuple[str, ...]]:
    """Ask about the same images together, again, and one by one: no other image may decide the scores.

    Args:
        ask: raw scores (N, K) of images, in batches that fit.
        images: (N, C, H, W).
        limit: how many images the gates' batches have; here it is two at least, or nothing would show.
        in_training: what is known to be in training mode.
        precision: that scores were computed in, whatever type they have now.

    Returns:
        How far two identical calls differ, if they do and nothing is known to be in training mode; and notes.

    Raises:
        CandidateError: scores depend on other images, or on what is in training mode.
    """
    company = torch.cat([images, 1 - images])  # even a single image has company that it does not resemble
    chunks = Chunks(max(2, limit))

    def together() -> torch.Tensor:
        return ask(company, chunks)[: len(images)]

    try:
        once = together()
    except CandidateError:
        if limit > 1:
            raise
        chunks = Chunks(1)  # some networks take one image at a time, and are given no more
        once = together()
    again = together()
    notes = () if chunks.limit > 1 else (_UNTESTED + (_TOO_LARGE if chunks.halved_to == 1 else _ONE),)
    if in_training is not None:
        notes = (*notes, f"{in_training} is in training mode")
    alone = _one_by_one(ask, images, chunks)
    step = max(torch.finfo(kind).eps for kind in (once.dtype, precision))
    allowed = max(_TOLERANCE, _ROUNDINGS * step) * max(1.0, float(once.abs().max()))
    chance, by_company = _apart(once, again), _apart(once, alone)
    if chance <= allowed < by_company:  # one that draws among a few answers may give the same one twice
        chance = _apart(alone, _one_by_one(ask, images, chunks))
    if in_training is None:
        if chance > allowed:
            return chance, notes  # a defence may draw; whether batches matter, too, cannot be seen then
        if by_company > allowed and limit == 1:
            return None, (*notes, _TOGETHER)
    if max(chance, by_company) > allowed:
        raise CandidateError(_refusal(by_company) if chance <= allowed else _refusal(chance, in_training))
    return None, notes


def _refusal(difference: float, in_training: str | None = None) -> str:
    """Why a candidate is not judged: what is in training mode draws, or other images of the batch decide."""
    what, which = "on the other images in the batch", ""
    if in_training is not None:
        what, which = "on chance", f" ({in_training} is in training mode)"
    return (
        f"the candidate's scores on one image depend {what} (they differ by {difference:.3g}), as those of a model "
        f"left in training mode do (dropout, batch normalisation){which}; export it after model.eval()"
    )


def _one_by_one(ask: Ask, images: torch.Tensor, chunks: Chunks) -> torch.Tensor:
    """Raw scores (N, K) of images (N, C, H, W), asked about one at a time."""
    try:
        return torch.cat([ask(image[None], chunks) for image in images])
    except CandidateError as error:
        raise CandidateError(
            "the candidate fails on one image alone, as a model in training mode does (batch normalisation); "
            f"export it after model.eval(): {error}"
        ) from error


def _apart(scores: torch.Tensor, others: torch.Tensor) -> float:
    """How far scores are from others at most; infinitely, where one of two is no number."""
    neither = scores.isnan() & others.isnan()
    return float((scores.float() - others.float()).abs().masked_fill(neither, 0).nan_to_num(nan=inf).max())
