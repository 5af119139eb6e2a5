"""The attacks that a gate may name, with their parameters, ranges, and what each is, needs and cites.

`robustcheck attacks` prints them; `robustcheck schema` and the sentences about mistakes are made of them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, WithJsonSchema

from robustcheck.policy.fields import Number, QuantityField
from robustcheck.words import shown


class _AttackSpec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    summary: ClassVar[str]
    needs: ClassVar[str]
    source: ClassVar[str]


LossField = Literal["cross_entropy", "margin", "dlr"]
StepsField = Annotated[StrictInt, Field(ge=1, le=100_000)]
RestartsField = Annotated[StrictInt, Field(ge=1, le=10_000)]
QueriesField = Annotated[StrictInt, Field(ge=1, le=10_000_000)]
ShareField = Annotated[Number, Field(gt=0, le=1)]
_LOSS = "what is raised: cross_entropy, margin, or dlr (the margin, free of the logits' scale)"


class FGSMSpec(_AttackSpec):
    """One step along the gradient, to the border of the ball."""

    summary = "fast gradient method: one step of length ε along the gradient, in L∞ along its sign"
    needs = "gradients (white-box), epsilon"
    source = "Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572, section 4"

    name: Literal["fgsm"]
    loss: LossField = Field("cross_entropy", description=_LOSS)


class PGDSpec(_AttackSpec):
    """Projected gradient ascent on the loss, from random starts."""

    summary = (
        "projected gradient descent: many smaller such steps, each projected back into the ball, from random starts"
    )
    needs = "gradients (white-box), epsilon"
    source = "Madry, Makelov, Schmidt, Tsipras, Vladu 2018, arXiv 1706.06083, section 2.1"

    name: Literal["pgd"]
    steps: StepsField = Field(40, description="gradient steps a restart")
    step_size: QuantityField | None = Field(None, description="size of a step (default: 2.5 * epsilon / steps)")
    restarts: RestartsField = Field(1, description="independent starts a sample")
    random_start: StrictBool = Field(True, description="start at a random point of the ball, not at the image")
    loss: LossField = Field("cross_entropy", description=_LOSS)
    momentum: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.0, description="share of the sum of earlier gradients that is kept; 1 is MI-FGSM (arXiv 1710.06081)"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of the step's size over a restart; linear and cosine fall from twice the size to 0"
    )


class APGDSpec(_AttackSpec):
    """Projected gradient ascent that finds its own step sizes."""

    summary = "auto-PGD: gradient ascent with momentum, whose step halves when progress stalls; no step size to set"
    needs = "gradients (white-box), epsilon"
    source = "Croce, Hein 2020, arXiv 2003.01690, algorithm 1"

    name: Literal["apgd"]
    loss: LossField = Field("cross_entropy", description=_LOSS)
    targets: Annotated[StrictInt, Field(ge=0, le=10_000)] = Field(
        0, description="go for each of so many other labels in turn, the likeliest first; 0: away from the true one"
    )
    steps: StepsField = Field(100, description="gradient steps a restart")
    restarts: RestartsField = Field(1, description="independent starts a sample, and a target")
    momentum: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.75, description="weight of the new step against the one before it (alpha in the paper)"
    )
    rho: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.75, description="share of steps that have to raise the loss, or the step is halved"
    )


class FMNSpec(_AttackSpec):
    """The nearest counterexample of each sample, and so the accuracy at every epsilon at once."""

    summary = "fast minimum-norm attack: each sample's nearest counterexample, so that one search serves every ε"
    needs = "gradients (white-box), epsilon (one or many: each sample is searched once)"
    source = "Pintor, Roli, Brendel, Biggio 2021, arXiv 2102.12827, algorithm 1"

    name: Literal["fmn"]
    targets: Annotated[StrictInt, Field(ge=0, le=10_000)] = Field(
        9, description="go for each of so many other labels in turn, the likeliest first; 0: away from the true one"
    )
    steps: StepsField = Field(100, description="gradient steps")
    step_size: QuantityField | None = Field(None, description="L2 length of the first step (default: the full range)")
    gamma: ShareField = Field(0.05, description="by which share a sample's own epsilon changes at first")
    loss: LossField = Field("margin", description=_LOSS)


class SquareSpec(_AttackSpec):
    """Random search that asks for scores only."""

    summary = "square attack: random squares of ±ε, kept where they raise the loss; asks for scores, not gradients"
    needs = "scores, epsilon (L∞), queries"
    source = "Andriushchenko, Croce, Flammarion, Hein 2020, arXiv 1912.00049, algorithms 1 and 2"

    name: Literal["square"]
    share: ShareField = Field(0.8, description="share of the image's area that the first square covers (p)")
    restarts: RestartsField = Field(1, description="independent starts, which share the queries")
    loss: LossField = Field("margin", description=_LOSS)


class EnsembleSpec(_AttackSpec):
    """The worst case of four attacks, each run on what the ones before it left."""

    summary = "APGD (cross-entropy), APGD (DLR, targeted), FMN and Square (L∞), each on what those before it left"
    needs = "gradients (white-box), epsilon"
    source = "Croce, Hein 2020, arXiv 2003.01690, section 5; the members cite their own"

    name: Literal["ensemble"]
    steps: StepsField = Field(100, description="gradient steps of each member that follows gradients")
    targets: Annotated[StrictInt, Field(ge=1, le=10_000)] = Field(
        9, description="how many other labels the targeted member goes for, the likeliest first"
    )
    queries: QueriesField = Field(1000, description="points that Square asks about")
    square_share: ShareField = Field(0.8, description="share of the image's area that its first square covers")


AttackSpec: TypeAlias = FGSMSpec | PGDSpec | APGDSpec | FMNSpec | SquareSpec | EnsembleSpec
ATTACKS: dict[str, type[AttackSpec]] = {
    "fgsm": FGSMSpec,
    "pgd": PGDSpec,
    "apgd": APGDSpec,
    "fmn": FMNSpec,
    "square": SquareSpec,
    "ensemble": EnsembleSpec,
}
ASK_AN_ORACLE = frozenset({"square"})
LINF_ONLY = frozenset({"square"})


def _attack(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict):
        raise ValueError(f"found {shown(value)}; give the name of an attack, or {{name: …}} with its parameters")  # noqa: TRY004
    if "name" not in value:
        raise ValueError("the attack has no name; write {name: pgd, …}")
    return value


def _attack_schema() -> dict[str, Any]:
    return {"anyOf": [{"enum": list(ATTACKS)}, *(spec.model_json_schema() for spec in ATTACKS.values())]}


AttackField = Annotated[
    AttackSpec, Field(discriminator="name"), BeforeValidator(_attack), WithJsonSchema(_attack_schema())
]
