"""NES: gradient ascent with gradients that are estimated from scores.

Ilyas, Engstrom, Athalye, Lin 2018, arXiv 1804.08598, section 2.1 and algorithm 1, with momentum, and a step that halves
when the loss stops rising, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from robustcheck.attacks.base import Answers, Asked, QueryAttack, State
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.estimate import Estimate, around
from robustcheck.threats import Ball
from robustcheck.threats.ball import per_row

_PAIR = 2  # queries of the smallest estimate
_FAR = 2.0  # times the radius: a step that ends at the border, wherever in the ball it begins


@dataclass(frozen=True, kw_only=True)
class NES(QueryAttack):
    """xₜ₊₁ = project(xₜ + αₜ · u(mₜ)), where m is the running mean of estimates and u the direction of steepest ascent.

    A step asks about the point, to follow the loss, and about `samples` points around it. The last estimate is made of
    as many as can still be paid, and because nothing is asked after it, that step goes to the border.
    """

    samples: int  # even
    sigma: float  # σ, as a share of the full range
    step_share: float  # the first α, as a share of the full range
    least_step_share: float
    momentum: float  # share of the earlier mean that is kept
    plateau: int  # steps over which the loss has to rise
    blur: float  # of the directions, as a share of the image's shorter side
    name: str = "nes"
    keeps_best: ClassVar[bool] = True

    @cached_property
    def _estimate(self) -> Estimate:
        return Estimate(pairs=self.samples // 2, sigma=self.sigma, blur=self.blur)

    @property
    def images_per_turn(self) -> int:
        """The images of a turn."""
        return 2 * self._estimate.pairs_per_turn

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Starts at the image."""
        unknown = torch.full((len(images),), -torch.inf, device=images.device)
        return {
            "images": images,
            "mean": torch.zeros_like(images),
            "size": torch.full_like(unknown, self.step_share),
            "loss": unknown,  # at the point
            "loss_then": unknown,  # at the beginning of the plateau's steps
            "since": torch.zeros(len(images), dtype=torch.int64, device=images.device),
            "best": images,
            "best_loss": unknown,
            "asked": torch.zeros(len(images), dtype=torch.int64, device=images.device),
            **self._estimate.start(images),
        }

    def ask(self, state: State, clean: torch.Tensor, ball: Ball, draws: Draws) -> Asked:
        """The point, once a step, and pairs around it."""
        noise, centre = self._estimate.noise(state, draws), state["pairs"] == 0
        left = self.queries - state["asked"] - centre.long()
        pairs = self._estimate.asked(state, affordable=(left // 2).clamp_min(1))
        return around(state["images"], noise, self.sigma, centre=centre, pairs=pairs)

    def learn(
        self, state: State, queries: Asked, answers: Answers, clean: torch.Tensor, ball: Ball, draws: Draws
    ) -> State:
        """A step, in the rows that have all answers of an estimate."""
        assert queries.noise is not None
        told = queries.table(answers.loss)
        loss = torch.where(queries.asked[:, 0], told[:, 0], state["loss"])
        better = loss > state["best_loss"]
        plus, minus = told[:, 1:].chunk(2, dim=1)
        pairs = queries.asked[:, 1:].chunk(2, dim=1)[0]
        estimate, ready = self._estimate.add(state, queries.noise, plus - minus, pairs)
        asked = state["asked"] + queries.counts
        left = self.queries - asked
        ready = ready | (left < _PAIR)
        last = ready & (left < 1 + _PAIR)

        mean = self.momentum * state["mean"] + (1 - self.momentum) * estimate["sum"]
        size, loss_then, since = self._paced(state, loss)
        reach = torch.where(last, _FAR * ball.radius, size)
        ahead = ball.project(state["images"] + per_row(reach) * ball.steepest(mean), clean)
        return {
            "images": torch.where(per_row(ready), ahead, state["images"]),
            "mean": torch.where(per_row(ready), mean, state["mean"]),
            "size": torch.where(ready, size, state["size"]),
            "loss": loss,
            "loss_then": torch.where(ready, loss_then, state["loss_then"]),
            "since": torch.where(ready, since, state["since"]),
            "best": torch.where(per_row(better), state["images"], state["best"]),
            "best_loss": torch.where(better, loss, state["best_loss"]),
            "asked": asked,
            **self._estimate.restarted(estimate, ready),
        }

    def best(self, state: State) -> torch.Tensor:
        """The point with the highest loss that was asked about; where the last step led is judged as well."""
        return state["best"]

    def _paced(self, state: State, loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Step sizes, the losses that later ones are compared with, and how many steps ago they were."""
        since = state["since"] + 1
        due = since >= self.plateau
        stalled = due & (loss <= state["loss_then"])
        size = torch.where(stalled, (state["size"] / 2).clamp_min(self.least_step_share), state["size"])
        return size, torch.where(due, loss, state["loss_then"]), torch.where(due, 0, since)
