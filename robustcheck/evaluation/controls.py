"""Controls: what a condition alone, or a patch that nobody optimised, turns without an attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch

from robustcheck.attacks.draws import Draws, key
from robustcheck.evaluation.looks.look import Viewer
from robustcheck.evaluation.metrics.intervals import Intervals
from robustcheck.evaluation.search.adjudication import finite
from robustcheck.evaluation.search.ledger import UNKNOWN, Entry
from robustcheck.evaluation.setting import Setting
from robustcheck.models.batches import as_shares, batches
from robustcheck.policy import Gate, RP2Spec
from robustcheck.results import Cell, Control
from robustcheck.threats import Region

Shown = Callable[[torch.Tensor], torch.Tensor]
"""From clean images (N, C, H, W), shares of the full range, to what is shown in their place."""

Admitted = Literal["each", "all", "none"]
"""Whether a gate's adversary may do what a control does: to each sample separately, to all at once, or not at all."""


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """A control, and the samples that it turned."""

    control: Control
    turned: Mapping[int, Entry]  # samples, and what they are read as
    admitted: Admitted


def seen_unattacked(
    gate: Gate, setting: Setting, viewer: Viewer, samples: Sequence[int]
) -> tuple[Controlled, np.ndarray | None]:
    """Which clean images, under a gate's conditions, are read as the adversary wants, and on which cells (N, L)."""
    turned, cells = _turned(gate, setting, viewer, samples, lambda clean: clean)
    grid = np.stack([cells[sample] for sample in samples]) if cells else None
    # An adversary who changes nothing stays within every budget.
    return controlled("no attack", turned, samples, setting), grid


def plain_stickers(gate: Gate, setting: Setting, viewer: Viewer, region: Region, samples: Sequence[int]) -> Controlled:
    """Stickers of one ink each, which no search has painted: what covering alone turns.

    A sample is turned if any of the inks tried turns it: the adversary may choose one for each.
    """
    assert isinstance(gate.attack, RP2Spec)
    (low, high), found = region.visible, dict[int, Entry]()
    for ink in gate.attack.plain_inks:
        value = low + (high - low) * ink
        standing = [sample for sample in samples if sample not in found]
        turned, _ = _turned(gate, setting, viewer, standing, partial(_covered, region, value))
        found |= turned
    return controlled("plain stickers", found, samples, setting)


def _covered(region: Region, value: float, clean: torch.Tensor) -> torch.Tensor:
    return region.rounded(region.project(torch.full_like(clean, value), clean), clean)


def controlled(
    name: str, turned: Mapping[int, Entry], samples: Sequence[int], setting: Setting, admitted: Admitted = "each"
) -> Controlled:
    """A control that turned some of these samples."""
    hits = np.array([sample in turned for sample in samples], dtype=bool)
    success = setting.intervals.rate(hits, setting.groups_of(samples))
    return Controlled(control=Control(name=name, success=success), turned=turned, admitted=admitted)


def _turned(
    gate: Gate, setting: Setting, viewer: Viewer, samples: Sequence[int], shown: Shown
) -> tuple[dict[int, Entry], dict[int, np.ndarray]]:
    """Samples that are read as the adversary wants; if there is a grid, also on which cells (L,) each one is."""
    turned, cells = dict[int, Entry](), dict[int, np.ndarray]()
    limit = max(1, setting.candidate.chunks.limit // viewer.at_once)
    for chunk in batches(samples, setting.samples.shape_of, limit):
        images = as_shares(setting.samples, chunk, setting.candidate.device)
        keys = [key(setting.seed, f"{gate.id}/control", setting.samples.names[sample], 0) for sample in chunk]
        labels = setting.labels[chunk].to(images.device)
        at = torch.zeros(len(chunk), dtype=torch.int64, device=images.device)
        seen = viewer(shown(images), labels, Draws.of(keys, images.device), at)
        turned |= {
            sample: replace(UNKNOWN, decision=int(seen.decision[place]), score=finite(seen.score, place))
            for place, sample in enumerate(chunk)
            if seen.wanted[place]
        }
        if seen.cells is not None:
            cells.update(zip(chunk, seen.cells.cpu().numpy(), strict=True))
    return turned, cells


def grid_of(
    spec: RP2Spec,
    cells_attacked: np.ndarray,
    unattacked: np.ndarray,
    intervals: Intervals,
    groups: np.ndarray | None,
) -> tuple[Cell, ...]:
    """The table of distances by angles, from what was read on each cell, (N, L) both, for samples of groups (N,)."""
    places = [(distance, angle) for distance in spec.distances for angle in spec.angles]
    return tuple(
        Cell(
            distance=distance,
            angle=angle,
            success=intervals.rate(cells_attacked[:, cell], groups),
            control=intervals.rate(unattacked[:, cell], groups),
        )
        for cell, (distance, angle) in enumerate(places)
    )
