"""RayS: the direction of ±1 along which the border is nearest, for those who see labels only, in the L∞ ball.

Chen, Gu 2020, arXiv 2006.12792, algorithms 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from robustcheck.attacks.base import A_LEVEL, Answers, Asked, QueryAttack, State, halfway, one_a_row
from robustcheck.attacks.draws import Draws
from robustcheck.threats import Ball
from robustcheck.threats.ball import per_row

_TOLERANCE = 1e-3  # of the full range, of a binary search
_OF_EPSILON = 0.25  # the same, where ε is small


@dataclass(frozen=True, kw_only=True)
class RayS(QueryAttack):
    """Turns the signs of one block after another, of 1, 2, 4, … blocks in all, and keeps what brings the border nearer.

    Whether it does is one question, at the distance that is known; how much nearer, a binary search. Where images are
    asked about as they are stored, distances are whole grey levels.
    """

    grey_level: float = 0.0  # of the full range, to which images are rounded before they are asked about; 0: to none
    name: str = "rays"
    images_per_turn: ClassVar[int] = 1

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """All signs are +1, and the border is not known to be anywhere."""
        count, device = len(clean), clean.device
        nothing = torch.zeros(count, dtype=torch.int64, device=device)
        return {
            "images": clean,
            "sign": torch.ones_like(clean),
            "tried": torch.ones_like(clean),
            "distance": torch.ones(count, device=device),
            "low": torch.zeros(count, device=device),
            "high": torch.zeros(count, device=device),
            "bisecting": torch.zeros(count, dtype=torch.bool, device=device),
            "level": nothing - 1,  # before the first, the signs as they are
            "place": nothing,
        }

    def ask(self, state: State, clean: torch.Tensor, ball: Ball, draws: Draws) -> Asked:
        """A point on the ray that is tried."""
        middle = halfway(state["low"], state["high"], self.grey_level)
        reach = torch.where(state["bisecting"], middle, state["distance"])
        return one_a_row((clean + per_row(reach) * state["tried"]).clamp_(0, 1))

    def learn(
        self, state: State, queries: Asked, answers: Answers, clean: torch.Tensor, ball: Ball, draws: Draws
    ) -> State:
        """Halve the interval in which the border lies, or go on to the next block."""
        fooled, bisecting = answers.fooled, state["bisecting"]
        middle = halfway(state["low"], state["high"], self.grey_level)
        low = torch.where(bisecting & ~fooled, middle, torch.where(bisecting, state["low"], 0))
        high = torch.where(bisecting & fooled, middle, torch.where(bisecting, state["high"], state["distance"]))
        finest = max(A_LEVEL * self.grey_level, min(_TOLERANCE, _OF_EPSILON * ball.radius))
        found = bisecting & (high - low <= finest)
        onward = found | (~bisecting & ~fooled)

        sign = torch.where(per_row(found), state["tried"], state["sign"])
        distance = torch.where(found, high, state["distance"])
        level, place = self._next(state, clean[0].numel())
        level, place = torch.where(onward, level, state["level"]), torch.where(onward, place, state["place"])
        return {
            "images": (clean + per_row(distance) * sign).clamp(0, 1),  # the nearest that is read as wanted, if one is
            "sign": sign,
            "tried": torch.where(per_row(onward), self._turned(sign, level, place), state["tried"]),
            "distance": distance,
            "low": low,
            "high": high,
            "bisecting": ~onward,
            "level": level,
            "place": place,
        }

    def _next(self, state: State, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The block after this one; after the last of the finest the finest begins again, on other signs."""
        level, place = state["level"], state["place"] + 1
        blocks = 2 ** level.clamp_min(0)
        length = (size + blocks - 1) // blocks
        done = (level < 0) | (place * length >= size)
        finest = max(0, (size - 1).bit_length())
        return torch.where(done, (level + 1).clamp_max(finest), level), torch.where(done, 0, place)

    def _turned(self, sign: torch.Tensor, level: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """The signs, with those of one block per row changed."""
        size = sign[0].numel()
        blocks = 2 ** level.clamp_min(0)
        length = (size + blocks - 1) // blocks
        pixel = torch.arange(size, device=sign.device)
        inside = (pixel >= (place * length)[:, None]) & (pixel < ((place + 1) * length)[:, None])
        return torch.where(inside.view_as(sign), -sign, sign)
