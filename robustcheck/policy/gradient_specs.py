"""The attacks that follow gradients: parameters, ranges, and what each is, needs and cites."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt

from robustcheck.policy.attack_entry import LOSS, AttackEntry, LossField
from robustcheck.policy.fields import Number, QuantityField, QueriesField, RestartsField, ShareField, StepsField


class FGSMSpec(AttackEntry):
    """One step along the gradient, to the border of the ball."""

    summary = "fast gradient method: one step of length ε along the gradient, in L∞ along its sign"
    needs = "gradients (white-box), epsilon"
    source = "Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572, section 4"

    name: Literal["fgsm"]
    loss: LossField = Field("cross_entropy", description=LOSS)


class PGDSpec(AttackEntry):
    """Projected gradient ascent on the loss, from random starts."""

    summary = (
        "projected gradient descent: many smaller such steps, each projected back into the ball, from random starts"
    )
    needs = "gradients (white-box), epsilon"
    source = "Madry, Makelov, Schmidt, Tsipras, Vladu 2018, arXiv 1706.06083, section 2.1"

    name: Literal["pgd"]
    steps: StepsField = Field(40, description="gradient steps per restart")
    step_size: QuantityField | None = Field(None, description="size of a step (default: 2.5 * epsilon / steps)")
    restarts: RestartsField = Field(1, description="independent starts per sample")
    random_start: StrictBool = Field(True, description="start at a random point of the ball, not at the image")
    loss: LossField = Field("cross_entropy", description=LOSS)
    momentum: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.0, description="share of the sum of earlier gradients that is kept; 1 is MI-FGSM (arXiv 1710.06081)"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="step size over a restart; linear and cosine fall from twice the size to 0"
    )


class APGDSpec(AttackEntry):
    """Projected gradient ascent that finds its own step sizes."""

    summary = "auto-PGD: gradient ascent with momentum, whose step halves when progress stalls; no step size to set"
    needs = "gradients (white-box), epsilon"
    source = "Croce, Hein 2020, arXiv 2003.01690, algorithm 1"

    name: Literal["apgd"]
    loss: LossField = Field("cross_entropy", description=LOSS)
    targets: Annotated[StrictInt, Field(ge=0, le=10_000)] = Field(
        0, description="how many other labels or findings to aim for, the likeliest first; 0: away from the true one"
    )
    steps: StepsField = Field(100, description="gradient steps per restart")
    restarts: RestartsField = Field(1, description="independent starts per sample and target")
    momentum: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.75, description="weight of the new step against the one before it (alpha in the paper)"
    )
    rho: Annotated[Number, Field(ge=0, le=1)] = Field(
        0.75, description="share of steps that have to raise the loss, or else the step is halved"
    )


class FMNSpec(AttackEntry):
    """The nearest counterexample of each sample, and so the accuracy at every epsilon at once."""

    summary = "fast minimum-norm attack: each sample's nearest counterexample, so that one search serves every ε"
    needs = "gradients (white-box), epsilon (one or many: each sample is searched once)"
    source = "Pintor, Roli, Brendel, Biggio 2021, arXiv 2102.12827, algorithm 1"

    name: Literal["fmn"]
    targets: Annotated[StrictInt, Field(ge=0, le=10_000)] = Field(
        9, description="how many other labels or findings to aim for, the likeliest first; 0: away from the true one"
    )
    steps: StepsField = Field(100, description="gradient steps")
    step_size: QuantityField | None = Field(
        None, description="L2 length of the first step (default: the full range; longer beyond 3x224x224 values)"
    )
    gamma: ShareField = Field(0.05, description="share by which a sample's own epsilon changes at first")
    loss: LossField = Field("margin", description=LOSS)


class EnsembleSpec(AttackEntry):
    """The worst case of four attacks, each run on what the ones before it left."""

    summary = "APGD (cross-entropy), APGD (DLR, targeted), FMN and Square (L∞), each on what the ones before left"
    needs = "gradients (white-box), epsilon"
    source = "Croce, Hein 2020, arXiv 2003.01690, section 5; the members cite their own"

    name: Literal["ensemble"]
    steps: StepsField = Field(100, description="gradient steps of each member that follows gradients")
    targets: Annotated[StrictInt, Field(ge=1, le=10_000)] = Field(
        9, description="how many other labels or findings the targeted member aims for, the likeliest first"
    )
    queries: QueriesField = Field(1000, description="points that Square asks about")
    square_share: ShareField = Field(0.8, description="share of the image's area that its first square covers")
