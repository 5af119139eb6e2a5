"""Patterns: stripes and blocks of ±1 up to the border of the ball, for adversaries who may ask too little to search.

Regular patterns turn networks of convolutions more often than independent pixels do (Co, Muñoz-González, de Maupeou,
Lupu 2019, arXiv 1810.00470), and it takes no answers to find them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from robustcheck.attacks.draws import Draws
from robustcheck.attacks.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Patterns(Noise):
    """Tries five patterns a turn: a sign for each row, each of 4×4 blocks, each column, each of 8×8 and of 2×2 blocks.

    The last are all + in the first turn, and all - in the second: a brighter image, and a darker one. Each channel has
    signs of its own.
    """

    images_per_turn: int = field(default=5, init=False)  # one of each kind
    name: str = "patterns"

    def directions(self, clean: torch.Tensor, draws: Draws, turn: torch.Tensor) -> torch.Tensor:
        """Signs (N, Q, C, H, W)."""
        channels, height, width = clean.shape[1:]
        grids = [(height, 1), (4, 4), (1, width), (8, 8), (2, 2)]
        sizes = [rows * columns for rows, columns in grids]
        signs = draws.signs((channels, sum(sizes)), at=turn)
        first = turn[:, None, None]
        signs[:, :, -4:] = torch.where(first < 2, 1.0 - 2 * first, signs[:, :, -4:])
        parts = zip(signs.split(sizes, dim=2), grids, strict=True)
        return torch.stack([_spread(part.unflatten(2, grid), height, width) for part, grid in parts], dim=1)


def _spread(grid: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A grid (N, C, rows, columns) over (N, C, height, width), in blocks that differ by a pixel at most."""
    rows, columns = grid.shape[2:]
    of_row = torch.arange(height, device=grid.device) * rows // height
    of_column = torch.arange(width, device=grid.device) * columns // width
    return grid[:, :, of_row[:, None], of_column]
