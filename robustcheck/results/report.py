"""The whole of what a run found out, and how it crosses files and processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from robustcheck.errors import ReportError
from robustcheck.results.gate import GateResult, Verdict

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA: Literal["robustcheck/report/1"] = "robustcheck/report/1"

_NO_GATES = b'"gates": []'

VERDICTS_BY_WEIGHT: tuple[Verdict, ...] = ("error", "fail", "inconclusive", "pass")
"""A report's verdict is the heaviest of its gates': what could not be evaluated outweighs what failed."""


@dataclass(frozen=True, kw_only=True)
class PolicyInfo:
    """Which policy asked."""

    path: str
    name: str
    sha256: str
    text: str | None = None  # the whole file, whose UTF-8 bytes have this digest; None in reports before there was one


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
    architecture: str | None = None  # of a state dict: what builds the network
    architecture_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None  # the key that the policy names in a checkpoint with several state dicts
    scores: tuple[int, ...] | None = None  # which of the network's scores are the labels', from 0; None: all
    preprocess: dict[str, Any] | None = None  # how stored pixels become its input, as the policy says, with defaults
    precision: str | None = None  # auto | full, of searches: verdicts are always the artefact's own
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """Which samples it was judged on."""

    source: str
    split: str | None
    sha256: str  # over the pixels and labels that were used, and the columns if the policy names any
    samples: int
    available: int
    by_label: dict[str, int]
    bits: int
    shape: tuple[int, ...] | None  # (channels, height, width); None if images differ
    synthetic: bool
    group: str | None = None  # the column that says which samples belong together
    groups: int | None = None  # how many groups the samples are of
    zero: int = 0  # what level 0 stands for: the lowest value of signed files, of CT in Hounsfield units
    hounsfield: int | None = None  # of level 0; None: the images are no CT
    subgroups: dict[str, dict[str, int]] = field(default_factory=dict)  # column, value, and how many samples have it
    prevalence: tuple[float, ...] | None = None  # of positives, or of each label, that predictive values are about
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """The gate that was being evaluated when a run was interrupted."""

    gate: str
    seconds: float  # since it began


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
    stop: Literal["never", "early", "determined"] = "never"  # when gates may decide before all samples were looked at
    inconclusive: Literal["fail", "allow"] = "fail"  # what it means for the build if an interval does not decide a gate
    evidence: str = "shared"
    health: Literal["strict", "warn"] | None = None  # what a broken attack means for a pass; None: none was examined
    started: str = ""  # ISO 8601, UTC
    seconds: float = 0.0
    interrupted: bool = False
    interruption: Interruption | None = None  # None: no gate was being evaluated, or in another process
    not_run: tuple[str, ...] = ()  # gates of the policy that were deselected or not reached
    gates: tuple[GateResult, ...] = ()

    @property
    def green(self) -> bool:
        """Whether the build may go on: the run passed, or the policy allows what is left open."""
        return self.verdict == "pass" or (self.verdict == "inconclusive" and self.inconclusive == "allow")

    def to_json(self) -> str:
        """JSON text, indented by one space, ending in a newline."""
        return b"".join(self.json_pieces()).decode()

    def json_pieces(self) -> Iterator[bytes]:
        """The same in UTF-8, gate by gate: with many samples the whole is hundreds of megabytes.

        Raises:
            ValueError: a text in it cannot be encoded.
        """
        frame = _adapter(AuditReport).dump_json(replace(self, gates=()), indent=1)
        begin, _, end = frame.rpartition(_NO_GATES)  # the last key
        if not self.gates:
            yield frame + b"\n"
            return
        yield begin + _NO_GATES[:-1]
        for number, gate in enumerate(self.gates):
            # Texts have no line breaks in JSON, so each begins a line of its own.
            lines = _adapter(GateResult).dump_json(gate, indent=1).replace(b"\n", b"\n  ")
            yield (b",\n  " if number else b"\n  ") + lines
        yield b"\n ]" + end + b"\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> AuditReport:
        """Read a report back.

        Raises:
            ReportError: the text is not a report of this format.
        """
        from pydantic import ValidationError

        try:
            report: AuditReport = _adapter(AuditReport).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ReportError(f"not a robustcheck report: {where}: {first['msg'].lower()}") from None
        return report


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A gate's result as it crosses processes, with what it was measured on."""

    gate: GateResult
    model: ModelInfo | None
    data: DataInfo | None
    environment: dict[str, str]

    def to_builtins(self) -> dict[str, Any]:
        """Builtin types only, as test reports and JSON can carry them."""
        result: dict[str, Any] = _adapter(Answer).dump_python(self, mode="json")
        return result

    @classmethod
    def from_builtins(cls, value: dict[str, Any]) -> Answer:
        """The inverse of `to_builtins`."""
        answer: Answer = _adapter(Answer).validate_python(value)
        return answer


def overall(verdicts: Sequence[Verdict], *, interrupted: bool = False, allow: bool = False) -> Verdict:
    """The verdict of a report from those of its gates; `error` if nothing was evaluated, or not to the end.

    Args:
        verdicts: of the gates that were evaluated.
        interrupted: not all gates were evaluated that should have been.
        allow: inconclusive gates do not prevent a pass; but if nothing passed, there is none.
    """
    if interrupted or not verdicts:
        return "error"
    heaviest = min(verdicts, key=VERDICTS_BY_WEIGHT.index)
    return "pass" if allow and heaviest == "inconclusive" and "pass" in verdicts else heaviest


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    """The pydantic adapter of a class; imported on first use: pytest runs that do not ask must not pay."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `report.json`."""
    schema = _adapter(AuditReport).json_schema(mode="serialization")
    return {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA}
