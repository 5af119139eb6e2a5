"""From an image of the wanted label to the sample, seeing the scores of the best few labels, or labels only.

Ilyas, Engstrom, Athalye, Lin 2018, arXiv 1804.08598, sections 2.3 and 2.4, algorithm 2. The ball around the sample
shrinks from the start to ε while the image stays what the adversary wants; estimates of the gradient tell how to
move so that it does. With labels alone a score is the share of noisy copies that are read as wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from robustcheck.attacks.base import Answers, Queries, State, merged, one_each, part, per_row, together
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.estimate import Estimate
from robustcheck.attacks.objectives import Objective
from robustcheck.threats import Ball

_LEAST_GAIN = 0.02  # of the radius: what a smaller ball gains beyond ε
_SMALLEST_STEP = 2.0**-4  # of the first
_AT_ONCE = 32  # queries of a row in one turn, for pairs of one copy


@dataclass(frozen=True, kw_only=True)
class PartialInformation:
    """Alternates between an estimate of the gradient and tries of a smaller ball, each with a step along it.

    A try that is not read as wanted halves what the ball loses, and then the step; when both are small another estimate
    is made. A try that is read so moves the search, and what the ball loses grows again.
    """

    objective: Objective
    queries: int
    samples: int  # scores of an estimate, even
    sigma: float  # σ, as a share of the full range
    step: float  # of the ball's radius
    momentum: float
    asks: Literal["top-k", "label"]
    copies: int = 1  # whose share of wanted readings is a point's score
    radius: float = 0.0  # of their noise, as a share of the full range
    name: str = "partial_information"
    block: int = 1
    elsewhere: bool = True
    follows: bool = True
    restarts: int = 1
    random_start: bool = False
    minimum_norm: bool = False
    aims: int = 0

    @cached_property
    def _estimate(self) -> Estimate:
        return Estimate(pairs=self.samples // 2, sigma=self.sigma, at_once=max(1, _AT_ONCE // (2 * self.copies)))

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """At an image that is read as wanted, and with tries of a smaller ball: nothing is known about the slope."""
        radius = ball.norm(images - clean)
        return {
            "images": images,
            "radius": radius,
            "gain": (radius - ball.radius).clamp_min(0),  # all that it may lose
            "size": torch.full_like(radius, self.step),
            "mean": torch.zeros_like(images),
            "trying": torch.ones(len(images), dtype=torch.bool, device=images.device),
            **self._estimate.start(images),
        }

    def ask(self, state: State, clean: torch.Tensor, ball: Ball, draws: Draws) -> Queries:
        """One image of a smaller ball, or a turn's part of an estimate."""
        trying, parts = state["trying"], list[tuple[torch.Tensor, Queries]]()
        if trying.any():
            parts.append((trying, one_each(self._ahead(part(state, trying), clean[trying], ball))))
        if not trying.all():
            parts.append((~trying, self._around(part(state, ~trying), Draws(keys=draws.keys[~trying]))))
        return together(*parts)

    def learn(
        self, state: State, queries: Queries, answers: Answers, clean: torch.Tensor, ball: Ball, draws: Draws
    ) -> State:
        """Move where a try was read as wanted; take an estimate's answers in."""
        trying, told = state["trying"], queries.table(answers.loss)
        if trying.any():
            fooled = queries.table(answers.fooled)[trying, 0]
            state = merged(state, trying, self._tried(part(state, trying), fooled, clean[trying], ball))
        if not trying.all():
            assert queries.noise is not None
            state = merged(state, ~trying, self._estimated(part(state, ~trying), told[~trying], queries.noise, ball))
        return state

    def best(self, state: State) -> torch.Tensor:
        """The nearest image that is read as wanted."""
        return state["images"]

    # --- tries ---

    def _ahead(self, state: State, clean: torch.Tensor, ball: Ball) -> torch.Tensor:
        smaller = (state["radius"] - state["gain"]).clamp_min(ball.radius)
        moved = state["images"] + per_row(state["size"] * state["radius"]) * ball.steepest(state["mean"])
        return ball.within(moved, clean, smaller)

    def _tried(self, state: State, fooled: torch.Tensor, clean: torch.Tensor, ball: Ball) -> State:
        ahead = self._ahead(state, clean, ball)
        images = torch.where(per_row(fooled), ahead, state["images"])
        radius = torch.where(fooled, ball.norm(ahead - clean).clamp_min(ball.radius), state["radius"])
        left = radius - ball.radius  # what the ball may still lose
        least = torch.minimum(_LEAST_GAIN * radius, left)

        gain = torch.where(fooled, 2 * state["gain"], state["gain"] / 2)
        gives_up = ~fooled & (gain < least)
        shorter = gives_up & (state["size"] > _SMALLEST_STEP * self.step)
        size = torch.where(shorter, state["size"] / 2, state["size"])
        # Within ε, but not verified there: only another slope helps.
        estimate = (gives_up & ~shorter) | (fooled & (left <= 0))
        first = state["mean"].flatten(1).any(dim=1).logical_not() & gives_up  # without a slope no step is any shorter
        estimate |= first
        return {
            "images": images,
            "radius": radius,
            "gain": torch.where(gives_up, least, torch.minimum(gain, left)),
            "size": torch.where(estimate, self.step, size),
            "trying": ~estimate,
        }

    # --- estimates ---

    def _around(self, state: State, draws: Draws) -> Queries:
        """Pairs around the point, each with its noisy copies."""
        noise, pairs = self._estimate.noise(state, draws), self._estimate.asked(state)
        offset = torch.cat([noise, -noise], dim=1) * self.sigma
        images = (state["images"][:, None] + offset).repeat_interleave(self.copies, dim=1)
        if self.copies > 1:
            copies = draws.uniform(images.shape[1:], at=-1 - state["turn"])
            images = images + (2 * copies - 1) * self.radius
        asked = torch.cat([pairs, pairs], dim=1).repeat_interleave(self.copies, dim=1)
        return Queries(images=images.flatten(0, 1)[asked.flatten()], asked=asked, noise=noise)

    def _estimated(self, state: State, told: torch.Tensor, noise: torch.Tensor, ball: Ball) -> State:
        width = 2 * self._estimate.most * self.copies
        scores = told[:, :width].view(len(told), -1, self.copies).mean(dim=2)
        plus, minus = scores.chunk(2, dim=1)
        estimate, ready = self._estimate.add(state, noise, plus - minus)
        mean = self.momentum * state["mean"] + (1 - self.momentum) * estimate["sum"]
        gain = (state["radius"] - ball.radius).clamp_min(0)
        return {
            "mean": torch.where(per_row(ready), mean, state["mean"]),
            "trying": ready,
            "gain": torch.where(ready, gain, state["gain"]),
            **self._estimate.again(estimate, ready),
        }
