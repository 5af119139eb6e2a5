"""The policy file's schema: what may be written, and nothing that does not work.

Field descriptions are shown by `robustcheck schema` and by editors that read JSON Schema. What no single field shows
(a label that is not in `labels`, lists whose lengths differ) is looked at in `checks`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr, WithJsonSchema

from robustcheck.policy.attack_specs import AttackField, QueriesField
from robustcheck.policy.bounds import METRICS, Bound
from robustcheck.policy.fields import (
    BatchSizeField,
    BudgetsField,
    Label,
    Number,
    NumbersField,
    OperatingPointField,
    PositiveNumbersField,
    as_list,
    one_or_many,
    whole,
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


# --- model ------------------------------------------------------------------------------------------------------


class PreprocessSpec(_Section):
    """How stored pixels become the network's input, in this order: channels, resize, range, mean and std, layout."""

    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="order of the network's input axes")
    channels: Annotated[Literal[1, 3], BeforeValidator(whole)] | None = Field(
        None, description="channels of the network's input; a grey image is repeated to 3 (default: as stored)"
    )
    resize: (
        Annotated[
            tuple[Annotated[StrictInt, Field(ge=1, le=8192)], Annotated[StrictInt, Field(ge=1, le=8192)]],
            Field(strict=False),
        ]
        | None
    ) = Field(None, description="[height, width]; bilinear, antialiased where it shrinks")
    range: tuple[Number, Number] = Field(
        (0.0, 1.0), description="what the darkest and the brightest storable value are mapped to"
    )
    mean: NumbersField = Field((0.0,), min_length=1, max_length=3, description="subtracted, a channel or one for all")
    std: PositiveNumbersField = Field(
        (1.0,), min_length=1, max_length=3, description="divided by, a channel or one for all"
    )


MOST_FINDINGS = 62  # a sample's findings are the bits of one int64

_BY_TASK: dict[str, Any] = {
    "if": {"properties": {"task": {"const": "multilabel"}}, "required": ["task"]},
    "then": {"properties": {"labels": {"maxItems": MOST_FINDINGS}}},
    "else": {"properties": {"labels": {"minItems": 2}, "operating_point": {"type": "number"}}},
}


class ModelSpec(_Section):
    """The candidate: the artefact as it would ship, and what its numbers mean."""

    model_config = ConfigDict(json_schema_extra=_BY_TASK)

    path: StrictStr = Field(
        min_length=1,
        description="the artefact: .onnx, .pt2 (torch.export), .ts (TorchScript), .safetensors or .pt (state dict)",
    )
    architecture: StrictStr | None = Field(
        None,
        description="'module:callable' that builds the network, for state dicts; may lie beside the policy",
    )
    architecture_args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the architecture")
    task: Literal["multiclass", "binary", "multilabel"] = Field(
        description="multiclass (a score a label), binary (one logit, for the second label) or multilabel (a score a "
        "label, and any of them may be present)"
    )
    output: Literal["auto", "logits", "probabilities"] = Field(
        "auto", description="what the scores are; auto tells it from the samples"
    )
    labels: tuple[Label, ...] = Field(
        min_length=1, max_length=10_000, description="names of the labels, in the order of the scores"
    )
    positive: Label | None = Field(None, description="which label is disease: sensitivity and specificity are about it")
    operating_point: OperatingPointField | None = Field(
        None,
        description="decision threshold on the positive label's probability (default: the highest score); multilabel: "
        "on each label's, one number or a list with one a label (default: 0.5)",
    )
    preprocess: PreprocessSpec = Field(
        default_factory=lambda: PreprocessSpec(), description="how stored pixels become the network's input"
    )
    device: Annotated[StrictStr, Field(pattern=r"^(auto|cpu|cuda|cuda:\d{1,2})$")] = Field(
        "auto", description="auto | cpu | cuda | cuda:N"
    )
    precision: Literal["auto", "full"] = Field(
        "auto",
        description="of searches: auto may ask a faster form of the network, full is float32; verdicts always are",
    )
    batch_size: BatchSizeField = Field("auto", description="images through the network at once; changes no verdict")
    output_name: StrictStr | None = Field(None, description=".onnx: which of several outputs has the scores")
    operators: tuple[StrictStr, ...] = Field(
        (), description=".onnx: libraries of custom operators beside the policy; their code is run"
    )
    trust: Literal["pickle"] | None = Field(None, description="pickle: the .pt file may run code when it is loaded")


# --- data -------------------------------------------------------------------------------------------------------


class DataSpec(_Section):
    """The samples that the candidate is judged on."""

    source: StrictStr = Field(
        min_length=1,
        description=".npz | a folder a class | .csv (path,label) | medmnist:NAME | phantom:nodule | module:callable",
    )
    root: StrictStr | None = Field(
        None,
        description="medmnist: a folder that already holds the archive; .csv: the folder that its paths start from",
    )
    split: Literal["train", "val", "test"] | None = Field(
        None, description="where the source has splits (default: test for archives and phantoms, all for manifests)"
    )
    bits: Annotated[StrictInt, Field(ge=1, le=16)] | None = Field(
        None, description="stored depth (default: as the files say)"
    )
    samples: Annotated[StrictInt, Field(ge=1, le=10_000_000)] | None = Field(
        None, description="how many, stratified by label and seeded (default: all)"
    )


# --- gates ------------------------------------------------------------------------------------------------------


_BOUND_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "pattern": r"^\s*(>=|<=)\s*\d*\.?\d+\s*$"},
    ]
}
_REQUIRE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {metric: {"description": text, **one_or_many(_BOUND_SCHEMA)} for metric, text in METRICS.items()},
}
BoundList = Annotated[tuple[Any, ...], BeforeValidator(as_list)]


class GateSpec(_Section):
    """A threat model, an attack, and a requirement on metrics. A list makes one gate an entry."""

    id: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")] = Field(
        description="the gate's name, of letters, digits, '_', '.' and '-'"
    )
    attack: AttackField | None = Field(None, description="left out: the unattacked metrics")
    epsilon: BudgetsField | None = Field(
        None, description="the adversary's budget, such as 2/255, 0.01 or '3 levels', or a list of them"
    )
    norm: Literal["linf", "l2"] = Field("linf", description="what the budget bounds: every pixel, or their L2 length")
    goal: Literal["untargeted", "targeted", "missed_finding", "false_alarm"] = Field(
        "untargeted",
        description="what the adversary wants: any wrong label, the target, disease read as none, or the reverse",
    )
    target: Label | None = Field(None, description="the label that a targeted adversary wants to be read")
    queries: QueriesField | None = Field(None, description="how often a sample may be asked about, a hard limit")
    ladder: Literal["ascending", "descending"] = Field(
        "ascending",
        description="order of a list of epsilons; descending: what survives a larger one stands for the smaller ones",
    )
    require: Annotated[dict[str, BoundList], WithJsonSchema(_REQUIRE_SCHEMA)] = Field(
        description="the bound of each metric, such as {accuracy: 0.7}, or a list with one bound an epsilon"
    )

    def bounds(self, index: int) -> tuple[Bound, ...]:
        """The requirements of the entry at `index` of the epsilon list."""
        return tuple(
            Bound.parse(metric, values[index if len(values) > 1 else 0]) for metric, values in self.require.items()
        )


class DecisionSpec(_Section):
    """How a measured metric becomes a verdict."""

    rule: Literal["estimate"] = Field(
        "estimate", description="the point estimate is compared with the bound; the interval is reported"
    )


class PolicyFile(_Section):
    """A robustcheck policy: candidate, samples, gates."""

    robustcheck: Annotated[Literal[1], BeforeValidator(whole)] = Field(description="format version, which is 1")
    name: Annotated[StrictStr, Field(max_length=500)] | None = Field(
        None, description="shown in reports (default: the file's name)"
    )
    model: ModelSpec = Field(description="the candidate")
    data: DataSpec = Field(description="the samples")
    seed: Annotated[StrictInt, Field(ge=0, le=2**63 - 1)] = Field(0, description="all random draws derive from it")
    gates: tuple[GateSpec, ...] = Field(min_length=1, max_length=1000, description="what has to hold, a list of gates")
    decision: DecisionSpec = Field(
        default_factory=lambda: DecisionSpec(), description="how a measurement becomes a verdict"
    )
    evidence: Literal["shared", "isolated"] = Field(
        "shared", description="shared: gates of one threat family use each other's counterexamples"
    )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a policy file."""
    schema: dict[str, Any] = _without_null(PolicyFile.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _without_null(schema: Any) -> Any:
    """None stands for a key that is left out; a key with nothing behind it is a mistake (`checks`)."""
    if isinstance(schema, list):
        return [_without_null(part) for part in schema if part != {"type": "null"}]
    if isinstance(schema, dict):
        return {key: _without_null(part) for key, part in schema.items() if not (key == "default" and part is None)}
    return schema
