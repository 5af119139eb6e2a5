"""The kinds of value that a policy's keys take, with their JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeGuard, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    StrictInt,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import CoreSchema

from robustcheck.policy.quantities import BUDGET_PATTERN, PATTERN, NoChangeError, Quantity
from robustcheck.policy.sizes import PATTERN as SIZE_PATTERN
from robustcheck.policy.sizes import Size
from robustcheck.words import listed, shown

PATH_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1}
_LARGEST_BATCH = 65536
_LARGEST_SIDE = 8192

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
"""What a policy calls a split, and what folders and manifests do."""


class Section(BaseModel):
    """A mapping of the policy: immutable, and without any other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def whole(value: Any) -> Any:
    """Refuse true and 1.0, which Python, and so a Literal, takes for 1."""
    if isinstance(value, (bool, float)):
        raise PydanticCustomError("int_type", "expected a whole number")
    return value


def as_list(value: Any) -> list[Any]:
    """A list, or the one value that stands for a list of one."""
    return value if isinstance(value, list) else [value]


def is_number(value: Any) -> bool:
    """Whether a value is a number; true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number; true, false and 1.0 are not."""
    return isinstance(value, int) and not isinstance(value, bool)


class _OneOrMany:
    """Makes the JSON Schema of a list that of one of its items, or of the list."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


def allowed(schema: Mapping[str, Any]) -> str:
    """`1 to 100`, `circle, square`: what a value's JSON Schema allows; empty if such words cannot say all of it."""
    if "anyOf" in schema:
        kinds = [kind for kind in schema["anyOf"] if kind != {"type": "null"}]
        if any("pattern" in kind for kind in kinds):
            return "2/255, 0.01 or '3 levels'"  # the only texts that have a pattern are such amounts
        words = list(dict.fromkeys(map(allowed, kinds)))
        return " or ".join(words) if all(words) else ""
    if "items" in schema:
        each = allowed(schema["items"])
        return f"{each} each" if each else ""
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"{least:,} to {most:,}"
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    limits = {"more than": above, "at least": least, "less than": below, "at most": most}
    return ", ".join(f"{word} {limit:,}" for word, limit in limits.items() if limit is not None)


def plain_schema(model: type[BaseModel]) -> dict[str, Any]:
    """A mapping's JSON Schema without references, so that it can stand anywhere in another."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            part = definitions[part["$ref"].rpartition("/")[2]] | {key: part[key] for key in part if key != "$ref"}
        return {key: resolved(value) for key, value in part.items()}

    plain: dict[str, Any] = resolved(schema)
    return plain


def _budget(value: Any) -> Quantity:
    try:
        return Quantity.parse(value, length=True)  # `gate_checks` knows the norm, and what it allows
    except NoChangeError as error:
        raise ValueError(f"{error}; to measure without an attack, leave attack and epsilon out") from None


def _amount(value: Any) -> Quantity:
    quantity = Quantity.parse(value)
    if quantity.hounsfield:
        raise ValueError(
            f"found {shown(value)}; Hounsfield units are only for epsilon: give grey levels, each of which is one"
        )
    return quantity


def _name(value: Any) -> Any:
    """A label or an output may be written as a whole number; it is a name all the same."""
    return str(value) if is_whole(value) else value


def _batch_size(value: Any) -> Any:
    if value != "auto" and not (is_whole(value) and 1 <= value <= _LARGEST_BATCH):
        raise ValueError(f"found {shown(value)}; allowed: auto, or a whole number from 1 to {_LARGEST_BATCH}")
    return value


def one_label(value: Any) -> Any:
    """Refuse several labels where one is meant, and say what to do instead."""
    if isinstance(value, list):
        raise ValueError(  # noqa: TRY004 (pydantic knows no other)
            f"found {shown(value)}; only one label can be positive: if several mean disease, such as grades from "
            "moderate up, the network has to score them together (docs/policy.md, 'Scores that are not the labels')"
        )
    return value


def _is_side(value: Any) -> bool:
    return is_whole(value) and 1 <= value <= _LARGEST_SIDE


def _side_or_size(value: Any) -> Any:
    several = isinstance(value, (list, tuple))
    if not (len(value) == 2 and all(map(_is_side, value)) if several else _is_side(value)):
        found = f"[{listed(map(shown, value), limit=3)}]" if several else shown(value)
        raise ValueError(
            f"found {found}; write [height, width], or one number for the shorter side: whole numbers from 1 to "
            f"{_LARGEST_SIDE}"
        )
    return value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Item = TypeVar("Item")
OneOrMany = Annotated[tuple[Item, ...], Field(min_length=1), BeforeValidator(as_list), _OneOrMany()]
OpenSharesField = OneOrMany[Annotated[Number, Field(gt=0, lt=1)]]  # of a probability or a population

_QUANTITY_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string", "pattern": PATTERN}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}]
}
_as_text = PlainSerializer(lambda amount: amount.text, return_type=str)
QuantityField = Annotated[Quantity, BeforeValidator(_amount), _as_text, WithJsonSchema(_QUANTITY_SCHEMA)]
_BUDGET_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string", "pattern": BUDGET_PATTERN}, {"type": "number", "exclusiveMinimum": 0}]
}
BudgetField = Annotated[Quantity, BeforeValidator(_budget), _as_text, WithJsonSchema(_BUDGET_SCHEMA)]
SizeField = Annotated[
    Size, BeforeValidator(Size.parse), _as_text, WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN})
]

Label = Annotated[
    str,
    BeforeValidator(_name),
    Field(strict=True, min_length=1, max_length=200),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "maxLength": 200}, {"type": "integer"}]}),
]
OutputField = Annotated[
    str,
    BeforeValidator(_name),
    Field(strict=True, min_length=1),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer"}]}),
]
ColumnField = Annotated[str, Field(strict=True, min_length=1, max_length=200)]
BatchSizeField = Annotated[
    Annotated[StrictInt, Field(ge=1, le=_LARGEST_BATCH)] | Literal["auto"], BeforeValidator(_batch_size)
]

_Side = Annotated[StrictInt, Field(ge=1, le=_LARGEST_SIDE)]
HeightWidthField = Annotated[tuple[_Side, _Side], Field(strict=False)]
SideOrSizeField = Annotated[_Side | HeightWidthField, BeforeValidator(_side_or_size)]
PlacesField = Annotated[
    tuple[Annotated[StrictInt, Field(ge=0, lt=100_000)], ...], Field(min_length=1, max_length=10_000, strict=False)
]

StepsField = Annotated[StrictInt, Field(ge=1, le=100_000)]
RestartsField = Annotated[StrictInt, Field(ge=1, le=10_000)]
QueriesField = Annotated[StrictInt, Field(ge=1, le=10_000_000)]
ShareField = Annotated[Number, Field(gt=0, le=1)]
