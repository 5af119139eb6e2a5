"""From stored pixels to the network's input: differentiable, and part of the candidate.

Because it is part of the candidate, budgets live in pixel space, before any resizing or normalisation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import interpolate

from robustcheck.data.samples import Samples
from robustcheck.errors import CandidateError
from robustcheck.models.network import Takes
from robustcheck.models.refusals import asked_without_gradients, not_one_image, reason_of
from robustcheck.policy import PreprocessSpec
from robustcheck.words import plural

_NEAR = 0.1  # of a window's width: a gradient reaches so far beyond its ends
_ANYTHING = "set model.preprocess"
_ASSERTED = "set model.preprocess.resize, if that is about their size"
_TOO_SMALL = re.compile(
    r"output size is too small|can't be greater than actual input|should be less than the corresponding input|"
    r"more than 1 spatial element",
    re.IGNORECASE,
)
"""What torch says of an image from which nothing is left."""
_COMMON_SIDE = 224  # pixels, of ImageNet's networks
_SHAPES = re.compile(
    r"shape|size|dim(ension)?s?\b|channel|height|width|kernel|_features|must match|[1-9]\s?[x×]\s?\d", re.IGNORECASE
)
_IN_CODE = (ArithmeticError, AttributeError, ImportError, KeyError, NameError, NotImplementedError, TypeError)
"""Errors of a network's own code, whatever it is given; torch raises IndexError about dimensions, too."""

_MOST_OF_8_BITS = 255


class Preprocess:
    """Window, resize, crop, channels and their order, range, mean and standard deviation, layout: in turn.

    Grey is repeated late, so that it is resized only once.
    """

    def __init__(
        self,
        spec: PreprocessSpec,
        device: torch.device,
        *,
        maximum: int,
        zero: int = 0,
        hounsfield: int | None = None,
    ) -> None:
        """
        Args:
            spec: the policy's.
            device: where images are.
            maximum: the largest level that can be stored.
            zero: the value in a file that level 0 stands for.
            hounsfield: of level 0; None: images are no CT.
        """
        self._spec = spec
        self._maximum, self._is_ct = maximum, hounsfield is not None
        self._zero = zero if hounsfield is None else hounsfield  # windows of CT are in these, whatever a file stores
        low, high = spec.range
        # x * (high - low) + low, then (· - mean) / std, as one multiplication and one addition a channel.
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
        self._scale = ((high - low) / std).float().to(device)
        self._shift = ((low - mean) / std).float().to(device)
        self._identity = bool((self._scale == 1).all() and (self._shift == 0).all())

    @classmethod
    def of(cls, spec: PreprocessSpec, device: torch.device, samples: Samples) -> Preprocess:
        """The preprocessing of images that are stored as these samples are."""
        return cls(spec, device, maximum=samples.maximum, zero=samples.zero, hounsfield=samples.hounsfield)

    @property
    def channels_first(self) -> bool:
        """Whether the network's input is (N, C, H, W)."""
        return self._spec.layout == "NCHW"

    def check(self, stored: tuple[int, ...]) -> None:
        """Refuse images of shape (C, H, W) that this cannot map.

        Raises:
            CandidateError: the sentence says what to change.
        """
        wanted = self._spec.channels or stored[0]
        if stored[0] not in (1, wanted):
            raise CandidateError(
                f"the images have {stored[0]} channels, but model.preprocess.channels is {wanted}; "
                "only grey images can be repeated to more channels"
            )
        if self._spec.order == "BGR" and wanted != 3:
            raise CandidateError(f"model.preprocess.order is BGR, but the network is given {wanted} channels")
        resized, crop = self._resized(stored[1:]), self._spec.crop
        if crop and (resized[0] < crop[0] or resized[1] < crop[1]):
            raise CandidateError(
                f"model.preprocess.crop is {crop[0]}×{crop[1]} (height × width), but images of {stored[1]}×{stored[2]} "
                f"are {resized[0]}×{resized[1]} before it; nothing is padded: crop less, or resize to more"
            )
        if self._spec.window and not self._can_show(*self._spec.window):
            unit = "HU" if self._is_ct else f"levels{'' if self._zero else '; if they are CT, set data.hounsfield'}"
            raise CandidateError(
                f"model.preprocess.window is {self._spec.window[0]:g} to {self._spec.window[1]:g}, but the images "
                f"store {self._zero} to {self._zero + self._maximum} {unit}"
            )
        for key, values in (("mean", self._spec.mean), ("std", self._spec.std)):
            if len(values) not in (1, wanted):
                raise CandidateError(
                    f"model.preprocess.{key} has {plural(len(values), 'number')} for {plural(wanted, 'channel')}"
                )

    @property
    def visible(self) -> tuple[float, float]:
        """Where the window begins and ends, as shares of what can be stored: values beyond them look like the ends."""
        if self._spec.window is None:
            return 0.0, 1.0
        low, high = ((end - self._zero) / self._maximum for end in self._spec.window)
        return max(0.0, low), min(1.0, high)

    @property
    def exported(self) -> tuple[float, float]:
        """What becomes black and white, as shares of what can be stored, when images are written in 8 bits."""
        return self.visible if self._maximum > _MOST_OF_8_BITS else (0.0, 1.0)

    @property
    def note(self) -> str | None:
        """What the reader of a report should know about it."""
        if self._spec.window is None:
            return None
        low, high = self._spec.window
        return f"its window is {low:g} to {high:g} {'HU' if self._is_ct else 'as stored, dark to bright'}"

    def _can_show(self, low: float, high: float) -> bool:
        """Whether a window shows something; for CT it may be wider than what is stored."""
        inside = self._is_ct or (low >= self._zero and high <= self._zero + self._maximum)
        return inside and low < self._zero + self._maximum and high > self._zero

    def shape(self, stored: tuple[int, ...]) -> tuple[int, int, int]:
        """The network's (C, H, W) for a stored (C, H, W)."""
        height, width = self._spec.crop or self._resized(stored[1:])
        return (self._spec.channels or stored[0], height, width)

    def _resized(self, stored: Sequence[int]) -> tuple[int, int]:
        """What (H, W) becomes before it is cropped; the longer side is rounded down, as torchvision does."""
        height, width = stored
        match self._spec.resize:
            case None:
                return height, width
            case int(shorter) if height >= width:
                return int(shorter * height / width), shorter
            case int(shorter):
                return shorter, int(shorter * width / height)
            case size:
                return size

    def refused(self, who: str, takes: Takes | None, stored: tuple[int, ...], error: Exception) -> str:
        """The sentence about a network that failed on images of a stored (C, H, W), and what to set if that helps."""
        if sentence := asked_without_gradients(who, error):
            return sentence
        shape = self.shape(stored)
        told, reason = f"inputs of {'×'.join(map(str, shape))} (channels × height × width)", reason_of(error)
        if other := not_one_image(error):
            return f"{who} fails on {told}: {reason}; {other}"
        advice = self.advice(takes, shape)
        if advice == _ANYTHING and isinstance(error, AssertionError) and (_about_shapes(error) or not str(error)):
            advice = _ASSERTED
        if advice == _ANYTHING and _TOO_SMALL.search(str(error)):
            advice = self._larger(shape)
        if advice is None:
            return f"{who} fails on {told}, the shape that it takes: {reason}"
        if advice == _ANYTHING and not _about_shapes(error):
            return f"{who} fails on {told}: {reason}"
        return f"{who} does not take {told}; {advice} ({reason})"

    def advice(self, takes: Takes | None, shape: tuple[int, int, int]) -> str | None:
        """What to set so that (C, H, W) becomes what a network says it takes; None if it already does."""
        if takes is None or len(takes) != 4:
            return _ANYTHING
        nhwc = self._spec.layout == "NHWC"
        channels, height, width = (takes[axis] for axis in ((3, 1, 2) if nhwc else (1, 2, 3)))
        if channels not in (1, 3) and takes[1 if nhwc else 3] in (1, 3):
            return f"set model.preprocess.layout: {'NCHW' if nhwc else 'NHWC'}"
        if channels == 1 < shape[0]:
            return "it takes grey images"
        settings = []
        if channels not in (None, shape[0]):
            settings.append(f"model.preprocess.channels: {channels}")
        if (height, width) != (height and shape[1], width and shape[2]):
            key = "crop" if self._spec.crop or isinstance(self._spec.resize, int) else "resize"
            settings.append(f"model.preprocess.{key}: [{height or shape[1]}, {width or shape[2]}]")
        if settings:
            return f"set {' and '.join(settings)}"
        return _ANYTHING if None in (channels, height, width) else None

    def _larger(self, shape: tuple[int, int, int]) -> str:
        """What to set if images (C, H, W) are smaller than a network was made for, with an example."""
        side = max(_COMMON_SIDE, 2 * max(shape[1:]))
        key = "crop, and resize before it" if self._spec.crop else "resize"
        return f"set model.preprocess.{key}, to the size that it was made for, such as [{side}, {side}]"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) as shares of the full range, in [0, 1], to the network's input.

        It is memory of its own: some networks write into what they are given.
        """
        own = False
        if self._spec.window:
            low, high = self._spec.window
            width = high - low
            images = _cut(images * (self._maximum / width) + (self._zero - low) / width)
            own = True
        if (size := self._resized(images.shape[2:])) != tuple(images.shape[2:]):
            images, own = self._resize(images, size), True
        if self._spec.crop and self._spec.crop != size:
            # As torchvision rounds it: half a pixel to the even one.
            top, left = (round((have - want) / 2) for have, want in zip(size, self._spec.crop, strict=True))
            images, own = images[..., top : top + self._spec.crop[0], left : left + self._spec.crop[1]], False
        if self._spec.channels and images.shape[1] != self._spec.channels:
            images, own = images.expand(-1, self._spec.channels, -1, -1), False
        if self._spec.order == "BGR":
            images, own = images.flip(1), True
        if not self._identity:
            images, own = images * self._scale + self._shift, True
        if not own:
            images = images.clone(memory_format=torch.contiguous_format)
        return images.permute(0, 2, 3, 1) if self._spec.layout == "NHWC" else images

    def _resize(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        mode = self._spec.interpolation
        if mode == "nearest":
            return interpolate(images, size, mode=mode)
        resized = interpolate(images, size, mode=mode, align_corners=False, antialias=self._spec.antialias)
        # Beside an edge a cubic overshoots black or white, which no stored image does.
        return _cut(resized) if mode == "bicubic" else resized


def _about_shapes(error: Exception) -> bool:
    """Whether what a network raised may be due to the size of its input."""
    return not isinstance(error, _IN_CODE) and _SHAPES.search(str(error)) is not None


def _cut(shares: torch.Tensor) -> torch.Tensor:
    cut: torch.Tensor = _Window.apply(shares)
    return cut


class _Window(torch.autograd.Function):
    """Shares of a window, or of what can be stored, cut off at the ends, where the gradient does not end at once.

    A pixel just outside a window can be brought into it, which a gradient of zero would never show. Within a tenth of
    its width, the gradient is that of the end if the loss rises towards the inside; this changes no answer.
    """

    @staticmethod
    def forward(ctx: Any, shares: torch.Tensor) -> torch.Tensor:
        """Shares of any size to those in [0, 1]."""
        ctx.save_for_backward(shares)
        return shares.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient inside, and near the ends where it leads inside."""
        (shares,) = ctx.saved_tensors
        below, above = (shares < 0) & (shares >= -_NEAR), (shares > 1) & (shares <= 1 + _NEAR)
        leads = ((shares >= 0) & (shares <= 1)) | (below & (gradient > 0)) | (above & (gradient < 0))
        return torch.where(leads, gradient, 0.0)
