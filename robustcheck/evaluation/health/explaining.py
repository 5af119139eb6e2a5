"""Whether the gradient is complete: how much of what random changes do it explains.

A gradient may be right along itself and silent about the rest: part of the image does not reach it, it goes through a
blur, or some of its signs are flipped. A search still climbs along what is left, and a step along the sign of such a
gradient brings what it predicts (`predicting`). A random pattern is not such a direction: its effect on the margin,
read off the artefact on either side of the image, is compared with what the gradient predicts for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf, prod, sqrt

import torch

from robustcheck.attacks import nearest_border, objective
from robustcheck.attacks.draws import Draws, key
from robustcheck.evaluation.health.predicting import artefact_logits, in_grey_levels, keep_gradients, small_change
from robustcheck.evaluation.setting import Setting
from robustcheck.models import WhiteBox
from robustcheck.models.batches import as_shares, batches
from robustcheck.results import Cost, HealthOutcome
from robustcheck.threats import Ball, Goal, L2Ball

EXPLAINED_ON = 8  # samples, with two patterns each
_FEWEST_PASSES = 100  # of a gate, from which on patterns are tried, whatever that costs
LEAST_EXPLAINED = 0.5  # of the squares; a ResNet-50 at 224x224 has .70 to .86, others .94 and more
DOUBTFUL = 0.6
_BENT = 0.8  # below this, either the network bends within the change or part of its gradient is missing
_FINER = (4, 16)  # times smaller changes: of a network that bends .95 and more is explained, of a part always the same
_ALIKE = 0.15  # shares that differ by this much are not the same: of stairs, ever less is explained
_WHOLE = 0.9
_HARMLESS = 0.7  # with half of its features detached, a network has .75, and PGD turns all that it should
_PARTS = (14, 7)  # of the shorter side, that a pattern's blocks are: finer ones curve more than they move
_LARGER = 4  # times the change, tried if the small one is not explained: the candidate may round pixels


@dataclass(frozen=True, kw_only=True)
class Explained:
    """How much of what patterns did to the margin its gradient explains."""

    share: float | None  # of the sum of squares; None if no pattern did anything
    change: str  # how far each pixel went
    tries: int = 1  # with changes of different sizes
    part: float | None = None  # the share of what far smaller changes do, if it is the same part of it

    @property
    def outcome(self) -> HealthOutcome:
        """What it shows of the gradient."""
        if self.share is None:
            return "not examined"
        if self.share < LEAST_EXPLAINED or (self.part is not None and self.part < _HARMLESS):
            return "broken"
        return "suspect" if self.share < DOUBTFUL or self.part is not None else "sound"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Measures how much of what random patterns do to one goal's margin the gradient explains.

    If there is a ball, patterns stay in it.
    """

    setting: Setting
    goal: Goal
    ball: Ball | None = None

    def price(self, tries: int) -> tuple[int, int]:
        """Returns how many forward passes and gradients so many tries take."""
        clean = 0 if self.setting.candidate.bare is None else 1
        return tries * EXPLAINED_ON * (1 + clean + 2 * len(_PARTS)), tries * EXPLAINED_ON

    def expected(self, samples: Sequence[int], cost: Cost) -> tuple[int, int]:
        """Returns how many forward passes and gradients it takes if all is well."""
        return self.price(1) if self._is_tried(samples, cost) else (0, 0)

    def _is_tried(self, samples: Sequence[int], cost: Cost) -> bool:
        return self.setting.candidate.randomness is None and len(samples) >= EXPLAINED_ON and not is_small(cost)

    def of(self, samples: Sequence[int], cost: Cost) -> Explained | None:
        """What is explained on the first of these samples; None if they are too few, or the gate is too small.

        Args:
            samples: that may be tried, in an order that depends on the goal alone.
            cost: of the gate's searches.
        """
        if not self._is_tried(samples, cost):
            return None
        step = small_change(self.setting, self.ball)
        longest = self.ball.radius if isinstance(self.ball, L2Ball) else inf
        chosen = samples[:EXPLAINED_ON]
        first = found = self._tried(chosen, step, longest)
        if first.outcome != "sound":
            larger = self._tried(chosen, _LARGER * step, _LARGER * longest)
            found = replace(max(first, larger, key=lambda one: -inf if one.share is None else one.share), tries=2)
        if first.share is None or first.share < LEAST_EXPLAINED or (found.share or 0) >= _BENT:
            return found  # what is explained only if changes are large rounds pixels
        finer = [self._tried(chosen, step / times, longest / times).share for times in _FINER]
        shares = [share for share in finer if share is not None and abs(share - first.share) < _ALIKE]
        part = max(shares) if len(shares) == len(_FINER) and max(shares) < _WHOLE else None
        return replace(found, part=part, tries=found.tries + len(_FINER))

    def _tried(self, samples: Sequence[int], step: float, longest: float) -> Explained:
        known = self.setting.memory.explained.setdefault((self.goal, step, longest), {})
        new = [sample for sample in samples if sample not in known]
        for numbers in batches(new, self.setting.samples.shape_of):
            known.update(zip(numbers, self._squares(numbers, step, longest), strict=True))
        seen = [known[sample] for sample in samples]
        whole, maximum = sum(one[0] for one in seen), self.setting.samples.maximum
        return Explained(
            share=1 - sum(one[1] for one in seen) / whole if whole else None,
            change=in_grey_levels(_size(step, longest, self.setting.samples.shape_of(samples[0])) * maximum),
        )

    def _squares(self, numbers: list[int], step: float, longest: float) -> list[tuple[float, float]]:
        """For each sample, the sum of the squares of what patterns did, and of what the gradient leaves unexplained."""
        setting, raised = self.setting, objective("margin", self.goal)
        images = as_shares(setting.samples, numbers, setting.candidate.device)
        labels = setting.labels[numbers].to(images.device)
        kept = {number: setting.memory.gradients.get((self.goal, number)) for number in numbers}
        missing = [place for place, number in enumerate(numbers) if kept[number] is None]
        if missing:
            white_box, asked = WhiteBox(setting.candidate, exact=True), labels[missing]
            _, _, found = white_box.gradient(images[missing], asked, asked, raised)
            new = [numbers[place] for place in missing]
            keep_gradients(setting, self.goal, new, found)
            kept |= dict(zip(new, found, strict=True))
        gradient = torch.stack([one for one in kept.values() if one is not None])
        answers = partial(artefact_logits, setting, torch.tensor(numbers))
        if setting.candidate.bare is None:
            clean = setting.candidate.head.at_operating_point(setting.logits[numbers].to(images.device))
        else:
            clean = answers(images)
        margins = nearest_border(self.goal, clean, labels)
        names = (setting.samples.names[number] for number in numbers)
        keys = [key(setting.seed, f"health/{self.goal}/explaining", name, 0) for name in names]
        draws = Draws.of(keys, images.device)
        did, left = torch.zeros(len(images)).double(), torch.zeros(len(images)).double()
        for number, parts in enumerate(_PARTS):
            change = _size(step, longest, images.shape[1:]) * _pattern(images, parts, draws, number)
            above, below = (images + change).clamp(0, 1), (images - change).clamp(0, 1)
            moved = (margins(answers(above)) - margins(answers(below))).double().cpu()
            told = ((above - below) * gradient).flatten(1).sum(dim=1).double().cpu()
            usable = moved.isfinite() & told.isfinite()
            did += torch.where(usable, moved**2, 0.0)
            left += torch.where(usable, (moved - told) ** 2, 0.0)
        return list(zip(did.tolist(), left.tolist(), strict=True))


def _size(step: float, longest: float, shape: Sequence[int]) -> float:
    """How far each pixel of an image goes, if all of them together go no farther than `longest` in L2."""
    return min(step, longest / sqrt(prod(shape)))


def is_small(cost: Cost) -> bool:
    """Whether a gate that cost this much is too small to be examined in this way."""
    return cost.forward < _FEWEST_PASSES


def _pattern(images: torch.Tensor, parts: int, draws: Draws, number: int) -> torch.Tensor:
    """Blocks of -1 and 1 (N, C, H, W), so many along the shorter side."""
    _, channels, height, width = images.shape
    block = max(1, round(min(height, width) / parts))
    signs = draws.signs((channels, ceil(height / block), ceil(width / block)), number)
    blocks = signs.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)
    return blocks[:, :, :height, :width]
