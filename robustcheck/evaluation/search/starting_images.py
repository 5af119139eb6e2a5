"""Starts for attacks that cannot start at the sample: images that are labelled as the adversary wants, then noise."""

from __future__ import annotations

from functools import cached_property, lru_cache
from math import prod

import numpy as np
import torch
from torch.nn.functional import interpolate

from robustcheck.attacks.draws import Draws, key
from robustcheck.data import Samples, in_random_order
from robustcheck.data.samples import Shape, Stored
from robustcheck.models.grey_levels import shares_of
from robustcheck.threats import Goal

MOST_IMAGES = 100  # with a reading, that are considered
_LEAST_IMAGES = 10  # the same, if images are so large that fewer than a hundred are kept in memory
_KEPT_BYTES = 512 * 1024**2  # of images in memory
_KEPT_ORDERS = 4096
_SMALL = 32  # pixels a side: images of different sizes are compared as small ones
_KEPT_SMALL = 16_384


class StartingImages:
    """The images of other patients that the adversary has; this data set is the nearest stand-in for them.

    Which ones are considered, and in which order, depends on the samples' names and images, not on their position.

    Args:
        samples: whose images they are.
        labels: (N,) true readings.
        goal: which of them are wanted.
        seed: decides which images are tried, and the noise that is tried once no image is left.
        name: of the gate and its attack.
        device: where images are wanted.
    """

    def __init__(
        self, samples: Samples, labels: torch.Tensor, goal: Goal, *, seed: int, name: str, device: torch.device
    ) -> None:
        self._samples, self._labels, self._goal = samples, labels, goal
        self._seed, self._name, self._device = seed, name, device
        largest = max(prod(shape) for shape in self._shapes) * (1 if samples.bits <= 8 else 2)
        kept = _KEPT_BYTES // largest
        # Those of two readings fit in memory together: if they took turns, each would be read again and again.
        self._most = min(MOST_IMAGES, max(_LEAST_IMAGES, kept // 2))
        self._image = lru_cache(max(1, kept))(samples.image)
        self._wanted = lru_cache(None)(self._wanted_of)
        self._order = lru_cache(_KEPT_ORDERS)(self._nearest)
        self._small = lru_cache(_KEPT_SMALL)(self._small_of)

    def __call__(self, sample: int, attempt: int) -> torch.Tensor:
        """What to try at the `attempt`-th attempt: an image (C, H, W) of another sample, the nearest first; then noise.

        Images of the sample's own shape come first, then others, resampled to it and rounded to what can be stored.
        Shares of the full range.
        """
        shape, place = self._samples.shape_of(sample), attempt
        for alike in (True, False):
            order = self._order(sample, alike)
            if place < len(order):
                image = torch.from_numpy(_of_shape(self._image(order[place]), shape))
                return shares_of(image, self._samples.maximum).to(self._device)
            place -= len(order)
        draws = Draws.of([key(self._seed, self._name, self._samples.names[sample], -1)], self._device)
        return draws.uniform(shape, at=attempt)[0]

    def _nearest(self, sample: int, alike: bool) -> list[int]:
        """Samples whose true reading is wanted for this one, of its shape or of other shapes, the nearest image first.

        The more there are of its own shape, the fewer there are of other shapes.
        """
        shape = self._samples.shape_of(sample)
        wanted = self._wanted(int(self._labels[sample]))
        same = [other for other in wanted if self._shapes[other] == shape]
        if alike:
            group = same[: self._most]
        else:
            others = [other for other in wanted if self._shapes[other] != shape and self._shapes[other][0] == shape[0]]
            group = others[: max(0, self._most - len(same))]
        if not group:
            return []
        seen = self._image if alike else self._small
        own = (self._samples.image(sample) if alike else self._small(sample)).astype(np.int32)
        distances = [int(np.abs(seen(other) - own).sum()) for other in group]
        return [group[place] for place in np.argsort(distances, kind="stable")]

    def _small_of(self, sample: int) -> Stored:
        """An image (C, 32, 32), for comparison with others of any size."""
        return _of_shape(self._image(sample), (self._shapes[sample][0], _SMALL, _SMALL))

    def _wanted_of(self, label: int) -> list[int]:
        """All samples whose true reading is wanted for samples with this one, in random order."""
        wanted = self._goal.met(self._labels, torch.full_like(self._labels, label)).tolist()
        return [other for other in self._ranked if wanted[other]]

    @cached_property
    def _ranked(self) -> list[int]:
        """All samples, ordered by a number that depends on their names."""
        ranked: list[int] = in_random_order(self._samples.names, seed=self._seed).tolist()
        return ranked

    @cached_property
    def _shapes(self) -> list[Shape]:
        return [self._samples.shape_of(sample) for sample in range(len(self._samples))]


def _of_shape(stored: Stored, shape: Shape) -> Stored:
    """A stored image (C, H, W) of another height and width, rounded to what can be stored."""
    if stored.shape == shape:
        return stored
    whole = torch.from_numpy(stored.astype(np.float32))[None]
    resampled = interpolate(whole, shape[1:], mode="bilinear", antialias=True)[0]
    return resampled.round().numpy().astype(stored.dtype)
