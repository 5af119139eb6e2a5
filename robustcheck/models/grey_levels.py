"""Stored images are whole grey levels, from 0 to a maximum; searches and candidates see shares of that range."""

from __future__ import annotations

import numpy as np
import torch


def shares_of(levels: torch.Tensor, maximum: int) -> torch.Tensor:
    """Grey levels as float32 shares of the full range, which are the same wherever they are computed.

    Dividing by a number would, on a GPU, multiply by its reciprocal: 126 of 256 levels get another last bit.
    """
    return levels.float() / torch.full((), maximum, dtype=torch.float32, device=levels.device)


def nearest_levels(shares: torch.Tensor, maximum: int) -> torch.Tensor:
    """The nearest whole grey levels, as float32, of shares of the full range: truncation would darken all."""
    return (shares * maximum).round_()


def to_stored(shares: torch.Tensor, maximum: int) -> torch.Tensor:
    """The same, as the integers that are stored."""
    return nearest_levels(shares, maximum).int()


def on_host(stored: torch.Tensor, maximum: int) -> np.ndarray:
    """Stored integers as they would be in a file: uint8, or uint16 where more than eight bits are stored."""
    return stored.cpu().numpy().astype(np.uint8 if maximum <= np.iinfo(np.uint8).max else np.uint16)
