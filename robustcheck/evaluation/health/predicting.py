"""Whether the candidate's gradient tells what a small change does: the sharpest check of health, and the cheapest.

The gradient foretells how much a small step along its sign raises the goal's margin. Where gradients are sound, about
that much comes; where they are shattered, nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isclose

import torch

from robustcheck.attacks import objective
from robustcheck.attacks.draws import Draws, key
from robustcheck.evaluation.setting import Setting
from robustcheck.models import WhiteBox
from robustcheck.models.batches import as_shares, batches
from robustcheck.results import Cost
from robustcheck.threats import Ball, Goal, L2Ball, LinfBall

OVERHEAD = Fraction(1, 10)  # of what the gate's own searches put through the network: what all of health may cost
MIN_EXAMINED, MAX_EXAMINED = 3, 16  # samples from which on anything is concluded, and that are tried at most
_FEW = 6  # samples that other checks of a tenth too small for both leave to this one
PASSES_PER_SAMPLE = 2  # forward ones, of which one has a gradient
_STEP = 1 / 255  # of what is visible, or one grey level where that is more, and no more than searches may change
_LEVELS_IF_DRAWN = 4  # so that more than chance is promised
_KEPT = 2**20  # numbers of a gradient that is kept, of at most `MAX_EXAMINED` a goal
_GRADIENTS, _CALLS = 8, 20  # of a candidate that draws: of which means are taken
_CERTAIN = 4.0  # standard errors of the means that a promised rise has to be


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Tries how much of what the gradient promises comes, of one goal's margin, within a ball if there is one."""

    setting: Setting
    goal: Goal
    ball: Ball | None = None
    exact: bool = False  # searches follow the artefact itself, and no faster form

    @property
    def change(self) -> str:
        """Says how much every pixel is changed."""
        maximum = self.setting.samples.maximum
        each = in_grey_levels(self._step * maximum)
        return each if self._longest is None else f"{each}, of {_rounded(self._longest * maximum)} in L2 at most,"

    @property
    def averages_calls(self) -> bool:
        """Whether means over calls are compared."""
        return self.setting.candidate.randomness is not None

    def affordable(self, forward: int, gradient: int) -> int:
        """Returns how many samples so many passes are enough for."""
        each = self.price(1)
        return max(0, min(forward // each[0], gradient // each[1]))

    def count_to_try(self, cost: Cost, besides: tuple[int, int]) -> int:
        """As many samples as a tenth of what searches cost pays for, and a few whatever they cost.

        Args:
            cost: of the gate's searches.
            besides: forward passes and gradients that the tenth pays for as well, where it can.
        """
        forward, gradients = int(cost.forward * OVERHEAD), int(cost.gradient * OVERHEAD)
        least = max(MIN_EXAMINED, min(_FEW, self.affordable(forward, gradients)))
        return max(least, min(MAX_EXAMINED, self.affordable(forward - besides[0], gradients - besides[1])))

    def price(self, samples: int) -> tuple[int, int]:
        """Returns how many forward passes and gradients so many samples take."""
        if self.averages_calls:
            return samples * (_GRADIENTS + 2 * _CALLS), samples * _GRADIENTS
        return samples * PASSES_PER_SAMPLE, samples

    def at_images(self, samples: Sequence[int], count: int) -> list[float]:
        """Shares of what was promised that came, at clean images.

        Gates of one policy share what each has tried: that saves work, and changes nothing else.

        Args:
            samples: that may be tried, in an order that depends on the goal alone.
            count: how many of them, from the first on.
        """
        tried = self.goal, self._step, self._longest
        known, chosen = self.setting.memory.predicted.setdefault(tried, {}), samples[:count]
        new = [sample for sample in chosen if sample not in known]
        known.update(zip(new, self._shares(new, None, ""), strict=True))
        return [share for sample in chosen if (share := known[sample]) is not None]

    def in_ball(self, samples: Sequence[int], gate: str) -> list[float]:
        """Shares as of `at_images`, at a random point of the ball around each sample, as searches meet on their way.

        The gradients are those that searches follow: a faster form may have useless ones where the artefact's are good.
        """
        return [share for share in self._shares(samples, self.ball, gate) if share is not None]

    @property
    def _step(self) -> float:
        """The change of each pixel, as a share of the full range: a level at least, and no more than an L∞ ball admits.

        Where means are compared, a smaller one would promise no more than chance.
        """
        if self.averages_calls:
            return _LEVELS_IF_DRAWN * small_change(self.setting, None)
        return small_change(self.setting, self.ball)

    @property
    def _longest(self) -> float | None:
        """The longest change in L2, as a share of the full range, if the ball bounds it."""
        return self.ball.radius if isinstance(self.ball, L2Ball) and not self.averages_calls else None

    def _shares(self, samples: Sequence[int], ball: Ball | None, gate: str) -> list[float | None]:
        """Shares in the samples' order; None where nothing is promised, or no more than chance is."""
        setting, found = self.setting, dict[int, float | None]()
        for numbers in batches(samples, setting.samples.shape_of):
            images = as_shares(setting.samples, numbers, setting.candidate.device)
            if ball is not None:
                keys = [key(setting.seed, f"{gate}/predicting", setting.samples.names[number], 0) for number in numbers]
                images = ball.sample(images, Draws.of(keys, images.device).uniform(images.shape[1:]))
            labels = setting.labels[numbers].to(images.device)
            shares = self._of(torch.tensor(numbers), images, labels, as_searched=ball is not None)
            found.update(zip(numbers, shares, strict=True))
        return [found[sample] for sample in samples]

    def _of(
        self, samples: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, *, as_searched: bool
    ) -> list[float | None]:
        """Shares of samples with these numbers (N,), images (N, C, H, W) and true readings (N,).

        What comes is the artefact's; what was promised is by its own gradient, or by that which searches follow.
        """
        candidate, raised = self.setting.candidate, objective("margin", self.goal)
        white_box = WhiteBox(candidate, exact=True)
        other = as_searched and not self.exact and candidate.search_form is not None
        followed = WhiteBox(candidate) if other else white_box
        told = [
            followed.gradient(images, labels, labels, raised) for _ in range(_GRADIENTS if self.averages_calls else 1)
        ]
        gradient = torch.stack([one[2] for one in told]).mean(dim=0)
        if not as_searched:
            keep_gradients(self.setting, self.goal, samples.tolist(), gradient)
        change = self._step * gradient.sign()
        if self._longest is not None:
            length = torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True)
            change *= (self._longest / length).clamp_max(1)  # a gradient of zeros has none, and stays
        moved = (images + change).clamp(0, 1)

        def margins(asked: torch.Tensor) -> torch.Tensor:
            calls = range(_CALLS if self.averages_calls else 1)
            return torch.stack([artefact_margins(self.setting, self.goal, samples, asked, labels) for _ in calls])

        before, after = margins(images) if self.averages_calls or other else told[0][1][None], margins(moved)
        promised = ((moved - images) * gradient).flatten(1).sum(dim=1)
        rise = after.mean(dim=0) - before.mean(dim=0)
        usable = (promised > 0) & promised.isfinite() & rise.isfinite()
        if self.averages_calls:
            error = ((before.var(dim=0) + after.var(dim=0)) / _CALLS).sqrt()
            usable &= promised > _CERTAIN * error
        shares = rise / promised
        return [share if there else None for share, there in zip(shares.tolist(), usable.tolist(), strict=True)]


def keep_gradients(setting: Setting, goal: Goal, samples: Sequence[int], gradient: torch.Tensor) -> None:
    """Remember gradients (N, C, H, W) of a goal's margin at clean images for later checks, if they are small."""
    if gradient[0].numel() <= _KEPT:
        kept = setting.memory.gradients
        kept |= {(goal, sample): one for sample, one in zip(samples, gradient, strict=True)}


def small_change(setting: Setting, ball: Ball | None) -> float:
    """A change of a pixel, as a share of the full range.

    A 255th of what is visible, a grey level at least, and no more than an L∞ ball admits.
    """
    low, high = setting.candidate.preprocess.visible
    step = max(_STEP * (high - low), 1 / setting.samples.maximum)
    return min(step, ball.radius) if isinstance(ball, LinfBall) else step


def artefact_margins(
    setting: Setting, goal: Goal, samples: torch.Tensor, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """How far samples with these numbers, images (N, C, H, W) and true readings are past the border, (N,)."""
    return objective("margin", goal)(artefact_logits(setting, samples, images), labels, labels)


def artefact_logits(setting: Setting, samples: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Logits (N, K) of samples with these numbers and images (N, C, H, W), of which the largest is what is decided.

    As the artefact itself answers, unless its last softmax is left off, behind which gradients may be zero.
    """
    candidate = setting.candidate
    if candidate.bare is None:
        logits = candidate.logits(images)
    else:
        logits = WhiteBox(candidate, exact=True).scores(samples, images)
    return candidate.head.at_operating_point(logits)


def in_grey_levels(size: float) -> str:
    """The size of a change in words."""
    return "one grey level" if isclose(size, 1) else f"{_rounded(size)} grey levels"


def _rounded(levels: float) -> str:
    return f"{levels:,.0f}" if levels >= 10 else f"{levels:.2g}"
