"""Where attacks start that cannot start at the sample: images that are labelled as the adversary wants, then noise."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache, lru_cache

import numpy as np
import torch

from robustcheck.attacks.draws import Draws, key
from robustcheck.data import Samples
from robustcheck.threats import Goal

_KEPT = 256  # images, and orders of them, in memory
MOST_IMAGES = 100  # of a shape and a reading that are looked through


class StartingImages:
    """The adversary has images of other patients: of this data set, which is the nearest stand-in.

    Args:
        samples: whose images they are.
        labels: (N,) true readings.
        goal: which of them are wanted.
        seed: of the noise that is tried where no image is left.
        name: of the gate and its attack.
        device: where images are wanted.
    """

    def __init__(
        self, samples: Samples, labels: torch.Tensor, goal: Goal, *, seed: int, name: str, device: torch.device
    ) -> None:
        self._samples, self._labels, self._goal = samples, labels, goal
        self._seed, self._name, self._device = seed, name, device
        self._images = lru_cache(_KEPT)(self._load)
        self._group = cache(self._wanted)
        self._order = lru_cache(_KEPT)(self._nearest)

    def __call__(self, sample: int, attempt: int) -> torch.Tensor:
        """What to try at the `attempt`-th attempt: an image (C, H, W) of another sample, the nearest first; then noise.

        Shares of the full range, of the sample's shape.
        """
        order = self._order(sample)
        if attempt < len(order):
            return self._share(order[attempt])
        draws = Draws.of([key(self._seed, self._name, self._samples.names[sample], -1)], self._device)
        return draws.uniform(self._samples.shape_of(sample), at=attempt)[0]

    def _nearest(self, sample: int) -> list[int]:
        """Samples of the same shape whose true reading is wanted of this one, from the nearest image on."""
        group = self._group(self._samples.shape_of(sample), int(self._labels[sample]))
        own = torch.from_numpy(self._samples.image(sample)).float()
        distances = [float((self._images(other) - own).abs().sum()) for other in group]
        return [group[place] for place in np.argsort(distances, kind="stable")]

    def _wanted(self, shape: Hashable, label: int) -> list[int]:
        """At most `MOST_IMAGES` samples that are worth a try, spread over the data set."""
        wanted = self._goal.met(self._labels, torch.full_like(self._labels, label)).nonzero().flatten().tolist()
        alike = [other for other in wanted if self._samples.shape_of(other) == shape]
        if len(alike) <= MOST_IMAGES:
            return alike
        return [alike[place] for place in np.linspace(0, len(alike) - 1, MOST_IMAGES).round().astype(int)]

    def _load(self, sample: int) -> torch.Tensor:
        return torch.from_numpy(self._samples.image(sample)).float()

    def _share(self, sample: int) -> torch.Tensor:
        return (self._images(sample) / self._samples.maximum).to(self._device)
