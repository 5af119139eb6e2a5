"""Judging patches: laid on images at fresh places, stored, and shown to the artefact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from robustcheck.attacks.draws import Draws
from robustcheck.evaluation.image_files import ImageWriter
from robustcheck.evaluation.looks.look import Viewer
from robustcheck.evaluation.patches.training import Pool
from robustcheck.evaluation.search.adjudication import finite, keep_worst
from robustcheck.evaluation.search.ledger import Entry
from robustcheck.models import Surrogates
from robustcheck.models.batches import batches
from robustcheck.models.grey_levels import on_host, shares_of, to_stored
from robustcheck.models.memory import Chunks
from robustcheck.threats import Goal
from robustcheck.threats.patch import PLACEMENT_DRAWS, Outline, Placements, Placing, covered, lay

Textures = Callable[[list[int]], torch.Tensor]
"""Gives the patches (N, C, S, S) that lie on some images of one shape, by the images' places in the pool."""


@dataclass(kw_only=True)
class Judgement:
    """What patches did to the images of a pool, by place."""

    turned: dict[int, Entry] = field(default_factory=dict)  # at which of its places (`restart`)
    scores: dict[int, float] = field(default_factory=dict)  # most adverse probability of the positive label
    surrogates_turned: set[int] = field(default_factory=set)  # images that the surrogates misread


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Lays patches on every image of a pool, at so many places each, or until one of them turns it.

    Places are a function of the image's key: all patches that one judge judges lie in the same places.
    """

    gate: str  # its id
    attack: str
    pool: Pool
    placing: Placing
    viewer: Viewer
    goal: Goal
    tries: int  # places of a patch on each image
    key: Callable[[str], int]  # of an image's name
    is_positive: Callable[[int], bool]
    images: ImageWriter | None  # writes those that are turned; None: nobody does
    chunks: Chunks  # of images, that are looked at together
    device: torch.device
    progress: Callable[[int, int], None]  # images judged, of
    surrogates: Surrogates | None = None

    def judge(self, textures: Textures) -> Judgement:
        """Lay these patches on the pool's images, at several places each, and adjudicate."""
        judgement, done = Judgement(), 0
        for left in batches(range(len(self.pool)), self.pool.shape, self.chunks.limit):
            done += len(left)
            for attempt in range(self.tries):
                if left:
                    self.chunks(partial(self._try, textures, attempt, judgement), torch.tensor(left))
                    left = [number for number in left if number not in judgement.turned]
            self.progress(done, len(self.pool))
        return judgement

    def _try(self, textures: Textures, attempt: int, judgement: Judgement, left: torch.Tensor) -> tuple[torch.Tensor]:
        numbers: list[int] = left.tolist()
        draws = Draws.of([self.key(self.pool.name(number)) for number in numbers], self.device)
        at = self.pool.placements(numbers, self.placing, draws.uniform((PLACEMENT_DRAWS,), at=attempt))
        clean, labels = self.pool.batch(numbers, self.device), self.pool.labels[numbers].to(self.device)
        images = lay(textures(numbers), clean, at, self.placing.outline)
        maximum = self.pool.samples.maximum
        stored, reference = to_stored(images, maximum), to_stored(clean, maximum)
        admissible = lies_under(stored, reference, at, self.placing.outline, self.pool.masks(numbers, self.device))
        shown = shares_of(stored, maximum)
        seen = self.viewer(shown, labels, draws, torch.full((len(numbers),), attempt, device=self.device))
        if self.surrogates is not None:
            misread = self.goal.met(self.surrogates.decide(shown), labels)
            judgement.surrogates_turned.update(np.array(numbers)[misread.cpu().numpy()].tolist())
        largest = (stored - reference).abs().flatten(1).amax(dim=1).tolist()
        turned, decisions = (admissible & seen.wanted).tolist(), seen.decision.tolist()
        scores = None if seen.score is None else seen.score.cpu()
        shares = None if seen.share is None else seen.share.tolist()
        for row, number in enumerate(numbers):
            score = finite(scores, row)
            if score is not None:
                keep_worst(judgement.scores, number, score, positive=self.is_positive(int(self.pool.labels[number])))
            if turned[row]:
                file, sha256 = None, ""
                if self.images is not None:
                    image, sample = on_host(stored[row], maximum), self.pool.numbers[number]
                    file, sha256 = self.images.counterexample(self.gate, sample, image)
                judgement.turned[number] = Entry(
                    decision=decisions[row],
                    distance=largest[row],
                    score=score,
                    found_by=self.gate,
                    attack=self.attack,
                    restart=attempt,
                    step=0,
                    share=None if shares is None else shares[row],
                    file=file,
                    sha256=sha256,
                )
        return (left,)


def lies_under(
    stored: torch.Tensor, clean: torch.Tensor, at: Placements, outline: Outline, keep_out: torch.Tensor | None = None
) -> torch.Tensor:
    """Which (N,) of the stored images (N, C, H, W) differ from the clean ones, and only under the patch.

    Nothing that may not be covered (N, H, W) differs.
    """
    changed = (stored != clean).any(dim=1)
    outside = changed & ~covered(stored.shape, at, outline)
    if keep_out is not None:
        outside |= changed & keep_out
    return changed.flatten(1).any(dim=1) & ~outside.flatten(1).any(dim=1)


def constant(texture: torch.Tensor) -> Textures:
    """One patch (1, C, S, S) on every image."""
    return lambda numbers: texture.expand(len(numbers), -1, -1, -1)


def own(textures: dict[int, np.ndarray], maximum: int, device: torch.device) -> Textures:
    """A patch of its own, in stored integers (C, S, S), for each image."""
    return lambda places: shares_of(
        torch.from_numpy(np.stack([textures[place] for place in places])).to(device), maximum
    )
