"""Images from the border between two readings, where no network is sure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch

from robustcheck.models.network import Forward

_HALVINGS = 24  # of the way between two images: then float32 has none between them
_TURNS = 0.5  # a probability


def border(
    ask: Forward, batches: Sequence[torch.Tensor], holds: Callable[[torch.Tensor], torch.Tensor], *, most: int
) -> torch.Tensor | None:
    """Blends (M, …) of images, each from where a probability turns; None if none turns between any two.

    Args:
        ask: gives probabilities (N, K).
        batches: of images (N, …) of one shape, that are blended.
        holds: images as the network holds them, such as whole numbers.
        most: as many as are wanted, and asked about at once.
    """
    with torch.no_grad():
        high = torch.cat([ask(batch).flatten(1) > _TURNS for batch in batches])
        found = list(islice(_pairs(high), most))
        if not found:
            return None
        images = torch.cat(list(batches))
        firsts, seconds, labels = (list(column) for column in zip(*found, strict=True))
        above, below = images[firsts], images[seconds]
        middle = above
        for _ in range(_HALVINGS):
            middle = holds((above + below) / 2)
            still = ask(middle).flatten(1)[range(len(labels)), labels] > _TURNS
            still = still.to(images.device).view(-1, *[1] * (images.ndim - 1))
            above, below = torch.where(still, middle, above), torch.where(still, below, middle)
    return middle


def _pairs(high: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    """Images of which one has a label's probability (N, K) and the other does not, and the label."""
    for label in range(high.shape[1]):
        there, missing = (side.nonzero().flatten().tolist() for side in (high[:, label], ~high[:, label]))
        yield from ((one, other, label) for one, other in zip(there, missing, strict=False))
