"""The attacks that a gate may name.

`robustcheck attacks` prints them; `robustcheck schema` and the sentences about mistakes are made of them.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema

from robustcheck.policy.fields import plain_schema
from robustcheck.policy.gradient_specs import APGDSpec, EnsembleSpec, FGSMSpec, FMNSpec, PGDSpec
from robustcheck.policy.patch_specs import PatchSpec, RP2Spec
from robustcheck.policy.query_specs import (
    HopSkipJumpSpec,
    LabelOnlySpec,
    NESSpec,
    NoiseSpec,
    PartialInformationSpec,
    RaySSpec,
    SquareSpec,
)
from robustcheck.policy.transfer_spec import TransferSpec
from robustcheck.words import shown

AttackSpec: TypeAlias = (
    FGSMSpec
    | PGDSpec
    | APGDSpec
    | FMNSpec
    | EnsembleSpec
    | NESSpec
    | SquareSpec
    | PartialInformationSpec
    | LabelOnlySpec
    | HopSkipJumpSpec
    | RaySSpec
    | NoiseSpec
    | TransferSpec
    | PatchSpec
    | RP2Spec
)
ATTACKS: dict[str, type[AttackSpec]] = {
    get_args(spec.model_fields["name"].annotation)[0]: spec for spec in get_args(AttackSpec)
}
ASK_AN_ORACLE = frozenset(name for name, spec in ATTACKS.items() if spec.knowledge in ("scores", "top-k", "label"))
NO_EPSILON = frozenset(name for name, spec in ATTACKS.items() if spec.budget != "epsilon")
LINF_ONLY = frozenset(name for name, spec in ATTACKS.items() if spec.linf_only)


def _attack(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict):
        raise ValueError(f"found {shown(value)}; give the name of an attack, or {{name: …}} with its parameters")  # noqa: TRY004
    if "name" not in value:
        raise ValueError("the attack has no name; write {name: pgd, …}")
    return value


_ATTACK_SCHEMA = {"anyOf": [{"enum": list(ATTACKS)}, *(plain_schema(spec) for spec in ATTACKS.values())]}
AttackField = Annotated[
    AttackSpec, Field(discriminator="name"), BeforeValidator(_attack), WithJsonSchema(_ATTACK_SCHEMA)
]
