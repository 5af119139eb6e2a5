"""The policy file's schema: what may be written, and nothing that does not work.

Field descriptions are shown by `robustcheck schema` and by editors that read JSON Schema. What no single field shows
(a label that is not in `labels`, lists whose lengths differ) is looked at in `checks`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StrictInt, StrictStr, WithJsonSchema

from robustcheck.policy.attack_specs import AttackField
from robustcheck.policy.bounds import LOWER_IS_BETTER, OF_SUBGROUPS, SLICED, Bound
from robustcheck.policy.fields import (
    BudgetField,
    ColumnField,
    Label,
    Number,
    OneOrMany,
    OpenSharesField,
    QueriesField,
    Section,
    SizeField,
    as_list,
    whole,
)
from robustcheck.policy.model_spec import ModelSpec
from robustcheck.policy.viewing_spec import ConditionsSpec
from robustcheck.results import METRICS

# --- data -------------------------------------------------------------------------------------------------------


class DataSpec(Section):
    """The samples that the candidate is judged on."""

    source: StrictStr = Field(
        min_length=1,
        description=".npz | a folder of classes, or .csv (path,label), of PNG, JPEG, TIFF or DICOM | medmnist:NAME | "
        "phantom:nodule | module:callable",
    )
    root: StrictStr | None = Field(
        None,
        description="medmnist: a folder that already holds the archive; .csv: the folder that its paths start from",
    )
    split: Literal["train", "val", "test"] | None = Field(
        None,
        description="where the source has splits (default: test for archives and phantoms, all for manifests); of "
        "folders and manifests val is also valid, validation or dev, train also training, and test also testing",
    )
    bits: Annotated[StrictInt, Field(ge=1, le=16)] | None = Field(
        None, description="stored depth (default: as the files say)"
    )
    hounsfield: Annotated[StrictInt, Field(ge=-65536, le=65535)] | None = Field(
        None,
        description="CT: level 0, the darkest, in Hounsfield units; each level is one such unit (default: as "
        "DICOM files say)",
    )
    samples: Annotated[StrictInt, Field(ge=1, le=10_000_000)] | None = Field(
        None, description="how many, stratified by label and seeded (default: all)"
    )
    group: ColumnField | None = Field(
        None,
        description="column that says which images belong together, such as patient_id; intervals are then by group",
    )
    subgroups: OneOrMany[ColumnField] = Field(
        (),
        max_length=8,
        json_schema_extra={"uniqueItems": True},
        description="columns that divide the samples, such as [sex, scanner]; each has at most 50 values",
    )
    prevalence: OpenSharesField | None = Field(
        None,
        description="share of positives where the candidate will be used, which PPV and NPV depend on; multilabel: of "
        "each label, one number or a list with one per label",
    )


# --- gates ------------------------------------------------------------------------------------------------------


_SIGNED_SCHEMA: dict[str, Any] = {"type": "string", "pattern": r"^\s*(>=|<=)\s*\d*\.?\d+\s*$"}
_BOUND_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, _SIGNED_SCHEMA]}


def _bound_schema(metric: str, description: str) -> dict[str, Any]:
    bound = _SIGNED_SCHEMA if metric in LOWER_IS_BETTER else _BOUND_SCHEMA
    return {"description": description, "anyOf": [bound, {"type": "array", "items": bound, "minItems": 1}]}


_REQUIRE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {metric: _bound_schema(metric, text) for metric, text in METRICS.items()},
    "patternProperties": {
        rf"^.+\.{metric}$": _bound_schema(metric, f"of a part of the samples: {SLICED}") for metric in OF_SUBGROUPS
    },
}
BoundList = Annotated[tuple[Any, ...], BeforeValidator(as_list)]


ABOUT_DISEASE = ("missed_finding", "false_alarm")  # goals for which one label, or finding, is disease


class GateSpec(Section):
    """A threat model, an attack, and a requirement on metrics. A list makes one gate per entry."""

    id: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")] = Field(
        description="the gate's name, of up to 64 letters, digits, '_', '.' and '-', the first neither '.' nor '-'"
    )
    attack: AttackField | None = Field(None, description="the attack; leave it out to measure without one")
    epsilon: OneOrMany[BudgetField] | None = Field(
        None, description="the adversary's budget, such as 2/255, 0.01 or '3 levels', or a list of them"
    )
    size: OneOrMany[SizeField] | None = Field(
        None, description="how large a patch is: 10% of the image's area, or '32 px' (its side), or a list of them"
    )
    conditions: ConditionsSpec | None = Field(
        None, description="how images are seen: what is found has to hold on most looks, each drawn from these ranges"
    )
    norm: Literal["linf", "l2"] = Field("linf", description="what the budget bounds: each pixel, or the L2 length")
    goal: Literal["untargeted", "targeted", "missed_finding", "false_alarm"] = Field(
        "untargeted",
        description="what the adversary wants: any wrong label, the target, disease read as none, or the reverse",
    )
    target: Label | None = Field(None, description="the label that a targeted adversary wants the candidate to give")
    finding: Label | None = Field(
        None,
        description="multilabel: the finding that missed_finding or false_alarm is about, and with it sensitivity, "
        "specificity and AUROC (default: model.positive)",
    )
    queries: QueriesField | None = Field(None, description="how often a sample may be asked about, a hard limit")
    oracle: Literal["float", "stored"] = Field(
        "float", description="what is asked about: float images, or images rounded to the stored depth, as files are"
    )
    ladder: Literal["ascending", "descending"] = Field(
        "ascending",
        description="order of a list of epsilons; descending: what survives a larger one counts for the smaller ones",
    )
    require: Annotated[dict[str, BoundList], WithJsonSchema(_REQUIRE_SCHEMA)] = Field(
        description="the bound of each metric, such as {accuracy: 0.7}, or a list with one bound per epsilon or size"
    )

    def bounds(self, index: int) -> tuple[Bound, ...]:
        """The requirements of the entry at `index` of the list of epsilons or sizes."""
        return tuple(
            Bound.parse(metric, values[index if len(values) > 1 else 0]) for metric, values in self.require.items()
        )


class DecisionSpec(Section):
    """How a measured metric becomes a verdict."""

    rule: Literal["estimate", "confident"] = Field(
        "estimate",
        description="estimate: the point estimate is compared with the bound; confident: the whole interval is, and "
        "if the bound lies inside it the gate is inconclusive",
    )
    confidence: Annotated[Number, Field(ge=0.5, lt=1)] = Field(0.95, description="level of the two-sided intervals")
    interval: Literal["clopper-pearson", "wilson"] = Field("clopper-pearson", description="which interval rates get")
    stop: Literal["never", "early", "determined"] = Field(
        "never",
        description="early: samples are taken in random order until an interval that holds at every number of them "
        "decides; determined: until no outcome of the rest could change the verdict on the estimate",
    )
    inconclusive: Literal["fail", "allow"] = Field(
        "fail", description="what an inconclusive gate means for the build; allow: it is skipped"
    )


_BY_TASK: dict[str, Any] = {
    "if": {
        "properties": {"model": {"properties": {"task": {"const": "multilabel"}}, "required": ["task"]}},
        "required": ["model"],
    },
    "else": {"properties": {"data": {"properties": {"prevalence": {"type": "number"}}}}},
}


class PolicyFile(Section):
    """A robustcheck policy: candidate, samples, gates."""

    model_config = ConfigDict(json_schema_extra=_BY_TASK)

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
    health: Literal["strict", "warn"] = Field(
        "strict",
        description="strict: a gate whose attack is shown to be broken is an error, not a pass; warn: it has a warning",
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
