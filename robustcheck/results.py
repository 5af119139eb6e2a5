"""What an evaluation answers: plain frozen data with a JSON round trip.

Reports are functions of an `AuditReport` and nothing else, so an old `report.json` renders again on a machine
without torch. Only builtin types cross this wall. Fields that programs may rely on are listed in `docs/report.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from robustcheck.errors import ReportError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA: Literal["robustcheck/report/1"] = "robustcheck/report/1"

Verdict = Literal["pass", "fail", "inconclusive", "error"]
Status = Literal["wrong", "broken", "held"]
Evidence = Literal["searched", "inherited", "unstarted"]

VERDICTS_BY_WEIGHT: tuple[Verdict, ...] = ("error", "fail", "inconclusive", "pass")
"""The heaviest verdict of its gates is a report's verdict: what could not be evaluated outweighs what failed."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric measured under a gate's attack, with its confidence interval."""

    value: float | None  # None where it is undefined, e.g. sensitivity without a positive sample
    low: float | None = None  # of its interval; None where none is computed
    high: float | None = None
    successes: int | None = None  # of `samples`, for metrics that are rates
    samples: int
    confidence: float = 0.95  # of the interval
    groups: int | None = None  # that the samples come from, e.g. patients; None: each is its own, or it was not counted
    effective: float | None = None  # independent samples that a rate's samples are worth; None: as many as they are


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A bound on a metric, and whether it was met."""

    metric: str
    bound: str  # ">= 0.7" or "<= 0.2"
    met: bool | None  # None if the metric is undefined, or its interval does not decide


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


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something the reader of a gate's verdict should know."""

    code: str  # stable, e.g. "batch-halved"
    severity: Literal["note", "warning", "error"]
    message: str


@dataclass(frozen=True, kw_only=True)
class Ball:
    """What an image may differ by: a norm, and a budget in it."""

    norm: str
    epsilon: str  # as the policy says it
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
    top_k: int | None = None  # how many labels' scores an answer has, where it is not all or none
    target: str | None = None  # the label that a targeted adversary wants

    @property
    def ball(self) -> Ball | None:
        """Its ball, where that is what bounds it."""
        if self.norm is None or self.epsilon is None or self.epsilon_share is None or self.epsilon_levels is None:
            return None
        return Ball(norm=self.norm, epsilon=self.epsilon, share=self.epsilon_share, levels=self.epsilon_levels)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What happened to one sample in one gate."""

    sample: str  # the sample's name in its data source
    label: str
    clean: str  # label predicted before the attack
    attacked: str  # label predicted under it
    status: Status  # wrong before the attack | broken by a verified counterexample | held
    evidence: Evidence | None = None  # this gate's own search, another's, or none, for want of a start; None: no attack
    score: float | None = None  # probability of the positive label under the attack
    found_by: str | None = None  # the gate that found the counterexample
    attack: str | None = None  # its search that did, such as apgd-ce
    distance_levels: float | None = None  # of the counterexample, in the gate's norm
    restart: int | None = None
    step: int | None = None
    counterexample: str | None = None  # file, relative to the report's folder
    sha256: str | None = None  # of the counterexample's stored pixels, C order
    queries: int | None = None  # that reached the oracle in this gate, where one is asked
    share: float | None = None  # of the looks on which the counterexample holds, if it is seen under conditions
    patch: str | None = None  # file of the sample's own patch, relative to the report's folder
    found_after: int | None = None  # queries that had been asked, here or where it was found, when it was found


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
    agreement: Metric  # share of the samples that it reads as the candidate does
    turned: Metric  # share of the searched samples that the surrogates misread themselves where the search ended


@dataclass(frozen=True, kw_only=True)
class Control:
    """What is turned without an attack, in the same places or under the same conditions."""

    name: str  # natural patch | grey patch | no attack
    success: Metric  # share of the attacked samples


@dataclass(frozen=True, kw_only=True)
class Patch:
    """The patch that a gate judged: one for all images."""

    picture: str | None  # file, relative to the report's folder; None for what no picture can hold, or without a folder
    array: str | None  # the same as .npy: stored integers (C, S, S)
    sha256: str  # of its stored pixels, C order
    side: int  # pixels
    origin: str  # how it came about


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
    requirements: tuple[Requirement, ...] = ()
    cost: Cost = field(default_factory=Cost)
    findings: tuple[Finding, ...] = ()
    samples: tuple[Outcome, ...] = ()
    curve: tuple[CurvePoint, ...] = ()  # minimum-norm attacks: accuracy against the budget, the whole curve
    query_curve: tuple[QueryPoint, ...] = ()  # attacks that ask: accuracy against the queries a sample, up to the limit
    surrogates: tuple[Surrogate, ...] = ()  # transfer: what was attacked in the candidate's place
    controls: tuple[Control, ...] = ()  # patches and conditions: what is turned without an attack
    patch: Patch | None = None  # patches for all images: the one that was judged
    cells: tuple[Cell, ...] = ()  # stickers: the grid that they were judged on
    error: str | None = None  # why the verdict is `error`


@dataclass(frozen=True, kw_only=True)
class PolicyInfo:
    """Which policy asked."""

    path: str
    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """A file and its digest."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Which candidate was judged: its bytes, and how its numbers were read."""

    path: str
    format: str
    sha256: str  # over all of `files`
    files: tuple[FileInfo, ...] = ()
    task: str
    labels: tuple[str, ...]
    positive: str | None
    operating_point: float | tuple[float, ...] | None  # one a label of several; None: the label with the highest score
    output: str | None = None  # logits | probabilities, and how that is known
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """Which samples it was judged on."""

    source: str
    split: str | None
    sha256: str  # over the pixels and labels that were used
    samples: int
    available: int
    by_label: dict[str, int]
    bits: int
    shape: tuple[int, ...] | None  # (channels, height, width); None if images differ
    synthetic: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The whole of what one run of one policy found out."""

    schema: Literal["robustcheck/report/1"] = SCHEMA
    verdict: Verdict
    policy: PolicyInfo
    model: ModelInfo | None = None  # None if it could not be loaded
    data: DataInfo | None = None
    environment: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    decision: str = "estimate"
    confidence: float = 0.95  # of all intervals
    interval: str = "clopper-pearson"  # of rates
    inconclusive: Literal["fail", "allow"] = "fail"  # what a gate that its interval does not decide means for the build
    evidence: str = "shared"
    started: str = ""  # ISO 8601, UTC
    seconds: float = 0.0
    interrupted: bool = False
    not_run: tuple[str, ...] = ()  # gates of the policy that were deselected or not reached
    gates: tuple[GateResult, ...] = ()

    def to_json(self) -> str:
        """JSON text, indented by one space, ending in a newline."""
        return adapter().dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> AuditReport:
        """Read a report back.

        Raises:
            ReportError: the text is not a report of this format.
        """
        from pydantic import ValidationError

        try:
            return adapter().validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ReportError(f"not a robustcheck report: {where}: {first['msg'].lower()}") from None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A gate's result as it crosses processes, with what it was measured on."""

    gate: GateResult
    model: ModelInfo | None
    data: DataInfo | None
    environment: dict[str, str]

    def to_builtins(self) -> dict[str, Any]:
        """Builtin types only, as test reports and JSON can carry them."""
        result: dict[str, Any] = _answer_adapter().dump_python(self, mode="json")
        return result

    @classmethod
    def from_builtins(cls, value: dict[str, Any]) -> Answer:
        """The inverse of `to_builtins`."""
        return _answer_adapter().validate_python(value)


def overall(verdicts: Sequence[Verdict], *, interrupted: bool = False, allow: bool = False) -> Verdict:
    """The verdict of a report from those of its gates; nothing evaluated, or not to the end, is an `error`.

    Args:
        verdicts: of the gates that were evaluated.
        interrupted: not all were that should have been.
        allow: inconclusive gates stand in nobody's way.
    """
    if interrupted or not verdicts:
        return "error"
    heaviest = min(verdicts, key=VERDICTS_BY_WEIGHT.index)
    return "pass" if allow and heaviest == "inconclusive" else heaviest


@cache
def adapter() -> TypeAdapter[AuditReport]:
    """The pydantic adapter of `AuditReport`; imported on first use, since pytest runs that do not ask must not pay."""
    from pydantic import TypeAdapter

    return TypeAdapter(AuditReport)


@cache
def _answer_adapter() -> TypeAdapter[Answer]:
    from pydantic import TypeAdapter

    return TypeAdapter(Answer)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `report.json`."""
    schema = adapter().json_schema(mode="serialization")
    return {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA}
