"""What one gate found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from robustcheck.results.agreed import CLEAN
from robustcheck.results.measured import Metric, Requirement, Slice

Verdict = Literal["pass", "fail", "inconclusive", "error"]
Status = Literal["wrong", "broken", "held"]
HealthOutcome = Literal["sound", "suspect", "broken", "not examined"]
Evidence = Literal["searched", "inherited", "unstarted"]

_BEYOND_ALL = 1e30  # grey levels, whatever the norm


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries that reached the candidate's oracle, a sample."""

    total: int = 0
    max: int = 0
    median: float = 0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a gate cost. `forward` and `gradient` count samples through the network, not batches."""

    seconds: float = 0.0
    forward: int = 0
    gradient: int = 0
    queries: Queries = field(default_factory=Queries)
    health_forward: int = 0  # beside these: samples through the network to examine the attack
    health_gradient: int = 0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something the reader of a gate's verdict should know."""

    code: str  # stable, e.g. "batch-halved"
    severity: Literal["note", "warning", "error"]
    message: str


@dataclass(frozen=True, kw_only=True)
class HealthCheck:
    """A check of whether an attack worked, and so whether samples that held against it mean anything."""

    name: str  # stable, e.g. "loss-rises"
    outcome: HealthOutcome
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an image may differ by: a norm, and a budget in it."""

    norm: str
    epsilon: str  # as the policy writes it
    share: float  # of the full pixel range
    levels: int | float  # stored grey levels


@dataclass(frozen=True, kw_only=True)
class Threat:
    """What the adversary was allowed: goal, knowledge, capability, query limit."""

    goal: str
    knowledge: str
    capability: Literal["ball", "patch", "stickers"] = "ball"
    norm: str | None = None  # of a ball
    epsilon: str | None = None  # its radius, as the policy says it
    epsilon_share: float | None = None  # of the full pixel range
    epsilon_levels: int | float | None = None  # stored grey levels that it admits; whole in L∞
    size: str | None = None  # of a patch, as the policy says it
    conditions: dict[str, Any] | None = None  # how images are seen; None: as they are
    queries: int | None = None  # limit a sample, where an oracle is asked
    oracle: Literal["float", "stored"] | None = None  # what a query is: an image of floats, or rounded as if stored
    top_k: int | None = None  # how many labels' scores an answer has, if it is not all or none
    target: str | None = None  # the label that a targeted adversary wants
    finding: str | None = None  # the one of several findings that a goal is about

    @property
    def wanted(self) -> tuple[str, str | None]:
        """What the adversary wanted: a goal, and the label or the finding that it is about."""
        return self.goal, self.target or self.finding

    @property
    def ball(self) -> Budget | None:
        """Its ball; None if something else bounds it, or a ball cannot have its numbers."""
        if self.norm is None or self.epsilon is None or self.epsilon_share is None or self.epsilon_levels is None:
            return None
        if not (0 <= self.epsilon_share < _BEYOND_ALL and 0 <= self.epsilon_levels < _BEYOND_ALL):
            return None  # not a number, say: a report may come from anybody
        return Budget(norm=self.norm, epsilon=self.epsilon, share=self.epsilon_share, levels=self.epsilon_levels)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What happened to one sample in one gate."""

    sample: str  # the sample's name in its data source
    label: str
    clean: str  # label predicted before the attack
    attacked: str  # label predicted under it
    status: Status  # wrong before the attack | broken by a verified counterexample | held
    evidence: Evidence | None = None  # this gate's own search, another's, or none, for lack of a start; None: no attack
    score: float | None = None  # probability of the positive label under the attack
    found_by: str | None = None  # the gate that found the counterexample
    attack: str | None = None  # the search in it that did, such as apgd-ce
    distance_levels: float | None = None  # of the counterexample, in the gate's norm
    restart: int | None = None
    step: int | None = None
    counterexample: str | None = None  # file, relative to the report's folder
    sha256: str | None = None  # of the counterexample's stored pixels, C order
    queries: int | None = None  # that reached the oracle in this gate, where one is asked
    share: float | None = None  # of the looks on which the counterexample holds, if it is seen under conditions
    patch: str | None = None  # file of the sample's own patch, relative to the report's folder
    found_after: int | None = None  # queries asked by the time it was found, here or in the gate that found it

    @property
    def clean_files(self) -> tuple[str, ...]:
        """Files beside its counterexample that may hold its clean image, relative to the report's folder."""
        if self.counterexample is None:
            return ()
        path = PurePosixPath(self.counterexample)
        endings = dict.fromkeys((path.suffix, ".png", ".npy"))
        return tuple(str(path.parent.parent / CLEAN / f"{path.stem}{ending}") for ending in endings)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Accuracy from a budget on, up to the next point's."""

    levels: float  # grey levels
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class QueryPoint:
    """Accuracy from a number of queries a sample on, up to the next point's."""

    queries: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A model that a transfer attack follows in place of the candidate, and how good a stand-in it is."""

    path: str  # its file, or the architecture that was trained
    format: str
    sha256: str
    trained: str | None = None  # how, if robustcheck trained it
    accuracy: Metric  # its own, on the gate's samples
    agreement: Metric  # share of the samples that it reads as the candidate does, in what the goal is about
    agreement_attacked: Metric | None = None  # share of the attacked samples that it, too, reads correctly before
    turned: Metric  # share of the searched samples, read correctly by surrogates before, that they misread at the end


@dataclass(frozen=True, kw_only=True)
class Control:
    """What is turned without an attack, in the same places or under the same conditions."""

    name: str  # natural patch | grey patch | no attack | plain stickers
    success: Metric  # share of the attacked samples


@dataclass(frozen=True, kw_only=True)
class Patch:
    """The patch that a gate judged: one for all images."""

    picture: str | None  # file, relative to the report's folder; None if no picture can hold it, or without a folder
    array: str | None  # the same as .npy: stored integers (C, S, S)
    sha256: str  # of its stored pixels, C order
    side: int  # pixels
    origin: str  # how it came about


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """How many samples a gate that may decide early needed."""

    rule: Literal["early", "determined"]
    needed: int  # samples, in the policy's random order; the metrics are about these
    of: int
    decided: bool  # before the last one


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A place from which stickers are looked at."""

    distance: float  # at 1 the image fills the view
    angle: float  # degrees off the normal, to the side
    success: Metric  # share of the attacked samples that are read as the adversary wants
    control: Metric  # the same without stickers


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What one gate found."""

    id: str
    attack: str | None  # None: the unattacked metrics
    parameters: dict[str, Any] = field(default_factory=dict)
    threat: Threat | None
    verdict: Verdict
    metrics: dict[str, Metric] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()  # each subgroup, and of several findings each one
    requirements: tuple[Requirement, ...] = ()
    cost: Cost = field(default_factory=Cost)
    findings: tuple[Finding, ...] = ()
    health: tuple[HealthCheck, ...] = ()  # what the attack was examined for
    samples: tuple[Outcome, ...] = ()
    curve: tuple[CurvePoint, ...] = ()  # minimum-norm attacks: accuracy against the budget, the whole curve
    query_curve: tuple[QueryPoint, ...] = ()  # attacks that ask: accuracy against the queries a sample, up to the limit
    surrogates: tuple[Surrogate, ...] = ()  # transfer: what was attacked in the candidate's place
    controls: tuple[Control, ...] = ()  # patches and conditions: what is turned without an attack
    patch: Patch | None = None  # patches for all images: the one that was judged
    cells: tuple[Cell, ...] = ()  # stickers: the grid that they were judged on
    stopped: Stopped | None = None  # policies that let gates decide early: with how many samples this one did
    error: str | None = None  # why the verdict is `error`
