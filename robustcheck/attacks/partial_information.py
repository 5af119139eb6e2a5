"""From an image of the wanted label to the sample, seeing the scores of the best few labels, or labels only.

Ilyas, Engstrom, Athalye, Lin 2018, arXiv 1804.08598, sections 2.3 and 2.4, algorithm 2. The ball around the sample
shrinks from the start to ε while the image stays what the adversary wants; estimates of the gradient tell how to
move so that it does. With labels alone a score is the share of noisy copies that are read as wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from robustcheck.attacks.base import Answers, Asked, QueryAttack, State, joined, of_rows, one_a_row, with_rows
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.estimate import Estimate
from robustcheck.threats import Ball
from robustcheck.threats.ball import per_row

_LEAST_GAIN = 0.02  # of the radius: what a smaller ball gains beyond ε
_SMALLEST_STEP = 2.0**-4  # of the first
_AT_ONCE = 16  # queries of a row in one turn, or a pair with all its copies


@dataclass(frozen=True, kw_only=True)
class PartialInformation(QueryAttack):
    """Alternates between an estimate of the gradient and tries of a smaller ball, each with a step along it.

    A try at which the wanted label is not among those that are told halves what the ball loses; when that is small, the
    step is tried in the ball as it is, then halved. Any other try moves the search, and what the ball loses grows.
    Another estimate is made after a step with which the ball did not shrink, and when the step is small.
    """

    samples: int  # scores of an estimate, even
    sigma: float | None  # σ, of a pixel, as a share of the full range; None: a quarter of ε, in L2 of the whole offset
    step: float  # of the ball's radius
    momentum: float
    blur: float  # of the directions, as a share of the image's shorter side
    copies: int = 1  # whose share of wanted readings is a point's score
    radius: float | None = None  # of their noise, as `sigma`
    least_offset: float = 0.0  # of a pixel, that changes an image at all, as a share of the full range
    name: str = "partial_information"
    starts_misread: ClassVar[bool] = True

    @cached_property
    def _estimate(self) -> Estimate:
        # In units of σ, which may depend on the image's size: of an estimate only the direction is used.
        at_once = max(1, _AT_ONCE // (2 * self.copies))
        return Estimate(pairs=self.samples // 2, sigma=1.0, blur=self.blur, at_once=at_once)

    @property
    def images_per_turn(self) -> int:
        """The most images of a turn."""
        return 2 * self._estimate.pairs_per_turn * self.copies

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Starts at an image that is read as wanted, with tries of a smaller ball: nothing is known about the slope."""
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

    def ask(self, state: State, clean: torch.Tensor, ball: Ball, draws: Draws) -> Asked:
        """One image of a smaller ball, or a turn's part of an estimate."""
        trying, parts = state["trying"], list[tuple[torch.Tensor, Asked]]()
        if trying.any():
            parts.append((trying, one_a_row(self._ahead(of_rows(state, trying), clean[trying], ball))))
        if not trying.all():
            parts.append((~trying, self._around(of_rows(state, ~trying), ball, draws.rows(~trying))))
        return joined(*parts)

    def learn(
        self, state: State, queries: Asked, answers: Answers, clean: torch.Tensor, ball: Ball, draws: Draws
    ) -> State:
        """Move where a try was read as wanted; take an estimate's answers in."""
        trying, told = state["trying"], queries.table(answers.loss)
        if trying.any():
            held = queries.table(answers.shown)[trying, 0]
            state = with_rows(state, trying, self._tried(of_rows(state, trying), held, clean[trying], ball))
        if not trying.all():
            assert queries.noise is not None
            estimated = self._estimated(of_rows(state, ~trying), told[~trying], queries.noise, ball)
            state = with_rows(state, ~trying, estimated)
        return state

    # --- tries ---

    def _ahead(self, state: State, clean: torch.Tensor, ball: Ball) -> torch.Tensor:
        smaller = (state["radius"] - state["gain"]).clamp_min(ball.radius)
        moved = state["images"] + per_row(state["size"] * state["radius"]) * ball.steepest(state["mean"])
        return ball.within(moved, clean, smaller)

    def _tried(self, state: State, held: torch.Tensor, clean: torch.Tensor, ball: Ball) -> State:
        ahead = self._ahead(state, clean, ball)
        images = torch.where(per_row(held), ahead, state["images"])
        radius = torch.where(held, ball.norm(ahead - clean).clamp_min(ball.radius), state["radius"])
        left = radius - ball.radius  # what the ball may still lose
        least = torch.minimum(_LEAST_GAIN * radius, left)
        arrived = left <= ball.slack(clean[0].numel())

        gain = torch.where(held, 2 * state["gain"], state["gain"] / 2)
        gives_up = ~held & ((gain < least) | arrived)
        # Where no smaller ball will do, a step in this one may, away from the border; then the slope is another.
        moves_only, without_slope = state["gain"] <= 0, ~state["mean"].flatten(1).any(dim=1)
        shorter = gives_up & moves_only & (state["size"] > _SMALLEST_STEP * self.step)
        size = torch.where(shorter, state["size"] / 2, state["size"])
        estimate = (gives_up & ((moves_only & ~shorter) | without_slope)) | (held & (moves_only | arrived))
        return {
            "images": images,
            "radius": radius,
            "gain": torch.where(gives_up | arrived, 0, torch.minimum(gain, left)),
            "size": torch.where(estimate, self.step, size),
            "trying": ~estimate,
        }

    # --- estimates ---

    def _around(self, state: State, ball: Ball, draws: Draws) -> Asked:
        """Pairs around the point, each with its noisy copies."""
        noise, pairs = self._estimate.noise(state, draws), self._estimate.asked(state)
        offset = torch.cat([noise, -noise], dim=1) * self._size(self.sigma, state, ball)
        images = (state["images"][:, None] + offset).repeat_interleave(self.copies, dim=1)
        if self.copies > 1:
            copies = draws.uniform(images.shape[1:], at=-1 - state["turn"])
            images = images + (2 * copies - 1) * self._size(self.radius, state, ball)
        asked = torch.cat([pairs, pairs], dim=1).repeat_interleave(self.copies, dim=1)
        return Asked(images=images.flatten(0, 1)[asked.flatten()], asked=asked, noise=noise)

    def _size(self, given: float | None, state: State, ball: Ball) -> float:
        """How large a pixel's offset is, as a share of the full range."""
        even = ball.radius / ball.norm_of_ones(state["images"][0].numel())  # of all pixels, at the ball's border
        return max(self.least_offset, even / 4 if given is None else given)

    def _estimated(self, state: State, told: torch.Tensor, noise: torch.Tensor, ball: Ball) -> State:
        width = 2 * self._estimate.pairs_per_turn * self.copies
        scores = told[:, :width].view(len(told), -1, self.copies).mean(dim=2)
        plus, minus = scores.chunk(2, dim=1)
        estimate, ready = self._estimate.add(state, noise, plus - minus)
        mean = self.momentum * state["mean"] + (1 - self.momentum) * estimate["sum"]
        gain = (state["radius"] - ball.radius).clamp_min(0)
        return {
            "mean": torch.where(per_row(ready), mean, state["mean"]),
            "trying": ready,
            "gain": torch.where(ready, gain, state["gain"]),
            **self._estimate.restarted(estimate, ready),
        }
