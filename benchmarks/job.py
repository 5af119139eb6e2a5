"""What crosses the wall between the comparison and its children: a job goes in, a measurement comes out, as JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to measure."""

    contender: str
    candidate: str
    archive: str  # the images to attack
    images: int  # how many it holds
    levels: list[int]  # ε in 255ths, smallest first
    steps: int
    batch: int
    threads: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What came out."""

    seconds: float  # attacking at every ε, as the contender does it
    answer_seconds: float  # from the weights' file to the accuracies, once everything is imported
    forward: int  # samples through the network while attacking
    gradient: int
    peak_mib: float
    clean: float  # accuracy
    robust: list[float]  # accuracy left at each ε
