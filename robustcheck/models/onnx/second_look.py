"""Whether a twin is right although differences of ONNX Runtime's output are not what its gradient says.

They are taken over steps that rounding leaves: a thousandth of the range, or a grey level where the graph takes bytes.
A ReLU or a pooling window that turns on the way spoils them, and in a steep network many do. So the question is
taken apart. Does the twin, in double precision and between grey levels, rise as ONNX Runtime does between the same
images? And is the gradient the slope of that, over distances so short that nothing turns? Where something turns exactly
at the image, as a window of equal pixels does in a black background, there is no one slope: if that explains what the
gradient is off, it is asked about a few grey levels beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from robustcheck.models.memory import is_out_of_memory
from robustcheck.models.network import Forward
from robustcheck.models.onnx.slopes import STEPS, Pair, Slope, apart, directions, in_rows, rises, shares, slope_of

_SHORT = (1e-7, 1e-6, 1e-8, 1e-5)  # of the range: steps of a network in double precision
_ACROSS = 1.0  # of how far slopes along random signs are apart: nothing spoils them here, and they show what is missing
_BESIDE = 4 / 255  # of the range: up to four grey levels, so that few pixels stay equal where there are only whole ones
_EXPLAINED = 3.0  # times how far slopes to both sides of an image are apart, a gradient may be off their mean


def agrees(pair: Pair, images: torch.Tensor, flat: torch.Tensor) -> bool:
    """Whether a twin's scores rise as its original's do, and its gradient is their slope.

    Args:
        pair: the two.
        images: (N, …) as the original holds them.
        flat: for which images (N,) bool nothing is to be said.
    """
    if pair.fine is None:
        return False
    try:
        return _agrees(pair, in_rows(pair.fine()), images, flat)
    except Exception as error:
        # It is a form that no search needs: without it there is no second look.
        if is_out_of_memory(error, rows=len(images)):
            raise
        return False


def _agrees(pair: Pair, fine: Forward, images: torch.Tensor, flat: torch.Tensor) -> bool:
    assert pair.slopes is not None
    smooth = replace(pair, artefact=fine, holds=lambda values: values)
    if (slope := slope_of(pair, images)) is None:
        return False
    rise = _rise(pair, smooth, slope, images)
    if not _all_close(rise, pair, ~flat):
        return False
    own = _own(smooth, slope, images)
    bends = own > pair.slopes
    if bool(bends.any()):
        bends &= own <= _EXPLAINED * _bend(smooth, slope, images)
    if bool(bends.any()):
        beside = pair.holds(_beside(images, pair.span))
        if (other := slope_of(pair, beside)) is None:
            return False
        rise = _rise(pair, smooth, other, beside)
        own = torch.where(bends, torch.maximum(rise, _own(smooth, other, beside)), own)
    return _all_close(own, pair, ~flat)


def _all_close(apart: torch.Tensor, pair: Pair, counted: torch.Tensor) -> bool:
    return bool(apart[counted].isfinite().all()) and pair.close(apart[counted])


def _rise(pair: Pair, smooth: Pair, slope: Slope, images: torch.Tensor) -> torch.Tensor:
    """How far (N,) rises of the two are apart."""

    def twin(ahead: torch.Tensor, behind: torch.Tensor) -> torch.Tensor:
        return rises(smooth, slope.weights, ahead.double(), behind.double())[0]

    return _least((apart(pair, slope, images, step * pair.span, twin, _ACROSS)[0] for step in STEPS), pair)


def _own(smooth: Pair, slope: Slope, images: torch.Tensor) -> torch.Tensor:
    """How far (N,) the gradient is from the twin's own slope."""
    there, fine = images.double(), replace(slope, gradient=slope.gradient.double())
    return _least((apart(smooth, fine, there, step * smooth.span, fine.tells, _ACROSS)[0] for step in _SHORT), smooth)


def _least(every: Iterable[torch.Tensor], pair: Pair) -> torch.Tensor:
    """The least of each image, of as many steps as it takes until all are close."""
    assert pair.slopes is not None
    least: torch.Tensor | None = None
    for one in every:
        found = one.double().nan_to_num(nan=torch.inf)
        least = found if least is None else torch.minimum(least, found)
        if bool((least <= pair.slopes).all()):
            break
    assert least is not None
    return least


def _bend(smooth: Pair, slope: Slope, images: torch.Tensor) -> torch.Tensor:
    """How far (N,) the twin's slopes to one side of an image are from those to the other, as a share of them.

    What bends at the image itself does so over any distance: over the shortest, rounding alone may look like it.
    """
    there = images.double()

    def at(step: float) -> torch.Tensor:
        changes = [step * direction for direction in directions(slope.gradient.double())]
        up = [rises(smooth, slope.weights, there + change, there) for change in changes]
        down = [rises(smooth, slope.weights, there, there - change) for change in changes]
        noise = torch.stack([rounding for _, rounding in (*up, *down)]).amax(dim=0)
        above, below = (torch.stack([rise for rise, _ in side]) for side in (up, down))
        return shares(above, below, noise, _ACROSS).nan_to_num(nan=torch.inf)

    return torch.stack([at(step * smooth.span) for step in _SHORT]).amin(dim=0).nan_to_num(posinf=0.0)


def _beside(images: torch.Tensor, span: float) -> torch.Tensor:
    """Images with noise of two grey levels on average, towards the middle of their range."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(5)).to(images) * _BESIDE * span
    middle = (images.max() + images.min()) / 2
    return images + torch.where(images < middle, noise, -noise)
