"""Attacks propose, the evaluation disposes.

A proposal is checked to lie in the threat model in whole grey levels, and shown to the shipped artefact in full
precision. Only if that is then read as the adversary wants is it a counterexample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from robustcheck.models import Candidate
from robustcheck.threats import Ball, Goal


@dataclass(frozen=True, kw_only=True)
class Adjudicated:
    """What became of N proposals, on the host."""

    broken: np.ndarray  # (N,) bool: admissible, and read as the adversary wants
    stored: np.ndarray  # (N, C, H, W) uint8 or uint16: the images as they would be stored
    decision: np.ndarray  # (N,) readings
    distance: np.ndarray  # (N,) grey levels from the clean image, in the threat model's norm
    score: torch.Tensor | None  # (N,) probability of the positive label
    admissible: np.ndarray  # (N,) bool


def adjudicate(
    candidate: Candidate, ball: Ball, goal: Goal, proposals: torch.Tensor, clean: torch.Tensor, labels: torch.Tensor
) -> Adjudicated:
    """Judge proposals and clean images (N, C, H, W), shares of the full range, of samples with true readings (N,)."""
    stored = to_stored(proposals, ball.maximum)
    reference = to_stored(clean, ball.maximum)
    distance = ball.distance(stored, reference)
    # The clean image is no counterexample to itself, even if float reassociation reads it differently in this batch.
    admissible = ball.contains(stored, reference) & (distance > 0)
    logits = candidate.logits(stored.float() / ball.maximum)
    decision = candidate.head.decide(logits)
    score = candidate.head.positive_probability(logits)
    return Adjudicated(
        broken=(admissible & goal.met(decision, labels)).cpu().numpy(),
        stored=stored.cpu().numpy().astype(np.uint8 if ball.maximum <= np.iinfo(np.uint8).max else np.uint16),
        decision=decision.cpu().numpy(),
        distance=distance.cpu().numpy(),
        score=None if score is None else score.cpu(),
        admissible=admissible.cpu().numpy(),
    )


def to_stored(images: torch.Tensor, maximum: int) -> torch.Tensor:
    """Shares of the full range to whole grey levels, to the nearest: truncation would darken every image."""
    return (images * maximum).round_().int()
