"""Square: random search with squares of colour, for those who may ask for scores only, in the L∞ ball.

Andriushchenko, Croce, Flammarion, Hein 2020, arXiv 1912.00049, algorithms 1 and 2; the schedule is scaled to the number
of queries, as the authors' AutoAttack does, but is never run through in fewer than 500.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from robustcheck.attacks.base import Answers, Asked, QueryAttack, State, one_a_row
from robustcheck.attacks.draws import Draws
from robustcheck.threats import Ball
from robustcheck.threats.ball import per_row

_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries of 10 000, after which the area halves
_FULL_SCHEDULE = 10_000
_SHORTEST_SCHEDULE = 500  # queries: squares that shrink sooner leave more than large ones that the limit cuts short


@dataclass(frozen=True, kw_only=True)
class Square(QueryAttack):
    """Stripes of ±ε, then squares, of which each is kept if it raises the loss: one query each.

    A square of the colour that is there already asks about nothing new: the opposite one takes its place. (The authors'
    code draws another colour; with one channel that is the same.)
    """

    share: float  # of the image's area that the first square covers, p in the paper
    name: str = "square"
    images_per_turn: ClassVar[int] = 1

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Vertical stripes, ±ε in each column and channel."""
        _, channels, _, width = clean.shape
        stripes = draws.signs((channels, 1, width))
        return {
            "images": ball.project(clean + ball.radius * stripes, clean),
            "best": clean,
            "best_loss": torch.full((len(clean),), -torch.inf, device=clean.device),
            "asked": torch.zeros(len(clean), dtype=torch.int64, device=clean.device),
        }

    def ask(self, state: State, clean: torch.Tensor, ball: Ball, draws: Draws) -> Asked:
        """One image a row."""
        return one_a_row(state["images"])

    def learn(
        self, state: State, queries: Asked, answers: Answers, clean: torch.Tensor, ball: Ball, draws: Draws
    ) -> State:
        """Keep the image if it is better than the best so far, and try a square on that."""
        better = answers.loss > state["best_loss"]
        best_loss = torch.where(better, answers.loss, state["best_loss"])
        best = torch.where(per_row(better), state["images"], state["best"])

        _, channels, height, width = clean.shape
        asked = state["asked"] + 1
        drawn = draws.uniform((2 + channels,), at=asked)
        side = self._side(asked - 1, height, width)
        top = (drawn[:, 0] * (height - side + 1)).floor()
        left = (drawn[:, 1] * (width - side + 1)).floor()
        inside = _span(top, side, height)[:, :, None] & _span(left, side, width)[:, None, :]
        colour = torch.where(drawn[:, 2:] < 0.5, -1.0, 1.0)[:, :, None, None]
        change = torch.where(inside[:, None], 2 * ball.radius * colour, 0)
        changed = ball.project(best + change, clean)
        same = (changed == best).flatten(1).all(dim=1)  # chosen among all rows: a GPU would be waited for to pick some
        changed = torch.where(per_row(same), ball.project(best - change, clean), changed)
        return {"images": changed, "best": best, "best_loss": best_loss, "asked": asked}

    def best(self, state: State) -> torch.Tensor:
        """The point of the highest loss."""
        return state["best"]

    def _side(self, asked: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Sides (N,) of the squares that rows try after so many queries (N,)."""
        thresholds = torch.tensor(_HALVED_AT, device=asked.device)
        scaled = asked * _FULL_SCHEDULE // max(self.queries, _SHORTEST_SCHEDULE)
        share = self.share * 0.5 ** (scaled[:, None] > thresholds).sum(dim=1)
        return (share * height * width).sqrt().round().clamp(1, max(1, min(height, width) - 1))


def _span(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """(N, size): true from `start` (N,) on, for `length` (N,) places."""
    place = torch.arange(size, device=start.device)
    return (place >= start[:, None]) & (place < (start + length)[:, None])
