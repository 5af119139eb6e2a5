"""Attacks propose, the evaluation disposes.

A proposal is checked to lie in the threat model in whole grey levels, and shown to the shipped artefact in full
precision. Only if that is then read as the adversary wants is it a counterexample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from robustcheck.attacks.draws import Draws
from robustcheck.evaluation.looks.look import Viewer
from robustcheck.models.grey_levels import on_host, shares_of, to_stored
from robustcheck.threats import Ball


@dataclass(frozen=True, kw_only=True)
class Adjudicated:
    """What became of N proposals, on the host."""

    broken: np.ndarray  # (N,) bool: admissible, and read as the adversary wants
    stored: np.ndarray  # (N, C, H, W) uint8 or uint16: the images as they would be stored
    decision: np.ndarray  # (N,) readings
    distance: np.ndarray  # (N,) grey levels from the clean image, in the threat model's norm
    score: torch.Tensor | None  # (N,) probability of the positive label
    finding_probabilities: np.ndarray | None  # (N, K) probability of each of several findings
    admissible: np.ndarray  # (N,) bool
    share: np.ndarray | None  # (N,) of the looks on which it is read as the adversary wants, if there are several
    cells: np.ndarray | None  # (N, L) on which looks of a grid it is


def adjudicate(
    viewer: Viewer,
    ball: Ball,
    proposals: torch.Tensor,
    clean: torch.Tensor,
    labels: torch.Tensor,
    draws: Draws,
    at: torch.Tensor,
) -> Adjudicated:
    """Judge proposals beside clean images, both (N, C, H, W) in shares of the full range, of true readings (N,).

    Args:
        viewer: how they are looked at.
        ball: where they have to lie.
        proposals, clean, labels: the images and the readings.
        draws: of the rows, for fresh looks.
        at: (N,) which proposal of its row each is.
    """
    stored = to_stored(proposals, ball.maximum)
    reference = to_stored(clean, ball.maximum)
    distance = ball.distance(stored, reference)
    # The clean image is no counterexample to itself, even if float reassociation reads it differently in this batch.
    admissible = ball.contains(stored, reference) & (distance > 0)
    seen = viewer(shares_of(stored, ball.maximum), labels, draws, at)
    return Adjudicated(
        broken=(admissible & seen.wanted).cpu().numpy(),
        stored=on_host(stored, ball.maximum),
        decision=seen.decision.cpu().numpy(),
        distance=distance.cpu().numpy(),
        score=None if seen.score is None else seen.score.cpu(),
        finding_probabilities=None if seen.finding_probabilities is None else seen.finding_probabilities.cpu().numpy(),
        admissible=admissible.cpu().numpy(),
        share=None if seen.share is None else seen.share.cpu().numpy(),
        cells=None if seen.cells is None else seen.cells.cpu().numpy(),
    )


def finite(scores: torch.Tensor | None, row: int) -> float | None:
    """One of the scores (N,), on the host; None for what is not finite, or without scores."""
    score = None if scores is None else float(scores[row])
    return score if score is not None and np.isfinite(score) else None


def more_adverse(known: float, found: float, *, positive: bool) -> float:
    """The probability of the positive label that hurts more: the lower one of a positive, the higher of a negative."""
    return min(known, found) if positive else max(known, found)


def keep_worst(scores: dict[int, float], sample: int, found: float, *, positive: bool) -> None:
    """Keep, of the probabilities of the positive label that a sample had, the one that hurts most."""
    scores[sample] = more_adverse(scores.get(sample, found), found, positive=positive)


def more_adverse_of_findings(known: np.ndarray, found: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The probability that hurts more of each of several findings (K,), which are `present` or not."""
    return np.asarray(np.where(present, np.minimum(known, found), np.maximum(known, found)))
