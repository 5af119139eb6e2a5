"""Whether an image's scores are its own. In training mode other images of the batch decide, or chance does."""

from __future__ import annotations

from collections.abc import Callable

import torch

from robustcheck.errors import CandidateError
from robustcheck.models.memory import Chunks

_TOLERANCE = 1e-3  # of the largest score, or of 1
_ROUNDINGS = 4  # steps of the type that scores are in, where those are larger
_UNTESTED = "whether its scores on one image depend on others, as in training mode, could not be tried: "
_TOO_LARGE, _ONE = "two at once do not fit in memory", "it takes one at a time"
_TOGETHER = (
    "its scores on one image depend on the other images in the batch, as where values are quantised by the range of a "
    "whole batch: images are given to it one by one, as model.batch_size says"
)


def check_evaluation_mode(
    ask: Callable[[torch.Tensor, Chunks], torch.Tensor], images: torch.Tensor, limit: int, in_training: str | None
) -> tuple[float | None, tuple[str, ...]]:
    """Ask about the same images together, again, and one by one: no other image may decide the scores.

    Args:
        ask: raw scores (N, K) of images, in batches that fit.
        images: (N, C, H, W).
        limit: how many images the gates' batches have; here it is two at least, or nothing would show.
        in_training: what is known to be in training mode.

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
    try:
        alone = torch.cat([ask(image[None], chunks) for image in images])
    except CandidateError as error:
        raise CandidateError(
            "the candidate fails on one image alone, as a model in training mode does (batch normalisation); "
            f"export it after model.eval(): {error}"
        ) from error
    allowed = max(_TOLERANCE, _ROUNDINGS * torch.finfo(once.dtype).eps) * max(1.0, float(once.abs().max()))
    for other, what in ((again, "on chance"), (alone, "on the other images in the batch")):
        difference = float((once.float() - other.float()).abs().max())
        if difference <= allowed:
            continue
        if other is again and in_training is None:
            return difference, notes  # a defence may draw; whether batches matter, too, cannot be seen then
        if other is alone and limit == 1 and in_training is None:
            return None, (*notes, _TOGETHER)
        which = f" ({in_training} is in training mode)" if other is again else ""
        raise CandidateError(
            f"the candidate's scores on one image depend {what} (they differ by {difference:.3g}), as those of a "
            f"model left in training mode do (dropout, batch normalisation){which}; export it after model.eval()"
        )
    return None, notes
