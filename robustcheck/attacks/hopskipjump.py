"""HopSkipJump: along the decision border towards the sample, for adversaries who see only labels.

Chen, Jordan, Wainwright 2020, arXiv 1904.02144, algorithms 1 and 2, for L2 and L∞. What differs from the paper:

- Directions are smooth (`smooth_directions.py`), and perpendicular to the way from the sample to the image. How fast
  scores change along the way does not matter, because the next binary search goes back along it; but it would drown
  what does.
- In L∞ a step moves all pixels equally far. Those that are where they should be stay there because half as much as was
  found across the way is added along it. In L2 that makes no difference.
- A normal is a decaying sum of its estimates, each of which is made of fewer queries.
- δ, where estimates ask, is a share of the distance that does not fall with the number of pixels.
- Once the border is roughly known where a step leads, twice its length is tried, and if that fails, half of it.
- In L∞, images at distances that are rounded alike are the same image: if questions are about images as files would
  store them, a binary search is over whole grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch

from robustcheck.attacks.base import (
    A_LEVEL,
    Answers,
    Asked,
    QueryAttack,
    State,
    halfway,
    joined,
    of_rows,
    one_a_row,
    with_rows,
)
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.smooth_directions import smooth_normal
from robustcheck.threats import Ball, LinfBall
from robustcheck.threats.ball import per_row

_BISECTING, _ESTIMATING, _STEPPING, _BRACKETING, _LONGER, _SHORTER = range(6)
_AT_ONCE = 16  # queries of a row's estimate in one turn
_MOST_SAMPLES = 10_000
_ROUGHLY = 2.0**-6  # of the way: how well the border is known before other lengths of the step are tried
_ALONG = 0.5  # of what was found across the way: how much is added along it, where nothing is asked
_SHORTEST = 2.0**-16  # of the distance: a shorter step leads nowhere
_FINEST = 1e-6  # of the distance: what float32 images can tell apart
_NOTHING = 1e-12
_INNERMOST = 0.49  # of a level: points that are less than this nearer are rounded alike


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(QueryAttack):
    """Each iteration: a binary search to the border, an estimate of its normal there, and a step along the normal.

    The step is halved until its end is read as wanted, and then compared with others. The search is for the nearest
    such image, and ends when one lies within ε.
    """

    samples: int  # B₀, queries of the first estimate
    delta: float  # δ, how far from the border an estimate asks, as a share of the distance to the sample
    momentum: float  # share of the earlier normal that is kept
    blur: float  # of the directions, as a share of the image's shorter side; 0: all pixels are independent
    least_offset: float = 1e-5  # of a pixel, from the point to where an estimate asks: what float32 can tell apart
    # Of the full range, to which images of L∞ are rounded before they are asked about; 0: to none.
    grey_level: float = 0.0
    name: str = "hopskipjump"
    images_per_turn: ClassVar[int] = _AT_ONCE
    starts_misread: ClassVar[bool] = True

    def start(self, images: torch.Tensor, clean: torch.Tensor, ball: Ball, draws: Draws) -> State:
        """Starts at an image that is read as wanted; the border lies between it and the sample."""
        nothing = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        zero = torch.zeros(len(images), device=images.device)
        return {
            "images": images,
            "origin": images,  # where the last step began
            "phase": nothing,
            "iteration": nothing,
            "turn": nothing,
            "low": zero,  # shares of the way from the sample to the image: not read as wanted
            "high": zero + 1,  # and read as wanted
            "size": zero,
            "asked": nothing,  # in this estimate
            "wanted": zero,  # sum of the answers, ±1
            "sum": torch.zeros_like(images),  # of the directions
            "weighed": torch.zeros_like(images),  # of the directions, by their answers
            "normal": torch.zeros_like(images),  # the decaying sum of its estimates, and what is added along the way
        }

    def ask(self, state: State, clean: torch.Tensor, ball: Ball, draws: Draws) -> Asked:
        """One image, or a turn's part of an estimate."""
        estimating, parts = state["phase"] == _ESTIMATING, list[tuple[torch.Tensor, Asked]]()
        if not estimating.all():
            one = ~estimating
            parts.append((one, one_a_row(self._single(of_rows(state, one), clean[one], ball))))
        if estimating.any():
            own = draws.rows(estimating)
            parts.append((estimating, self._around(of_rows(state, estimating), clean[estimating], ball, own)))
        return joined(*parts)

    def learn(
        self, state: State, queries: Asked, answers: Answers, clean: torch.Tensor, ball: Ball, draws: Draws
    ) -> State:
        """Where the answers lead, phase by phase."""
        fooled, before = queries.table(answers.fooled), state["phase"]
        for phases, follow in (
            ((_BISECTING, _BRACKETING), self._bisected),
            ((_STEPPING,), self._stepped),
            ((_LONGER, _SHORTER), self._compared),
        ):
            if (rows := torch.isin(before, before.new_tensor(phases))).any():
                state = with_rows(state, rows, follow(of_rows(state, rows), fooled[rows, 0], clean[rows], ball))
        if (rows := before == _ESTIMATING).any():
            assert queries.noise is not None
            asked, told = queries.asked[rows, :_AT_ONCE], queries.table(answers.loss)[rows, :_AT_ONCE]
            estimated = self._estimated(of_rows(state, rows), asked.float(), told, queries.noise, clean[rows], ball)
            state = with_rows(state, rows, estimated)
        return state

    # --- one image at a time ---

    def _single(self, state: State, clean: torch.Tensor, ball: Ball) -> torch.Tensor:
        images, phase = self._at(self._middle(state, clean, ball), state, clean, ball), state["phase"]
        if (stepping := phase == _STEPPING).any():
            images = torch.where(per_row(stepping), self._ahead(state, ball), images)
        if (trying := (phase == _LONGER) | (phase == _SHORTER)).any():
            images = torch.where(per_row(trying), self._other_length(state, clean, ball), images)
        return images

    def _middle(self, state: State, clean: torch.Tensor, ball: Ball) -> torch.Tensor:
        """Where (N,) a binary search asks next, as a share of the distance."""
        if not self.grey_level:
            return halfway(state["low"], state["high"])
        distance = self._distance(state, clean, ball)
        return halfway(state["low"] * distance, state["high"] * distance, self.grey_level) / distance

    def _distance(self, state: State, clean: torch.Tensor, ball: Ball) -> torch.Tensor:
        return ball.norm(state["images"] - clean).clamp_min(_NOTHING)

    def _at(self, share: torch.Tensor, state: State, clean: torch.Tensor, ball: Ball) -> torch.Tensor:
        """The image drawn in to a share (N,) of its distance from the sample."""
        return ball.within(state["images"], clean, share * ball.norm(state["images"] - clean))

    def _at_border(self, high: torch.Tensor, state: State, clean: torch.Tensor, ball: Ball) -> torch.Tensor:
        """The image at which a binary search ends.

        Among those that are rounded alike it is the innermost: offsets from there lead to either side of the border.
        """
        if not self.grey_level:
            return self._at(high, state, clean, ball)
        reach = high * ball.norm(state["images"] - clean)
        inner = ((reach / self.grey_level).round() - _INNERMOST) * self.grey_level
        return ball.within(state["images"], clean, torch.minimum(reach, inner))

    def _bisected(self, state: State, fooled: torch.Tensor, clean: torch.Tensor, ball: Ball) -> State:
        middle, finest = self._middle(state, clean, ball), self._finest(state, clean, ball)
        roughly = state["phase"] == _BRACKETING
        low, high = torch.where(fooled, state["low"], middle), torch.where(fooled, middle, state["high"])
        there = ~roughly & (high - low <= finest)
        # If a step had to be halved, twice its length is known to lead too far.
        halved = state["size"] * state["iteration"].clamp_min(1).sqrt() < 0.75 * ball.norm(state["origin"] - clean)
        after = torch.where(low == 0, _BISECTING, torch.where(halved, _SHORTER, _LONGER))  # 0: the sample itself
        compare = roughly & (high - low <= finest.clamp_min(_ROUGHLY))
        return {
            "images": torch.where(per_row(there), self._at_border(high, state, clean, ball), state["images"]),
            "low": torch.where(there, 0, low),
            "high": torch.where(there, 1, high),
            "phase": torch.where(there, _ESTIMATING, torch.where(compare, after, state["phase"])),
            "iteration": state["iteration"] + there,
        }

    def _ahead(self, state: State, ball: Ball, times: float | torch.Tensor = 1.0) -> torch.Tensor:
        """Where a step leads, or one that is so many times as long."""
        return (state["origin"] + per_row(times * state["size"]) * ball.steepest(state["normal"])).clamp(0, 1)

    def _stepped(self, state: State, fooled: torch.Tensor, clean: torch.Tensor, ball: Ball) -> State:
        stuck = ~fooled & (state["size"] <= _SHORTEST * ball.norm(state["images"] - clean))
        return {
            "images": torch.where(per_row(fooled), self._ahead(state, ball), state["images"]),
            "size": torch.where(fooled, state["size"], state["size"] / 2),
            "phase": torch.where(fooled, _BRACKETING, torch.where(stuck, _ESTIMATING, _STEPPING)),
        }

    def _other_length(self, state: State, clean: torch.Tensor, ball: Ball) -> torch.Tensor:
        """Where a step of another length leads, brought to where this one's end is no longer read as wanted."""
        times = torch.where(state["phase"] == _LONGER, 2.0, 0.5)
        return ball.within(self._ahead(state, ball, times), clean, state["low"] * ball.norm(state["images"] - clean))

    def _compared(self, state: State, fooled: torch.Tensor, clean: torch.Tensor, ball: Ball) -> State:
        low, high = state["low"], state["high"]
        again = ~fooled & (state["phase"] == _LONGER)
        there = ~fooled & ~again & (high - low <= self._finest(state, clean, ball))
        images = torch.where(per_row(there), self._at_border(high, state, clean, ball), state["images"])
        return {
            "images": torch.where(per_row(fooled), self._other_length(state, clean, ball), images),
            "low": torch.where(fooled | there, 0, low),
            "high": torch.where(fooled | there, 1, high),
            "phase": torch.where(again, _SHORTER, torch.where(there, _ESTIMATING, _BISECTING)),
            "iteration": state["iteration"] + there,
        }

    # --- the border's normal ---

    def _around(self, state: State, clean: torch.Tensor, ball: Ball, draws: Draws) -> Asked:
        shape = (_AT_ONCE, *clean.shape[1:])
        if isinstance(ball, LinfBall) and not self.blur:
            drawn = 2 * draws.uniform(shape, at=state["turn"]) - 1
        else:
            drawn = smooth_normal(draws, shape, blur=self.blur, at=state["turn"])
        drawn = _across(drawn, _way(state, clean)[:, None])
        unit = drawn / drawn.flatten(2).norm(dim=2)[..., None, None, None]
        delta = self._delta(state, clean, ball)[:, None, None, None, None]
        images = (state["images"][:, None] + delta * unit).clamp_(0, 1)
        left = self._samples(state) - state["asked"]
        asked = torch.arange(_AT_ONCE, device=left.device) < left[:, None]
        seen = (images - state["images"][:, None]) / delta  # the directions, as far as the ends of the range left them
        return Asked(images=images.flatten(0, 1)[asked.flatten()], asked=asked, noise=seen)

    def _estimated(
        self,
        state: State,
        asked: torch.Tensor,
        answers: torch.Tensor,
        noise: torch.Tensor,
        clean: torch.Tensor,
        ball: Ball,
    ) -> State:
        total = state["sum"] + torch.einsum("nq,nqchw->nchw", asked, noise)
        weighed = state["weighed"] + torch.einsum("nq,nqchw->nchw", answers, noise)
        wanted, count = state["wanted"] + answers.sum(dim=1), state["asked"] + asked.sum(dim=1).long()
        ready = count >= self._samples(state)
        mean = wanted / count
        # If all answers are the same, only that side is known; otherwise answers count by how unusual they are.
        told = torch.where(per_row(mean.abs() >= 1), weighed, weighed - per_row(mean) * total)
        way = _way(state, clean)
        # Estimates of more answers are longer, and weigh more.
        across = _across((self.momentum * state["normal"] + told).double(), way.double()).float()
        # A step in L∞ moves all pixels equally far: without this, those that are already right would go back.
        normal = across + _ALONG * per_row(across.flatten(1).norm(dim=1)) * way
        distance = ball.norm(state["images"] - clean)
        return {
            "sum": torch.where(per_row(ready), 0, total),
            "origin": torch.where(per_row(ready), state["images"], state["origin"]),
            "weighed": torch.where(per_row(ready), 0, weighed),
            "normal": torch.where(per_row(ready), normal, state["normal"]),
            "wanted": torch.where(ready, 0, wanted),
            "asked": torch.where(ready, 0, count),
            "turn": state["turn"] + 1,
            "size": torch.where(ready, distance / state["iteration"].clamp_min(1).sqrt(), state["size"]),
            "phase": torch.where(ready, _STEPPING, _ESTIMATING),
        }

    # --- the paper's schedule ---

    def _samples(self, state: State) -> torch.Tensor:
        """B_t = B₀ √t."""
        return (self.samples * state["iteration"].clamp_min(1).sqrt()).long().clamp_max(_MOST_SAMPLES)

    def _finest(self, state: State, clean: torch.Tensor, ball: Ball) -> torch.Tensor:
        """How well (N,) the border is to be known, as a share of the distance.

        θ = δ/√d, as near as a random direction leads, but no finer than images can be told apart.
        """
        theta = max(_FINEST, self.delta / sqrt(clean[0].numel()))
        return (A_LEVEL * self.grey_level / self._distance(state, clean, ball)).clamp_min(theta)

    def _delta(self, state: State, clean: torch.Tensor, ball: Ball) -> torch.Tensor:
        """δ (N,), the L2 length of the offsets at which the normal is estimated."""
        pixels, distance = clean[0].numel(), ball.norm(state["images"] - clean)
        length = distance * (sqrt(pixels) / ball.norm_of_ones(pixels))  # in L2, of an equal change of all pixels
        return (self.delta * length).clamp_min(self.least_offset * sqrt(pixels))


def _way(state: State, clean: torch.Tensor) -> torch.Tensor:
    """From the sample to the image, of length 1 (N, C, H, W)."""
    way = state["images"] - clean
    return way / per_row(way.flatten(1).norm(dim=1).clamp_min(_NOTHING))


def _across(directions: torch.Tensor, way: torch.Tensor) -> torch.Tensor:
    """The part of directions (…, C, H, W) that is perpendicular to a way of length 1 (…, C, H, W)."""
    if way.shape[-3:].numel() == 1:
        return directions  # there is nothing but the way
    return directions - (directions * way).sum(dim=(-3, -2, -1), keepdim=True) * way
