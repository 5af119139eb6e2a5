"""What a qualification answers: plain frozen data, of which its report is a function."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class KnownAnswer:
    """One gate of a known candidate: what had to come out, and what did."""

    candidate: str
    what: str  # the candidate, in words
    gate: str
    expected: str
    found: str
    caught_by: str = ""  # the check or error that keeps a masked candidate from passing
    agrees: bool


@dataclass(frozen=True, kw_only=True)
class Qualification:
    """All known answers of an installation on a machine."""

    schema: str = "robustcheck/qualification/1"
    qualified: bool  # all agree
    environment: dict[str, str] = field(default_factory=dict)
    started: str = ""  # ISO 8601, UTC
    seconds: float = 0.0
    answers: tuple[KnownAnswer, ...] = ()
    not_covered: tuple[str, ...] = ()  # what the answers say nothing about, a sentence each
