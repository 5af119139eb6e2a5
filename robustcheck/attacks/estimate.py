"""Gradient estimates from pairs of points around a point, each row separately.

Ilyas, Engstrom, Athalye, Lin 2018, arXiv 1804.08598, equation 1 with antithetic pairs (Salimans et al. 2017, arXiv
1703.03864). Rows are never summed over: the estimate of a sample is its own, whatever the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from robustcheck.attacks.base import Asked, State
from robustcheck.attacks.draws import Draws
from robustcheck.attacks.smooth_directions import smooth_normal
from robustcheck.threats.ball import per_row


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """g = 1/(2σn) Σ (f(x + σuᵢ) - f(x - σuᵢ)) uᵢ over n pairs of normal uᵢ, asked over one turn or more.

    Its expectation is C∇f, with C the covariance of the uᵢ, whose pixels have variance 1; without `blur`, ∇f.
    """

    pairs: int
    sigma: float  # as a share of the full range
    blur: float = 0.0  # of u, as a share of the image's shorter side
    at_once: int = 32  # pairs of a row in one turn, at most

    @property
    def pairs_per_turn(self) -> int:
        """Pairs in one turn."""
        return ceil(self.pairs / ceil(self.pairs / self.at_once))

    def start(self, images: torch.Tensor) -> State:
        """The state before the first pair."""
        nothing = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return {"sum": torch.zeros_like(images), "pairs": nothing, "turn": nothing}

    def asked(self, state: State, affordable: torch.Tensor | None = None) -> torch.Tensor:
        """Which (N, `pairs_per_turn`) of a turn's pairs to query, if a row can pay for `affordable` (N,)."""
        place, left = torch.arange(self.pairs_per_turn, device=state["pairs"].device), self.pairs - state["pairs"]
        return place < (left if affordable is None else torch.minimum(left, affordable))[:, None]

    def noise(self, state: State, draws: Draws) -> torch.Tensor:
        """The directions u (N, `pairs_per_turn`, C, H, W) of this turn."""
        return smooth_normal(draws, (self.pairs_per_turn, *state["sum"].shape[1:]), blur=self.blur, at=state["turn"])

    def add(
        self, state: State, noise: torch.Tensor, difference: torch.Tensor, asked: torch.Tensor | None = None
    ) -> tuple[State, torch.Tensor]:
        """Add answers to the estimate.

        Args:
            state: what `start` made, or this.
            noise: u (N, `pairs_per_turn`, C, H, W).
            difference: f(x + σu) - f(x - σu), (N, `pairs_per_turn`), 0 where nothing was asked.
            asked: which (N, `pairs_per_turn`) pairs were asked about (default: all that were due).

        Returns:
            The state, and which rows (N,) have a complete estimate: it is in `state["sum"]` until `restarted`.
        """
        weighed = torch.einsum("np,npchw->nchw", difference.nan_to_num(0, 0, 0), noise)
        total = state["sum"] + weighed / (2 * self.sigma * self.pairs)
        pairs = state["pairs"] + (self.asked(state) if asked is None else asked).sum(dim=1)
        return {"sum": total, "pairs": pairs, "turn": state["turn"] + 1}, pairs >= self.pairs

    def restarted(self, state: State, rows: torch.Tensor) -> State:
        """Begin anew in these rows (N,), with other draws."""
        return {
            "sum": torch.where(per_row(rows), 0, state["sum"]),
            "pairs": torch.where(rows, 0, state["pairs"]),
            "turn": state["turn"],
        }


def around(
    point: torch.Tensor, noise: torch.Tensor, sigma: float, *, centre: torch.Tensor, pairs: torch.Tensor
) -> Asked:
    """Queries about a point itself, and about pairs around it.

    Args:
        point: (N, C, H, W).
        noise: u (N, P, C, H, W).
        sigma: σ.
        centre: which rows (N,) ask about the point.
        pairs: which (N, P) are asked about.
    """
    offset = sigma * noise
    images = torch.cat([point[:, None], point[:, None] + offset, point[:, None] - offset], dim=1)
    asked = torch.cat([centre[:, None], pairs, pairs], dim=1)
    flat = images.flatten(0, 1)
    return Asked(images=flat if asked.all() else flat[asked.flatten()], asked=asked, noise=noise)
